"""The sign-in text is what EIP-4361 says, read strictly; every faulty signature is a 401."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from control_plane.chain.wallet import LocalWallet
from control_plane.did import Did, TransactionHash, UnixSeconds
from control_plane.errors import BadInput, Unauthenticated
from control_plane.serving.eip4361 import SignInMessage, parse_message, recover_signer

WALLET = LocalWallet(bytes(31) + b"\x05")
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
MESSAGE = SignInMessage(
    domain="market.example",
    address=WALLET.address,
    uri="https://market.example",
    chain_id=8996,
    nonce="0123456789abcdef",
    issued_at=UnixSeconds(1_700_000_000),
    expires_at=UnixSeconds(1_700_003_600),
    did=Did("did:op:" + "a" * 64),
    order=TransactionHash("0x" + "b" * 64),
)


def test_the_text_is_laid_out_as_the_eip_says() -> None:
    assert replace(MESSAGE, statement="I accept.").text() == (
        "market.example wants you to sign in with your Ethereum account:\n"
        f"{WALLET.address}\n"
        "\n"
        "I accept.\n"
        "\n"
        "URI: https://market.example\n"
        "Version: 1\n"
        "Chain ID: 8996\n"
        "Nonce: 0123456789abcdef\n"
        "Issued At: 2023-11-14T22:13:20Z\n"
        "Expiration Time: 2023-11-14T23:13:20Z\n"
        "Resources:\n"
        f"- did:op:{'a' * 64}\n"
        f"- order:0x{'b' * 64}"
    )


@pytest.mark.parametrize(
    "message", [MESSAGE, replace(MESSAGE, statement=None), replace(MESSAGE, not_before=UnixSeconds(1_699_999_999))]
)
def test_what_is_written_reads_back_the_same(message: SignInMessage) -> None:
    assert parse_message(message.text()) == message


def test_times_with_fractions_and_offsets_are_read() -> None:
    text = MESSAGE.text().replace("2023-11-14T22:13:20Z", "2023-11-14T23:13:20.123+01:00")
    assert parse_message(text).issued_at == MESSAGE.issued_at


@pytest.mark.parametrize(
    ("find", "put"),
    [
        ("market.example wants", "https://market.example wants"),
        ("URI: ", "Uri: "),
        ("Version: 1\n", ""),
        ("Chain ID: 8996", "Chain ID: 0x2324"),
        ("Nonce: 0123456789abcdef", "Nonce: short"),
        ("Nonce: 0123456789abcdef", "Nonce: 0123456789abcdef\nNonce: fedcba9876543210"),
        ("Expiration Time: 2023-11-14T23:13:20Z\n", ""),
        ("2023-11-14T23:13:20Z", "tomorrow"),
        ("2023-11-14T23:13:20Z", "2023-13-14T23:13:20Z"),
        ("Resources:\n", "Resources:\n- https://evil.example\n"),
        ("- order:0x", "- tx:0x"),
        ("- did:op:a", "- did:op:A"),
        (WALLET.address, WALLET.address.lower()[:-1]),
    ],
)
def test_a_text_that_differs_from_the_layout_is_a_named_400(find: str, put: str) -> None:
    changed = MESSAGE.text().replace(find, put, 1)
    assert changed != MESSAGE.text()
    with pytest.raises(BadInput) as caught:
        parse_message(changed)
    assert caught.value.status == 400
    assert caught.value.field.startswith("message")


@pytest.mark.parametrize("addition", ["\n", " ", "\n- more", "\nRequest ID: 1"])
def test_nothing_may_follow_the_text(addition: str) -> None:
    with pytest.raises(BadInput):
        parse_message(MESSAGE.text() + addition)


@pytest.mark.parametrize("text", [None, 5, "", "\x00", "x" * 5000, ["a"], {}])
def test_what_is_no_text_at_all_is_a_400(text: object) -> None:
    with pytest.raises(BadInput):
        parse_message(text)


def test_an_address_with_a_wrong_checksum_is_refused() -> None:
    text = MESSAGE.text().replace(WALLET.address, "0x" + WALLET.address[2:].swapcase())
    with pytest.raises(BadInput, match=r"message\.address"):
        parse_message(text)


def test_the_signer_is_found_as_an_independent_library_signs() -> None:
    key = bytes(31) + b"\x07"
    signed = Account.sign_message(encode_defunct(text=MESSAGE.text()), key)
    assert recover_signer(MESSAGE.text(), "0x" + signed.signature.hex().removeprefix("0x")) == Account.from_key(key).address


def test_the_recovery_byte_may_be_counted_from_0_or_from_27() -> None:
    raw = WALLET.sign_message(MESSAGE.text())
    low = raw[:64] + bytes((raw[64] - 27,))
    assert recover_signer(MESSAGE.text(), "0x" + raw.hex()) == WALLET.address
    assert recover_signer(MESSAGE.text(), "0x" + low.hex()) == WALLET.address


def high_twin(raw: bytes) -> bytes:
    """The other signature of the same key over the same message: s mirrored, v flipped."""
    s = CURVE_ORDER - int.from_bytes(raw[32:64], "big")
    return raw[:32] + s.to_bytes(32, "big") + bytes((27 + 28 - raw[64],))


def test_the_high_twin_of_a_good_signature_is_refused_by_name() -> None:
    with pytest.raises(Unauthenticated) as caught:
        recover_signer(MESSAGE.text(), "0x" + high_twin(WALLET.sign_message(MESSAGE.text())).hex())
    assert caught.value.code == "signature_high_s"


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "0x",
        "0xzz",
        7,
        [],
        "0x" + "00" * 64,
        "0x" + "00" * 65,
        "0x" + "ff" * 65,
        "0x" + "11" * 66,
        "0x" + "11" * 64 + "1d",
        "0x" + (CURVE_ORDER).to_bytes(32, "big").hex() + "11" * 32 + "1b",
        "0x" + "00" * 31 + "05" + "11" * 32 + "1b",
        "11" * 65,
    ],
)
def test_a_faulty_signature_is_a_401_and_never_an_error_of_ours(signature: object) -> None:
    with pytest.raises(Unauthenticated) as caught:
        found = recover_signer(MESSAGE.text(), signature)
        assert found != WALLET.address
        raise Unauthenticated("recovers to somebody else")  # a point of the curve by chance: then it is a stranger's signature
    assert caught.value.status == 401


def test_any_changed_byte_of_a_signature_is_another_signer_or_none() -> None:
    raw = WALLET.sign_message(MESSAGE.text())
    for place in range(0, 64, 5):
        changed = raw[:place] + bytes((raw[place] ^ 1,)) + raw[place + 1 :]
        try:
            assert recover_signer(MESSAGE.text(), "0x" + changed.hex()) != WALLET.address
        except Unauthenticated:
            continue
