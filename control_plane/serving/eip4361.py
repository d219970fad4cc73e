"""The text a wallet signs to sign in (EIP-4361), and who signed it.

In: a message's text, a signature. Out: a frozen `SignInMessage`, an address. This module must never judge a field: whether the
domain, the nonce or the times are right is decided in `flows/sign_in.py`.

Source: EIP-4361 (ABNF in "Message Format"), EIP-191 version 0x45. Written here because `siwe` 2.4.1, the newest beside ocean-lib's
pins, refuses `did:` resources and takes 12 ms a message. Contract wallets (EIP-1271) cannot sign in: asking the contract needs the
chain node, and its answer may change later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from coincurve import PublicKey
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from control_plane.curve import CURVE_ORDER, HIGHEST_S
from control_plane.did import Address, Did, TransactionHash, UnixSeconds, parse_address, parse_did, parse_transaction_hash
from control_plane.errors import BadInput, Unauthenticated

STATEMENT = "Call this model through Posthuman with the order below. This signs you in; it is not a payment."
ORDER_SCHEME = "order:"
MAX_CHARACTERS = 4000

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"
_MESSAGE = re.compile(
    r"(?P<domain>[^\s/?#]+) wants you to sign in with your Ethereum account:\n"
    r"(?P<address>0x[0-9a-fA-F]{40})\n"
    r"\n(?:(?P<statement>[^\n]+)\n)?\n"
    r"URI: (?P<uri>\S+)\n"
    r"Version: (?P<version>\S+)\n"
    r"Chain ID: (?P<chain_id>[0-9]{1,18})\n"
    r"Nonce: (?P<nonce>[A-Za-z0-9]{8,64})\n"
    rf"Issued At: (?P<issued_at>{_TIME})\n"
    rf"Expiration Time: (?P<expires_at>{_TIME})\n"
    rf"(?:Not Before: (?P<not_before>{_TIME})\n)?"
    r"(?:Request ID: (?P<request_id>[^\n]*)\n)?"
    r"Resources:\n- (?P<did>\S+)\n- order:(?P<order>\S+)",
    re.ASCII,
)


@dataclass(frozen=True)
class SignInMessage:
    """What the wallet's owner agrees to: call `did` with `order`, on this site, until `expires_at`. Times: seconds since 1970."""

    domain: str
    address: Address
    uri: str
    chain_id: int
    nonce: str
    issued_at: UnixSeconds
    expires_at: UnixSeconds
    did: Did
    order: TransactionHash
    statement: str | None = STATEMENT
    version: str = "1"
    not_before: UnixSeconds | None = None

    def text(self) -> str:
        """The exact text to sign, times in UTC."""
        statement = f"{self.statement}\n" if self.statement else ""
        not_before = f"Not Before: {_rfc3339(self.not_before)}\n" if self.not_before is not None else ""
        return (
            f"{self.domain} wants you to sign in with your Ethereum account:\n{self.address}\n\n{statement}\n"
            f"URI: {self.uri}\nVersion: {self.version}\nChain ID: {self.chain_id}\nNonce: {self.nonce}\n"
            f"Issued At: {_rfc3339(self.issued_at)}\nExpiration Time: {_rfc3339(self.expires_at)}\n{not_before}"
            f"Resources:\n- {self.did}\n- {ORDER_SCHEME}{self.order}"
        )


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unix(text: str, field: str) -> UnixSeconds:
    try:
        return UnixSeconds(int(datetime.fromisoformat(text).timestamp()))
    except (ValueError, OverflowError) as error:
        raise BadInput(field, "a time as RFC 3339 writes it", text) from error


def parse_message(text: object) -> SignInMessage:
    """Parse strictly: every line in its place, nothing before or after. Raises BadInput naming the field.

    Expiration Time and the two resources, optional in the EIP, are required here; Scheme is not accepted.
    """
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise BadInput("message", f"an EIP-4361 text of at most {MAX_CHARACTERS} characters", type(text).__name__)
    found = _MESSAGE.fullmatch(text)
    if found is None:
        raise BadInput(
            "message",
            "an EIP-4361 text: domain, address, statement, URI, Version, Chain ID, Nonce, Issued At, Expiration Time and the "
            "resources <did> and order:<transaction>, each on its line",
            _first_strange_line(text),
        )
    not_before = found["not_before"]
    return SignInMessage(
        domain=found["domain"],
        address=parse_address(found["address"], "message.address"),
        uri=found["uri"],
        chain_id=int(found["chain_id"]),
        nonce=found["nonce"],
        issued_at=_unix(found["issued_at"], "message.issued_at"),
        expires_at=_unix(found["expires_at"], "message.expiration_time"),
        did=parse_did(found["did"], "message.resources[0]"),
        order=parse_transaction_hash(found["order"], "message.resources[1]"),
        statement=found["statement"],
        version=found["version"],
        not_before=_unix(not_before, "message.not_before") if not_before else None,
    )


def _first_strange_line(text: str) -> str:
    """The first line that no EIP-4361 message of ours could have, so that its author finds the fault."""
    starts = ("URI: ", "Version: ", "Chain ID: ", "Nonce: ", "Issued At: ", "Expiration Time: ", "Resources:", "- ", "Not Before: ")
    for place, line in enumerate(text.split("\n")[5:], start=6):
        if line and not line.startswith((*starts, "Request ID: ")):
            return f"line {place}: {line}"
    return text.split("\n", 1)[0]


def recover_signer(text: str, signature: object) -> Address:
    """The address whose key signed `text` (EIP-191). Every fault of a signature is Unauthenticated, with its reason.

    Accepts `0x` + 130 hex digits (r, s, v) with v 0, 1, 27 or 28. The high-s twin of a good signature is refused (EIP-2).
    """
    try:
        raw = bytes.fromhex(signature[2:]) if isinstance(signature, str) and signature.startswith("0x") else b""
    except ValueError:
        raw = b""
    if len(raw) != 65:
        raise Unauthenticated(
            f"signature: expected 0x and 130 hex digits (65 bytes: r, s, v), found {len(raw)} bytes", code="signature_malformed"
        )
    r, s, v = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:64], "big"), raw[64]
    if v not in (0, 1, 27, 28):
        raise Unauthenticated(f"signature: expected v 0, 1, 27 or 28, found {v}", code="signature_malformed")
    if not 0 < r < CURVE_ORDER or not 0 < s < CURVE_ORDER:
        raise Unauthenticated(
            "signature: expected r and s between 1 and the curve's order, found one outside", code="signature_malformed"
        )
    if s > HIGHEST_S:
        raise Unauthenticated(
            "signature: expected the low s of the two that are possible (EIP-2), found the high one", code="signature_high_s"
        )
    body = text.encode("utf-8")
    digest = keccak(b"\x19Ethereum Signed Message:\n" + str(len(body)).encode() + body)
    try:
        point = PublicKey.from_signature_and_message(raw[:64] + bytes((v % 27,)), digest, hasher=None)
    except Exception as error:  # coincurve 18 raises plain Exception when r is no x coordinate of the curve
        raise Unauthenticated(
            "signature: expected one that some key has made, found one that none can", code="signature_malformed"
        ) from error
    return Address(to_checksum_address(keccak(point.format(compressed=False)[1:])[-20:]))
