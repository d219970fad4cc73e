"""What the simulated contracts keep of an asset, and what Ocean's community takes of each order and purchase.

In: nothing. Out: records that `SimulatedLedger` fills. This module must never decide whether a transaction is allowed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from control_plane.chain.ledger import DataRecord, Terms, data_key
from control_plane.chain.lineage import Custody, custody_key
from control_plane.did import Address, Bytes32

ONE = 10**18
COMMUNITY_ORDER_FEE = 3 * 10**16
"""Datatoken wei of each order."""
COMMUNITY_SWAP_FEE = 10**15
"""Share of a purchase, in 10**-18."""
COMMUNITY = Address("0x" + "C0" * 20)


@dataclass
class Nft:
    owner: Address
    datatoken: Address | None = None
    data: dict[Bytes32, list[DataRecord]] = field(default_factory=lambda: defaultdict(list))
    documents: list[bytes] = field(default_factory=list)
    state: int = 0
    deployers: set[Address] = field(default_factory=set)
    describers: set[Address] = field(default_factory=set)
    name: str = ""
    symbol: str = ""

    def newest(self, label: str) -> bytes:
        """What was recorded last under `label`, else in the custody record; nothing when nothing was."""
        if records := self.data[data_key(label)]:
            return records[-1].value
        kept = self.data[custody_key(self.datatoken)] if self.datatoken is not None else []
        custody = Custody.from_value(kept[-1].value) if kept else None
        return b"" if custody is None else custody.part(label)


@dataclass
class Datatoken:
    """mints: to whom, how much and in whose transaction, also what the exchange or the dispenser mints as it sells."""

    nft: Address
    terms: Terms
    exchange: Bytes32 | None
    minters: set[Address] = field(default_factory=set)
    collector: Address | None = None
    exchange_owner: Address | None = None
    mints: list[tuple[Address, int, Address]] = field(default_factory=list)
