"""Which way of keeping several calls at once an entry's model takes.

In: an opened entry. Out: its `Rows`. This module must never compute.
"""

from __future__ import annotations

from generate.decode import Decoder
from generate.rows import Apart, Rows
from generate.seq2seq import EncoderDecoder
from generate.shared import Shared, has_shared_cache
from opening.entry import OpenEntry

MOST_APART = 8
MOST_SHARED = 16
"""Calls at once. Of those that share a step, more would each wait longer for a token, and all not get more."""


def rows_of(entry: OpenEntry, most_bytes: int) -> Rows:
    """most_bytes: of the keys and values of calls that share. Raises EntryUnusable for a graph that this backend cannot feed."""
    if entry.encoder is not None:
        return Apart(EncoderDecoder(entry), most=MOST_APART)
    if has_shared_cache(entry):
        return Shared(entry, most=MOST_SHARED, most_bytes=most_bytes)
    return Apart(Decoder(entry), most=MOST_APART)
