"""Calls that share each step: every one gets what it gets alone, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.coverage.shapes import build
from converters.pipeline import convert
from generate.call import Call
from generate.generation import Generation
from generate.scoring import Scoring
from generate.shared import PART, Shared, has_shared_cache
from opening.entry import OpenEntry, open_entry
from tests.fixtures_triton import Converted, convert_model, tiny_gpt2, tiny_model
from tests.model_repository.calls import CACHE_BYTES, call_of, pieces_of, scored, scored_call

__all__ = ["tiny_gpt2"]

pytestmark = pytest.mark.slow

MIXES = 200


CASES = {"gpt2": ({}, "fp32"), "llama": ({}, "fp32"), "mistral": ({"sliding_window": 24}, "fp32"), "qwen2": ({}, "int8")}
"""Model type: its settings, its precision. A context of 128 is more than one part of a prompt."""


@pytest.fixture(scope="module", params=CASES)
def entry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenEntry:
    folder = tmp_path_factory.mktemp(request.param)
    settings, precision = CASES[request.param]
    model = build(request.param, folder / "model", "text-generation", **settings).folder
    made = open_entry(convert(str(model), folder / "out", task="text-generation", precision=precision).folder, threads=2)
    assert has_shared_cache(made)
    assert made.detail("context_length") > PART + 30
    return made


def random_call(chances: np.random.Generator, vocabulary: int) -> Call:
    """Greedy or drawn by a seed, of a prompt of 1 to 90 tokens; half of the time with each penalty, min-p and probabilities."""
    prompt = [int(token) for token in chances.integers(3, vocabulary, size=chances.integers(1, 91))]
    drawn = bool(chances.integers(2))
    return Call(
        prompt=tuple(prompt),
        prompt_tokens=len(prompt),
        feeds={},
        max_tokens=int(chances.integers(1, 20)),
        temperature=0.8 if drawn else 0.0,
        top_p=0.9 if drawn else 1.0,
        top_k=0,
        seed=int(chances.integers(1 << 40)) if drawn else None,
        stops=(),
        is_streamed=False,
        min_p=float(chances.choice([0.0, 0.05])),
        repetition_penalty=float(chances.choice([1.0, 1.3])),
        frequency_penalty=float(chances.choice([0.0, 0.7])),
        presence_penalty=float(chances.choice([0.0, -0.4])),
        has_logprobs=bool(chances.integers(2)),
    )


def told_by(pieces: list) -> list[tuple[int, float | None]]:
    """Each token, with the logarithm of its probability where it was asked for."""
    told: list[tuple[int, float | None]] = []
    for piece in pieces:
        told += zip(piece.token_ids, piece.logprobs or [None] * len(piece.token_ids), strict=True)
    return told


def test_an_answer_does_not_depend_on_what_else_is_computed(entry: OpenEntry) -> None:
    chances = np.random.default_rng(5)
    calls = [random_call(chances, int(entry.detail("vocabulary"))) for _ in range(24)]
    expected = [told_by(pieces_of(entry, call)) for call in calls]
    assert len({tuple(token for token, _ in told) for told in expected}) > 12
    assert [call.has_logprobs for call in calls] == [told[0][1] is not None for told in expected]
    shared = Shared(entry, most=8, most_bytes=CACHE_BYTES)
    for _ in range(MIXES):
        mix = [int(number) for number in chances.permutation(len(calls))[: chances.integers(2, 8)]]
        arrivals = sorted(int(round_) for round_ in chances.integers(0, 12, size=len(mix)))
        assert _together(entry, shared, calls, mix, arrivals) == [expected[number] for number in mix]


def test_a_text_has_the_same_probabilities_to_the_last_bit_whatever_is_computed_beside_it(entry: OpenEntry) -> None:
    chances = np.random.default_rng(8)
    texts = [scored_call(random_call(chances, int(entry.detail("vocabulary"))).prompt) for _ in range(6)]
    expected = [scored(entry, call).logprobs for call in texts]
    shared = Shared(entry, most=8, most_bytes=CACHE_BYTES)
    for _ in range(MIXES // 10):
        others = [shared.enter(call_of([5, 6, 7, int(number)])) for number in chances.integers(3, 9, size=chances.integers(1, 6))]
        for other in others:
            shared.begin(other)
        for call, wanted in zip(texts, expected, strict=True):
            place, scoring, piece = shared.enter(call), Scoring(call, entry.tokenizer.decode), None
            while piece is None:
                logits = shared.begin(place)
                assert logits is not None
                piece = scoring.take(logits)
                if len(others) > 1:
                    shared.step(others[1:], [9] * (len(others) - 1))
                    shared.leave(others.pop(0))
            shared.leave(place)
            assert piece.logprobs == wanted
        for other in others:
            shared.leave(other)


def _together(entry: OpenEntry, shared: Shared, calls: list[Call], mix: list[int], arrivals: list[int]) -> list[list]:
    """Each call enters in its round and leaves at its end."""
    ends = frozenset(entry.detail("eos_token_ids"))
    generations = [Generation(calls[number], entry.tokenizer.decode, ends, seed=0) for number in mix]
    pieces: list[list] = [[] for _ in mix]
    places: dict[int, int] = {}
    reading: list[int] = []
    active: list[int] = []
    round_ = 0
    while reading or active or len(places) < len(mix):
        for index, arrival in enumerate(arrivals):
            if index not in places and arrival <= round_:
                places[index] = shared.enter(calls[mix[index]])
                reading.append(index)
        if reading:
            index = reading.pop(0)
            logits = shared.begin(places[index])
            if logits is None:
                reading.append(index)
            else:
                pieces[index].append(generations[index].take(logits))
                active.append(index)
        for index in [index for index in active if generations[index].is_finished]:
            shared.leave(places[index])
            active.remove(index)
        if active:
            scores = shared.step([places[index] for index in active], [generations[index].token for index in active])
            for index, logits in zip(active, scores, strict=True):
                pieces[index].append(generations[index].take(logits))
        for index in [index for index in active if generations[index].is_finished]:
            shared.leave(places[index])
            active.remove(index)
        round_ += 1
    return [told_by([piece for piece in told if piece]) for told in pieces]


def test_memory_is_bounded_but_for_a_call_that_is_alone(tiny_gpt2: Converted) -> None:
    entry = open_entry(tiny_gpt2.entry)
    shared = Shared(entry, most=4, most_bytes=1)
    call = call_of([5, 6, 7])
    assert shared.has_place(call)
    place = shared.enter(call)
    assert not shared.has_place(call)
    shared.leave(place)
    assert shared.has_place(call)
    roomy = Shared(entry, most=2, most_bytes=CACHE_BYTES)
    for _ in range(2):
        assert roomy.has_place(call)
        roomy.enter(call)
    assert not roomy.has_place(call)


def test_a_window_is_kept_to(tmp_path: Path) -> None:
    """What stands before the window changes nothing."""
    model = tiny_model(tmp_path / "model", "mistral", "ForCausalLM", sliding_window=8, num_hidden_layers=1)
    entry = open_entry(convert_model(model, tmp_path / "out"))
    rows = Shared(entry, most=2, most_bytes=CACHE_BYTES)
    same = [30, 31, 32, 33, 34, 35, 36, 37, 38]
    first, second = (rows.begin(rows.enter(call_of([*before, *same]))) for before in ([4] * 12, [90, 7, 55] * 4))
    assert first is not None and second is not None
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_memory_of_a_long_call_is_given_back_and_that_of_a_like_one_is_used_again(tiny_gpt2: Converted) -> None:
    entry = open_entry(tiny_gpt2.entry)
    shared = Shared(entry, most=4, most_bytes=CACHE_BYTES)
    places = [shared.enter(call_of([5, 6, 7])) for _ in range(4)]
    assert shared.room == (4, 64)
    for place in places:
        shared.leave(place)
    shared.leave(shared.enter(call_of([5])))
    assert shared.room == (4, 64)
    eight = Shared(entry, most=8, most_bytes=CACHE_BYTES)
    for place in [eight.enter(call_of([5, 6, 7])) for _ in range(8)]:
        eight.leave(place)
    eight.enter(call_of([5]))
    assert eight.room == (1, 64)


def test_a_call_that_memory_has_no_room_for_leaves_the_others_as_they_were(
    tiny_gpt2: Converted, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = open_entry(tiny_gpt2.entry)
    shared, alone = (Shared(entry, most=4, most_bytes=CACHE_BYTES) for _ in range(2))
    places = [rows.enter(call_of([5, 6, 7])) for rows in (shared, alone)]
    first, same = (rows.begin(place) for rows, place in zip((shared, alone), places, strict=True))
    assert first is not None and same is not None
    made: list[int] = []

    def second_fails(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        made.append(1)
        if len(made) == 2:
            raise MemoryError("no room")
        made_of_zeros: np.ndarray = np.zeros(shape, dtype)
        return made_of_zeros

    with monkeypatch.context() as patch:
        patch.setattr("generate.stores.np.empty", second_fails)
        with pytest.raises(MemoryError):
            shared.enter(call_of([5] * 40))
    assert len(made) == 2
    np.testing.assert_array_equal(shared.step(places[:1], [9])[0], alone.step(places[1:], [9])[0])
    shared.leave(places[0])
    np.testing.assert_array_equal(shared.begin(shared.enter(call_of([5, 6, 7]))), first)


def test_a_long_call_that_has_left_keeps_nobody_out(tiny_gpt2: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generate.shared._LEAST_LENGTH", 16)
    entry = open_entry(tiny_gpt2.entry)
    tensors = [tensor for tensor in entry.detail("graph_inputs") if "past_key_values" in tensor["name"]]
    token_bytes = sum(4 * tensor["axes"][1] * tensor["axes"][3] for tensor in tensors)
    shared = Shared(entry, most=4, most_bytes=2 * 64 * token_bytes)
    alone = Shared(entry, most=1, most_bytes=CACHE_BYTES)
    long, short = call_of([5] * 40), call_of([5, 6, 7])
    first, stays, same = shared.enter(long), shared.enter(short), alone.enter(short)
    begun, expected = shared.begin(stays), alone.begin(same)
    assert begun is not None and expected is not None
    assert shared.room == (2, 64) and not shared.has_place(short)
    shared.leave(first)
    for _ in range(3):
        assert shared.has_place(short)
        shared.enter(short)
    assert shared.room == (4, 16)
    np.testing.assert_array_equal(shared.step([stays], [9])[0], alone.step([same], [9])[0])
