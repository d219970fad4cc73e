"""Keys sign, and never show."""

from __future__ import annotations

import copy
import json
import pickle
import stat
from pathlib import Path

import pytest
from coincurve import PrivateKey
from ecies import encrypt
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from control_plane.chain.ledger import Wallet
from control_plane.chain.rpc import Fees
from control_plane.chain.transaction import Action, contract_address, sign_transaction
from control_plane.chain.wallet import LocalWallet, load_keystore, message_digest, save_keystore, signer_of
from control_plane.did import Address
from control_plane.errors import BadInput

SECRET = bytes(range(1, 33))
WALLET = LocalWallet(SECRET)
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
MNEMONIC = "test test test test test test test test test test test junk"


def test_a_wallet_is_a_wallet() -> None:
    wallet: Wallet = WALLET
    assert wallet.address == Account.from_key(SECRET).address


@given(st.text(max_size=200))
def test_a_message_is_signed_as_eth_account_signs_it(text: str) -> None:
    assert WALLET.sign_message(text) == bytes(Account.sign_message(encode_defunct(text=text), SECRET).signature)


@given(st.binary(min_size=32, max_size=32))
def test_signatures_are_low_and_name_their_signer(digest: bytes) -> None:
    signature = WALLET.sign_digest(digest)
    assert int.from_bytes(signature[32:64], "big") <= HALF_ORDER
    assert signature[64] in (27, 28)
    assert signer_of(digest, signature) == WALLET.address
    assert signer_of(digest, signature[:64] + bytes([signature[64] - 27])) == WALLET.address


def test_a_changed_signature_names_somebody_else_or_nobody() -> None:
    digest = message_digest("hello")
    signature = WALLET.sign_digest(digest)
    for position in range(65):
        changed = bytearray(signature)
        changed[position] ^= 1
        assert signer_of(digest, bytes(changed)) != WALLET.address
    for wrong in (b"", bytes(65), signature[:64], signature + b"\0", b"\xff" * 64 + b"\x1b"):
        assert signer_of(digest, wrong) is None
    assert signer_of(b"short", signature) is None


def test_only_32_bytes_are_a_digest() -> None:
    with pytest.raises(BadInput):
        WALLET.sign_digest(b"text")


@pytest.mark.parametrize("text", ["", "0x", "zz" * 32, "00" * 32, "ff" * 32, "11" * 31, "0x" + "11" * 33])
def test_what_is_no_key_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        LocalWallet.from_key(text)
    assert not text or text not in str(caught.value)


def test_a_key_is_read_with_and_without_0x() -> None:
    assert LocalWallet.from_key(SECRET.hex()).address == LocalWallet.from_key("0x" + SECRET.hex() + "\n").address


def test_a_mnemonic_gives_the_accounts_that_everybody_derives() -> None:
    Account.enable_unaudited_hdwallet_features()
    expected = Account.from_mnemonic(MNEMONIC, account_path="m/44'/60'/0'/0/3").address
    assert LocalWallet.from_mnemonic(MNEMONIC, 3).address == expected


def test_a_wallet_never_shows_its_key(tmp_path: Path) -> None:
    digits = SECRET.hex()
    for shown in (repr(WALLET), str(WALLET), f"{WALLET}"):
        assert digits not in shown
        assert shown == f"LocalWallet({WALLET.address})"
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            way(WALLET)
    assert not hasattr(WALLET, "__dict__")


def test_a_keystore_opens_with_its_password_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "alice.json"
    save_keystore(path, WALLET, "correct", iterations=2)
    assert load_keystore(path, "correct").address == WALLET.address
    assert SECRET.hex() not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(BadInput, match="password"):
        load_keystore(path, "wrong")


def test_a_keystore_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "alice.json"
    save_keystore(path, WALLET, "one", iterations=2)
    with pytest.raises(BadInput):
        save_keystore(path, LocalWallet(bytes(31) + b"\1"), "two", iterations=2)
    assert load_keystore(path, "one").address == WALLET.address
    assert [each.name for each in tmp_path.iterdir()] == ["alice.json"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '"text"', json.dumps({"crypto": {}, "version": 3})])
def test_a_damaged_keystore_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(BadInput, match="keystore"):
        load_keystore(path, "any")


def test_a_keystore_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing\.json"):
        load_keystore(tmp_path / "nothing.json", "any")


def test_what_is_sealed_to_a_wallet_opens_with_it_alone() -> None:
    sealed = encrypt(PrivateKey(SECRET).public_key.format(), b"document")
    assert WALLET.decrypt(sealed) == b"document"
    for wrong in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", b"x" * 200):
        with pytest.raises(BadInput):
            WALLET.decrypt(wrong)
    with pytest.raises(BadInput):
        LocalWallet(bytes(31) + b"\2").decrypt(sealed)


@pytest.mark.parametrize("fees", [Fees(2_000_000_007, 1_000_000_000), Fees(7_000_000_000, None)], ids=["EIP-1559", "legacy"])
@pytest.mark.parametrize("to", [Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"), None], ids=["call", "creation"])
def test_a_transaction_is_signed_as_eth_account_signs_it(fees: Fees, to: Address | None) -> None:
    signed = sign_transaction(WALLET, 8996, Action(to, b"\x01\x02", 5), 9, 100_000, fees)
    record = {"chainId": 8996, "nonce": 9, "gas": 100_000, "value": 5, "data": b"\x01\x02"} | ({"to": to} if to else {})
    if fees.priority is None:
        record |= {"gasPrice": fees.most}
    else:
        record |= {"maxFeePerGas": fees.most, "maxPriorityFeePerGas": fees.priority}
    expected = Account.sign_transaction(record, SECRET)
    assert signed.raw == bytes(expected.rawTransaction)
    assert signed.transaction == "0x" + bytes(expected.hash).hex()
    assert Account.recover_transaction(signed.raw) == WALLET.address


def test_a_contracts_address_follows_from_deployer_and_nonce() -> None:
    # the first contract ever made by 0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0; a known example of CREATE addresses
    deployer = Address("0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")
    assert contract_address(deployer, 0) == "0xcd234A471b72ba2F1Ccf0A70FCABA648a5eeCD8d"
    assert contract_address(deployer, 1) == "0x343c43A37D37dfF08AE8C4A11544c718AbB4fCF8"
    assert keccak(b"")[:2].hex() == "c5d2"
