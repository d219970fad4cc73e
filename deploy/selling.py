"""A publisher's errands on the market's own machine: publish, and restore an entry from its copy.

In: services, an object store, a wallet, a request. Out: a publication, a restored entry. This module must never open a model's
file: conversion is a child process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from c2d_adapter.market import open_market
from c2d_adapter.storage import ENTRY, WEIGHTS, ObjectStore
from control_plane.chain.ledger import Wallet
from control_plane.did import Did
from control_plane.errors import BadInput
from control_plane.flows.entries import weights_folder
from control_plane.flows.publish import Published, Request, publish
from control_plane.flows.services import Services
from control_plane.serving.listing import Listing
from deploy.progress import Steps

_STAGES = ("fetch", "scan", "start", "load", "export", "parity", "probes", "entry")
"""What a conversion does, in its order; only what is shown depends on it."""

_SAYINGS = {
    "weights": "look at what was trained",
    "convert": "convert to ONNX, compare with PyTorch",
    "install": "install the entry under its digest",
    "asset": "data NFT, datatoken and price, one transaction",
    "digest": "model digest on chain",
    "log": "the log of its calls on chain",
    "metadata": "encrypted DDO on chain",
    "rights": "the operator's rights given up on chain",
    "store": "copy in object storage",
    "load": "Triton loads it",
    "parity": "ask Triton, compare with PyTorch",
    "compare": "compare disk, Triton and chain",
    "on sale": "on sale",
}


def publish_model(services: Services, store: ObjectStore | None, wallet: Wallet, request: Request, steps: Steps) -> Published:
    """Publish with a line for each step and its seconds. Again: as `flows.publish.publish`."""
    with ExitStack() as running:  # the step that is under way; one that raises is ended as failed
        progress = Progress(steps, running)
        return publish(open_market(services, store, progress.converted), wallet, request, progress)


class Progress:
    """Shows each step of a publication while it lasts, and of a conversion the stage that is under way."""

    def __init__(self, steps: Steps, running: ExitStack) -> None:
        """running: closed by whoever made it; holds the one step under way."""
        self._steps, self._running = steps, running
        self._show: Callable[[str], None] = lambda _part: None

    def __call__(self, name: str, detail: Mapping[str, Any] | None) -> None:
        """As `flows.publish.Progress`."""
        self._running.close()
        if detail is None:
            self._show = self._running.enter_context(self._steps.step(_SAYINGS.get(name, name)))
            if name == "convert":
                self._show(_STAGES[0])
            return
        for key, value in detail.items():
            if key not in ("seconds", "block") and value:
                self._steps.say(f"  {key} {value}")

    def converted(self, stage: str, seconds: float) -> None:
        """A stage of the conversion has ended; the next one is under way."""
        self._steps.say(f"  {stage}: {seconds:.1f} s")
        after = _STAGES.index(stage) + 1 if stage in _STAGES else len(_STAGES)
        self._show(_STAGES[after] if after < len(_STAGES) else "")


def restore(services: Services, store: ObjectStore | None, did: Did) -> Listing:
    """Bring an entry back from object storage, load it and put it on sale again; every byte is hashed on the way. Its weights too.

    Raises NotFound, IntegrityBroken (the copy is not the published entry either), Unavailable. Again: loads it again.
    """
    if store is None:
        raise BadInput("POSTHUMAN_S3_URL", "the object storage that holds copies", None)
    listing = services.catalogue.find(did)
    store.get(ENTRY, listing.model_digest, services.catalogue.folder(listing))
    if listing.weights_digest is not None:
        store.get(WEIGHTS, listing.weights_digest, weights_folder(services.settings.weights, listing.weights_digest))
    services.catalogue.load_verified(listing, services.server, services.ledger)
    services.catalogue.put_on_sale(listing)
    if listing.entry_name not in services.server.loaded():
        # between the two lines above the log keeper may have unloaded it, as something that nobody sells
        services.catalogue.load_verified(listing, services.server, services.ledger)
    return services.catalogue.find(did)
