"""What was ever recorded of an asset under a label, wherever it stands.

In: a ledger reader, an asset, a label. Out: every value, oldest first. This module must never read only the newest value.
"""

from __future__ import annotations

from dataclasses import replace

from control_plane.chain.ledger import DataRecord, LedgerReader, data_key
from control_plane.chain.lineage import Custody, custody_key
from control_plane.did import ZERO_ADDRESS, Address


def recorded(reader: LedgerReader, nft: Address, datatoken: Address, label: str) -> tuple[DataRecord, ...]:
    """Values of MODEL_LABEL, OPERATOR_LABEL or PARENT_LABEL: those of the custody record, until the owner wrote under the label."""
    own = reader.data_history(nft, data_key(label))
    if datatoken == ZERO_ADDRESS:
        return own
    kept = []
    for record in reader.data_history(nft, custody_key(datatoken)):
        custody = Custody.from_value(record.value)
        if custody is not None and (not own or record.block <= own[0].block):
            kept.append(replace(record, value=custody.part(label)))
    return (*kept, *own)
