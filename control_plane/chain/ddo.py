"""The DDO: an asset's public description, encrypted as Ocean's tools expect it.

In: the facts of an asset. Out: the document, its canonical bytes and hash, and its sealed form on chain. This module must never put
in an address of the weights: what an order buys is calls.

Source: Ocean DDO 4.1.0 (Aquarius `remote_4.1.0.ttl`) and Ocean Provider 2.1 (compress with LZMA, then ECIES to the provider's key).
`sym_encrypt` of ocean-lib 3.1.2 is not used: its key is the same constant for every input.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from control_plane.chain.fees import service_id
from control_plane.did import Address, Bytes32, UnixSeconds, did_of
from control_plane.errors import BadInput

VERSION = "4.1.0"
MAX_DOCUMENT_BYTES = 1 << 20
"""Ours: a description of a model is a few kilobytes; a compressed bomb ends here."""


class Decryptor(Protocol):
    def decrypt(self, sealed: bytes) -> bytes: ...


@dataclass(frozen=True)
class Description:
    """What a person wrote about the model, and `facts` computed from its entry (task, tensors, sizes, digest, source, parity).

    created: seconds since 1970, UTC. The same value gives the same document.
    """

    name: str
    description: str
    author: str
    licence: str
    created: UnixSeconds
    facts: Mapping[str, Any]


def build_ddo(
    nft: Address, datatoken: Address, chain_id: int, about: Description, public_url: str, operator_key: bytes, timeout_s: int
) -> dict[str, Any]:
    """The document of an asset with one `access` service: calls at `public_url`.

    operator_key: 64-byte public key; only its holder can read `files`. That part differs each time it is made, since ECIES draws a
    fresh key: keep the document, do not make it twice.
    """
    did = did_of(nft, chain_id)
    written = datetime.fromtimestamp(about.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    files = {
        "datatokenAddress": datatoken,
        "nftAddress": nft,
        "files": [{"type": "url", "url": f"{public_url}/models/{did}", "method": "POST"}],
    }
    return {
        "@context": ["https://w3id.org/did/v1"],
        "id": did,
        "version": VERSION,
        "chainId": chain_id,
        "nftAddress": nft,
        "metadata": {
            "created": written,
            "updated": written,
            "name": about.name,
            "description": about.description,
            "type": "dataset",
            "author": about.author,
            "license": about.licence,
            "additionalInformation": {"posthuman": dict(about.facts)},
        },
        "services": [
            {
                "id": service_id(0),
                "type": "access",
                "name": "inference",
                "description": "Calls of this model",
                "datatokenAddress": datatoken,
                "serviceEndpoint": public_url,
                "files": "0x" + encrypt(operator_key, canonical(files)).hex(),
                "timeout": timeout_s,
            }
        ],
        "credentials": {"allow": [], "deny": []},
    }


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one byte form: JSON with sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def clear_hash(document: Mapping[str, Any]) -> Bytes32:
    """What stands on chain beside the sealed document: SHA-256 of its canonical bytes."""
    return Bytes32("0x" + hashlib.sha256(canonical(document)).hexdigest())


def encrypt(public_key: bytes, clear: bytes) -> bytes:
    """ECIES over secp256k1 in Ocean Provider's format (eciespy: AES-256-GCM, HKDF-SHA256). public_key: 64 bytes x, y."""
    from ecies import encrypt as ecies_encrypt  # only who publishes pays for loading it

    if len(public_key) != 64:
        raise BadInput("public key", "64 bytes x, y", f"{len(public_key)} bytes")
    return bytes(ecies_encrypt(public_key.hex(), clear))


def seal(document: Mapping[str, Any], public_key: bytes) -> bytes:
    """The document as it goes on chain under Ocean's flags 3: compressed, then encrypted."""
    return encrypt(public_key, lzma.compress(canonical(document)))


def unseal(sealed: bytes, wallet: Decryptor) -> dict[str, Any]:
    """Read a document back. Raises BadInput when it was sealed for somebody else, is too large, or is no document."""
    packed = wallet.decrypt(sealed)
    try:
        clear = lzma.LZMADecompressor().decompress(packed, MAX_DOCUMENT_BYTES + 1)
        record = json.loads(clear) if len(clear) <= MAX_DOCUMENT_BYTES else None
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise BadInput("document", "a sealed DDO", f"{len(sealed)} bytes that are not") from error
    if not isinstance(record, dict):
        raise BadInput("document", f"a JSON object of at most {MAX_DOCUMENT_BYTES} bytes", f"{len(clear)} bytes")
    return record
