"""Which way of keeping several calls at once an entry's model takes, and how much memory their keys and values may have.

In: an opened entry. Out: its `Rows`. This module must never compute.
"""

from __future__ import annotations

from generate.cache import HOST, place_of
from generate.decode import Decoder
from generate.rows import Apart, Rows
from generate.seq2seq import EncoderDecoder
from generate.shared import Shared, has_shared_cache
from opening.entry import OpenEntry
from opening.memory import ceiling, device_ceiling

MOST_APART = 8
MOST_SHARED = 16
"""Calls at once. Of those that share a step, more would each wait longer for a token, and all not get more."""
MOST_SHARED_ON_DEVICE = 32
"""A GPU's arithmetic is further from its memory's speed. The most that `bench/gptj_gpu.py` asks for; chosen without a GPU."""
_CACHE_SHARE = 0.25
"""Of the memory that this process may have, for keys and values; the rest is for weights and for what a step needs."""


def cache_bytes(entry: OpenEntry) -> int:
    """Most bytes of keys and values. On a GPU half of what the weights leave: a buffer that grows is there twice for a moment.

    Raises OSError when the GPU's driver does not say what it has.
    """
    place = place_of(entry.session)
    if place == HOST:
        return int(_CACHE_SHARE * ceiling())
    weights = sum(path.stat().st_size for path in entry.folder.glob("1/*"))
    return max(0, device_ceiling(place.number) - weights) // 2


def rows_of(entry: OpenEntry, most_bytes: int) -> Rows:
    """most_bytes: of the keys and values of calls that share. Raises EntryUnusable for a graph that this backend cannot feed."""
    if entry.encoder is not None:
        return Apart(EncoderDecoder(entry), most=MOST_APART)
    if has_shared_cache(entry):
        most = MOST_SHARED if place_of(entry.session) == HOST else MOST_SHARED_ON_DEVICE
        return Shared(entry, most=most, most_bytes=most_bytes)
    return Apart(Decoder(entry), most=MOST_APART)
