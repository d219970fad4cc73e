"""What was chosen stays chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.did import Address, Bytes32, TokenWei, UnixSeconds
from control_plane.errors import Conflict, IntegrityBroken
from control_plane.flows.publications import Choices, Journals

SOMEBODY = Address("0x" + "11" * 20)
CHOICES = Choices(
    SOMEBODY,
    8996,
    Bytes32("0x" + "22" * 32),
    "Tiny",
    "A model",
    "Alice",
    "mit",
    TokenWei(1),
    SOMEBODY,
    TokenWei(2),
    0,
    SOMEBODY,
    60,
)
DEARER = replace(CHOICES, rate=TokenWei(5))


def test_a_journal_is_kept_and_found(tmp_path: Path) -> None:
    first = Journals(tmp_path).begin(CHOICES, UnixSeconds(10), is_begun=False)
    assert Journals(tmp_path).begin(CHOICES, UnixSeconds(99), is_begun=True) == first
    sealed = replace(first, nft=SOMEBODY, document="0x00", clear_hash=Bytes32("0x" + "33" * 32), endpoint="http://market")
    Journals(tmp_path).write(sealed)
    assert Journals(tmp_path).read(Journals(tmp_path).id_of(CHOICES)) == sealed
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_terms_are_fixed_once_something_was_sent(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.begin(CHOICES, UnixSeconds(10), is_begun=False)
    assert journals.begin(DEARER, UnixSeconds(11), is_begun=False).choices == DEARER
    with pytest.raises(Conflict, match=r"rate is 5, asked now for 1.*Publish under another name"):
        journals.begin(CHOICES, UnixSeconds(12), is_begun=True)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"version": 2}', '{"version": 1}', '{"version": 1, "choices": {}, "created": 1}']
)
def test_a_damaged_journal_stops_everything(tmp_path: Path, content: str) -> None:
    journals = Journals(tmp_path)
    journals.begin(CHOICES, UnixSeconds(10), is_begun=False)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    with pytest.raises(IntegrityBroken, match="journal"):
        journals.begin(CHOICES, UnixSeconds(10), is_begun=False)
