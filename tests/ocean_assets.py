"""Assets as clients of Ocean's publish them: an NFT, datatokens, a document with encrypted `files`.

In: a market, a publisher, what is changed in the document. Out: the asset's addresses and its document.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from control_plane.chain.ddo import encrypt
from control_plane.chain.ledger import Terms
from control_plane.did import Address, Did, TokenWei, TransactionHash, did_of
from control_plane.flows.index_assets import index_assets
from tests.fixtures_market import ONE, Market


@dataclass
class Published:
    did: Did
    nft: Address
    datatoken: Address
    exchange: Any
    document: dict[str, Any]
    transaction: TransactionHash


def files_of(key: bytes, nft: str, datatoken: str, *urls: str, **changes: Any) -> str:
    """The `files` of a service. key: the operator's public one."""
    told = {
        "datatokenAddress": datatoken,
        "nftAddress": nft,
        "files": [{"type": "url", "url": url, "method": "GET"} for url in urls],
    }
    clear = json.dumps({**told, **changes}).encode()
    return "0x" + encrypt(key, clear).hex()


def document_of(market: Market, nft: Address, datatoken: Address, *urls: str, name: str = "Words") -> dict[str, Any]:
    operator = market.wallet("operator").public_key
    return document_for(operator, market.services.settings.public_url, nft, datatoken, *urls, name=name)


def document_for(key: bytes, endpoint: str, nft: Address, datatoken: Address, *urls: str, name: str = "Words") -> dict[str, Any]:
    """key: the operator's public one. endpoint: the market's URL."""
    return {
        "@context": ["https://w3id.org/did/v1"],
        "id": did_of(nft, 8996),
        "version": "4.1.0",
        "chainId": 8996,
        "nftAddress": nft,
        "metadata": {
            "created": "2026-11-28T03:00:00.123456",
            "updated": "2026-11-28T03:00:00.123456",
            "description": f"{name}, one a line",
            "name": name,
            "type": "dataset",
            "author": "Alice",
            "license": "CC0: PublicDomain",
        },
        "credentials": {"allow": [], "deny": []},
        "services": [
            {
                "id": "0",
                "type": "access",
                "files": files_of(key, nft, datatoken, *urls),
                "datatokenAddress": datatoken,
                "serviceEndpoint": endpoint,
                "timeout": 3600,
            }
        ],
    }


def write(market: Market, publisher: str, nft: Address, document: dict[str, Any], flags: int = 3) -> TransactionHash:
    clear = json.dumps(document, separators=(",", ":")).encode()
    packed = lzma.compress(clear) if flags & 1 else clear
    data = encrypt(market.wallet("operator").public_key, packed) if flags & 2 else packed
    return market.ledger.write_document(market.wallet(publisher), nft, flags, data, hashlib.sha256(clear).digest())


def publish(market: Market, *urls: str, publisher: str = "alice", name: str = "Words", rate: int = ONE) -> Published:
    """Not indexed yet: see `index`."""
    terms = Terms(TokenWei(rate), market.ledger.network.ocean, TokenWei(0), market.services.operator.address)
    made = market.ledger.create_asset(market.wallet(publisher), f"{name} {len(market.ledger.writes)}", name, name.upper(), terms)
    document = document_of(market, made.nft, made.datatoken, *(urls or ("https://words.example/words.txt",)), name=name)
    written = write(market, publisher, made.nft, document)
    return Published(did_of(made.nft, 8996), made.nft, made.datatoken, made.exchange, document, written)


def index(market: Market, stopwatch: Callable[[], float] = lambda: 0.0) -> Any:
    """One step of the log keeper; without a stopwatch, as long as it takes."""
    provider = market.services.provider
    return index_assets(provider.assets, market.ledger, provider.key, market.services.settings.public_url, market.clock, stopwatch)
