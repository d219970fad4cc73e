"""The Merkle tree of RFC 6962: roots, inclusion and consistency proofs, and their verification.

In: leaf hashes. Out: 32-byte roots and proofs. This module must never do I/O or know what a leaf means.

Proofs are built from `Nodes`: a lookup of complete subtrees. A tree in memory is one, a folder of tiles another, so that nobody
needs to hold the tree to prove something about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Nodes = Callable[[int, int], bytes]
"""nodes(level, index): the hash of the complete subtree over leaves [index << level, (index + 1) << level)."""


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that only grows, all levels in memory: 64 bytes a leaf."""

    def __init__(self, leaf_hashes: Iterable[bytes] = ()) -> None:
        self._levels: list[bytearray] = [bytearray()]
        for hashed in leaf_hashes:
            self.append(hashed)

    @property
    def size(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def append(self, hashed: bytes) -> int:
        """Add one leaf hash; returns its index, counted from 0."""
        if len(hashed) != HASH_BYTES:
            raise ValueError(f"leaf hash: expected {HASH_BYTES} bytes, found {len(hashed)}")
        index = position = len(self._levels[0]) // HASH_BYTES
        self._levels[0] += hashed
        level = 0
        while position & 1:
            hashed = sha256(b"\x01" + self._levels[level][-2 * HASH_BYTES :]).digest()
            level, position = level + 1, position >> 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += hashed
        return index

    def node(self, level: int, index: int) -> bytes:
        """See `Nodes`. Raises IndexError for a subtree that is not complete."""
        if level < len(self._levels):
            found = bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])
            if len(found) == HASH_BYTES and index >= 0:
                return found
        raise IndexError(f"no complete subtree at level {level}, index {index} in a tree of {self.size} leaves")

    def root(self, size: int | None = None) -> bytes:
        return root(self.node, self.size if size is None else size)


def root(nodes: Nodes, size: int) -> bytes:
    """The tree's hash when it had `size` leaves (RFC 6962, section 2.1)."""
    return EMPTY_ROOT if size == 0 else _range(nodes, 0, size)


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """The hashes that tie leaf `index` to the root of `size` leaves, from the leaf's sibling up (RFC 6962, section 2.1.1)."""
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} is not in a tree of {size} leaves")
    low, high = 0, size
    path: list[bytes] = []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range(nodes, middle, high))
            high = middle
        else:
            path.append(_range(nodes, low, middle))
            low = middle
    return path[::-1]


def consistency_proof(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """The hashes that show the tree of `old` leaves to be a prefix of the tree of `new` (RFC 6962, section 2.1.2)."""
    if not 0 <= old <= new:
        raise IndexError(f"a tree of {old} leaves is no prefix of one of {new}")
    if old in (0, new):
        return []
    low, high, is_whole = 0, new, True
    path: list[bytes] = []
    while high != old:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(_range(nodes, middle, high))
            high = middle
        else:
            path.append(_range(nodes, low, middle))
            low, is_whole = middle, False
    if not is_whole:
        path.append(_range(nodes, low, high))
    return path[::-1]


def includes(hashed: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes) -> bool:
    """Whether `path` ties the leaf hash at `index` to the root of `size` leaves (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size or any(len(part) != HASH_BYTES for part in (hashed, *path)):
        return False
    position, last, found = index, size - 1, hashed
    for part in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            found = node_hash(part, found)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, part)
        position, last = position >> 1, last >> 1
    return last == 0 and found == expected_root


def extends(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` shows that the tree of `new` leaves begins with the tree of `old` (RFC 9162, section 2.1.4.2)."""
    if not 0 <= old <= new or any(len(part) != HASH_BYTES for part in path):
        return False
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    parts = list(path)
    if old & (old - 1) == 0:
        parts.insert(0, old_root)
    if not parts:
        return False
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    found_old = found_new = parts[0]
    for part in parts[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            found_old, found_new = node_hash(part, found_old), node_hash(part, found_new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found_new = node_hash(found_new, part)
        position, last = position >> 1, last >> 1
    return last == 0 and found_old == old_root and found_new == new_root


def _split(width: int) -> int:
    """The largest power of two below `width`, which is at least 2."""
    return 1 << (width - 1).bit_length() - 1


def _range(nodes: Nodes, low: int, high: int) -> bytes:
    """The hash over leaves [low, high), where `low` is a multiple of the largest power of two that fits."""
    width = high - low
    if width & (width - 1) == 0:
        level = width.bit_length() - 1
        return nodes(level, low >> level)
    middle = low + _split(width)
    return node_hash(_range(nodes, low, middle), _range(nodes, middle, high))
