"""The entry's record, manifest and digest: laws that must hold for any files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.entry import (
    DERIVED,
    Entry,
    digest_of,
    entry_files,
    manifest,
    model_digest,
    read_entry,
    triton_name,
    write_entry,
)
from converters.errors import EntryBroken
from converters.manifest import ManifestLine
from converters.tensors import Tensor

ENTRY = Entry(
    name="tiny",
    task="text-generation",
    backend="generate",
    architecture="GPT2LMHeadModel",
    precision="fp32",
    inputs=(Tensor("text_input", "BYTES", (1,)), Tensor("seed", "INT64", (1,), is_optional=True)),
    outputs=(Tensor("text_output", "BYTES", (1,)),),
    details={"context_length": 64, "label": "Ünïcödé 日本"},
    source={"id": "tiny", "revision": None, "licence": None},
    parity=({"output": "logits", "worst_absolute": 2e-06},),
    parents=("0x" + "ab" * 32,),
)

names = st.text(alphabet="abcd-_./0123456789", min_size=1, max_size=12).filter(
    lambda name: all(part not in ("", ".", "..") for part in name.split("/"))
)
sha256s = st.binary(min_size=32, max_size=32).map(bytes.hex)
lines = st.builds(ManifestLine, path=names, size=st.integers(0, 2**50), sha256=sha256s)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "entry"
    (made / "1").mkdir(parents=True)
    (made / "1" / "model.onnx").write_bytes(b"graph")
    (made / "1" / "tokenizer.json").write_bytes(b"{}")
    write_entry(made, ENTRY)
    return made


def test_an_entry_survives_writing_and_reading(folder: Path) -> None:
    assert read_entry(folder) == ENTRY


def test_the_same_entry_is_always_the_same_bytes(folder: Path) -> None:
    first = (folder / "entry.json").read_bytes()
    write_entry(folder, read_entry(folder))
    assert (folder / "entry.json").read_bytes() == first


@pytest.mark.parametrize(
    "change",
    [
        {"format": "posthuman/entry/v2"},
        {"surprise": 1},
        {"name": ...},
        {"inputs": [{"name": "x"}]},
        {"inputs": [{"name": "x", "dtype": "FP31", "shape": [1]}]},
        {"inputs": [{"name": "x", "dtype": "FP32", "shape": [0]}]},
    ],
    ids=["another-format", "unknown-field", "missing-field", "tensor-without-dtype", "unknown-dtype", "empty-axis"],
)
def test_a_record_that_is_not_an_entry_is_refused(folder: Path, change: dict[str, object]) -> None:
    record = {key: value for key, value in {**ENTRY.to_json(), **change}.items() if value is not ...}
    (folder / "entry.json").write_text(json.dumps(record))
    with pytest.raises(EntryBroken):
        read_entry(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"not json", b"\xff"])
def test_an_entry_json_that_is_no_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "entry.json").write_bytes(content)
    with pytest.raises(EntryBroken):
        read_entry(folder)


def test_files_are_ordered_component_by_component_and_not_as_strings(tmp_path: Path) -> None:
    # As strings "d0-b" < "d0/x", since "-" sorts before "/"; as paths "d0" is a prefix and comes first.
    for name in ("d0-b", "d0/x", "a", "d0/1/y", "d0.c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = [path.relative_to(tmp_path).as_posix() for path in entry_files(tmp_path)]
    assert found == ["a", "d0/1/y", "d0/x", "d0-b", "d0.c"]
    assert found == [str(path) for path in sorted(PurePosixPath(name) for name in found)] != sorted(found)


def test_the_digest_is_what_the_design_says_and_stays_so() -> None:
    listed = (ManifestLine("1/model.onnx", 5, "ab" * 32), ManifestLine("entry.json", 2, "cd" * 32))
    text = '[["1/model.onnx",5,"' + "ab" * 32 + '"],["entry.json",2,"' + "cd" * 32 + '"]]'
    assert digest_of(listed) == "0x" + hashlib.sha256(b"posthuman/model/v1\0" + text.encode()).hexdigest()
    # Frozen: an entry published with this format keeps its identity for ever.
    assert digest_of(listed) == "0x678fc3b19dc3e25a006f7b57882848a8b7535681c3a63e30ede1c4209bbf9be0"
    assert triton_name(digest_of(listed)) == "m-" + digest_of(listed)[2:18]


@given(st.lists(lines, max_size=5), st.lists(lines, max_size=5))
def test_two_lists_have_one_digest_only_when_they_are_the_same(first: list[ManifestLine], second: list[ManifestLine]) -> None:
    assert (digest_of(tuple(first)) == digest_of(tuple(second))) == (first == second)


@settings(max_examples=40)
@given(data=st.data())
def test_any_changed_byte_changes_the_digest(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("entry")
    contents = data.draw(st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "e"]), st.binary(min_size=1, max_size=8), min_size=1))
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    before = model_digest(folder)
    name = data.draw(st.sampled_from(sorted(contents)))
    place = data.draw(st.integers(0, len(contents[name]) - 1))
    changed = bytearray(contents[name])
    changed[place] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(changed)
    assert model_digest(folder) != before
    (folder / name).write_bytes(contents[name])
    assert model_digest(folder) == before


def test_a_renamed_file_changes_the_digest(folder: Path) -> None:
    before = model_digest(folder)
    (folder / "1" / "model.onnx").rename(folder / "1" / "model2.onnx")
    assert model_digest(folder) != before


def test_a_moved_boundary_between_two_files_changes_the_digest(tmp_path: Path) -> None:
    for name, (first, second) in {"x": (b"ab", b"c"), "y": (b"a", b"bc")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "1").write_bytes(first)
        (tmp_path / name / "2").write_bytes(second)
    assert model_digest(tmp_path / "x") != model_digest(tmp_path / "y")


def test_an_added_and_an_emptied_file_change_the_digest(folder: Path) -> None:
    before = model_digest(folder)
    (folder / "1" / "extra").touch()
    assert model_digest(folder) != before
    (folder / "1" / "extra").unlink()
    (folder / "1" / "tokenizer.json").write_bytes(b"")
    assert model_digest(folder) != before


def test_times_modes_and_empty_folders_are_not_part_of_the_model(folder: Path) -> None:
    before = model_digest(folder)
    os.utime(folder / "1" / "model.onnx", (0, 0))
    (folder / "1" / "model.onnx").chmod(0o600)
    (folder / "2").mkdir()
    assert model_digest(folder) == before


def test_the_derived_configuration_is_not_part_of_the_model_but_only_at_the_top(folder: Path) -> None:
    before = model_digest(folder)
    (folder / DERIVED).write_text("anything")
    assert model_digest(folder) == before
    (folder / "1" / DERIVED).write_text("anything")
    assert model_digest(folder) != before


@pytest.mark.parametrize("kind", ["symlink", "symlinked-folder", "hard-link", "pipe"])
def test_an_entry_with_a_link_or_a_special_file_is_refused(folder: Path, kind: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    odd = folder / "1" / "odd"
    if kind == "symlink":
        odd.symlink_to(tmp_path / "outside" / "file")
    elif kind == "symlinked-folder":
        odd.symlink_to(tmp_path / "outside")
    elif kind == "hard-link":
        odd.hardlink_to(tmp_path / "outside" / "file")
    else:
        os.mkfifo(odd)
    with pytest.raises(EntryBroken, match="odd"):
        model_digest(folder)


def test_a_link_in_the_place_of_the_entry_or_its_configuration_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(EntryBroken):
        model_digest(tmp_path / "link")
    (folder / DERIVED).symlink_to("/etc/passwd")
    with pytest.raises(EntryBroken):
        model_digest(folder)


def test_manifest_lines_are_sizes_and_digests_of_the_files(folder: Path) -> None:
    found = {line.path: line for line in manifest(folder)}
    assert found["1/model.onnx"] == ManifestLine("1/model.onnx", 5, hashlib.sha256(b"graph").hexdigest())
    assert list(found) == ["1/model.onnx", "1/tokenizer.json", "entry.json"]
