"""The offer: what one order of an asset costs, from the operator to a buyer.

In: a listing and the operator's wallet; or JSON from a server. Out: a frozen `Offer`. This module must never speak to a node: a
buyer checks an offer against the chain in order.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.chain.compute import ComputeService
from control_plane.chain.fees import service_id, sign_provider_fee
from control_plane.chain.ledger import ProviderFee, Wallet
from control_plane.did import Address, Bytes32, Did, TokenWei, UnixSeconds, parse_address, parse_bytes32, parse_did
from control_plane.errors import BadInput
from control_plane.jobs.environments import Environment
from control_plane.serving.listing import Listing

_MAX = 2**256
_MOST_TEXT = 256


@dataclass(frozen=True)
class Offer:
    """Amounts are base-token wei, as in `Terms`. exchange: None for a free dispenser. service_id: of the service in the asset's
    document, which the fee names.

    An order made with it lasts until the earlier of `timeout_s` after the order and `provider_fee.valid_until`.
    """

    chain_id: int
    did: Did
    nft: Address
    datatoken: Address
    exchange: Bytes32 | None
    rate: TokenWei
    base_token: Address
    publish_fee: TokenWei
    swap_fee: int
    service_index: int
    service_id: str
    timeout_s: int
    provider_fee: ProviderFee

    def to_json(self) -> dict[str, Any]:
        """Amounts are decimal text: JSON numbers end at 2**53."""
        fee = self.provider_fee
        return {
            "chain_id": self.chain_id,
            "did": self.did,
            "nft": self.nft,
            "datatoken": self.datatoken,
            "exchange": self.exchange,
            "rate": str(self.rate),
            "base_token": self.base_token,
            "publish_fee": str(self.publish_fee),
            "swap_fee": str(self.swap_fee),
            "service_index": self.service_index,
            "service_id": self.service_id,
            "timeout_s": self.timeout_s,
            "provider_fee": {
                "provider": fee.provider,
                "token": fee.token,
                "amount": str(fee.amount),
                "valid_until": fee.valid_until,
                "data": "0x" + fee.data.hex(),
                "v": fee.v,
                "r": fee.r,
                "s": fee.s,
            },
        }

    @classmethod
    def from_json(cls, record: object) -> Offer:
        """Raises BadInput for a missing, unknown or ill-typed field."""
        fields = _exactly(record, "offer", cls.__dataclass_fields__)
        fee = _exactly(fields["provider_fee"], "offer.provider_fee", ProviderFee.__dataclass_fields__)
        exchange = fields["exchange"]
        return cls(
            chain_id=_whole(fields, "chain_id"),
            did=parse_did(fields["did"], "offer.did"),
            nft=parse_address(fields["nft"], "offer.nft"),
            datatoken=parse_address(fields["datatoken"], "offer.datatoken"),
            exchange=None if exchange is None else parse_bytes32(exchange, "offer.exchange"),
            rate=TokenWei(_amount(fields, "rate")),
            base_token=parse_address(fields["base_token"], "offer.base_token"),
            publish_fee=TokenWei(_amount(fields, "publish_fee")),
            swap_fee=_amount(fields, "swap_fee"),
            service_index=_whole(fields, "service_index"),
            service_id=_text(fields, "service_id"),
            timeout_s=_whole(fields, "timeout_s"),
            provider_fee=ProviderFee(
                provider=parse_address(fee["provider"], "offer.provider_fee.provider"),
                token=parse_address(fee["token"], "offer.provider_fee.token"),
                amount=TokenWei(_amount(fee, "amount")),
                valid_until=UnixSeconds(_whole(fee, "valid_until")),
                data=_bytes(fee, "data"),
                v=_whole(fee, "v"),
                r=parse_bytes32(fee["r"], "offer.provider_fee.r"),
                s=parse_bytes32(fee["s"], "offer.provider_fee.s"),
            ),
        )


def make_offer(listing: Listing, operator: Wallet, provider_fee: TokenWei, valid_for_s: int, clock: Callable[[], float]) -> Offer:
    """An offer that the asset's datatoken accepts. valid_for_s: how long calls are wanted, in seconds from now; cut to the
    listing's `timeout_s`. clock: seconds since 1970, UTC.

    Raises BadInput when `valid_for_s` is below 1.
    """
    if valid_for_s < 1:
        raise BadInput("valid_for_s", "a whole number of seconds from 1", valid_for_s)
    seconds = min(valid_for_s, listing.timeout_s) if listing.timeout_s else valid_for_s
    until, index = UnixSeconds(int(clock()) + seconds), listing.service_index
    fee = sign_provider_fee(operator, listing.datatoken, index, listing.base_token, provider_fee, until, clock)
    return _offer(listing, index, listing.timeout_s, fee)


def make_job_offer(
    listing: Listing,
    service: ComputeService,
    operator: Wallet,
    environment: Environment,
    duration_s: int,
    clock: Callable[[], float],
) -> Offer:
    """An offer of one job: `duration_s` seconds of computing in `environment`. It can be ordered, and its job be started, as long
    as the job may take, counted from now.

    Raises BadInput for a time that the environment does not offer.
    """
    amount = environment.fee(duration_s)
    until = UnixSeconds(int(clock()) + duration_s)
    fee = sign_provider_fee(operator, listing.datatoken, service.index, environment.fee_token, amount, until, clock, environment.id)
    return _offer(listing, service.index, service.timeout_s, fee)


def _offer(listing: Listing, service_index: int, timeout_s: int, fee: ProviderFee) -> Offer:
    return Offer(
        chain_id=listing.chain_id,
        did=listing.did,
        nft=listing.nft,
        datatoken=listing.datatoken,
        exchange=listing.exchange,
        rate=listing.rate,
        base_token=listing.base_token,
        publish_fee=listing.publish_fee,
        swap_fee=listing.swap_fee,
        service_index=service_index,
        service_id=service_id(service_index),
        timeout_s=timeout_s,
        provider_fee=fee,
    )


def _exactly(record: object, name: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(record, Mapping) or set(record) != set(fields):
        raise BadInput(name, f"exactly the fields {sorted(fields)}", sorted(record) if isinstance(record, Mapping) else record)
    return record


def _whole(record: Mapping[str, Any], name: str) -> int:
    value = record[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise BadInput(f"offer.{name}", "a whole number from 0", value)
    return value


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_TEXT:
        raise BadInput(f"offer.{name}", f"a text of 1 to {_MOST_TEXT} characters", value)
    return value


def _amount(record: Mapping[str, Any], name: str) -> int:
    value = record[name]
    # isascii: Python's isdigit takes other scripts' digits too
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()) or len(value) > 78 or int(value) >= _MAX:
        raise BadInput(f"offer.{name}", "a whole number as decimal text, below 2**256", value)
    return int(value)


def _bytes(record: Mapping[str, Any], name: str) -> bytes:
    value = record[name]
    try:
        if isinstance(value, str) and value.startswith("0x"):
            return bytes.fromhex(value[2:])
    except ValueError:
        pass
    raise BadInput(f"offer.{name}", "0x and hex digits", value)
