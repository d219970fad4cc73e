"""The input `parameters`, and what becomes of tokens with labels, worked out by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from opening.entry import open_entry
from opening.refusal import Refused
from predict.entities import STRATEGIES, Entities
from predict.parameters import MAX_BYTES, Parameters
from predict.scores import best, ranked
from predict.task import Task
from predict.tasks import task_of
from predict.texts import ZeroShotClassification
from tests.make_smoke_entry import FOLDER

KNOWN = ("a", "b")


def read(record: Any, known: tuple[str, ...] = KNOWN) -> Parameters:
    raw = record if isinstance(record, bytes) else json.dumps(record).encode()
    return Parameters({"parameters": np.array([raw], object)}, known)


@pytest.fixture(scope="module")
def smoke() -> Task:
    return task_of(open_entry(FOLDER))


def test_without_parameters_every_value_is_the_tasks_own() -> None:
    for empty in (Parameters({}, KNOWN), read({}), read({"a": None, "b": None})):
        assert (empty.count("a", 3, 9), empty.flag("b", True), empty.choice("a", "x", ("x", "y"))) == (3, True, "x")
        assert (empty.texts("a", 5), empty.text("b", "t", 9), empty.number("a", 0.5, 0, 1)) == ((), "t", 0.5)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"1", b"null", b"{", b"\xff", b"[" * 10_000, b'{"a": "' + b"x" * MAX_BYTES + b'"}', b'{"a": "\\ud800"}']
)
def test_what_is_no_small_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read(raw)
    assert refused.value.field == "parameters"


def test_parameters_that_are_too_long_are_told_how_long_they_are() -> None:
    with pytest.raises(Refused) as refused:
        read(b" " * (MAX_BYTES + 1))
    assert (refused.value.expected, refused.value.found) == (f"at most {MAX_BYTES} bytes", f"{MAX_BYTES + 1} bytes")


def test_a_wrong_parameter_is_refused_before_anything_is_computed() -> None:
    made = ZeroShotClassification.__new__(ZeroShotClassification)  # without a graph: whoever asked it would fail otherwise
    with pytest.raises(Refused) as refused:
        made.answer({"parameters": np.array([b'{"multi_label": 1}'], object)}, set())
    assert refused.value.field == "parameters.multi_label"


def test_an_unknown_key_is_named_with_those_there_are() -> None:
    with pytest.raises(Refused) as refused:
        read({"a": 1, "c": 2})
    assert (refused.value.field, refused.value.expected, refused.value.found) == ("parameters.c", "a parameter among a, b", "c")
    with pytest.raises(Refused, match="no parameters"):
        read({"c": None, "d": 1}, ())


@pytest.mark.parametrize(
    ("ask", "value", "found"),
    [
        (lambda given: given.count("a", 1, 9), 10, "10"),
        (lambda given: given.count("a", 1, 9), 0, "0"),
        (lambda given: given.count("a", 1, 9), True, "True"),
        (lambda given: given.count("a", 1, 9), 2.0, "2.0"),
        (lambda given: given.count("a", 1, 9), "a secret", "str of 8"),
        (lambda given: given.flag("a", False), 1, "1"),
        (lambda given: given.flag("a", False), "true", "str of 4"),
        (lambda given: given.choice("a", "x", ("x",)), "y", "str of 1"),
        (lambda given: given.choice("a", "x", ("x",)), ["x"], "list of 1"),
        (lambda given: given.text("a", "x", 3), "long", "str of 4"),
        (lambda given: given.texts("a", 2), ["x", ""], "list of 2"),
        (lambda given: given.texts("a", 2), ["x", 1], "list of 2"),
        (lambda given: given.texts("a", 2), [], "list of 0"),
        (lambda given: given.texts("a", 2), "x", "str of 1"),
        (lambda given: given.number("a", 0.5, 0, 1), 1.5, "1.5"),
        (lambda given: given.number("a", 0.5, 0, 1), False, "False"),
    ],
)
def test_a_value_of_another_kind_is_refused_without_showing_a_text(ask: Any, value: Any, found: str) -> None:
    with pytest.raises(Refused) as refused:
        ask(read({"a": value}))
    assert (refused.value.field, refused.value.found) == ("parameters.a", found)


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(Refused):
        read(b'{"a": NaN}').number("a", 0.5, 0, 1)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_is_read_or_refused(smoke: Task, value: Any) -> None:
    tensors = {"text_input": np.array([b"the model"], object), "parameters": np.array([json.dumps(value).encode()], object)}
    try:
        smoke.answer(tensors, {"result"})
    except Refused as refused:
        assert refused.field.startswith("parameters")


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9), st.integers(1, 12))
def test_labels_come_in_order_and_equal_ones_in_theirs(scores: list[float], count: int) -> None:
    array = np.array(scores, np.float32)
    places = best(array, count)
    assert places == sorted(range(len(scores)), key=lambda place: -scores[place])[:count]
    told = ranked(array, [str(place) for place in range(len(scores))], count)
    assert [one["label"] for one in told] == [str(place) for place in places]


LABELS = ["O", "B-PER", "I-PER", "LOC"]


def entities(found: list[tuple[str, float]], text: str, strategy: str, ignored: tuple[str, ...] = ("O",)) -> list[dict[str, Any]]:
    """found: label and probability of each token of the text, the special one in front left out."""
    tokenizer = word_pieces()
    encoding = tokenizer.encode(text)
    scores = np.full((len(encoding.ids), len(LABELS)), 0.0, np.float32)
    for place, (label, chance) in enumerate(found, start=1):
        scores[place] = (1 - chance) / (len(LABELS) - 1)
        scores[place, LABELS.index(label)] = chance
    return Entities(tokenizer, LABELS).of(encoding, scores, text, strategy, ignored)


def word_pieces() -> Tokenizer:
    words = ["[CLS]", "[UNK]", "anna", "bo", "##ris", "in", "par", "##is"]
    made = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 0)])
    return made


TEXT = "Anna Boris in Paris"
FOUND = [("B-PER", 0.9), ("I-PER", 0.7), ("O", 0.8), ("O", 0.6), ("LOC", 0.7), ("LOC", 0.5)]


def test_each_token_alone_has_its_place_and_label() -> None:
    told = entities(FOUND, TEXT, "none")
    assert [(one["entity"], one["index"], one["start"], one["end"]) for one in told] == [
        ("B-PER", 1, 0, 4),
        ("I-PER", 2, 5, 7),
        ("LOC", 5, 14, 17),
        ("LOC", 6, 17, 19),
    ]


def test_neighbours_of_one_label_are_one_entity_and_words_agree_where_asked() -> None:
    simple = [(one["entity_group"], TEXT[one["start"] : one["end"]], one["word"]) for one in entities(FOUND, TEXT, "simple")]
    assert simple == [("PER", "Anna Bo", "anna bo"), ("LOC", "Paris", "paris")]
    first = [(one["entity_group"], one["word"]) for one in entities(FOUND, TEXT, "first")]
    assert first == [("PER", "anna boris"), ("LOC", "paris")]
    surest = [(one["entity_group"], one["word"]) for one in entities(FOUND, TEXT, "max")]
    assert surest == [("PER", "anna"), ("LOC", "paris")]


def test_a_label_that_begins_ends_the_one_before() -> None:
    told = entities([("B-PER", 0.9), ("B-PER", 0.9), ("I-PER", 0.9), ("O", 0.9), ("O", 0.9), ("O", 0.9)], TEXT, "simple")
    assert [one["word"] for one in told] == ["anna", "boris"]


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.floats(0.5, 1)), min_size=6, max_size=6), st.sampled_from(STRATEGIES))
def test_entities_never_overlap_and_none_is_ignored(found: list[tuple[str, float]], strategy: str) -> None:
    told = entities(found, TEXT, strategy, ("O", "LOC"))
    assert all(before["end"] <= after["start"] for before, after in pairwise(told))
    assert not {one.get("entity", one.get("entity_group")) for one in told} & {"O", "LOC"}
    assert all(0 < one["score"] <= 1 and TEXT[one["start"] : one["end"]].strip() for one in told)
