"""The log's keys on disk: made once, readable by their owner alone, never shown."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from control_plane.errors import BadInput, NotFound
from control_plane.flows.open_log import keys_value
from control_plane.receipts.keys import (
    create_checkpoint_key,
    create_receipt_key,
    parse_keys_value,
    read_checkpoint_key,
    read_receipt_key,
    receipt_address,
)


def raw(path: Path) -> bytes:
    return create_checkpoint_key(path).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


@pytest.mark.parametrize("create", [create_receipt_key, raw], ids=["receipt", "checkpoint"])
def test_a_key_is_made_once_even_by_several_at_once(tmp_path: Path, create: Callable[[Path], bytes]) -> None:
    path = tmp_path / "keys" / "key"
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: create(path), range(16)))
    assert len(made) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["key"]


@pytest.mark.parametrize(("create", "read"), [(create_receipt_key, read_receipt_key), (raw, read_checkpoint_key)])
def test_a_key_that_others_may_read_is_refused(
    tmp_path: Path, create: Callable[[Path], bytes], read: Callable[[Path], object]
) -> None:
    create(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(BadInput, match="chmod 600"):
        read(tmp_path / "key")


@pytest.mark.parametrize("read", [read_receipt_key, read_checkpoint_key])
@pytest.mark.parametrize("content", [b"", b"hello", b"00" * 32, b"ff" * 32, b"\xff\xfe", b"ab" * 31])
def test_a_file_that_holds_no_key_is_refused_and_not_shown(tmp_path: Path, read: Callable[[Path], object], content: bytes) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read(path)
    assert content == b"" or content.decode("latin-1") not in str(caught.value)


@pytest.mark.parametrize("read", [read_receipt_key, read_checkpoint_key])
def test_a_missing_key_is_not_found(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(NotFound, match="posthuman up"):
        read(tmp_path / "key")


def test_what_stands_on_chain_parses_back(tmp_path: Path) -> None:
    signer, checkpoint_key = receipt_address(create_receipt_key(tmp_path / "key")), raw(tmp_path / "pem")
    assert parse_keys_value(keys_value(signer, checkpoint_key)) == (signer, checkpoint_key)
    with pytest.raises(BadInput):
        parse_keys_value(b"short")
