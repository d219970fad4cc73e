"""Values kept on a data NFT: digests, keys, anchors.

In: an NFT, a key, a value. Out: the action that writes it, and every value ever written. This module must never read only the
newest value: an owner may overwrite it, so what counts is the history of `DataChanged` events.
"""

from __future__ import annotations

from control_plane.chain.contracts import call_data, event_values, topic
from control_plane.chain.ledger import DataRecord, Network
from control_plane.chain.rpc import Rpc
from control_plane.chain.transaction import Action
from control_plane.did import Address, Bytes32


def record_action(nft: Address, data_key: Bytes32, value: bytes) -> Action:
    """Reverts with "NOT STORE UPDATER" for a wallet that the NFT's owner gave no store permission."""
    return Action(nft, call_data("ERC721Template", "setNewData", [bytes.fromhex(data_key[2:]), value]))


def data_history(rpc: Rpc, network: Network, nft: Address, key: Bytes32, from_block: int) -> tuple[DataRecord, ...]:
    head = rpc.head().number
    logs = rpc.logs(nft, [topic("ERC721Template", "DataChanged"), key], max(from_block, network.start_block), head)
    records: list[DataRecord] = []
    for log in logs:
        values = event_values("ERC721Template", "DataChanged", log)
        if values is None or log.address != nft:
            continue
        written_at = log.written_at if log.written_at is not None else rpc.block(log.block).timestamp
        records.append(
            DataRecord(nft, key, bytes(values["value"]), log.block, log.transaction, written_at, max(head - log.block + 1, 0))
        )
    return tuple(records)
