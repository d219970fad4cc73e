"""What `predict` makes of its tasks, on the hand-made entry and on scores whose answer can be worked out by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from opening.entry import EntryUnusable, open_entry
from opening.refusal import Refused
from predict.answers import Asked, answers_in
from predict.encode import MAX_ITEMS
from predict.reading import Reader
from predict.scores import pool, sigmoid, softmax
from predict.task import Task
from predict.tasks import task_of
from tests.make_smoke_entry import CONTEXT_LENGTH, DIMENSIONS, FOLDER, WORDS, graph, table, write


@pytest.fixture(scope="module")
def smoke() -> Task:
    return task_of(open_entry(FOLDER))


def texts(*items: str) -> dict[str, np.ndarray]:
    return {"text_input": np.array([item.encode() for item in items], object)}


def test_the_committed_smoke_entry_is_what_its_script_writes(tmp_path: Path) -> None:
    write(tmp_path)
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (FOLDER / path.relative_to(tmp_path)).read_bytes(), path.name


def test_an_embedding_is_the_normalised_mean_of_its_tokens(smoke: Task) -> None:
    answer = smoke.answer(texts("the model", "RECEIPT", "zebra"), set())
    rows = table()
    expected = [rows[[WORDS.index("the"), WORDS.index("model")]].mean(0), rows[WORDS.index("receipt")], rows[WORDS.index("[UNK]")]]
    for found, mean in zip(answer["embedding"], expected, strict=True):
        # One float32 rounding for each of the sum, the division and the norm.
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), rtol=0, atol=4 * np.finfo(np.float32).eps)
    assert answer["prompt_tokens"].tolist() == [2, 1, 1]
    assert (answer["embedding"].dtype, answer["prompt_tokens"].dtype) == (np.float32, np.int32)


@given(st.lists(st.lists(st.sampled_from(WORDS[2:]), min_size=1, max_size=CONTEXT_LENGTH).map(" ".join), min_size=1, max_size=80))
def test_an_items_answer_does_not_depend_on_its_neighbours(smoke: Task, items: list[str]) -> None:
    together = smoke.answer(texts(*items), {"embedding"})["embedding"]
    assert together.shape == (len(items), DIMENSIONS)
    for index in {0, len(items) - 1, len(items) // 2}:
        alone = smoke.answer(texts(items[index]), {"embedding"})["embedding"][0]
        assert np.array_equal(together[index], alone)


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ([""], "0 bytes in item 0"),
        (["a", "  "], "0 tokens in item 1"),
        (["a " * (CONTEXT_LENGTH + 1)], f"{CONTEXT_LENGTH + 1} tokens in item 0"),
        ([], "0 texts"),
        (["a"] * (MAX_ITEMS + 1), f"{MAX_ITEMS + 1} texts"),
    ],
)
def test_a_text_that_cannot_be_taken_whole_is_refused(smoke: Task, items: list[str], found: str) -> None:
    with pytest.raises(Refused) as refused:
        smoke.answer(texts(*items), set())
    assert (refused.value.field, refused.value.found) == ("text_input", found)


def test_a_missing_input_is_refused(smoke: Task) -> None:
    with pytest.raises(Refused, match="text_input"):
        smoke.answer({}, set())


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [1.0, 5.0]), ("cls", [0.0, 4.0]), ("last", [2.0, 6.0])])
@pytest.mark.parametrize("pads_left", [False, True])
def test_pooling_looks_past_the_padding(pooling: str, expected: list[float], pads_left: bool) -> None:
    hidden = np.array([[[0.0], [1.0], [2.0], [99.0]], [[4.0], [5.0], [6.0], [99.0]]], np.float32)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 0]])
    if pads_left:
        hidden, mask = np.roll(hidden, 1, axis=1), np.roll(mask, 1, axis=1)
    assert pool(hidden, mask, pooling)[:, 0].tolist() == expected


@given(arrays(np.float32, (3, 5), elements=st.floats(-80, 80, width=32)))
def test_activations_give_probabilities(scores: np.ndarray) -> None:
    assert softmax(scores).sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(sigmoid(scores) + sigmoid(-scores), 1.0, atol=1e-6)
    assert (np.diff(softmax(np.sort(scores, axis=1)), axis=1) >= 0).all()


def pair_tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "w": 2}, unk_token="w"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return made


def test_the_answer_is_the_likeliest_span_inside_the_context() -> None:
    context = "Der Käufer zahlt 5 Token."
    encoding = pair_tokenizer().encode("Was zahlt er?", context)
    scores = np.full((2, len(encoding.ids)), -5.0, np.float32)
    five = next(index for index, (start, _) in enumerate(encoding.offsets) if start == context.index("5") and index > 5)
    scores[0, five], scores[1, five + 1] = 5.0, 5.0
    scores[:, 1] = 50.0  # the question's own tokens are never an answer, however high they score
    (best,) = answers_in(scores[0], scores[1], encoding, context, Asked(top=1, longest=15, to_words=True, may_be_none=False))
    assert (best.answer, context[best.start : best.end]) == ("5 Token", "5 Token")
    assert 0.9 < best.score <= 1.0


@given(st.data(), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_a_span_is_in_order_and_never_too_long(data: st.DataObject, longest: int, top: int, to_words: bool) -> None:
    context = " ".join(data.draw(st.lists(st.sampled_from(["ä", "bb", "ccc"]), min_size=1, max_size=12)))
    encoding = pair_tokenizer().encode("q q", context)
    scores = data.draw(arrays(np.float32, (2, len(encoding.ids)), elements=st.floats(-20, 20, width=32)))
    found = answers_in(scores[0], scores[1], encoding, context, Asked(top, longest, to_words, may_be_none=False))
    assert 1 <= len(found) <= top and [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert context[one.start : one.end] == one.answer != ""
        assert 1 <= len(one.answer.split()) <= longest
    assert 0.0 <= sum(one.score for one in found) <= 1.0 + 1e-9


def test_no_answer_is_an_answer_where_the_caller_allows_it() -> None:
    encoding = pair_tokenizer().encode("q", "w w")
    scores = np.zeros((2, len(encoding.ids)), np.float32)
    scores[:, 0] = 9.0
    nothing = answers_in(scores[0], scores[1], encoding, "w w", Asked(1, 15, to_words=False, may_be_none=True))
    assert [(one.answer, one.start, one.end) for one in nothing] == [("", 0, 0)] and nothing[0].score > 0.99
    (something,) = answers_in(scores[0], scores[1], encoding, "w w", Asked(1, 15, to_words=False, may_be_none=False))
    assert something.answer and something.score < 0.01


def test_an_entry_that_points_outside_itself_is_not_opened(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "entry")
    record = (tmp_path / "entry" / "entry.json").read_text()
    (tmp_path / "entry" / "entry.json").write_text(record.replace('"1/tokenizer.json"', '"../tokenizer.json"'))
    shutil.copy(FOLDER / "1" / "tokenizer.json", tmp_path)
    with pytest.raises(EntryUnusable, match="inside the entry"):
        open_entry(tmp_path / "entry")


@pytest.mark.parametrize("missing", ["entry.json", "1/model.onnx", "1/tokenizer.json"])
def test_an_entry_with_a_missing_file_is_not_opened(tmp_path: Path, missing: str) -> None:
    shutil.copytree(FOLDER, tmp_path / "entry")
    (tmp_path / "entry" / missing).unlink()
    with pytest.raises(EntryUnusable):
        open_entry(tmp_path / "entry")


def test_a_tokenizer_that_would_cut_texts_cuts_none(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "entry")
    path = tmp_path / "entry" / "1" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=7)
    tokenizer.save(str(path))
    assert task_of(open_entry(tmp_path / "entry")).answer(texts("the model the"), set())["prompt_tokens"].tolist() == [3]


def test_a_graph_without_a_mask_never_sees_padding(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "entry")
    given = graph()
    given.graph.node.pop()
    del given.graph.node[1:]
    given.graph.node[0].output[0] = "last_hidden_state"
    del given.graph.input[1]
    (tmp_path / "entry" / "1" / "model.onnx").write_bytes(given.SerializeToString())
    entry = open_entry(tmp_path / "entry")
    encodings = entry.tokenizer.encode_batch(["the model", "a", "the log is", "an order", "a call"])
    batches = list(Reader(entry, ["last_hidden_state"], is_per_token=True).read(encodings))
    assert sorted(index for rows in batches for index in rows.indices) == [0, 1, 2, 3, 4]
    assert [rows.mask.shape for rows in batches] == [(1, 1), (3, 2), (1, 3)] and all(rows.mask.all() for rows in batches)
    together = task_of(entry).answer(texts("the model", "a", "the log is"), {"embedding"})["embedding"]
    alone = task_of(entry).answer(texts("a"), {"embedding"})["embedding"][0]
    np.testing.assert_allclose(together[1], alone, rtol=0, atol=1e-6)
