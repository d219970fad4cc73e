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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from control_plane.chain.compute import Algorithm, compute_object
from control_plane.chain.fees import service_id
from control_plane.did import Address, Bytes32, UnixSeconds, did_of
from control_plane.errors import BadInput

VERSION = "4.1.0"
MAX_DOCUMENT_BYTES = 1 << 20
"""Ours: a description of a model is a few kilobytes; a compressed bomb ends here."""
MOST_UNPACKING_BYTES = 80 << 20
"""Memory that unpacking may ask for. A few bytes can ask for 4 GiB; what was packed hardest (preset 9) needs 65 MiB."""


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
    nft: Address,
    datatoken: Address,
    chain_id: int,
    about: Description,
    public_url: str,
    operator_key: bytes,
    timeout_s: int,
    algorithms: Sequence[Algorithm] = (),
) -> dict[str, Any]:
    """The document of a model: an `access` service for calls at `public_url`, and behind it a `compute` service for jobs.

    algorithms: what jobs may run; without any, no jobs are sold. operator_key: 64-byte public key; only its holder can read
    `files`. That part differs each time it is made, since ECIES draws a fresh key: keep the document, do not make it twice.
    """
    url = f"{public_url}/models/{did_of(nft, chain_id)}"
    files = _files(nft, datatoken, {"type": "url", "url": url, "method": "POST"}, operator_key)
    calls = _service(0, "access", "inference", "Calls of this model", datatoken, public_url, files, timeout_s)
    services = [calls]
    if algorithms:
        jobs = _service(
            1, "compute", "jobs", "Jobs beside this model, whose weights stay here", datatoken, public_url, files, timeout_s
        )
        services.append({**jobs, "compute": compute_object(algorithms)})
    return _document(nft, chain_id, about, "dataset", {}, services)


def build_algorithm_ddo(
    nft: Address,
    datatoken: Address,
    chain_id: int,
    about: Description,
    public_url: str,
    operator_key: bytes,
    file_url: str,
    section: Mapping[str, Any],
) -> dict[str, Any]:
    """The document of an algorithm, which costs nothing and never ends. file_url: where its one file is; it is no secret.

    section: what stands under `metadata.algorithm`. As in `build_ddo`, each document is another one.
    """
    files = _files(nft, datatoken, {"type": "url", "url": file_url, "method": "GET"}, operator_key)
    service = _service(0, "access", "algorithm", about.description, datatoken, public_url, files, 0)
    return _document(nft, chain_id, about, "algorithm", {"algorithm": dict(section)}, [service])


def _files(nft: Address, datatoken: Address, file: Mapping[str, str], operator_key: bytes) -> str:
    record = {"datatokenAddress": datatoken, "nftAddress": nft, "files": [dict(file)]}
    return "0x" + encrypt(operator_key, canonical(record)).hex()


def _service(
    index: int, kind: str, name: str, description: str, datatoken: Address, public_url: str, files: str, timeout_s: int
) -> dict[str, Any]:
    return {
        "id": service_id(index),
        "type": kind,
        "name": name,
        "description": description,
        "datatokenAddress": datatoken,
        "serviceEndpoint": public_url,
        "files": files,
        "timeout": timeout_s,
    }


def _document(
    nft: Address, chain_id: int, about: Description, kind: str, more: Mapping[str, Any], services: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    written = datetime.fromtimestamp(about.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "@context": ["https://w3id.org/did/v1"],
        "id": did_of(nft, chain_id),
        "version": VERSION,
        "chainId": chain_id,
        "nftAddress": nft,
        "metadata": {
            "created": written,
            "updated": written,
            "name": about.name,
            "description": about.description,
            "type": kind,
            "author": about.author,
            "license": about.licence,
            **more,
            "additionalInformation": {"posthuman": dict(about.facts)},
        },
        "services": [dict(each) for each in services],
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


def unpack(packed: bytes) -> bytes:
    """Bytes compressed with LZMA in clear, at most one more than MAX_DOCUMENT_BYTES. Raises BadInput for others, and for those
    that ask for too much memory."""
    try:
        return lzma.LZMADecompressor(memlimit=MOST_UNPACKING_BYTES).decompress(packed, MAX_DOCUMENT_BYTES + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise BadInput("document", "bytes compressed with LZMA", "others") from error


def unseal(sealed: bytes, wallet: Decryptor) -> dict[str, Any]:
    """Read a document back. Raises BadInput when it was sealed for somebody else, is too large, or is no document."""
    clear = unpack(wallet.decrypt(sealed))
    try:
        record = json.loads(clear) if len(clear) <= MAX_DOCUMENT_BYTES else None
    except (ValueError, RecursionError) as error:
        raise BadInput("document", "a sealed DDO", f"{len(sealed)} bytes that are not") from error
    if not isinstance(record, dict):
        raise BadInput("document", f"a JSON object of at most {MAX_DOCUMENT_BYTES} bytes", f"{len(clear)} bytes")
    return record
