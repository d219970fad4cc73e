"""The log as static files: tiles of hashes and bundles of entries, in the layout of C2SP tlog-tiles.

In: a tree, its entries, a folder. Out: files that never change once written; the same bytes read back. This module must never sign,
and must never write a file in place: readers see the old bytes, the new bytes or no file.

Source: c2sp.org/tlog-tiles (2026). `tile/<level>/<index>` holds up to 256 hashes of complete subtrees of height 8 x level;
`tile/entries/<index>` the entries below a tile of level 0, each behind its length in 2 bytes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from control_plane.errors import BadInput, IntegrityBroken
from control_plane.receipts.merkle import HASH_BYTES, Nodes, node_hash

TILE_WIDTH = 256
TILE_HEIGHT = 8
ENTRY_BYTES = 65_535
"""Longest entry: its length must fit 2 bytes."""

_NUMBER = r"(?:x[0-9]{3}/){0,5}[0-9]{3}"  # enough for 2**63 leaves, and never longer than a file system's names
PUBLIC_PATH = re.compile(
    rf"checkpoint|anchors\.json|tile/(?:entries|[0-9]|[1-5][0-9]|6[0-3])/{_NUMBER}(?:\.p/(?:[1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))?"
)
"""Every path that the log's folder serves, and no other."""


def tile_path(level: int | str, index: int, width: int = TILE_WIDTH) -> str:
    """`tile/0/x001/x234/067.p/8`: level 0 to 63 or `entries`; `index` in groups of three digits; no suffix on a full tile."""
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.append(f"x{index % 1000:03d}")
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(reversed(groups))}{suffix}"


def tile_width(level: int, index: int, size: int) -> int:
    """Hashes that this tile holds in a tree of `size` leaves; 0 when there is no such tile."""
    return min(TILE_WIDTH, max(0, (size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH))


def pack_entries(entries: list[bytes]) -> bytes:
    """Raises BadInput for an entry longer than 65,535 bytes."""
    for entry in entries:
        if len(entry) > ENTRY_BYTES:
            raise BadInput("log entry", f"at most {ENTRY_BYTES} bytes", f"{len(entry)} bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack_entries(bundle: bytes, width: int) -> list[bytes]:
    """Raises BadInput unless the bundle holds exactly `width` entries."""
    entries: list[bytes] = []
    position = 0
    while position + 2 <= len(bundle):
        end = position + 2 + int.from_bytes(bundle[position : position + 2], "big")
        if end > len(bundle):
            break
        entries.append(bundle[position + 2 : end])
        position = end
    if position != len(bundle) or len(entries) != width:
        raise BadInput("entry bundle", f"{width} whole entries", f"{len(entries)} and {len(bundle) - position} bytes over")
    return entries


def hash_in_tile(tile: bytes, height: int, index: int) -> bytes:
    """The hash over 2**height neighbouring hashes of a tile, `index` counted in groups of that many."""
    row = [
        tile[start : start + HASH_BYTES] for start in range((index << height) * HASH_BYTES, (index + 1 << height) * HASH_BYTES, 32)
    ]
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


def nodes_of(read_tile: Callable[[int, int, int], bytes], size: int) -> Nodes:
    """Complete subtrees of a tree of `size` leaves, looked up in its tiles.

    read_tile(level, index, width): exactly width x 32 bytes.
    """

    def nodes(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        first = index << height
        number, inside = first // TILE_WIDTH, first % TILE_WIDTH
        width = tile_width(tile_level, number, size)
        if inside + (1 << height) > width:
            raise IndexError(f"no complete subtree at level {level}, index {index} in a tree of {size} leaves")
        return hash_in_tile(read_tile(tile_level, number, width), height, inside >> height)

    return nodes


class TileFolder:
    """A log's public folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str) -> bytes | None:
        """The bytes of a file of the log; None when there is none."""
        try:
            return (self.folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, content: bytes) -> None:
        """Put a file in place in one step, durable before this returns. Again: writes nothing when the bytes are the same.

        Raises IntegrityBroken when a tile is there with other bytes: tiles never change.
        """
        target = self.folder / path
        found = self.read(path)
        if found == content:
            return
        if found is not None and path.startswith("tile/"):
            raise IntegrityBroken(f"{path}: holds other bytes than the log's {len(content)}; a tile never changes")
        replace_durably(target, content)

    def write_tree(self, nodes: Nodes, entries: Callable[[int, int], list[bytes]], old: int, new: int) -> None:
        """Write what a tree of `new` leaves has and a tree of `old` had not; entries(low, high) gives the entries [low, high).

        Lowest level first, so that a reader who sees a tile also finds those below it. Again: rewrites nothing.
        """
        for number, width in _grown_tiles(0, old, new):
            low = number * TILE_WIDTH
            self.write(tile_path("entries", number, width), pack_entries(entries(low, low + width)))
        level = 0
        while new >> (TILE_HEIGHT * level):
            for number, width in _grown_tiles(level, old, new):
                low = number * TILE_WIDTH
                self.write(
                    tile_path(level, number, width),
                    b"".join(nodes(TILE_HEIGHT * level, low + i) for i in range(width)),
                )
                if width == TILE_WIDTH:
                    self._drop_partials(level, number)
            level += 1

    def _drop_partials(self, level: int, number: int) -> None:
        """Partial tiles may go once the full one is there; readers then take that (tlog-tiles, "Partial Tiles")."""
        for kind in (level, "entries") if level == 0 else (level,):
            shutil.rmtree(self.folder / (tile_path(kind, number) + ".p"), ignore_errors=True)


def _grown_tiles(level: int, old: int, new: int) -> Iterator[tuple[int, int]]:
    before, after = old >> (TILE_HEIGHT * level), new >> (TILE_HEIGHT * level)
    if before == after:
        return
    for number in range(before // TILE_WIDTH, (after + TILE_WIDTH - 1) // TILE_WIDTH):
        yield number, tile_width(level, number, new)


def replace_durably(target: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file beside its place, sync it, move it there, sync the folder. A crash leaves the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
