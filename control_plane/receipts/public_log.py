"""A log as anyone sees it: checkpoint, tiles and entries over HTTP or from a folder, and the proofs they give.

In: a URL or a folder of someone we need not trust. Out: proofs to be verified. This module must never take the log's word: it asks
for no proof, it builds them from tiles; a log that lies gets proofs that do not verify.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlsplit

import requests

from control_plane.errors import BadInput, NotFound, Unavailable
from control_plane.receipts.checkpoint import NOTE_BYTES, read_unverified
from control_plane.receipts.merkle import HASH_BYTES, Nodes, consistency_proof, inclusion_proof, root
from control_plane.receipts.proof import Proof
from control_plane.receipts.tiles import ENTRY_BYTES, TILE_WIDTH, nodes_of, tile_path, tile_width, unpack_entries

LARGEST_SIZE = 1 << 40
LARGEST_FILE = TILE_WIDTH * (2 + ENTRY_BYTES)
CACHED_TILES = 1024


class LogFiles(Protocol):
    """Where a log's public files are; `TileFolder` is one."""

    def read(self, path: str) -> bytes | None:
        """None when there is no such file. Raises Unavailable when nobody can say."""


class HttpLogFiles:
    """A log's files below an http(s) URL. No redirects; at most 17 MB a file."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise BadInput("log URL", "http(s)://host/path without query", url)
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self._session = requests.Session()

    def read(self, path: str) -> bytes | None:
        try:
            with self._session.get(f"{self._url}/{path}", timeout=self._timeout_s, allow_redirects=False, stream=True) as answer:
                if answer.status_code == 404:
                    return None
                if answer.status_code != 200:
                    raise Unavailable(f"{self._url}/{path}: answered {answer.status_code}")
                body = b""
                for chunk in answer.iter_content(65_536):
                    body += chunk
                    if len(body) > LARGEST_FILE:
                        raise BadInput(path, f"at most {LARGEST_FILE} bytes", "more")
                return body
        except requests.RequestException as error:
            raise Unavailable(f"{self._url}/{path}: {type(error).__name__}") from error

    def close(self) -> None:
        self._session.close()


class PublicLog:
    """One log at one moment: everything is relative to the checkpoint read when this was made."""

    def __init__(self, files: LogFiles) -> None:
        """Raises NotFound when there is no checkpoint yet, Unavailable, BadInput when it is none."""
        self._files = files
        raw = files.read("checkpoint")
        if raw is None:
            raise NotFound("the log has no checkpoint yet")
        if len(raw) > NOTE_BYTES:
            raise BadInput("checkpoint", f"at most {NOTE_BYTES} bytes", f"{len(raw)} bytes")
        try:
            self.note = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInput("checkpoint", "UTF-8 text", "other bytes") from error
        claimed = read_unverified(self.note)
        if claimed.size > LARGEST_SIZE:
            raise BadInput("checkpoint", f"at most {LARGEST_SIZE} leaves", claimed.size)
        self.origin, self.size = claimed.origin, claimed.size
        self.tile: Callable[[int, int, int], bytes] = lru_cache(maxsize=CACHED_TILES)(self._read_tile)
        self._nodes: Nodes = nodes_of(self.tile, self.size)

    def root(self, size: int | None = None) -> bytes:
        """The root when the log had `size` leaves, computed from tiles."""
        return root(self._nodes, self._within(self.size if size is None else size))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Hashes for `merkle.extends`; both sizes at most the checkpoint's."""
        return consistency_proof(self._nodes, old, self._within(new))

    def leaf(self, index: int) -> bytes:
        """The leaf hash at an index."""
        return self._nodes(0, index)

    def find(self, hashed: bytes) -> int | None:
        """The index of a leaf hash; newest tiles are read first. None when no tile of the checkpoint holds it."""
        for number in range((self.size - 1) // TILE_WIDTH, -1, -1):
            tile = self.tile(0, number, tile_width(0, number, self.size))
            for inside in range(len(tile) // HASH_BYTES):
                if tile[inside * HASH_BYTES : (inside + 1) * HASH_BYTES] == hashed:
                    return number * TILE_WIDTH + inside
        return None

    def prove(self, hashed: bytes, index: int | None = None) -> Proof:
        """Proof of a leaf hash in the checkpoint. index: where it is said to be; looked for when not given.

        Raises NotFound when the checkpoint does not hold it.
        """
        at = self.find(hashed) if index is None else index
        if at is None or not 0 <= at < self.size:
            raise NotFound(f"leaf {hashed.hex()} is not among the {self.size} leaves of the log's checkpoint")
        return Proof(at, tuple(inclusion_proof(self._nodes, at, self.size)), self.note)

    def entries(self, number: int) -> list[bytes]:
        """The entries of one bundle, in order."""
        width = tile_width(0, number, self.size)
        if width == 0:
            raise NotFound(f"the log's checkpoint has no entry bundle {number}")
        content, found = self._partial_or_full("entries", number, width)
        return unpack_entries(content, found)[:width]

    def _within(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise BadInput("size", f"at most the checkpoint's {self.size}", size)
        return size

    def _read_tile(self, level: int, number: int, width: int) -> bytes:
        """The first `width` hashes of a tile. Raises NotFound when the log does not serve them, BadInput for another size."""
        content, found = self._partial_or_full(level, number, width)
        if len(content) != found * HASH_BYTES:
            raise BadInput(tile_path(level, number, found), f"{found * HASH_BYTES} bytes", f"{len(content)} bytes")
        return content[: width * HASH_BYTES]

    def _partial_or_full(self, level: int | str, number: int, width: int) -> tuple[bytes, int]:
        """A partial tile may have become full since the checkpoint was read; then it is the full one that is there."""
        content = self._files.read(tile_path(level, number, width))
        if content is None and width < TILE_WIDTH:
            width, content = TILE_WIDTH, self._files.read(tile_path(level, number))
        if content is None:
            raise NotFound(f"the log does not serve {tile_path(level, number, width)}, which its checkpoint needs")
        return content, width
