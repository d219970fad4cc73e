"""What a model learns from texts: which tokens it is asked for, by its architecture, and how far its answers are from them.

In: blocks of tokens, a seed, a step's number. Out: what the model is given and what it should say, and the loss. This module must
never keep a state: what is hidden follows from seed and step, so neither a restart nor the number of workers changes it.

    next_token      a decoder reads a block, and is asked at each token for the next one
    continuation    an encoder reads the first half of a block as the tokenizer writes a text, the decoder writes the second half
                    (Raffel et al., 2020, "Exploring the Limits of Transfer Learning", section 3.3: prefix language modelling). No
                    sentinel tokens: BART, Marian and many others have none, and what is sold reads a text and writes one
    masked_tokens   an encoder reads a block as the tokenizer writes a text, with MASKED of its tokens hidden, and is asked for
                    those (Devlin et al., 2019, "BERT", section 3.1): of ten 8 are the mask, 1 any token, 1 itself. At each step
                    others are hidden

Every sequence of a job is asked for equally many tokens, so that the mean of a batch is the mean over its sequences.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch

# First the module behind the classes: the other way round is a circular import (transformers 4.57).
import transformers.models.auto.modeling_auto as auto

from c2d_adapter.job_io import JobFailed

MASKED = 0.15
_SHOWN_AS_MASK, _SHOWN_AS_ANOTHER = 0.8, 0.9
"""Below the first a hidden token is shown as the mask, below the second as any token, above as itself."""
_NOT_ASKED = -100
"""The label of a place whose token is not asked for, as PyTorch's `cross_entropy` has it."""
_LOOKED_AT = 4
_FIRST = torch.arange(2 * _LOOKED_AT) < _LOOKED_AT
_SAME = 1e-3
"""Of the largest answer: of 139 kinds those that do not read ahead differ by 2e-7 at most, those that do by 0.15 and more."""
_PROBE = "the market stands at the end of the street"
_HIDING = 1
"""Tells these random numbers from those that order the blocks, which have the same seed."""


@dataclass(frozen=True)
class Objective:
    """opens: transformers' class for such models. known: model type -> name of its class, or names.

    given: what the model takes, int64 [batch, sequence] each, and what it should say at each place of its answer.
    """

    name: str
    opens: Any
    known: Mapping[str, Any]
    given: Callable[[Lesson, Any, numpy.random.Generator], tuple[dict[str, Any], Any]]

    def classes(self, model_type: str) -> frozenset[str]:
        found = self.known.get(model_type, ())
        return frozenset([found] if isinstance(found, str) else found)


@dataclass(frozen=True)
class Lesson:
    """How one model is asked. before, after: tokens that its tokenizer puts around a text. special: that never stand for a word.

    start: what its decoder begins with, mask: what stands for a hidden token; None where it has none. extras: of each call of it.
    """

    objective: Objective
    vocabulary: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    special: tuple[int, ...]
    start: int | None
    mask: int | None
    extras: Mapping[str, Any]

    def block_length(self, length: int) -> int:
        """Tokens of the texts in a sequence of this length."""
        return length - len(self.before) - len(self.after) if self.objective is MASKED_TOKENS else length

    def given(self, blocks: Any, seed: int, step: int) -> tuple[dict[str, Any], Any]:
        """What the model takes by name, and what it should say. blocks: int64 [batch, block], as all arrays that come out."""
        return self.objective.given(self, blocks, numpy.random.default_rng([seed, step, _HIDING]))

    def loss(self, model: Any, inputs: Mapping[str, Any], labels: Any) -> Any:
        """Nats a token that was asked for. Not the model's own loss: those of BART's and a dozen other decoders compare each
        token with itself, which reads it (transformers 4.57)."""
        logits = model(**inputs, **self.extras).logits
        return torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=_NOT_ASKED
        )

    def around(self, blocks: Any) -> Any:
        """Blocks as the tokenizer writes texts."""
        rows = len(blocks)
        return numpy.concatenate([numpy.tile(self.before, (rows, 1)), blocks, numpy.tile(self.after, (rows, 1))], 1).astype(
            numpy.int64
        )


def _next_token(_lesson: Lesson, blocks: Any, _chances: numpy.random.Generator) -> tuple[dict[str, Any], Any]:
    end = numpy.full_like(blocks[:, :1], _NOT_ASKED)
    return {"input_ids": blocks}, numpy.concatenate([blocks[:, 1:], end], 1)


def _continuation(lesson: Lesson, blocks: Any, _chances: numpy.random.Generator) -> tuple[dict[str, Any], Any]:
    half = blocks.shape[1] // 2
    written = blocks[:, half:]
    begin = numpy.full_like(blocks[:, :1], lesson.start)
    return {
        "input_ids": lesson.around(blocks[:, :half]),
        "decoder_input_ids": numpy.concatenate([begin, written[:, :-1]], 1),
    }, written


def _masked_tokens(lesson: Lesson, blocks: Any, chances: numpy.random.Generator) -> tuple[dict[str, Any], Any]:
    order = chances.random(blocks.shape) + numpy.isin(blocks, lesson.special)  # those last: only where nothing else is left
    hidden = numpy.argsort(order, 1)[:, : max(1, round(MASKED * blocks.shape[1]))]
    asked = numpy.take_along_axis(blocks, hidden, 1)
    how, other = chances.random(asked.shape), chances.integers(0, lesson.vocabulary, asked.shape)
    shown, labels = blocks.copy(), numpy.full_like(blocks, _NOT_ASKED)
    instead = numpy.where(how < _SHOWN_AS_MASK, lesson.mask, numpy.where(how < _SHOWN_AS_ANOTHER, other, asked))
    numpy.put_along_axis(shown, hidden, instead, 1)
    numpy.put_along_axis(labels, hidden, asked, 1)
    around = lesson.around(labels)
    around[:, : len(lesson.before)] = _NOT_ASKED
    around[:, around.shape[1] - len(lesson.after) :] = _NOT_ASKED
    return {"input_ids": lesson.around(shown)}, around


NEXT_TOKEN = Objective("next_token", auto.AutoModelForCausalLM, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, _next_token)
CONTINUATION = Objective(
    "continuation", auto.AutoModelForSeq2SeqLM, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, _continuation
)
MASKED_TOKENS = Objective("masked_tokens", auto.AutoModelForMaskedLM, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, _masked_tokens)
OBJECTIVES = (NEXT_TOKEN, CONTINUATION, MASKED_TOKENS)
"""The first that has the architecture counts: transformers has BART's, which writes texts, for masks as well."""


def objective_of(config: Any) -> Objective:
    """By the architecture that config.json names; without one, where a model of this type can be but one of them.

    Raises JobFailed for a model of another kind.
    """
    named = frozenset(config.architectures or ())
    found = [each for each in OBJECTIVES if (known := each.classes(config.model_type)) and (not named or known & named)]
    if not found or (not named and len(found) > 1):
        raise JobFailed(
            "unsupported_model",
            "Only causal and masked language models, and those with encoder and decoder, can be trained further; this is none.",
        )
    return found[0]


def lesson_of(objective: Objective, model: Any, tokenizer: Any) -> Lesson:
    """Raises JobFailed for a model or a tokenizer that lacks what the objective takes, and for a decoder that reads ahead."""
    vocabulary = _vocabulary(model)
    before, after = ((), ()) if objective is NEXT_TOKEN else _around(tokenizer)
    start, mask = _start(model), tokenizer.mask_token_id
    if objective is CONTINUATION and not _is_token(start, vocabulary):
        raise JobFailed("unsupported_model", "The model does not say with which token its decoder begins.")
    if objective is MASKED_TOKENS and not _is_token(mask, vocabulary):
        raise JobFailed("unsupported_model", "The tokenizer has no token for a hidden word that the model knows.")
    extras = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    if objective is NEXT_TOKEN and _reads_ahead(model, vocabulary, extras):
        raise JobFailed("unsupported_model", "The model's answer at a token depends on later ones, so it would learn to copy them.")
    return Lesson(objective, vocabulary, before, after, tuple(tokenizer.all_special_ids), start, mask, extras)


def _vocabulary(model: Any) -> int:
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # transformers' own word for a model without one
        table = None
    if not isinstance(weight := getattr(table, "weight", None), torch.Tensor):
        raise JobFailed("unsupported_model", "The model has no table of words.")
    return int(weight.shape[0])


def _reads_ahead(model: Any, vocabulary: int, extras: Mapping[str, Any]) -> bool:
    """With other last tokens. XLNet and XLM read all tokens unless told, and so does a BERT that is called a decoder."""
    ids = torch.arange(2 * _LOOKED_AT)[None] % vocabulary
    was_training = model.training
    with torch.no_grad():
        one, other = (
            model.eval()(input_ids=each, **extras).logits[:, :_LOOKED_AT] for each in (ids, ids.where(_FIRST, ids.flip(1)))
        )
    model.train(was_training)
    return not torch.allclose(one, other, rtol=0.0, atol=_SAME * float(one.abs().max()))


def _is_token(found: object, vocabulary: int) -> bool:
    return isinstance(found, int) and 0 <= found < vocabulary


def _start(model: Any) -> int | None:
    """As its generation begins, by transformers and by what is served."""
    stated = [
        getattr(settings, name, None)
        for name in ("decoder_start_token_id", "bos_token_id")
        for settings in (model.generation_config, model.config)
    ]
    return next((token for token in stated if isinstance(token, int)), None)


def _around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and after a text, looked for around one, since no attribute of it says so."""
    plain = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_PROBE)["input_ids"]
    for at in range(len(whole) - len(plain) + 1):
        if whole[at : at + len(plain)] == plain:
            return tuple(whole[:at]), tuple(whole[at + len(plain) :])
    raise JobFailed("unsupported_model", "The tokenizer changes a text's tokens when it puts special tokens around them.")
