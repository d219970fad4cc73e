"""The wiring builds everything from settings without a question to any server, and names what is missing."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.chain.wallet import LocalWallet, save_keystore
from control_plane.errors import BadInput, NotFound
from control_plane.receipts.keys import create_checkpoint_key, create_receipt_key
from control_plane.receipts.workers import is_alive
from control_plane.settings import Settings, read_settings
from control_plane.wiring import build_services, keeper_steps_of, operator_wallet, receipt_key_file
from deploy.local.ports import HOST, free_port

LOG_NFT = "0x" + "10" * 20


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A market that was set up, with neither a chain node nor Triton behind its ports."""
    closed = f"http://{HOST}:{free_port()}"
    names = {"HOME": str(tmp_path), "LOG_NFT": LOG_NFT, "RPC_URL": closed, "TRITON_URL": closed}
    found = read_settings({f"POSTHUMAN_{name}": value for name, value in names.items()})
    create_receipt_key(receipt_key_file(found))
    create_checkpoint_key(found.checkpoint_key_file)
    found.operator_key_file.write_text(secrets.token_hex(32))
    found.operator_key_file.chmod(0o600)
    return found


def test_services_and_keeper_are_built_while_every_server_is_down(settings: Settings) -> None:
    services = build_services(settings)
    assert services.network.chain_id == settings.chain_id
    assert not services.server.is_ready()
    assert services.catalogue.listings() == ()
    assert {step.name for step in keeper_steps_of(settings)} >= {"reap", "integrate", "anchor", "watch"}


def test_each_process_has_a_sign_of_life_of_its_own(settings: Settings) -> None:
    build_services(settings)
    names = [path.name for path in settings.workers_folder.iterdir()]
    assert len(names) == 1
    assert is_alive(settings.workers_folder, names[0])


def test_a_market_that_was_not_set_up_says_what_is_missing(settings: Settings) -> None:
    with pytest.raises(BadInput, match="POSTHUMAN_LOG_NFT"):
        build_services(replace(settings, log_nft=None))
    settings.operator_key_file.unlink()
    with pytest.raises(NotFound, match=r"operator\.json"):
        build_services(settings)


def test_the_operators_wallet_opens_from_a_plain_key_or_an_encrypted_keystore(settings: Settings) -> None:
    plain = operator_wallet(settings)
    kept = settings.home / "keys" / "kept.json"
    wallet = LocalWallet(bytes(31) + b"\x09")
    save_keystore(kept, wallet, "a passphrase", iterations=2)
    named = replace(settings, operator_key_file=kept)
    with pytest.raises(BadInput, match="passphrase"):
        operator_wallet(named)
    kept.with_name("kept.json.passphrase").write_text("a passphrase\n")
    kept.with_name("kept.json.passphrase").chmod(0o600)
    assert operator_wallet(named).address == wallet.address != plain.address


def test_a_key_that_others_may_read_is_refused(settings: Settings) -> None:
    settings.operator_key_file.chmod(0o644)
    with pytest.raises(BadInput):
        operator_wallet(settings)


def test_a_passphrase_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """Whoever reads it has the operator's money."""
    path = tmp_path / "operator.json"
    save_keystore(path, LocalWallet(bytes(range(1, 33))), "a passphrase", iterations=2)
    passphrase = tmp_path / "operator.json.passphrase"
    passphrase.write_text("a passphrase\n")
    passphrase.chmod(0o600)
    settings = read_settings({"POSTHUMAN_HOME": str(tmp_path), "POSTHUMAN_OPERATOR_KEY_FILE": str(path)})
    assert operator_wallet(settings).address == LocalWallet(bytes(range(1, 33))).address
    passphrase.chmod(0o644)
    with pytest.raises(BadInput, match="only its owner may read"):
        operator_wallet(settings)
