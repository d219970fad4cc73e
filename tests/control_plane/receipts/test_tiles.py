"""The C2SP tile layout on a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import BadInput, IntegrityBroken
from control_plane.receipts.merkle import Tree, leaf_hash
from control_plane.receipts.tiles import (
    PUBLIC_PATH,
    TileFolder,
    nodes_of,
    pack_entries,
    tile_path,
    tile_width,
    unpack_entries,
)


def entries_of(size: int) -> list[bytes]:
    return [hashlib.sha256(number.to_bytes(4, "big")).digest()[: number % 33] for number in range(size)]


def grow(folder: TileFolder, sizes: list[int]) -> Tree:
    entries, tree, old = entries_of(max(sizes)), Tree(), 0
    for size in sizes:
        for entry in entries[old:size]:
            tree.append(leaf_hash(entry))
        folder.write_tree(tree.node, lambda low, high: entries[low:high], old, size)
        old = size
    return tree


def test_paths_are_those_of_the_specification() -> None:
    # Source: c2sp.org/tlog-tiles: "index 1234067 will be encoded as x001/x234/067"
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path("entries", 5, 8) == "tile/entries/005.p/8"
    assert tile_path(1, 1000) == "tile/1/x001/000"


def test_widths_are_those_of_the_specification_s_example() -> None:
    # "a tree of size 70,000 will be represented by 273 full level 0 tiles, one partial level 0 tile of width 112, one full level 1
    # tile, one partial level 1 tile of width 17, and one partial level 2 tile of width 1"
    assert [tile_width(0, number, 70_000) for number in (272, 273, 274)] == [256, 112, 0]
    assert [tile_width(1, number, 70_000) for number in (0, 1, 2)] == [256, 17, 0]
    assert [tile_width(2, number, 70_000) for number in (0, 1)] == [1, 0]


@pytest.mark.parametrize(
    "path", ["checkpoint", "tile/0/000", "tile/63/x001/x234/067.p/255", "tile/entries/000.p/1", "anchors.json"]
)
def test_what_is_public_is_served(path: str) -> None:
    assert PUBLIC_PATH.fullmatch(path)


@pytest.mark.parametrize(
    "path",
    [
        "../keys/receipt.key",
        "tile/0/../../x",
        "tile/64/000",
        "tile/00/000",
        "tile/0/0",
        "tile/0/000.p/256",
        "tile/0/000.p/0",
        ".x.part",
        "",
        "/etc/passwd",
    ],
)
def test_what_is_not_public_is_not_served(path: str) -> None:
    assert not PUBLIC_PATH.fullmatch(path)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_packed_entries_unpack(entries: list[bytes]) -> None:
    assert unpack_entries(pack_entries(entries), len(entries)) == entries


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.data())
def test_a_bundle_cut_short_or_with_a_wrong_count_is_refused(entries: list[bytes], data: st.DataObject) -> None:
    bundle = pack_entries(entries)
    cut = data.draw(st.integers(0, len(bundle) - 1))
    with pytest.raises(BadInput):
        unpack_entries(bundle[:cut], len(entries))
    with pytest.raises(BadInput):
        unpack_entries(bundle, len(entries) + 1)


def test_an_entry_of_65536_bytes_is_refused() -> None:
    assert pack_entries([b"x" * 65_535])[:2] == b"\xff\xff"
    with pytest.raises(BadInput, match="65535"):
        pack_entries([b"x" * 65_536])


@pytest.mark.parametrize("sizes", [[1], [255, 256, 257], [256], [3, 300, 700], [511, 512, 513, 66_000]], ids=str)
def test_a_tree_read_back_from_its_tiles_has_the_same_roots(tmp_path: Path, sizes: list[int]) -> None:
    folder = TileFolder(tmp_path)
    tree = grow(folder, sizes)

    def read_tile(level: int, number: int, width: int) -> bytes:
        content = folder.read(tile_path(level, number, width))
        assert content is not None and len(content) == 32 * width, tile_path(level, number, width)
        return content

    nodes = nodes_of(read_tile, tree.size)
    for level in range(tree.size.bit_length()):
        last = (tree.size >> level) - 1
        assert nodes(level, last) == tree.node(level, last)
    with pytest.raises(IndexError):
        nodes(0, tree.size)


def test_partial_tiles_go_when_the_full_one_is_there(tmp_path: Path) -> None:
    folder = TileFolder(tmp_path)
    grow(folder, [10, 20])
    assert folder.read("tile/0/000.p/10") is not None  # a checkpoint of 10 leaves was made: its tiles must stay
    grow(folder, [10, 20, 256])
    assert not (tmp_path / "tile/0/000.p").exists()
    assert not (tmp_path / "tile/entries/000.p").exists()
    assert len(folder.read("tile/0/000") or b"") == 8192


def test_writing_again_changes_nothing_and_other_bytes_are_refused(tmp_path: Path) -> None:
    folder = TileFolder(tmp_path)
    grow(folder, [256])
    before = (tmp_path / "tile/0/000").stat().st_mtime_ns
    grow(folder, [256])
    assert (tmp_path / "tile/0/000").stat().st_mtime_ns == before
    with pytest.raises(IntegrityBroken, match="never changes"):
        folder.write("tile/0/000", b"other")


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        TileFolder(tmp_path).write("tile/0/000", b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
