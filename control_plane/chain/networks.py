"""The chains we know, by chain id.

In: a chain id. Out: its `Network`. This module must never ask a node: addresses are facts of a release of Ocean's contracts.

The local chain (8996) is ours: `deploy/local/chain.py` puts the same contracts at the same addresses each time, because the
deployer's first transactions are always the same ones. Every other chain comes from the address file of `ocean-contracts`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from control_plane.chain.ledger import Network
from control_plane.did import Address, parse_address
from control_plane.errors import BadInput

LOCAL_CHAIN_ID = 8996
"""Ocean's number for a development chain; ocean-lib accepts no other one for a local node."""

LOCAL = Network(
    chain_id=LOCAL_CHAIN_ID,
    name="local",
    factory=Address("0x12975173B87F7595EE45dFFb2Ab812ECE596Bf84"),
    router=Address("0xb19b36b1456E65E3A6D514D3F715f204BD59f431"),
    fixed_rate=Address("0x8ce361602B935680E8DeC218b820ff5056BeB7af"),
    dispenser=Address("0xf7Cd8fa9b94DB2Aa972023b379c7f72c65E4De9D"),
    ocean=Address("0x700b6A60ce7EaaEA56F065753d8dcB9653dbAD35"),
    confirmations=1,
)

CONFIRMATIONS = {1: 12, 137: 64, 11155111: 12, 11155420: 12, 10: 12}
"""Blocks an event needs before it counts. Ethereum: 12 blocks are about 2.5 minutes, short of finality (2 epochs); raise it by
setting where an order is worth a reorganisation. Polygon: deeper than any reorganisation seen before milestones."""
OTHER_CONFIRMATIONS = 64

_NAMES = {
    "factory": "ERC721Factory",
    "router": "Router",
    "fixed_rate": "FixedPrice",
    "dispenser": "Dispenser",
    "ocean": "Ocean",
}


def network(chain_id: int, confirmations: int | None = None) -> Network:
    """The contracts of a chain; `confirmations` replaces the chain's default.

    Raises BadInput when Ocean has no contracts there that we know of.
    """
    if confirmations is not None and confirmations < 1:
        raise BadInput("confirmations", "a whole number from 1", confirmations)
    known = {LOCAL_CHAIN_ID: LOCAL, **_released()}
    if chain_id not in known:
        raise BadInput("chain_id", f"a chain with Ocean's contracts: one of {sorted(known)}", chain_id)
    found = known[chain_id]
    return found if confirmations is None else replace(found, confirmations=confirmations)


@cache
def _released() -> dict[int, Network]:
    """Every chain of the address file that has all the contracts we use."""
    text = files("addresses").joinpath("address.json").read_text(encoding="utf-8")
    listed: dict[str, dict[str, Any]] = json.loads(text)
    return {
        record["chainId"]: Network(
            chain_id=record["chainId"],
            name=name,
            confirmations=CONFIRMATIONS.get(record["chainId"], OTHER_CONFIRMATIONS),
            start_block=int(record.get("startBlock", 0)),
            **{ours: parse_address(record[theirs].lower(), theirs) for ours, theirs in _NAMES.items()},
        )
        for name, record in listed.items()
        if all(theirs in record for theirs in _NAMES.values())
    }
