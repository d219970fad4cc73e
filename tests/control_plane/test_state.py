"""What the supervisor chose reaches every process, and nobody else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from control_plane.errors import BadInput
from control_plane.settings import read_settings
from control_plane.state import ENVIRONMENT_FILE, read_environment_file, write_environment_file


def test_the_state_folder_and_its_file_are_closed_to_other_users(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    write_environment_file(home, {"POSTHUMAN_TRITON_KEY": "secret"})
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / ENVIRONMENT_FILE).stat().st_mode) == 0o600
    assert read_environment_file(home) == {"POSTHUMAN_TRITON_KEY": "secret"}


def test_a_variable_of_the_process_is_stronger_than_the_file(tmp_path: Path) -> None:
    write_environment_file(tmp_path, {"POSTHUMAN_WEB_PORT": "1234", "POSTHUMAN_WEB_THREADS": "3"})
    settings = read_settings({"POSTHUMAN_HOME": str(tmp_path), "POSTHUMAN_WEB_PORT": "4321"})
    assert (settings.web_port, settings.web_threads) == (4321, 3)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"POSTHUMAN_WEB_PORT": 1}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / ENVIRONMENT_FILE).write_text(content)
    with pytest.raises(BadInput, match="environment"):
        read_environment_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHAIN_ID", "0"),
        ("CHAIN_ID", "polygon"),
        ("CONFIRMATIONS", "0"),
        ("CONFIRMATIONS", "-1"),
        ("WEB_PORT", "\u0661"),
        ("MERGE_DELAY_S", "99999999"),
        ("CALL_TIMEOUT_S", "nan"),
        ("CALL_TIMEOUT_S", "soon"),
        ("LOG_NFT", "0x12"),
    ],
)
def test_a_wrong_setting_names_its_variable(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"POSTHUMAN_{name}: expected"):
        read_settings({"POSTHUMAN_HOME": str(tmp_path), f"POSTHUMAN_{name}": value})


def test_confirmations_are_the_chains_own_unless_set(tmp_path: Path) -> None:
    assert read_settings({"POSTHUMAN_HOME": str(tmp_path)}).confirmations is None
    assert read_settings({"POSTHUMAN_HOME": str(tmp_path), "POSTHUMAN_CONFIRMATIONS": "7"}).confirmations == 7
