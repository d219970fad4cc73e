"""Calls and events of Ocean's contracts as bytes, from the ABIs that ocean-lib ships.

In: a contract's name, a function and its arguments; or a log. Out: call data, decoded results, decoded events. This module must
never speak to a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from eth_abi import decode as abi_decode
from eth_abi import encode as abi_encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from control_plane.chain.ocean_fix import contract_definition
from control_plane.chain.rpc import Log

Values = Mapping[str, Any]
"""Arguments by name. Addresses are checksummed text, bytes32 are 32 bytes."""


def call_data(contract: str, function: str, arguments: Sequence[Any]) -> bytes:
    """Selector and encoded arguments, as a transaction or a call carries them."""
    types, _, selector = _function(contract, function)
    return selector + bytes(abi_encode(types, arguments))


def deployment_data(contract: str, arguments: Sequence[Any]) -> bytes:
    """The bytecode of a contract with its constructor's arguments behind it: the data of the transaction that makes it."""
    definition = contract_definition(contract)
    inputs = [part for part in definition["abi"] if part["type"] == "constructor"]
    types = [_type(part) for part in inputs[0]["inputs"]] if inputs else []
    return bytes.fromhex(definition["bytecode"].removeprefix("0x")) + bytes(abi_encode(types, arguments))


def results(contract: str, function: str, data: bytes) -> tuple[Any, ...]:
    """What a call returned. Raises ValueError when the bytes are not such a result: no contract there, or another one."""
    _, types, _ = _function(contract, function)
    try:
        return tuple(_checksummed(kind, value) for kind, value in zip(types, abi_decode(types, data), strict=True))
    except (DecodingError, ValueError, OverflowError) as error:
        raise ValueError(f"{contract}.{function}: the answer of {len(data)} bytes is not its result") from error


@cache
def topic(contract: str, event: str) -> str:
    """The first topic of an event: keccak256 of its signature."""
    return "0x" + keccak(text=_signature(_part(contract, "event", event))).hex()


def event_values(contract: str, event: str, log: Log) -> Values | None:
    """The event's arguments by name, or None when this log is another event.

    Who emitted it is `log.address` and nothing else: any contract can emit anything.
    """
    part = _part(contract, "event", event)
    if not log.topics or log.topics[0] != topic(contract, event):
        return None
    indexed = [each for each in part["inputs"] if each["indexed"]]
    others = [each for each in part["inputs"] if not each["indexed"]]
    if len(log.topics) != len(indexed) + 1:
        return None
    try:
        values = {
            each["name"]: _checksummed(_type(each), abi_decode([_type(each)], bytes.fromhex(text[2:]))[0])
            for each, text in zip(indexed, log.topics[1:], strict=True)
        }
        types = [_type(each) for each in others]
        found = abi_decode(types, log.data)
    except (DecodingError, ValueError, OverflowError):
        return None
    return values | {each["name"]: _checksummed(kind, value) for each, kind, value in zip(others, types, found, strict=True)}


def events(contract: str, event: str, logs: Iterable[Log], emitter: str | None = None) -> list[tuple[Log, Values]]:
    """Every such event among `logs`, in order; with `emitter`, only those that this contract emitted."""
    found = ((log, event_values(contract, event, log)) for log in logs if emitter is None or log.address == emitter)
    return [(log, values) for log, values in found if values is not None]


@cache
def _function(contract: str, function: str) -> tuple[list[str], list[str], bytes]:
    part = _part(contract, "function", function)
    inputs = [_type(each) for each in part["inputs"]]
    outputs = [_type(each) for each in part["outputs"]]
    return inputs, outputs, bytes(keccak(text=_signature(part))[:4])


@cache
def _part(contract: str, kind: str, name: str) -> dict[str, Any]:
    for part in contract_definition(contract)["abi"]:
        if part["type"] == kind and part.get("name") == name:
            found: dict[str, Any] = part
            return found
    raise KeyError(f"{contract} has no {kind} {name}")


def _signature(part: Mapping[str, Any]) -> str:
    return f"{part['name']}({','.join(_type(each) for each in part['inputs'])})"


def _type(part: Mapping[str, Any]) -> str:
    kind = str(part["type"])
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_type(each) for each in part['components'])}){kind.removeprefix('tuple')}"


def _checksummed(kind: str, value: Any) -> Any:
    if kind == "address":
        return to_checksum_address(value)
    if kind == "address[]":
        return tuple(to_checksum_address(each) for each in value)
    return value
