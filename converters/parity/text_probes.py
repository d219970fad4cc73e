"""Calls to a text model as a buyer sends them, with the answers of PyTorch and transformers' own tokenizer.

In: the PyTorch model, its tokenizer as transformers loads it, the entry's details. Out: probes. This module must never look at what
ONNX gives, or use a line of the backend it is to check.

What is not certain is not asked: of two labels that are as good as equal either may be the answer, so only the scores are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
import torch
from transformers.pipelines.question_answering import select_starts_ends

from converters.parity.arrays import numbers
from converters.parity.compare import scale_of
from converters.parity.prompts import fitting, tokens_in
from converters.parity.texts import PER_TOKEN, outputs_of, positions_of, reference
from converters.pooling import Pooling, pool
from converters.probes import Probe, ProbeTensor, texts
from converters.tasks.task import Task

_WORDS = ((5,), (23, 9), (3, 40, 1), (14, 2, 7, 27, 4))
"""Words of each text of each probe: batches of 1, 2, 3 and 5."""
_CLEAR = 10
"""A choice is certain when the second best is more than so many bounds below it."""
_TOP = 5
_TRIES = 8
_LARGEST = 1 << 14
"""Numbers of one output; an entry's probes are to stay small."""

_Answers = tuple[ProbeTensor, ...]


class _Asking:
    """A model that can be asked."""

    def __init__(self, model: Any, loaded: Any, task: Task, details: Mapping[str, Any], bound: float) -> None:
        self.model, self.loaded, self.details, self.bound = model, loaded, details, bound
        self.context = int(details["context_length"])
        self.chances = numpy.random.default_rng(7)
        self._per_token = set(outputs_of(details)) if task.name in PER_TOKEN else set()

    def text(self, words: int, room: int | None = None) -> str:
        return fitting(self.loaded, self.chances, words, self.context if room is None else room)

    def room_beside(self, *others: str) -> int:
        """Tokens that the context has left for a text beside the longest of these; at least one."""
        return max(1, self.context - max(tokens_in(self.loaded, other) for other in others) - 1)

    def outputs(self, items: Sequence[tuple[str, ...]], *, is_choice: bool = False) -> tuple[list[dict[str, Any]], Any]:
        """PyTorch's outputs of each text or pair: arrays by name; and the tokens of each: int32 [items].

        Each is asked alone, as transformers' pipelines ask: some models let padding through, with a mask or without.
        """
        encoded = [self.loaded(*item, verbose=False) for item in items]
        found: list[dict[str, Any]] = []
        for one in encoded:
            feeds = _fed(one)
            if is_choice:
                given = reference(self.model, {name: value[None] for name, value in feeds.items()}, self.details)
                found.append({"logits": given["logits"][0, 0]})
                continue
            given = reference(self.model, feeds, self.details)
            tokens = feeds["input_ids"].shape[1]
            found.append({name: value[0, :tokens] if name in self._per_token else value[0] for name, value in given.items()})
        return found, numpy.array([len(one["input_ids"]) for one in encoded], numpy.int32)

    def is_clear(self, values: Any, places: int = 1) -> bool:
        """Is the order of the first `places` of these numbers certain?"""
        ordered = -numpy.sort(-values.reshape(-1).astype(numpy.float64))[: places + 1]
        gaps = ordered[:-1] - ordered[1:]
        return bool(len(gaps) == 0 or gaps.min() > _CLEAR * self.bound * scale_of(ordered))


def _fed(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """One text's tokens, with what the tokenizer gives: each INT64 [1, tokens]."""
    given: dict[str, Any] = {"attention_mask": [1] * len(encoded["input_ids"]), **encoded}
    feeds: dict[str, Any] = {}
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in given:
            feeds[name] = numpy.array([given[name]], numpy.int64)
    return {**feeds, "position_ids": positions_of(feeds["attention_mask"])}


def text_probes(model: Any, loaded: Any, task: Task, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
    """Probes of batches of 1, 2, 3 and 5 texts of different lengths; always the same for the same model."""
    asking = _Asking(model, loaded, task, details, bound)
    with torch.inference_mode():
        return tuple(_probe(asking, _TASKS[task.name], words) for words in _WORDS)


def _probe(
    asking: _Asking, ask: Callable[[_Asking, Sequence[int]], tuple[_Answers, _Answers, bool]], words: Sequence[int]
) -> Probe:
    """The first of some tries in which every answer is certain, else the last of them with the answers that are."""
    for _ in range(_TRIES):
        inputs, outputs, is_certain = ask(asking, words)
        if is_certain:
            break
    return Probe(inputs, outputs, asking.bound)


def _embeddings(asking: _Asking, words: Sequence[int]) -> tuple[_Answers, _Answers, bool]:
    items = [asking.text(count) for count in words]
    found, tokens = asking.outputs([(item,) for item in items])
    pooling = Pooling(asking.details["pooling"], asking.details["normalize"], None)
    hidden = [one[asking.details["output"]][None] for one in found]
    vectors = [pool(one, numpy.ones(one.shape[:2], numpy.int64), pooling)[0] for one in hidden]
    return (texts("text_input", items),), (numbers("embedding", numpy.stack(vectors)), numbers("prompt_tokens", tokens)), True


def _labels(asking: _Asking, words: Sequence[int]) -> tuple[_Answers, _Answers, bool]:
    items = [asking.text(count) for count in words]
    found, tokens = asking.outputs([(item,) for item in items])
    logits = torch.from_numpy(numpy.stack([one[asking.details["output"]] for one in found]))
    activation = {"softmax": lambda given: given.softmax(-1), "sigmoid": torch.sigmoid, "none": lambda given: given}
    scores = activation[asking.details["activation"]](logits).numpy()
    outputs = [numbers("scores", scores), numbers("prompt_tokens", tokens)]
    is_certain = all(asking.is_clear(row) for row in logits.numpy())
    if is_certain:
        outputs.append(texts("label", [asking.model.config.id2label[int(place)] for place in logits.argmax(-1)]))
    return (texts("text_input", items),), tuple(outputs), is_certain


def _entailments(asking: _Asking, words: Sequence[int]) -> tuple[_Answers, _Answers, bool]:
    template, details = asking.details["hypothesis_template"], asking.details
    candidates = [asking.text(1) for _ in range(1 + len(words))]
    hypotheses = [template.format(label) for label in candidates]
    items = [asking.text(count, asking.room_beside(*hypotheses)) for count in words]
    pairs = [(item, hypothesis) for item in items for hypothesis in hypotheses]
    found, tokens = asking.outputs(pairs)
    logits = torch.from_numpy(numpy.stack([one[details["output"]] for one in found])).reshape(len(items), len(candidates), -1)
    is_each_alone = len(words) % 2 == 0
    if is_each_alone:
        scores = logits[..., [details["contradiction"], details["entailment"]]].softmax(-1)[..., 1]
    else:
        scores = logits[..., details["entailment"]].softmax(-1)
    inputs = [texts("text_input", items), texts("candidate_labels", candidates)]
    if is_each_alone:
        inputs.append(texts("parameters", ['{"multi_label": true}']))
    counts = tokens.reshape(len(items), len(candidates)).sum(axis=1).astype(numpy.int32)
    return tuple(inputs), (numbers("scores", scores.numpy()), numbers("prompt_tokens", counts)), True


def _tokens(asking: _Asking, words: Sequence[int]) -> tuple[_Answers, _Answers, bool]:
    labels = len(asking.details["labels"])
    room = min(asking.context, max(8, _LARGEST // (labels * len(words))))
    items = [asking.text(count, room) for count in words]
    found, tokens = asking.outputs([(item,) for item in items])
    shape = (len(items), int(tokens.max()))
    scores: Any = numpy.zeros((*shape, labels), numpy.float32)
    starts: Any = numpy.zeros(shape, numpy.int32)
    ends: Any = numpy.zeros(shape, numpy.int32)
    for row, (item, one) in enumerate(zip(items, found, strict=True)):
        logits = torch.from_numpy(one[asking.details["output"]])
        scores[row, : len(logits)] = logits.softmax(-1).numpy()
        encoded = asking.loaded(item, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
        for place, ((start, end), is_special) in enumerate(
            zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
        ):
            starts[row, place], ends[row, place] = (0, 0) if is_special else (start, end)
    outputs = (numbers("scores", scores), numbers("start", starts), numbers("end", ends), numbers("prompt_tokens", tokens))
    return (texts("text_input", items),), outputs, True


def _masks(asking: _Asking, words: Sequence[int]) -> tuple[_Answers, _Answers, bool]:
    mask, details = asking.details["mask_token"], asking.details
    items = []
    for number, count in enumerate(words):
        parts = [asking.text(count, max(1, asking.context // 2)), *(["and"] if number % 2 else [])]
        items.append(f" {mask} ".join([*parts, ""]).strip())
    found, tokens = asking.outputs([(item,) for item in items])
    rows, owners = [], []
    for index, (item, one) in enumerate(zip(items, found, strict=True)):
        ids = numpy.array(asking.loaded(item, verbose=False)["input_ids"])
        for logits in one[details["output"]][ids == details["mask_token_id"]]:
            rows.append(logits)
            owners.append(index)
    logits = torch.from_numpy(numpy.stack(rows))
    scores, best = logits.softmax(-1).topk(min(_TOP, int(details["vocabulary"])))
    outputs = [
        numbers("item", numpy.array(owners, numpy.int32)),
        numbers("scores", scores.numpy()),
        numbers("prompt_tokens", tokens),
    ]
    is_certain = all(asking.is_clear(row, best.shape[1]) for row in rows)
    if is_certain:
        outputs.append(numbers("token_ids", best.numpy().astype(numpy.int32)))
    return (texts("text_input", items),), tuple(outputs), is_certain


def _answers(asking: _Asking, words: Sequence[int]) -> tuple[_Answers, _Answers, bool]:
    questions = [asking.text(4, asking.context // 2) for _ in words]
    contexts = [asking.text(count, asking.room_beside(*questions)) for count in words]
    found, tokens = asking.outputs(list(zip(questions, contexts, strict=True)))
    told = [_span(asking, *item) for item in zip(questions, contexts, found, strict=True)]
    outputs = [numbers("score", numpy.array([score for _, _, score, _ in told], numpy.float32)), numbers("prompt_tokens", tokens)]
    is_certain = all(is_clear for _, _, _, is_clear in told)
    if is_certain:
        spans = zip(contexts, told, strict=True)
        outputs.append(texts("answer", [context[start:end] for context, (start, end, _, _) in spans]))
        outputs.append(numbers("start", numpy.array([start for start, _, _, _ in told], numpy.int32)))
        outputs.append(numbers("end", numpy.array([end for _, end, _, _ in told], numpy.int32)))
    # Whole words would add up several spans, of which the last to be counted is never certain.
    plainly = texts("parameters", ['{"align_to_words": false}'])
    return (texts("question", questions), texts("context", contexts), plainly), tuple(outputs), is_certain


def _span(asking: _Asking, question: str, context: str, found: Mapping[str, Any]) -> tuple[int, int, float, bool]:
    """The likeliest answer's place in characters, its probability, and whether it is certain; by transformers' own search."""
    encoded = asking.loaded(question, context, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    is_outside = numpy.array([sequence != 1 for sequence in encoded.sequence_ids(0)])
    has_no_answer = encoded["special_tokens_mask"][0] == 1
    is_uncounted = is_outside.copy()
    is_uncounted[0] &= not has_no_answer
    start, end = (found[asking.details[f"{side}_output"]][None] for side in ("start", "end"))
    # transformers sets both chances of position 0 to nothing once it has shared them out.
    firsts, lasts, scores, _ = select_starts_ends(
        start.copy(),
        end.copy(),
        is_uncounted.astype(int)[None],
        None,
        top_k=20,
        max_answer_len=int(asking.details["max_answer_tokens"]),
    )
    kept = [
        place for place, (first, last) in enumerate(zip(firsts, lasts, strict=True)) if not (is_outside[first] or is_outside[last])
    ]
    chances = scores[kept]
    offsets = encoded["offset_mapping"]
    begin, finish = offsets[int(firsts[kept[0]])][0], offsets[int(lasts[kept[0]])][1]
    text = context[begin:finish]
    begin += len(text) - len(text.lstrip())
    is_clear = len(chances) < 2 or chances[0] - chances[1] > _CLEAR * asking.bound * scale_of(chances[0])
    return begin, begin + len(text.strip()), float(chances[0]), bool(is_clear)


def _choices(asking: _Asking, words: Sequence[int]) -> tuple[_Answers, _Answers, bool]:
    endings = [asking.text(2 + count // 4, asking.context // 2) for count in (*words, 3)]
    item = asking.text(max(words), asking.room_beside(*endings))
    found, tokens = asking.outputs([(item, ending) for ending in endings], is_choice=True)
    scores = torch.from_numpy(numpy.array([one["logits"] for one in found])).softmax(-1).numpy()
    outputs = (numbers("scores", scores), numbers("prompt_tokens", numpy.array([tokens.sum()], numpy.int32)))
    return (texts("text_input", [item]), texts("choices", endings)), outputs, True


_TASKS: Mapping[str, Callable[[_Asking, Sequence[int]], tuple[_Answers, _Answers, bool]]] = {
    "feature-extraction": _embeddings,
    "text-classification": _labels,
    "zero-shot-classification": _entailments,
    "token-classification": _tokens,
    "fill-mask": _masks,
    "question-answering": _answers,
    "multiple-choice": _choices,
}
