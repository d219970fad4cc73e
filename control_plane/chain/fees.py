"""Provider fees: what the operator asks for one order, signed so that the datatoken takes it from the buyer.

In: amounts and the operator's wallet. Out: a `ProviderFee`. This module must never speak to a node.

Source: ERC20Template `_checkProviderFee` (ocean-contracts 2.0.3) and Ocean Provider 2.1 `utils/provider_fees.py`. The contract
checks only that the signature is by the address it pays. That the fee was meant for this datatoken and service stands in its data,
and that it is not too old in `valid_until`: who accepts an order must check both (`names`, and access.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from eth_utils.crypto import keccak

from control_plane.chain.ledger import ProviderFee, Wallet
from control_plane.chain.wallet import signer_of
from control_plane.did import Address, Bytes32, TokenWei, UnixSeconds


def service_id(service_index: int) -> str:
    """The id of a service in our DDOs: its position, so that a fee for one service never passes for another."""
    return str(service_index)


def provider_fee_digest(provider: Address, token: Address, amount: int, valid_until: int, data: bytes) -> bytes:
    """The 32 bytes that are signed: keccak256 of the packed fields, behind Ethereum's message prefix."""
    packed = (
        data
        + bytes.fromhex(provider[2:])
        + bytes.fromhex(token[2:])
        + int(amount).to_bytes(32, "big")
        + int(valid_until).to_bytes(32, "big")
    )
    return bytes(keccak(b"\x19Ethereum Signed Message:\n32" + bytes(keccak(packed))))


def sign_provider_fee(
    wallet: Wallet,
    datatoken: Address,
    service_index: int,
    token: Address,
    amount: TokenWei,
    valid_until: UnixSeconds,
    clock: Callable[[], float],
    environment: str | None = None,
) -> ProviderFee:
    """A fee for one of our own services: for a model's calls, unless an environment is named; see `sign_fee`."""
    service = service_id(service_index)
    return sign_fee(wallet, datatoken, service, token, amount, valid_until, clock, environment, is_for_calls=environment is None)


def sign_fee(
    wallet: Wallet,
    datatoken: Address,
    service: str,
    token: Address,
    amount: TokenWei,
    valid_until: UnixSeconds,
    clock: Callable[[], float],
    environment: str | None = None,
    is_for_calls: bool = False,
) -> ProviderFee:
    """A fee that the datatoken accepts. clock: seconds since 1970, UTC; it stands in the data as Ocean Provider writes it.

    service: its id in the asset's document, which clients choose. environment: the compute environment whose time is paid; None: an
    order of something else. is_for_calls: the price of a model's calls, as its offer has it. A fee without that word opens no
    calls, whatever datatoken and service it names (`pays_for_calls`): documents say what those are, and strangers write documents.
    """
    told: dict[str, object] = {"environment": environment, "timestamp": clock(), "dt": datatoken, "id": service}
    data = json.dumps(told | ({"calls": True} if is_for_calls else {}), separators=(",", ":")).encode()
    signature = wallet.sign_digest(provider_fee_digest(wallet.address, token, amount, valid_until, data))
    return ProviderFee(
        provider=wallet.address,
        token=token,
        amount=amount,
        valid_until=valid_until,
        data=data,
        v=signature[64],
        r=Bytes32("0x" + signature[:32].hex()),
        s=Bytes32("0x" + signature[32:64].hex()),
    )


def is_signed(fee: ProviderFee) -> bool:
    """True when the signature is by the address that the fee pays."""
    digest = provider_fee_digest(fee.provider, fee.token, fee.amount, fee.valid_until, fee.data)
    if not 0 <= fee.v < 256:
        return False
    return signer_of(digest, bytes.fromhex(fee.r[2:]) + bytes.fromhex(fee.s[2:]) + bytes([fee.v])) == fee.provider


@dataclass(frozen=True)
class ComputeTime:
    """What a fee's data say of the computing that it pays for. seconds: from when it was signed until it ends, rounded up."""

    environment: str
    seconds: int


def compute_time(fee: ProviderFee) -> ComputeTime | None:
    """None where the data name no environment, or have any other form. Trust it only for a fee that the operator signed."""
    try:
        record = json.loads(fee.data)
        environment, signed_at = record["environment"], record["timestamp"]
        seconds = math.ceil(fee.valid_until - signed_at)
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    return ComputeTime(environment, seconds) if isinstance(environment, str) else None


def pays_for_calls(fee: ProviderFee) -> bool:
    """True when it was signed as the price of a model's calls. Trust it only for a fee that the operator signed."""
    record = _record(fee)
    return record is not None and record.get("calls") is True and record.get("environment") is None


def names(fee: ProviderFee, datatoken: Address, service_index: int) -> bool:
    """True when the fee's data say this datatoken and this service of ours."""
    return is_named(fee, datatoken, service_id(service_index))


def is_named(fee: ProviderFee, datatoken: Address, service: str) -> bool:
    """True when the fee's data say this datatoken and this service; data of any other form say nothing."""
    record = _record(fee)
    return record is not None and str(record.get("dt", "")).lower() == datatoken.lower() and record.get("id") == service


def _record(fee: ProviderFee) -> dict[str, object] | None:
    try:
        record = json.loads(fee.data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
