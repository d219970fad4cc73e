"""Where assets are made: the parts that publishing and deriving work on, and how they tell of their steps.

In: nothing. Out: the frozen record `Market`, which whoever runs a flow fills, and `Steps`. This module must never do a step itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from control_plane.chain.compute import Algorithm
from control_plane.chain.ddo import Decryptor
from control_plane.chain.ledger import Ledger, LedgerReader, Sent
from control_plane.did import Address, Did, TokenWei
from control_plane.flows.entries import Made
from control_plane.jobs.states import Kind
from control_plane.serving.inference import InferenceServer
from control_plane.serving.listing import Listing
from converters.entry import ModelDigest
from converters.weights_folder import WeightsDigest


class Catalogue(Protocol):
    """What these flows need of serving/catalogue.py."""

    def load_verified(self, listing: Listing, server: InferenceServer, ledger: LedgerReader) -> bool:
        """Load an entry whose digest is the chain's, hashed before and after. Raises IntegrityBroken otherwise."""

    def verify(self, listing: Listing) -> None:
        """Raises IntegrityBroken when the entry on disk is not the listing's."""

    def find(self, did: Did) -> Listing:
        """Raises NotFound for a DID that was never published here."""

    def listings(self) -> tuple[Listing, ...]:
        """Every listing, withdrawn ones too."""

    def hold(self, entry_name: str) -> AbstractContextManager[None]:
        """Nobody unloads the entry meanwhile, though no listing sells it yet."""

    def put_on_sale(self, listing: Listing) -> None:
        """Again: replaces the listing of the same DID."""


Progress = Callable[[str, Mapping[str, Any] | None], None]
"""Called with a step's name when it begins (detail None) and when it is done: addresses, transactions, `seconds`."""


def silent(_name: str, _detail: Mapping[str, Any] | None) -> None:
    """A `Progress` that nobody sees."""


@dataclass(frozen=True)
class Conversion:
    """What is to be converted. name: what people call the asset. parents: digests of the models it was trained from."""

    model: str
    name: str
    revision: str | None = None
    task: str | None = None
    precision: str | None = None
    parents: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str | None, ...]:
        """All that an entry depends on beside the model's bytes."""
        return (self.name, self.task, self.precision, *self.parents)


@dataclass(frozen=True)
class Market:
    """Where assets go. operator_key: the operator's 64-byte public key; documents are sealed to it, and `decryptor` opens them.

    convert: makes the entry of a model below an empty folder; convert.py has the one that starts a child process. store,
    store_weights: keep a copy in object storage under its digest and return where; None where there is no such storage. log_nft:
    the operator's, see open_log. models: the folder Triton reads. weights: where trainable forms are kept. scratch, publications:
    folders of these flows. algorithms: the market's own; without any, what is published sells no jobs.
    clock: seconds since 1970, UTC.
    """

    ledger: Ledger
    inference: InferenceServer
    catalogue: Catalogue
    convert: Callable[[Conversion, Path], Made]
    store: Callable[[Path, ModelDigest], str] | None
    store_weights: Callable[[Path, WeightsDigest], str] | None
    log_nft: Address
    operator: Address
    operator_key: bytes
    decryptor: Decryptor
    public_url: str
    base_token: Address
    publish_fee: TokenWei
    swap_fee: int
    models: Path
    weights: Path
    scratch: Path
    publications: Path
    algorithms: Mapping[Kind, Algorithm] = field(default_factory=dict)
    clock: Callable[[], float] = time.time


class Steps:
    """Tells `progress` of each step and how long it took. A step that fails is not reported as done."""

    def __init__(self, progress: Progress, clock: Callable[[], float]) -> None:
        self._progress, self._clock = progress, clock

    @contextmanager
    def __call__(self, name: str) -> Iterator[dict[str, Any]]:
        self._progress(name, None)
        begun = self._clock()
        detail: dict[str, Any] = {}
        yield detail
        self._progress(name, detail | {"seconds": round(self._clock() - begun, 3)})


def shown(sent: Sent) -> dict[str, Any]:
    """A transaction as a step's detail."""
    return {"transaction": sent.transaction, "block": sent.block, "gas_used": sent.gas_used}
