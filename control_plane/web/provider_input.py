"""What Ocean's clients send: fields that must be there, signatures, nonces; and refusals in the words that they read.

In: Flask's request. Out: values, a proof of who asks. This module must never show a value in an error: Ocean Provider echoes whole
requests, with their signatures.

Fields that nothing here knows are passed over, as Ocean's own servers do: clients of other versions send more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from flask import request

from control_plane.did import Address, Did, TransactionHash, parse_address, parse_did, parse_transaction_hash
from control_plane.errors import BadInput, PosthumanError
from control_plane.flows.services import Services
from control_plane.provider.nonces import parse_nonce
from control_plane.provider.signing import SIGNATURE_FAULT, check_signature
from control_plane.web.body import read_object

_HASH_BYTES = 32
TOKEN_HEADER = "AuthToken"  # noqa: S105  # a header's name


class Invalid(PosthumanError):
    """Fields that are not what they should be, in flask-sieve's shape, which Ocean Provider answers with. errors: by field."""

    status = 400
    code = "invalid_fields"

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("Validation error")
        self.errors = errors

    def body(self) -> dict[str, Any]:
        return {"success": False, "message": self.message, "errors": {name: [text] for name, text in self.errors.items()}}


def query(*required: str) -> dict[str, Any]:
    """The query's parameters. Raises Invalid for those of `required` that are missing or empty."""
    values = dict(request.args.items())
    for name, value in parse_qsl(request.query_string.decode("latin-1"), encoding="latin-1"):
        if name == "transferTxId" and len(value) == _HASH_BYTES:  # `ocean.py` sends a hash that it was handed as bytes as bytes
            values[name] = "0x" + value.encode("latin-1").hex()
    return checked(values, *required)


def body(*required: str) -> dict[str, Any]:
    """The JSON object of the body. Raises BadInput when it is none, Invalid as `query`."""
    return checked(read_object()[1], *required)


def checked(values: dict[str, Any], *required: str) -> dict[str, Any]:
    missing = {name: f"The {name} field is required." for name in required if values.get(name) in (None, "", [], {})}
    if missing:
        raise Invalid(missing)
    return values


class Workflow(Invalid):
    """One part of a job is not what it should be, in one of Ocean Provider's words: `{"error": {"algorithm": "not_algo"}}`."""

    def body(self) -> dict[str, Any]:
        return {"error": dict(self.errors)}

    def __init__(self, part: str, word: str) -> None:
        super().__init__({part: word})
        self.code = word


@dataclass(frozen=True)
class Proven:
    """Who asks, by a signature or a token, and the nonce that is still to be used."""

    address: Address
    _use: Callable[[], None]

    def use(self) -> None:
        """Take the nonce for used; the last thing before an answer is given. Raises BadInput when another request was first."""
        self._use()


def proven(services: Services, values: Mapping[str, Any], field: str, message: str) -> Proven:
    """`values[field]` signed `message` and `values["nonce"]`, or a token of it is in the header; a signature counts first.

    Raises Invalid for a signature that is missing or another's, BadInput for a nonce or token that is not good.
    """
    address, nonce = address_in(values, field), parse_nonce(values.get("nonce"))
    signature, token = values.get("signature"), request.headers.get(TOKEN_HEADER)
    if not signature and token:
        services.provider.tokens.check(token, address)
    elif not signature:
        raise Invalid({"signature": "The signature field is required."})
    else:
        try:
            check_signature(address, message, str(values["nonce"]), signature)
        except BadInput as error:
            raise Invalid({"signature": SIGNATURE_FAULT}) from error
    services.provider.nonces.check(address, nonce)
    return Proven(address, lambda: services.provider.nonces.use(address, nonce))


def address_in(values: Mapping[str, Any], field: str) -> Address:
    return parse_address(values.get(field), field)


def did_in(values: Mapping[str, Any], field: str) -> Did:
    return parse_did(values.get(field), field)


def transaction_in(values: Mapping[str, Any], field: str) -> TransactionHash:
    return parse_transaction_hash(values.get(field), field)


def bytes_in(values: Mapping[str, Any], field: str) -> bytes:
    """Hexadecimal digits, with or without 0x."""
    found = values.get(field)
    if not isinstance(found, str) or not re.fullmatch(r"(?:0x)?(?:[0-9a-fA-F]{2})+", found):
        raise BadInput(field, "0x and hexadecimal digits", "something else")
    return bytes.fromhex(found.removeprefix("0x"))


def text_in(values: Mapping[str, Any], field: str, most: int = 256) -> str:
    found = values.get(field)
    if not isinstance(found, str) or not 0 < len(found) <= most:
        raise BadInput(field, f"a text of 1 to {most} characters", "something else")
    return found


def whole_in(values: Mapping[str, Any], field: str, high: int = 2**63 - 1) -> int:
    """A whole number from 0, as JSON or in decimal digits."""
    found = values.get(field)
    if isinstance(found, bool) or not isinstance(found, int | str) or not re.fullmatch(r"[0-9]{1,19}", str(found), re.ASCII):
        raise BadInput(field, f"a whole number from 0 to {high}", "something else")
    if int(found) > high:
        raise BadInput(field, f"a whole number from 0 to {high}", "a greater one")
    return int(found)


def check_chain(services: Services, values: Mapping[str, Any], field: str = "chainId") -> None:
    """Raises BadInput for another chain than this market's."""
    if str(values.get(field)) != str(services.network.chain_id):
        raise BadInput(field, f"{services.network.chain_id}, this market's chain", "another", code="wrong_chain")
