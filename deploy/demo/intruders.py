"""Chapter 5: who may not call, and what each is told.

In: a market, an asset that Bob has ordered. Out: checks that each attempt was refused for its own reason. This module must never
count a refusal for another reason as the right one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from control_plane.chain.ocean import open_ledger
from control_plane.curve import CURVE_ORDER
from control_plane.did import Did, TransactionHash
from control_plane.errors import PosthumanError
from control_plane.settings import Settings
from deploy.buyer import BuyerFiles
from deploy.demo.narration import Narrator
from deploy.local.chain import local_account
from deploy.market import Market, MarketRefused
from deploy.trading import buy

_EXPIRING_S = 2


def refuse(market: Market, settings: Settings, narrator: Narrator, did: Did, bobs_order: TransactionHash) -> None:
    chain_id = settings.chain_id
    bob, mallory, carol = local_account("bob"), local_account("mallory"), local_account("carol")
    prompt = {"model": did, "prompt": "Let me in", "max_tokens": 4}
    narrator.fact("Mallory", mallory.address)

    def tried(what: str, attempt: Callable[[], object], status: int, *codes: str) -> None:
        _refused(narrator, what, attempt, status, codes)

    tried("Mallory calls without a session", lambda: market.complete("ph_" + "A" * 43, prompt), 401, "session_unknown")
    tried(
        "Mallory signs in with Bob's order",
        lambda: market.sign_in(mallory, did, bobs_order, chain_id),
        403,
        "order_not_yours",
    )
    invented = TransactionHash("0x" + "ab" * 32)
    tried(
        "Mallory signs in with an order that does not exist",
        lambda: market.sign_in(mallory, did, invented, chain_id),
        403,
        "order_not_found",
    )

    text = market.message(bob.address, did, bobs_order, chain_id, market.nonce(), 600).text()
    tried(
        "Mallory signs in Bob's name (forged)",
        lambda: market.exchange(text, mallory.sign_message(text), bobs_order),
        401,
        "signature_foreign",
    )
    honest = bob.sign_message(text)
    tried(
        "the high-s twin of Bob's signature",
        lambda: market.exchange(text, _twin(honest), bobs_order),
        401,
        "signature_high_s",
    )
    market.exchange(text, honest, bobs_order)
    tried("Bob's signature a second time (replayed)", lambda: market.exchange(text, honest, bobs_order), 401, "nonce_used")

    files = BuyerFiles(settings.home, carol.address)
    ledger = open_ledger(settings.rpc_url, chain_id, files.folder / "outbox")
    with narrator.steps.step("Carol buys and orders"):
        bought = buy(market, ledger, carol, files, did, valid_for_s=_EXPIRING_S)
    ends_at = bought.offer.provider_fee.valid_until
    narrator.fact("Carol's order", f"{bought.sent.transaction}, for {_EXPIRING_S} seconds")
    with narrator.steps.step("waiting for its end"):
        time.sleep(max(0.0, ends_at - time.time()) + 1.1)  # times on chain are whole seconds
    tried(
        "Carol's order has expired",
        lambda: market.sign_in(carol, did, bought.sent.transaction, chain_id),
        403,
        "order_expired",
    )


def _refused(narrator: Narrator, what: str, attempt: Callable[[], object], status: int, codes: tuple[str, ...]) -> None:
    try:
        attempt()
    except MarketRefused as refused:
        narrator.check(
            f"{what}: refused", refused.status == status and refused.code in codes, f"{refused.status} {refused.message}"
        )
    except PosthumanError as error:
        narrator.check(f"{what}: refused", False, f"{type(error).__name__}: {error}")
    else:
        narrator.check(f"{what}: refused", False, "it was let in")


def _twin(signature: bytes) -> bytes:
    """The other signature that the same key would seem to have made (EIP-2 allows only the low one)."""
    s = CURVE_ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])
