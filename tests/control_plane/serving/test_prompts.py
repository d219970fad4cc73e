"""What each kind of model can read and make, from its entry; texts that are short enough by their length are never counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from control_plane.errors import BadInput
from control_plane.serving.catalogue import Catalogue
from control_plane.serving.listing import Listing
from control_plane.serving.prompts import MOST_TEXT_BYTES, Prompts
from control_plane.serving.token_counter import TokenCounters
from converters.entry import Entry

TEXT = {"tokenizer": "1/tokenizer.json", "add_special_tokens": True, "context_length": 20}
SEQ2SEQ = {"decoder_length": 9, "start_tokens": [0, [1, 2]], "does_prompt_replace_start": False}


class Shelf:
    """A catalogue of one entry, in a folder with a tokenizer of a token a character."""

    def __init__(self, folder: Path, task: str, details: Mapping[str, Any]) -> None:
        (folder / "1").mkdir(exist_ok=True)
        made = Tokenizer(
            models.BPE(vocab={each: at for at, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
        )
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.save(str(folder / "1" / "tokenizer.json"))
        self._folder = folder
        self._entry = Entry("name", task, "backend", "Simulated", "fp32", (), (), details)

    def folder(self, _listing: Listing) -> Path:
        return self._folder

    def entry(self, _listing: Listing) -> Entry:
        return self._entry


class Counted(TokenCounters):
    """Three characters a token, and a special one; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bool]] = []

    def count(self, name: str, file: Path, text: bytes, has_special: bool) -> int:
        assert file.is_file()
        self.asked.append((text, has_special))
        return len(text) // 3 + has_special


class Listed:
    entry_name = "m-1"


LISTING = cast(Listing, Listed())


def prompts(tmp_path: Path, task: str, details: Mapping[str, Any], most: int | None = None) -> tuple[Prompts, Counted]:
    counted = Counted()
    return Prompts(cast(Catalogue, Shelf(tmp_path, task, details)), counted, most), counted


@pytest.mark.parametrize(
    ("task", "details", "reads", "has_special", "makes"),
    [
        ("text-generation", TEXT, 19, True, 20),
        ("text2text-generation", TEXT | SEQ2SEQ, 20, True, 7),
        ("image-to-text", TEXT | SEQ2SEQ, 6, False, 7),
        ("image-to-text", TEXT | SEQ2SEQ | {"does_prompt_replace_start": True}, 8, False, 9),
        ("feature-extraction", TEXT, 20, True, None),
        ("feature-extraction", TEXT | {"add_special_tokens": False}, 20, False, None),
    ],
)
def test_a_model_reads_and_makes_what_its_entry_says(
    tmp_path: Path, task: str, details: Mapping[str, Any], reads: int, has_special: bool, makes: int | None
) -> None:
    made, counted = prompts(tmp_path, task, details)
    fits = "x" * (3 * (reads - has_special))
    made.check_texts(LISTING, "inputs", [fits])
    assert counted.asked == [(fits.encode(), has_special)]
    with pytest.raises(BadInput) as refused:
        made.check_texts(LISTING, "inputs", ["x", fits + "xxx"])
    error = refused.value
    assert (error.status, error.code, error.field) == (422, "prompt_too_long", "inputs")
    assert error.expected.startswith(f"at most {reads} tokens")
    assert error.found == f"'{reads + 1} tokens in item 1'"
    if makes is None:
        made.check_generation(LISTING, {"max_tokens": 10**6})
        return
    made.check_generation(LISTING, {"max_tokens": makes})
    with pytest.raises(BadInput, match=f"a number from 1 to {makes}") as refused:
        made.check_generation(LISTING, {"max_tokens": makes + 1, "text_input": "x" * 1000})
    assert (refused.value.status, refused.value.code) == (422, "max_tokens_too_large")


def test_a_short_text_is_not_counted(tmp_path: Path) -> None:
    made, counted = prompts(tmp_path, "text-generation", TEXT)
    made.check_texts(LISTING, "prompt", ["x" * 18, "é" * 9])
    assert counted.asked == []
    made.check_texts(LISTING, "prompt", ["x" * 19])
    assert len(counted.asked) == 1


def test_a_text_that_is_read_together_with_another_is_too_long_only_by_itself(tmp_path: Path) -> None:
    made, counted = prompts(tmp_path, "question-answering", TEXT)
    made.check_texts(LISTING, "inputs.context", ["x" * 60], is_alone=False)
    assert counted.asked == [(b"x" * 60, False)]
    with pytest.raises(BadInput):
        made.check_texts(LISTING, "inputs.context", ["x" * 63], is_alone=False)


def test_the_operators_limit_holds_where_it_is_lower(tmp_path: Path) -> None:
    made, _ = prompts(tmp_path, "text-generation", TEXT, most=5)
    with pytest.raises(BadInput, match="at most 5 tokens, the limit of this market"):
        made.check_texts(LISTING, "prompt", ["x" * 15])
    made, _ = prompts(tmp_path, "text-generation", TEXT, most=500)
    with pytest.raises(BadInput, match="at most 19 tokens, which leaves room"):
        made.check_texts(LISTING, "prompt", ["x" * 60])


def test_a_text_that_takes_seconds_to_count_is_refused_by_its_bytes(tmp_path: Path) -> None:
    made, counted = prompts(tmp_path, "text-generation", TEXT)
    with pytest.raises(BadInput, match=f"at most {MOST_TEXT_BYTES} bytes"):
        made.check_texts(LISTING, "prompt", ["é" * (MOST_TEXT_BYTES // 2) + "x"])
    assert counted.asked == []


def test_a_model_without_texts_is_not_asked_about_any(tmp_path: Path) -> None:
    made, counted = prompts(tmp_path, "tensors", {})
    made.check_texts(LISTING, "inputs", ["x" * 1000])
    made.check_generation(LISTING, {"max_tokens": 10**6})
    assert counted.asked == []


def test_a_recogniser_of_speech_has_a_tokenizer_and_reads_no_text(tmp_path: Path) -> None:
    checked, counted = prompts(tmp_path, "automatic-speech-recognition", {"tokenizer": "1/tokenizer.json"})
    checked.check_texts(LISTING, "inputs", ["x" * 10_000])
    assert counted.asked == []
