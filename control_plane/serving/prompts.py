"""Whether a model can read what it is asked to read: tokens counted before the server is asked.

In: a listing, the texts of a call, the tokens that may be made. Out: nothing, or BadInput with status 422. This module must never
say that a text is too long when the model could read it; the backend counts again, and has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from control_plane.errors import BadInput
from control_plane.serving.catalogue import Catalogue
from control_plane.serving.listing import Listing
from control_plane.serving.token_bounds import Bound, read_bound
from control_plane.serving.token_counter import TokenCounters
from converters.entry import Entry
from converters.tasks.generation import SCORE

MOST_TEXT_BYTES = 1 << 20
"""As the backends have it (`opening/texts.py`); it bounds the time that counting takes."""


@dataclass(frozen=True)
class Reads:
    """What a model reads of one text. most: tokens, None where it reads no text. why: of that number, for errors.

    scores: tokens of a text that it can score. has_special: special tokens are put around. makes: tokens that it can make at most,
    None where it makes none. bound: None where only counting tells.
    """

    most: int | None
    why: str
    scores: int | None
    has_special: bool
    makes: int | None
    bound: Bound | None


class Prompts:
    """Counts by the entries' own tokenizers; safe in several threads."""

    def __init__(self, catalogue: Catalogue, counters: TokenCounters, most_tokens: int | None = None) -> None:
        """most_tokens: the operator's limit of one text, beside each model's own."""
        self._catalogue, self._counters, self._most_tokens = catalogue, counters, most_tokens
        self._reads: dict[str, Reads] = {}

    def check_texts(self, listing: Listing, field: str, texts: Sequence[str], is_alone: bool = True) -> None:
        """field: as the caller writes it. is_alone: false where the model reads each text together with something else; then only a
        text that is too long by itself is refused.

        Raises BadInput with code `prompt_too_long`, Unavailable with code `prompt_not_counted`.
        """
        self._check(listing, self._known(listing), field, texts, is_alone)

    def check_score(self, listing: Listing, text: str) -> None:
        """A text to score, which the error calls `text_input`: nothing comes after it, so it may fill the context. Raises as
        `check_texts`.
        """
        known = self._known(listing)
        reads = replace(known, most=known.scores, why=_context(known.scores, self._most_tokens))
        self._check(listing, reads, "text_input", [text], is_alone=True)

    def _check(self, listing: Listing, reads: Reads, field: str, texts: Sequence[str], is_alone: bool) -> None:
        if reads.most is None:
            return
        for index, text in enumerate(texts):
            where = f" in item {index}" if len(texts) > 1 else ""
            encoded = text.encode("utf-8")
            if len(encoded) > MOST_TEXT_BYTES:
                raise _too_long(field, f"at most {MOST_TEXT_BYTES} bytes", f"{len(encoded)} bytes{where}")
            if reads.bound is not None and reads.bound.tokens(len(encoded)) <= reads.most:
                continue
            has_special = reads.has_special and is_alone
            tokens = self._counters.count(listing.entry_name, self._tokenizer(listing), encoded, has_special)
            if tokens > reads.most:
                raise _too_long(field, f"at most {reads.most} tokens{reads.why}", f"{tokens} tokens{where}")

    def check_generation(self, listing: Listing, fields: Mapping[str, Any]) -> None:
        """fields: the generate backend's inputs by tensor name, which the error names.

        Raises as `check_texts`, and BadInput with code `max_tokens_too_large` for more than the model can ever make.
        """
        if fields.get(SCORE):
            self.check_score(listing, fields["text_input"])
            return
        makes, asked = self._known(listing).makes, fields.get("max_tokens")
        if makes is not None and asked is not None and asked > makes:
            expected = f"a number from 1 to {makes}, the context of this model"
            raise BadInput("max_tokens", expected, asked, status=422, code="max_tokens_too_large")
        if "text_input" in fields:
            self.check_texts(listing, "text_input", [fields["text_input"]])

    def close(self) -> None:
        """End the counting processes. Again: does nothing."""
        self._counters.close()

    def _known(self, listing: Listing) -> Reads:
        name = listing.entry_name
        if name not in self._reads:
            entry = self._catalogue.entry(listing)
            bound = read_bound(self._tokenizer(listing)) if "context_length" in entry.details else None
            self._reads[name] = _reads_of(entry, bound, self._most_tokens)
        return self._reads[name]

    def _tokenizer(self, listing: Listing) -> Path:
        return self._catalogue.folder(listing) / "1" / "tokenizer.json"


def _reads_of(entry: Entry, bound: Bound | None, most_tokens: int | None) -> Reads:
    """By the details that `converters/tasks` and `converters/kinds/seq2seq.py` describe."""
    details = entry.details
    most: int | None = None
    makes: int | None = None
    has_special, why = bool(details.get("add_special_tokens")), ", the context of this model"
    if "context_length" in details:  # a recogniser of speech has a tokenizer and reads no text
        most = int(details["context_length"])
    if entry.task == "text-generation":
        makes = int(details["context_length"])
        most, why = makes - 1, ", which leaves room for one more in the context"
    elif "decoder_length" in details:
        makes = int(details["decoder_length"]) - len(details["start_tokens"])
        if entry.task != "text2text-generation":  # the decoder reads the text, after its start tokens or in their place
            replaced = len(details["start_tokens"]) if details["does_prompt_replace_start"] else 0
            makes, has_special = makes + replaced, False
            most, why = makes - 1, ", which leaves room for one more in the context"
    if most is not None and most_tokens is not None and most_tokens < most:
        most, why = most_tokens, ", the limit of this market"
    scores = int(details["context_length"]) if entry.task == "text-generation" else None
    if scores is not None and most_tokens is not None:
        scores = min(scores, most_tokens)
    return Reads(most, why, scores, has_special, makes, bound)


def _context(most: int | None, most_tokens: int | None) -> str:
    return ", the limit of this market" if most is not None and most == most_tokens else ", the context of this model"


def _too_long(field: str, expected: str, found: str) -> BadInput:
    return BadInput(field, expected, found, status=422, code="prompt_too_long")
