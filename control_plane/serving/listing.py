"""The listing: what the catalogue knows of one asset on sale.

In: the facts of a publication. Out: a frozen `Listing`. This module must never open the database or speak to a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from control_plane.did import Address, Bytes32, Did, TokenWei


class Ordered(Protocol):
    """What an order is for: one service of an asset. timeout_s: how long an order lasts, in seconds; 0: for ever."""

    @property
    def did(self) -> Did: ...

    @property
    def chain_id(self) -> int: ...

    @property
    def nft(self) -> Address: ...

    @property
    def datatoken(self) -> Address: ...

    @property
    def service_index(self) -> int: ...

    @property
    def timeout_s(self) -> int: ...


@dataclass(frozen=True)
class Listing:
    """One row of the catalogue (`models` in database.py), in its order.

    entry_name: the entry's folder and its name inside Triton. exchange: the fixed rate's id, None for a free dispenser.
    timeout_s: how long an order lets its holder call, in seconds, at most. rate: base-token wei for one datatoken, fees not inside.
    publish_fee: base-token wei that each order pays to the marketplace owner. swap_fee: share of a purchase in 10**-18.
    state: `on_sale` or `withdrawn`; then `reason` says why. published_at: seconds since 1970.
    parity: JSON, how far the served entry was from PyTorch's answers when it was published, a `ServedParity` (`replay.py`) an
    output; none in listings from before that was measured.
    weights_digest: of the trainable form that is kept here; None: the asset cannot be trained, since a finished
    entry was published, or one of an architecture that no training can do.
    statement: JSON, how a derived asset came to be (flows/derivation.py); None for one that was published.
    """

    did: Did
    name: str
    task: str
    entry_name: str
    model_digest: Bytes32
    chain_id: int
    nft: Address
    datatoken: Address
    exchange: Bytes32 | None
    publisher: Address
    service_index: int
    timeout_s: int
    rate: TokenWei
    base_token: Address
    publish_fee: TokenWei
    swap_fee: int
    published_at: float
    state: str = "on_sale"
    reason: str = ""
    parity: str = "[]"
    weights_digest: Bytes32 | None = None
    statement: str | None = None
