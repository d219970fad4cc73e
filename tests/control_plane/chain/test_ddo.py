"""The document of an asset: the same bytes from the same facts, readable by the operator alone."""

from __future__ import annotations

import hashlib
import json
import lzma
import re

import pytest
from ocean_lib.assets.ddo import DDO

from control_plane.chain import ddo
from control_plane.chain.wallet import LocalWallet
from control_plane.did import Address, UnixSeconds, did_of
from control_plane.errors import BadInput

OPERATOR, STRANGER = LocalWallet(bytes(31) + b"\x07"), LocalWallet(bytes(31) + b"\x08")
NFT = Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
DATATOKEN = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
ABOUT = ddo.Description("Tiny ☃", "A model", "Alice", "apache-2.0", UnixSeconds(1_700_000_000), {"task": "text-generation"})


def document() -> dict[str, object]:
    return ddo.build_ddo(NFT, DATATOKEN, 8996, ABOUT, "http://market", OPERATOR.public_key, 3600)


def test_ocean_lib_reads_the_document() -> None:
    read = DDO.from_dict(document())
    assert (read.did, read.version, read.chain_id, read.nft_address) == (did_of(NFT, 8996), "4.1.0", 8996, NFT)
    (service,) = read.services
    assert (service.id, service.type, service.datatoken, service.timeout) == ("0", "access", DATATOKEN, 3600)
    assert service.service_endpoint == "http://market"


def test_the_document_has_what_4_1_0_requires() -> None:
    made = document()
    metadata = made["metadata"]
    assert isinstance(metadata, dict)
    assert {"created", "updated", "name", "description", "type", "author", "license"} <= set(metadata)
    assert metadata["created"] == "2023-11-14T22:13:20Z"
    assert re.fullmatch(r"did:op:[0-9a-f]{64}", str(made["id"]))


def test_only_the_operator_reads_where_calls_go_and_nobody_where_weights_are() -> None:
    made = document()
    clear = json.dumps(made)
    assert "/models/did" not in clear
    services = made["services"]
    assert isinstance(services, list)
    files = bytes.fromhex(services[0]["files"][2:])
    assert json.loads(OPERATOR.decrypt(files))["nftAddress"] == NFT
    with pytest.raises(BadInput):
        STRANGER.decrypt(files)


def test_canonical_bytes_do_not_depend_on_order() -> None:
    assert ddo.canonical({"b": 1, "a": "☃"}) == '{"a":"☃","b":1}'.encode()
    assert ddo.clear_hash({"b": 1, "a": 2}) == "0x" + hashlib.sha256(b'{"a":2,"b":1}').hexdigest()


def test_a_sealed_document_is_compressed_and_opens_with_the_operators_key() -> None:
    made = document()
    sealed = ddo.seal(made, OPERATOR.public_key)
    assert ddo.unseal(sealed, OPERATOR) == made
    assert lzma.decompress(OPERATOR.decrypt(sealed)) == ddo.canonical(made)
    with pytest.raises(BadInput):
        ddo.unseal(sealed, STRANGER)


@pytest.mark.parametrize(
    "clear",
    [
        b"",
        b"not lzma",
        lzma.compress(b"not json"),
        lzma.compress(b"[]"),
        lzma.compress(bytes(1 << 22)),
        lzma.compress(b"[" * 100_000),
        b"\x5d\xff\xff\xff\xff" + lzma.compress(b"{}", format=lzma.FORMAT_ALONE)[5:],  # asks for 4 GiB
    ],
)
def test_what_is_no_document_is_refused(clear: bytes) -> None:
    with pytest.raises(BadInput, match="document"):
        ddo.unseal(ddo.encrypt(OPERATOR.public_key, clear), OPERATOR)


def test_two_operators_cannot_read_each_others_documents() -> None:
    """ocean-lib 3.1.2 `sym_encrypt` fails this: its key is one constant."""
    one, two = ddo.encrypt(OPERATOR.public_key, b"text"), ddo.encrypt(OPERATOR.public_key, b"text")
    assert one != two
    with pytest.raises(BadInput):
        STRANGER.decrypt(one)


def test_a_public_key_is_64_bytes() -> None:
    with pytest.raises(BadInput, match="public key"):
        ddo.encrypt(OPERATOR.public_key[1:], b"text")
