"""What a client of Ocean's does before each request: asks for a nonce, counts on, signs.

In: a market, a wallet. Out: parameters of requests. Written apart from the market's own code, on `eth_account` alone.
"""

from __future__ import annotations

from typing import Any

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak

from tests.fixtures_market import Market


def sign(market: Market, name: str, message: str, nonce: object) -> str:
    """As a browser wallet signs: v is 27 or 28."""
    key = market.wallet(name)._key.secret
    text = keccak(text=f"{message}{nonce}")
    return "0x" + bytes(Account.sign_message(encode_defunct(text), key).signature).hex().removeprefix("0x")


def next_nonce(market: Market, name: str) -> int:
    answer = market.client.get("/api/services/nonce", query_string={"userAddress": market.wallet(name).address})
    assert answer.status_code == 200, answer.text
    return int(answer.get_json()["nonce"]) + 1


def signed(market: Market, name: str, message: str, nonce: object = None) -> dict[str, Any]:
    chosen = next_nonce(market, name) if nonce is None else nonce
    return {"nonce": chosen, "signature": sign(market, name, message, chosen)}
