"""Whether texts may stand together is found by trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from opening.entry import open_entry
from predict.encode import Encoder, Row
from predict.independence import Independence, look
from predict.tasks import task_of
from tests.make_smoke_entry import FOLDER, WORDS

ROWS = [Row(ids, [0] * len(ids)) for ids in ([1, 7, 2], [1, 5, 6, 2], [1, 3, 4, 5, 6, 9, 2])]
ALWAYS, ROWS_ONLY, NEVER = Independence(True, True), Independence(True, False), Independence(False, False)


def graph(change: Callable[[int, int], float]) -> Callable[[Sequence[Row]], list[np.ndarray]]:
    """Gives each token's id, with something added that may depend on the numbers of rows and of tokens."""

    def compute(rows: Sequence[Row]) -> list[np.ndarray]:
        longest = max(len(row.ids) for row in rows)
        mask: np.ndarray = np.array([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
        ids: np.ndarray = np.array([row.ids + [0] * (longest - len(row.ids)) for row in rows], np.float32)
        return [mask, ids[..., np.newaxis] + np.float32(change(len(rows), longest))]

    return compute


@pytest.mark.parametrize(
    ("change", "tolerance", "expected"),
    [
        (lambda rows, longest: 0.0, 0.0, ALWAYS),
        (lambda rows, longest: 0.1 * longest, 0.0, ROWS_ONLY),
        (lambda rows, longest: 0.1 * rows, 0.0, NEVER),
        (lambda rows, longest: 1e-6 * longest, 0.0, ROWS_ONLY),
        (lambda rows, longest: 1e-6 * (longest + rows), 2e-2, ALWAYS),
        (lambda rows, longest: 1.0 * longest, 2e-2, ROWS_ONLY),
    ],
)
def test_what_changes_an_answer_is_not_done(change: Callable[[int, int], float], tolerance: float, expected: Independence) -> None:
    assert look(graph(change), ROWS, is_per_token=True, tolerance=tolerance) == expected


def test_what_a_graph_says_of_padding_is_nobodys_answer() -> None:
    def compute(rows: Sequence[Row]) -> list[np.ndarray]:
        mask, ids = graph(lambda rows, longest: 0.0)(rows)
        return [mask, ids + (mask == 0)[..., np.newaxis] * ids.shape[1]]

    assert look(compute, ROWS, is_per_token=True, tolerance=0.0) == ALWAYS
    assert look(compute, ROWS, is_per_token=False, tolerance=0.0) == ROWS_ONLY


def test_a_graph_that_cannot_compute_the_samples_is_left_alone() -> None:
    def compute(rows: Sequence[Row]) -> list[np.ndarray]:
        raise RuntimeError("at least 16 tokens")

    assert look(compute, ROWS, is_per_token=True, tolerance=0.0) == NEVER
    assert look(graph(lambda rows, longest: 0.0), [], is_per_token=True, tolerance=0.0) == NEVER


def test_padding_needs_two_lengths_to_be_tried() -> None:
    assert look(graph(lambda rows, longest: 0.0), ROWS[:1], is_per_token=True, tolerance=0.0) == ROWS_ONLY


def test_the_samples_of_an_entry_are_texts_that_it_can_hold() -> None:
    samples = Encoder(open_entry(FOLDER)).samples()
    assert len({len(row.ids) for row in samples}) == 3 and all(len(row.ids) == len(row.types) for row in samples)


def test_an_entry_that_lets_a_text_see_its_padding_reads_each_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = open_entry(FOLDER)
    honest = Encoder.batch

    def telling(self: Encoder, rows: Sequence[Row]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Another word for each length of a batch."""
        mask, inputs = honest(self, rows)
        return mask, {**inputs, "input_ids": (inputs["input_ids"] + mask.shape[1]) % len(WORDS)}

    monkeypatch.setattr(Encoder, "batch", telling)
    task = task_of(entry)
    texts = [b"the model", b"a receipt of the market", b"order", b"the log"]
    together = task.answer({"text_input": np.array(texts, object)}, {"embedding"})["embedding"]
    for text, vector in zip(texts, together, strict=True):
        alone = task.answer({"text_input": np.array([text], object)}, {"embedding"})["embedding"][0]
        assert np.array_equal(vector, alone)
