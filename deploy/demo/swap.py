"""Chapter 7: the weights on disk are swapped; the market refuses to serve and to load them; the copy in object storage is restored.

In: services, an asset on sale. Out: checks. This module must never leave the swapped weights behind, whatever happens.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from c2d_adapter.storage import ObjectStore
from control_plane.did import Did, TransactionHash
from control_plane.errors import IntegrityBroken
from control_plane.flows.services import Services
from converters.entry import model_digest
from deploy.buyer import BuyerFiles
from deploy.demo.narration import Narrator
from deploy.local.chain import local_account
from deploy.market import Market, MarketRefused
from deploy.selling import restore
from deploy.trading import answer_of, call

_FLIPPED = 64
_BACK_WITHIN_S = 20.0


def swap_and_restore(
    services: Services,
    store: ObjectStore | None,
    market: Market,
    narrator: Narrator,
    did: Did,
    order: TransactionHash,
    prompt: Mapping[str, Any],
    expected: str,
) -> None:
    """prompt: what Bob asked greedily before the swap, as the body has it; expected: what he was answered."""
    bob = local_account("bob")
    files = BuyerFiles(services.settings.home, bob.address)
    body = {"model": did, **prompt}
    listing = services.catalogue.find(did)
    folder = services.catalogue.folder(listing)
    weights = largest_file(folder)
    try:
        flip(weights)
        narrator.fact("swapped", f"{_FLIPPED} bytes of {weights.relative_to(services.settings.home)}")
        narrator.fact("digest now", model_digest(folder))
        narrator.fact("digest on chain", listing.model_digest)
        try:
            answered, _ = call(market, bob, files, did, services.settings.chain_id, body, order=order)
            narrator.check("Bob's next call is refused", False, f"answered {answer_of(answered)!r}")
        except MarketRefused as refused:
            is_right = refused.code == "model_tampered"
            narrator.check("Bob's next call is refused, and he is told why", is_right, f"{refused.status} {refused.message}")
        try:
            services.catalogue.load_verified(listing, services.server, services.ledger)
            narrator.check("loading it is refused", False, "it was loaded")
        except IntegrityBroken as broken:
            narrator.check("loading it is refused, with the reason", listing.model_digest in broken.message, broken.message)
    finally:
        with narrator.steps.step("restoring the entry from object storage"):
            restore(services, store, did)
    narrator.check(
        "the restored files have the digest on chain", str(model_digest(folder)) == listing.model_digest, model_digest(folder)
    )
    with narrator.steps.step("calling again"):
        text = _answer_again(market, services, files, did, order, body)
    narrator.check("Bob is answered again, as before", text == expected, repr(text))


def largest_file(folder: Path) -> Path:
    """Where the weights are."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    """Change some bytes in the middle, keep the size: what a quieter model would look like."""
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        block = stream.read(_FLIPPED)
        stream.seek(-len(block), 1)
        stream.write(bytes(byte ^ 0xFF for byte in block))


def _answer_again(
    market: Market, services: Services, files: BuyerFiles, did: Did, order: TransactionHash, body: dict[str, Any]
) -> str:
    """Each worker remembers a withdrawal for a second or so; then it answers again."""
    bob = local_account("bob")
    deadline = time.monotonic() + _BACK_WITHIN_S
    while True:
        try:
            answered, _ = call(market, bob, files, did, services.settings.chain_id, body, order=order)
        except MarketRefused as refused:
            if time.monotonic() > deadline:
                return f"{refused.status} {refused.message}"
            time.sleep(0.5)
            continue
        return answer_of(answered)
