"""EIP-712 against the EIP's own example and against eth_account, and what no signature may look like."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from coincurve import PrivateKey
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.curve import CURVE_ORDER
from control_plane.did import Address, Bytes32, Did, TransactionHash, UnixMillis
from control_plane.errors import BadInput
from control_plane.receipts.receipt import CallStatus, Receipt, SignedReceipt, leaf_bytes, receipt_id
from control_plane.receipts.signing import (
    ReceiptSigner,
    address_of,
    domain_separator,
    hash_struct,
    receipt_digest,
    recover_signer,
    type_hash,
    typed_digest,
    word_address,
    word_string,
)

LOG = Address("0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC")

bytes32 = st.binary(min_size=32, max_size=32).map(lambda raw: Bytes32("0x" + raw.hex()))
addresses = st.integers(1, CURVE_ORDER - 1).map(
    lambda number: address_of(PrivateKey(number.to_bytes(32, "big")).public_key.format(compressed=False))
)
uint64 = st.integers(0, 2**64 - 1)
receipts = st.builds(
    Receipt,
    did=bytes32.map(lambda value: Did("did:op:" + value[2:])),
    model_digest=bytes32,
    request_hash=bytes32,
    response_hash=bytes32,
    consumer=addresses,
    order=bytes32.map(TransactionHash),
    sequence=uint64,
    previous=bytes32,
    started_at=uint64.map(UnixMillis),
    finished_at=uint64.map(UnixMillis),
    units_in=uint64,
    units_out=uint64,
    status=st.sampled_from(CallStatus),
    merge_by=uint64.map(UnixMillis),
)
EXAMPLE = Receipt(
    did=Did("did:op:" + "ab" * 32),
    model_digest=Bytes32("0x" + "01" * 32),
    request_hash=Bytes32("0x" + "02" * 32),
    response_hash=Bytes32("0x" + "03" * 32),
    consumer=Address("0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"),
    order=TransactionHash("0x" + "04" * 32),
    sequence=7,
    previous=Bytes32("0x" + "05" * 32),
    started_at=UnixMillis(1_700_000_000_000),
    finished_at=UnixMillis(1_700_000_000_100),
    units_in=3,
    units_out=5,
    status=CallStatus.DONE,
    merge_by=UnixMillis(1_700_003_600_100),
)


def as_typed_data(receipt: Receipt, chain_id: int, log: str) -> dict[str, object]:
    """The receipt in the JSON form that wallets sign; written from DESIGN's list of members, not from our encoder."""
    members = [
        ("did", "string"),
        ("modelDigest", "bytes32"),
        ("requestHash", "bytes32"),
        ("responseHash", "bytes32"),
        ("consumer", "address"),
        ("order", "bytes32"),
        ("sequence", "uint64"),
        ("previous", "bytes32"),
        ("startedAt", "uint64"),
        ("finishedAt", "uint64"),
        ("unitsIn", "uint64"),
        ("unitsOut", "uint64"),
        ("status", "uint8"),
        ("mergeBy", "uint64"),
    ]
    values = {
        "did": receipt.did,
        "modelDigest": receipt.model_digest,
        "requestHash": receipt.request_hash,
        "responseHash": receipt.response_hash,
        "consumer": receipt.consumer,
        "order": receipt.order,
        "sequence": receipt.sequence,
        "previous": receipt.previous,
        "startedAt": receipt.started_at,
        "finishedAt": receipt.finished_at,
        "unitsIn": receipt.units_in,
        "unitsOut": receipt.units_out,
        "status": int(receipt.status),
        "mergeBy": receipt.merge_by,
    }
    domain = [("name", "string"), ("version", "string"), ("chainId", "uint256"), ("verifyingContract", "address")]
    return {
        "primaryType": "Receipt",
        "types": {
            "EIP712Domain": [{"name": name, "type": kind} for name, kind in domain],
            "Receipt": [{"name": name, "type": kind} for name, kind in members],
        },
        "domain": {"name": "Posthuman receipt", "version": "1", "chainId": chain_id, "verifyingContract": log},
        "message": {
            name: bytes.fromhex(value[2:]) if kind == "bytes32" else value for (name, kind) in members for value in [values[name]]
        },
    }


def test_the_mail_example_of_eip_712_has_its_published_hashes_and_signature() -> None:
    # Source: EIP-712, "Test Cases" (assets/eip-712/Example.js): Ether Mail, key keccak256("cow")
    person = type_hash("Person(string name,address wallet)")
    mail = type_hash("Mail(Person from,Person to,string contents)Person(string name,address wallet)")
    cow = hash_struct(person, word_string("Cow"), word_address("0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"))
    bob = hash_struct(person, word_string("Bob"), word_address("0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"))
    struct = hash_struct(mail, cow, bob, word_string("Hello, Bob!"))
    domain = domain_separator(1, "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC", "Ether Mail", "1")
    assert mail.hex() == "a0cedeb2dc280ba39b857546d74f5549c3a1d7bdc2dd96bf881f76108e23dac2"
    assert struct.hex() == "c52c0ee5d84264471806290a3f2c4cecfc5490626bf912d01f240d7a274b371e"
    assert domain.hex() == "f2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f"
    digest = typed_digest(domain, struct)
    assert digest.hex() == "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"
    key = PrivateKey(keccak(text="cow"))
    assert address_of(key.public_key.format(compressed=False)) == "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"
    signature = key.sign_recoverable(digest, hasher=None)
    assert signature[:32].hex() == "4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d"
    assert signature[32:64].hex() == "07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b91562"
    assert signature[64] + 27 == 28


@settings(max_examples=60)
@given(receipt=receipts, chain_id=st.integers(1, 2**40), log=addresses)
def test_the_digest_is_the_one_eth_account_computes(receipt: Receipt, chain_id: int, log: Address) -> None:
    theirs = encode_typed_data(full_message=as_typed_data(receipt, chain_id, log))
    assert receipt_digest(receipt, chain_id, log) == keccak(b"\x19" + theirs.version + theirs.header + theirs.body)


@settings(max_examples=40)
@given(receipt=receipts, number=st.integers(1, CURVE_ORDER - 1))
def test_what_a_key_signs_recovers_to_its_address(receipt: Receipt, number: int) -> None:
    signer = ReceiptSigner(number.to_bytes(32, "big"), 8996, LOG)
    signed = signer.sign(receipt)
    assert recover_signer(signed) == signer.address
    assert SignedReceipt.from_json(signed.to_json()) == signed
    assert signer.sign(receipt) == signed


@settings(max_examples=60)
@given(bit=st.integers(0, 65 * 8 - 1))
def test_a_signature_with_any_bit_changed_is_refused_or_is_somebody_elses(bit: int) -> None:
    signer = ReceiptSigner(b"\x07" * 32, 8996, LOG)
    signed = signer.sign(EXAMPLE)
    raw = bytearray(signed.signature)
    raw[bit // 8] ^= 1 << bit % 8
    with suppress(BadInput):
        assert recover_signer(replace(signed, signature=bytes(raw))) != signer.address


@pytest.mark.parametrize(
    "change",
    [
        {"did": Did("did:op:" + "ac" * 32)},
        {"sequence": 8},
        {"status": CallStatus.CUT},
        {"merge_by": UnixMillis(1)},
        {"model_digest": Bytes32("0x" + "11" * 32)},
        {"units_out": 6},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_receipt_has_another_signer(change: dict[str, object]) -> None:
    signer = ReceiptSigner(b"\x07" * 32, 8996, LOG)
    signed = signer.sign(EXAMPLE)
    forged = replace(signed, receipt=replace(EXAMPLE, **change))  # type: ignore[arg-type]  # names of fields
    assert recover_signer(forged) != signer.address


def test_a_receipt_of_another_chain_or_log_has_another_signer() -> None:
    signer = ReceiptSigner(b"\x07" * 32, 8996, LOG)
    signed = signer.sign(EXAMPLE)
    assert recover_signer(replace(signed, chain_id=1)) != signer.address
    assert recover_signer(replace(signed, log=EXAMPLE.consumer)) != signer.address


def test_the_high_s_twin_of_a_signature_is_refused() -> None:
    signed = ReceiptSigner(b"\x07" * 32, 8996, LOG).sign(EXAMPLE)
    s = int.from_bytes(signed.signature[32:64], "big")
    twin = signed.signature[:32] + (CURVE_ORDER - s).to_bytes(32, "big") + bytes([55 - signed.signature[64]])
    with pytest.raises(BadInput, match="low s"):
        recover_signer(replace(signed, signature=twin))


@pytest.mark.parametrize(
    "signature",
    [b"", b"\x01", b"\x00" * 65, b"\x01" * 64, b"\x01" * 66, b"\xff" * 65, b"\x01" * 64 + b"\x00", b"\x01" * 64 + b"\x1d"],
    ids=["empty", "one byte", "zeros", "64 bytes", "66 bytes", "ones", "v 0", "v 29"],
)
def test_a_signature_that_no_key_can_make_is_bad_input(signature: bytes) -> None:
    signed = ReceiptSigner(b"\x07" * 32, 8996, LOG).sign(EXAMPLE)
    with pytest.raises(BadInput):
        recover_signer(replace(signed, signature=signature))


@pytest.mark.parametrize("key", [b"", b"\x00" * 32, b"\xff" * 32, b"\x01" * 31], ids=["empty", "zero", "too large", "short"])
def test_a_wrong_key_is_refused_and_not_shown(key: bytes) -> None:
    with pytest.raises(BadInput, match="not shown") as caught:
        ReceiptSigner(key, 8996, LOG)
    assert key.hex() not in str(caught.value) or not key


def test_a_signer_shows_its_address_and_not_its_key() -> None:
    assert "07" * 32 not in repr(ReceiptSigner(b"\x07" * 32, 8996, LOG))


def test_the_canonical_bytes_of_a_receipt_never_change() -> None:
    # The released form of version 1. If this fails, every receipt ever issued has lost its id.
    signed = ReceiptSigner(b"\x07" * 32, 8996, LOG).sign(EXAMPLE)
    assert receipt_id(signed) == "0xb4ace623e2d13fb670e55f195270586a0d0f35d392e018abe253af86f0f19dc2"
    assert len(leaf_bytes(signed)) == 916
