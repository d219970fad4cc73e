"""The JSON of what the operator signed for one log: a value, the log's EIP-712 domain, a signature.

In: records, values. Out: the same, checked. This module must never know what was signed, nor check a signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.did import Address, parse_address
from control_plane.errors import BadInput

SIGNATURE_BYTES = 65


def signed_record(version: int, name: str, value: dict[str, Any], chain_id: int, log: Address, signature: bytes) -> dict[str, Any]:
    """name: of the field that holds `value`."""
    return {"version": version, "chain_id": chain_id, "log": log, name: value, "signature": "0x" + signature.hex()}


def read_signed(record: object, version: int, name: str) -> tuple[Any, int, Address, bytes]:
    """The value's own record, not looked at; chain id, log and signature.

    Raises BadInput for another version, or a missing, unknown or ill-typed field.
    """
    found = record.get("version") if isinstance(record, Mapping) else record
    if not isinstance(record, Mapping) or found != version or isinstance(found, bool):
        raise BadInput("version", f"{version}", found)
    names = {"version", "chain_id", "log", name, "signature"}
    if set(record) != names:
        raise BadInput(f"signed {name}", f"exactly the fields {sorted(names)}", keys_of(record))
    chain_id, text = record["chain_id"], record["signature"]
    if not isinstance(chain_id, int) or isinstance(chain_id, bool) or chain_id < 1:
        raise BadInput("chain_id", "a whole number from 1", chain_id)
    try:
        signature = bytes.fromhex(text[2:]) if isinstance(text, str) and text.startswith("0x") else b""
    except ValueError:
        signature = b""
    if len(signature) != SIGNATURE_BYTES:
        raise BadInput("signature", f"0x and {2 * SIGNATURE_BYTES} hex digits ({SIGNATURE_BYTES} bytes)", text)
    return record[name], chain_id, parse_address(record["log"], "log"), signature


def keys_of(record: object) -> object:
    """What a refusal says of a record whose fields are not the expected ones."""
    return sorted(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
