"""Provider fees are signed as Ocean Provider signs them, and say what they are for."""

from __future__ import annotations

import json
from dataclasses import replace

from eth_account import Account
from eth_account.messages import encode_defunct
from web3 import Web3

from control_plane.chain.fees import is_signed, names, pays_for_calls, provider_fee_digest, sign_fee, sign_provider_fee
from control_plane.chain.wallet import LocalWallet
from control_plane.did import Address, TokenWei, UnixSeconds

OPERATOR = LocalWallet(bytes(31) + b"\x07")
DATATOKEN = Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
TOKEN = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
UNTIL = UnixSeconds(1_800_000_000)
FEE = sign_provider_fee(OPERATOR, DATATOKEN, 2, TOKEN, TokenWei(10**16), UNTIL, lambda: 1_700_000_000.5)
FOR_A_FILE = sign_fee(OPERATOR, DATATOKEN, "2", TOKEN, TokenWei(0), UNTIL, lambda: 1_700_000_000.5)
FOR_TIME = sign_provider_fee(OPERATOR, DATATOKEN, 2, TOKEN, TokenWei(0), UNTIL, lambda: 1_700_000_000.5, "free")


def test_the_digest_is_web3s_over_the_packed_fields() -> None:
    packed = Web3.solidity_keccak(
        ["bytes", "address", "address", "uint256", "uint256"],
        [FEE.data, OPERATOR.address, TOKEN, 10**16, 1_800_000_000],
    )
    signed = Account.sign_message(encode_defunct(packed), bytes(31) + b"\x07")
    assert FEE.r + FEE.s[2:] + f"{FEE.v:02x}" == "0x" + bytes(signed.signature).hex()
    assert len(provider_fee_digest(OPERATOR.address, TOKEN, 10**16, 1_800_000_000, FEE.data)) == 32


def test_the_data_are_those_that_ocean_provider_writes() -> None:
    written = b'{"environment":null,"timestamp":1700000000.5,"dt":"%s","id":"2"}' % DATATOKEN.encode()
    assert FOR_A_FILE.data == written
    assert FEE.data == written[:-1] + b',"calls":true}'


def test_a_fee_pays_for_calls_only_where_it_was_signed_as_their_price() -> None:
    assert pays_for_calls(FEE)
    others = (b"", b"[]", b"{}", b'{"calls":1}', b'{"calls":"true"}', b'{"calls":true,"environment":"free"}', b"[" * 100_000)
    for fee in (FOR_A_FILE, FOR_TIME, *(replace(FEE, data=data) for data in others)):
        assert not pays_for_calls(fee), fee.data[:80]
    assert names(FOR_A_FILE, DATATOKEN, 2) and names(FOR_TIME, DATATOKEN, 2)  # which says nothing of what they pay for


def test_any_changed_field_breaks_the_signature() -> None:
    assert is_signed(FEE)
    for changed in (
        replace(FEE, provider=TOKEN),
        replace(FEE, token=DATATOKEN),
        replace(FEE, amount=TokenWei(10**16 + 1)),
        replace(FEE, valid_until=UnixSeconds(1_800_000_001)),
        replace(FEE, data=FEE.data + b" "),
        replace(FEE, v=FEE.v ^ 7),
        replace(FEE, v=300),
        replace(FEE, r=FEE.s),
    ):
        assert not is_signed(changed)


def test_a_fee_names_one_datatoken_and_one_service() -> None:
    assert names(FEE, DATATOKEN, 2)
    assert not names(FEE, TOKEN, 2)
    assert not names(FEE, DATATOKEN, 0)


def test_data_of_another_form_name_nothing() -> None:
    for data in (b"", b"[]", b"null", b"{}", b"\xff", json.dumps({"dt": DATATOKEN}).encode(), b'{"dt":null,"id":"2"}'):
        assert not names(replace(FEE, data=data), DATATOKEN, 2)


def test_letter_case_of_an_address_does_not_matter() -> None:
    data = json.dumps({"dt": DATATOKEN.lower(), "id": "2"}).encode()
    assert names(replace(FEE, data=data), DATATOKEN, 2)
