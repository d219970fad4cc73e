"""What the embedded stack chooses for itself, and what it hands to its components."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.settings import read_settings
from control_plane.state import read_environment_file, write_environment_file
from deploy.local.environment import WANTED, choose_environment, component_environment, external, remembered_lines
from deploy.local.ports import free_port


def test_choices_are_kept_from_one_start_to_the_next(tmp_path: Path) -> None:
    first = choose_environment(tmp_path, {})
    assert choose_environment(tmp_path, {}) == first
    assert (tmp_path / "environment.json").stat().st_mode & 0o777 == 0o600


def test_settings_follow_the_chosen_ports(tmp_path: Path) -> None:
    values = choose_environment(tmp_path, {})
    settings = read_settings({"POSTHUMAN_HOME": str(tmp_path)})
    assert settings.rpc_url.endswith(f":{values['POSTHUMAN_CHAIN_PORT']}")
    assert settings.public_url.endswith(f":{settings.web_port}")
    assert len({values[f"POSTHUMAN_{name}"] for name in WANTED}) == len(WANTED)
    assert len(settings.s3_key_id) >= 16
    assert len(settings.s3_secret) >= 16


def test_a_port_that_is_asked_for_is_taken_and_remembered(tmp_path: Path) -> None:
    port = free_port()
    assert choose_environment(tmp_path, {"POSTHUMAN_WEB_PORT": str(port)})["POSTHUMAN_WEB_PORT"] == str(port)
    assert choose_environment(tmp_path, {})["POSTHUMAN_WEB_PORT"] == str(port)


def test_what_was_written_later_is_not_forgotten(tmp_path: Path) -> None:
    choose_environment(tmp_path, {})
    write_environment_file(tmp_path, {**read_environment_file(tmp_path), "POSTHUMAN_LOG_NFT": "0x" + "1" * 40})
    assert choose_environment(tmp_path, {})["POSTHUMAN_LOG_NFT"] == "0x" + "1" * 40


def test_a_component_that_somebody_else_runs_is_not_ours_to_start(tmp_path: Path) -> None:
    environ = {"POSTHUMAN_TRITON_URL": "http://triton.example:8000"}
    assert external(tmp_path, environ) == {"triton"}
    assert external(tmp_path, {}) == frozenset()
    assert choose_environment(tmp_path, environ)["POSTHUMAN_TRITON_URL"] == "http://triton.example:8000"


def test_somebody_elses_node_is_remembered_with_its_chain(tmp_path: Path) -> None:
    given = {"POSTHUMAN_RPC_URL": "https://polygon.example", "POSTHUMAN_CHAIN_ID": "137", "POSTHUMAN_CONFIRMATIONS": "70"}
    choose_environment(tmp_path, given)
    later = read_settings({"POSTHUMAN_HOME": str(tmp_path)})
    assert (later.rpc_url, later.chain_id, later.confirmations) == ("https://polygon.example", 137, 70)
    assert remembered_lines(tmp_path, given) == []
    (line,) = remembered_lines(tmp_path, {})
    assert "no chain is started: https://polygon.example, chain 137" in line
    assert external(tmp_path, {}) == {"chain"}
    assert choose_environment(tmp_path, {})["POSTHUMAN_CHAIN_ID"] == "137"


def test_our_own_chain_has_its_own_number_again(tmp_path: Path) -> None:
    values = choose_environment(tmp_path, {"POSTHUMAN_RPC_URL": "https://polygon.example", "POSTHUMAN_CHAIN_ID": "137"})
    write_environment_file(tmp_path, {name: value for name, value in values.items() if name != "POSTHUMAN_RPC_URL"})
    assert remembered_lines(tmp_path, {}) == []
    choose_environment(tmp_path, {})
    settings = read_settings({"POSTHUMAN_HOME": str(tmp_path)})
    assert settings.chain_id == 8996
    assert settings.rpc_url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("url", "beside"),
    [
        ("TRITON_URL", {"TRITON_KEY": "k"}),
        ("S3_URL", {"S3_BUCKET": "b", "S3_KEY_ID": "id", "S3_SECRET": "s", "S3_ENCRYPTION": "AES256"}),
        ("PUBLIC_URL", {}),
    ],
)
def test_what_belongs_to_a_remembered_server_is_remembered_too(tmp_path: Path, url: str, beside: dict[str, str]) -> None:
    given = {f"POSTHUMAN_{name}": value for name, value in {url: "https://elsewhere.example", **beside}.items()}
    choose_environment(tmp_path, given)
    assert given.items() <= choose_environment(tmp_path, {}).items()
    assert len(remembered_lines(tmp_path, {})) == 1


def test_the_database_is_remembered_and_its_password_not_shown(tmp_path: Path) -> None:
    given = {"POSTHUMAN_DATABASE_URL": "postgresql://bob:hidden@db.example/market?password=hidden"}
    choose_environment(tmp_path, given)
    assert remembered_lines(tmp_path, given) == []
    (line,) = remembered_lines(tmp_path, {})
    assert "postgresql database market on db.example" in line
    assert "hidden" not in line
    assert given.items() <= choose_environment(tmp_path, {}).items()
    assert read_settings({"POSTHUMAN_HOME": str(tmp_path)}).database_url == given["POSTHUMAN_DATABASE_URL"]
    other = {"POSTHUMAN_DATABASE_URL": "postgresql://bob:hidden@db.example/other"}
    assert other.items() <= choose_environment(tmp_path, other).items()


def test_a_port_that_moved_is_no_foreign_server(tmp_path: Path) -> None:
    choose_environment(tmp_path, {})
    port = free_port()
    values = choose_environment(tmp_path, {"POSTHUMAN_CHAIN_PORT": str(port)})
    assert values["POSTHUMAN_RPC_URL"] == f"http://127.0.0.1:{port}"
    assert external(tmp_path, {}) == frozenset()


def test_components_get_settings_and_never_a_wallet(tmp_path: Path) -> None:
    given = {
        "PATH": "/bin",
        "POSTHUMAN_SESSION_TTL_S": "60",
        "POSTHUMAN_PRIVATE_KEY": "0x1234",
        "POSTHUMAN_PASSPHRASE": "correct horse",
        "AWS_SECRET_ACCESS_KEY": "not ours",
        "HOME": "/root",
    }
    handed = component_environment(tmp_path, given)
    assert handed["POSTHUMAN_SESSION_TTL_S"] == "60"
    assert not {"POSTHUMAN_PRIVATE_KEY", "POSTHUMAN_PASSPHRASE", "AWS_SECRET_ACCESS_KEY"} & set(handed)
    assert handed["HOME"].startswith(str(tmp_path))
    assert handed["TMPDIR"].startswith(str(tmp_path))
