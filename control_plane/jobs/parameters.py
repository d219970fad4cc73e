"""What a job is asked to do: typed parameters of each kind, within limits.

In: an object from outside, what the model can read. Out: frozen parameters, and their one canonical text. This module must never
ignore a field it does not know, nor show a text in an error: it may be a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from control_plane.did import Did, parse_did
from control_plane.errors import BadInput
from control_plane.fields import DID_PATTERN, Field, Table, flag, is_text, kind_of, number, parse_fields, whole
from control_plane.fields import Kind as Described
from control_plane.jobs.job import canonical_json
from control_plane.jobs.states import Kind
from control_plane.settings import PRECISIONS

WIKITEXT = "wikitext-2"
"""The one dataset that is known by name: the operator's configured text. Every other is a DID."""
TASKS = {
    Kind.TRAIN: ("text-generation", "text2text-generation", "fill-mask"),
    Kind.EVALUATE: ("text-generation",),
    Kind.INFER: ("text-generation", "text2text-generation"),
}
"""The tasks of the models that each kind of job is for."""
MOST_TEXT_BYTES = 64 << 10
"""UTF-8 bytes of all texts or prompts of one job together."""
MOST_TEXTS = 100
MOST_PROMPTS = 256
MOST_ANSWER_TOKENS = 8192
"""Of all prompts together. At eight bytes a token they fill a result (`job.MOST_RESULT_BYTES`); English has four to five."""
_ANY_LENGTH = 1 << 40
"""The bytes of all texts together are what is bounded, and refused with their number."""
SHORTEST_SEQUENCE = 8
USUAL_SEQUENCE = 256
USUAL_RATE = 5e-5
"""Of a training. A fresh optimizer's first steps are long ones: at this rate, after a warm-up, they did a trained model no harm
(DECISIONS, 2026-11-28)."""
USUAL_WARMUP = (10, 100)
"""One step of so many warms up, and at most so many steps in all."""


@dataclass(frozen=True)
class Limits:
    """context_length: tokens that the model can read at once; of a training, that a sequence may have. max_new_tokens: the
    operator's limit of one answer. precisions: what a training's arithmetic may be done in."""

    context_length: int
    max_new_tokens: int = 4096
    precisions: tuple[str, ...] = PRECISIONS


@dataclass(frozen=True)
class Train:
    """dataset: `wikitext-2`, or the DID of a text dataset. sequence_length: tokens. lora_rank: None unless method is `lora`."""

    dataset: str
    steps: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    sequence_length: int
    seed: int
    precision: str
    method: str
    lora_rank: int | None
    weight_decay: float
    gradient_clip: float


@dataclass(frozen=True)
class Evaluate:
    """Either `samples` of a dataset, drawn with `seed`, or the caller's own texts. max_tokens: of each text, its first ones.
    publish: True where what is found is to be published; otherwise None."""

    dataset: str | None
    samples: int | None
    seed: int | None
    texts: tuple[str, ...] | None
    max_tokens: int
    publish: bool | None = None


@dataclass(frozen=True)
class Infer:
    """As a call's parameters of the same names. seed: of the whole job: the same job gives the same answers."""

    prompts: tuple[str, ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int


Parameters = Train | Evaluate | Infer


def parse_parameters(kind: Kind, record: object, limits: Limits) -> Parameters:
    """Raises BadInput with the field, what was expected and what was found. Null is the same as nothing: the default counts."""
    if not isinstance(record, Mapping):
        raise BadInput("parameters", "an object", kind_of(record))
    fields = parse_fields(record, TABLES[kind](limits))
    if kind is Kind.TRAIN:
        return _train(fields, limits.context_length)
    return _evaluate(fields) if kind is Kind.EVALUATE else _infer(fields)


def canonical(parameters: Parameters) -> str:
    """The one text of these parameters: canonical JSON with every default filled in, and without what does not apply."""
    return canonical_json({name: value for name, value in asdict(parameters).items() if value is not None})


def dataset_needed(parameters: Parameters) -> Did | None:
    """The dataset asset that the job reads, and that its owner must have an order of; None where it needs none."""
    if isinstance(parameters, Infer) or parameters.dataset in (None, WIKITEXT):
        return None
    return parse_did(parameters.dataset, "dataset")


def _choice(*allowed: str) -> Field:
    expected = " or ".join(repr(each) for each in allowed)
    return Field(expected, lambda value: isinstance(value, str) and value in allowed, {"enum": list(allowed)}, allowed[0])


def _texts(most: int, is_required: bool) -> Field:
    def is_right(value: object) -> bool:
        return isinstance(value, list | tuple) and 0 < len(value) <= most and all(is_text(each, _ANY_LENGTH) for each in value)

    schema = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": most}
    return Field(f"a list of 1 to {most} texts, none of them empty", is_right, schema, is_required=is_required)


def _is_dataset(value: object) -> bool:
    if value == WIKITEXT:
        return True
    try:
        parse_did(value)
    except BadInput:
        return False
    return True


_SEED = whole("a whole number from 0 to 4294967295", 0, 2**32 - 1, 0)
_DATASET = Field(
    f"{WIKITEXT!r} or the DID of a text dataset",
    _is_dataset,
    {"type": "string", "pattern": f"^{WIKITEXT}$|{DID_PATTERN}"},
    WIKITEXT,
)


def _train_table(limits: Limits) -> Table:
    context = limits.context_length
    return {
        "dataset": _DATASET,
        "steps": whole("a whole number from 1 to 100000", 1, 100_000, 500),
        "batch_size": whole("a whole number from 1 to 256", 1, 256, 8),
        "learning_rate": number("a number above 0, at most 1", 0, 1, USUAL_RATE, is_low_excluded=True),
        "schedule": _choice("linear", "constant", "cosine"),
        "warmup_steps": whole(
            f"a whole number from 0 to 100000, at most as many as steps; without it one in {USUAL_WARMUP[0]} of them, "
            f"at most {USUAL_WARMUP[1]}",
            0,
            100_000,
        ),
        "sequence_length": whole(
            f"a whole number of tokens from {SHORTEST_SEQUENCE} to {context}, the context of this model",
            SHORTEST_SEQUENCE,
            context,
            min(context, USUAL_SEQUENCE),
        ),
        "seed": _SEED,
        "precision": _choice(*limits.precisions),
        "method": _choice("full", "lora"),
        "lora_rank": whole("a whole number from 1 to 256, where method is 'lora'", 1, 256),
        "weight_decay": number("a number from 0 to 1", 0, 1, 0.01),
        "gradient_clip": number("a number above 0, at most 1000", 0, 1000, 1.0, is_low_excluded=True),
    }


def _evaluate_table(limits: Limits) -> Table:
    context = limits.context_length
    return {
        "dataset": Field(f"{WIKITEXT!r}", lambda value: value == WIKITEXT, {"enum": [WIKITEXT]}),
        "samples": whole("a whole number from 1 to 100, of a dataset", 1, MOST_TEXTS),
        "seed": whole("a whole number from 0 to 4294967295, of a dataset", 0, 2**32 - 1),
        "texts": _texts(MOST_TEXTS, is_required=False),
        "max_tokens": whole(
            f"a whole number of tokens from 2 to {context}, the context of this model", 2, context, min(context, USUAL_SEQUENCE)
        ),
        "publish": flag("true, to let everybody see what is found; or false"),
    }


def _infer_table(limits: Limits) -> Table:
    most = min(limits.max_new_tokens, limits.context_length)
    return {
        "prompts": _texts(MOST_PROMPTS, is_required=True),
        "max_tokens": whole(f"a whole number from 1 to {most}", 1, most, min(16, most)),
        "temperature": number("a number from 0 (always the likeliest token) to 2", 0, 2, 1.0),
        "top_p": number("a number above 0, at most 1", 0, 1, 1.0, is_low_excluded=True),
        "top_k": whole("a whole number from 0 (off)", 0, 2**31 - 1, 0),
        "seed": whole("a whole number from 0, below 2**53", 0, 2**53 - 1, 0),
    }


TABLES = {Kind.TRAIN: _train_table, Kind.EVALUATE: _evaluate_table, Kind.INFER: _infer_table}
"""Each kind's fields, for a model's limits; `fields.schema_of` makes JSON Schema of them."""


def _train(fields: dict[str, Any], context_length: int) -> Train:
    if context_length < SHORTEST_SEQUENCE:
        expected = f"a model that reads at least {SHORTEST_SEQUENCE} tokens"
        raise BadInput("sequence_length", expected, Described(f"one that reads {context_length}"))
    if fields["warmup_steps"] is None:
        one_in, most = USUAL_WARMUP
        fields["warmup_steps"] = min(fields["steps"] // one_in, most)
    if fields["warmup_steps"] > fields["steps"]:
        raise BadInput("warmup_steps", f"at most {fields['steps']}, the steps of this job", fields["warmup_steps"])
    if fields["method"] == "lora":
        fields["lora_rank"] = fields["lora_rank"] or 8
    elif fields["lora_rank"] is not None:
        raise BadInput("lora_rank", "nothing, unless method is 'lora'", fields["lora_rank"])
    for name in ("learning_rate", "weight_decay", "gradient_clip"):
        fields[name] = float(fields[name])
    return Train(**fields)


def _evaluate(fields: dict[str, Any]) -> Evaluate:
    fields["publish"] = fields["publish"] or None
    if fields["texts"] is None:
        given = {"dataset": fields["dataset"] or WIKITEXT, "samples": fields["samples"] or 10, "seed": fields["seed"] or 0}
        return Evaluate(**{**fields, **given})
    for name in ("dataset", "samples", "seed"):
        if fields[name] is not None:
            raise BadInput(name, "nothing beside texts, which are evaluated all and as they are", kind_of(fields[name]))
    return Evaluate(**{**fields, "texts": _bounded("texts", fields["texts"])})


def _infer(fields: dict[str, Any]) -> Infer:
    prompts = _bounded("prompts", fields["prompts"])
    tokens = len(prompts) * fields["max_tokens"]
    if tokens > MOST_ANSWER_TOKENS:
        expected = f"a number that makes at most {MOST_ANSWER_TOKENS} tokens for all prompts together"
        raise BadInput("max_tokens", expected, Described(f"{fields['max_tokens']} for each of {len(prompts)}"))
    numbers = {name: float(fields[name]) for name in ("temperature", "top_p")}
    return Infer(**{**fields, **numbers, "prompts": prompts})


def _bounded(field: str, texts: Sequence[str]) -> tuple[str, ...]:
    size = sum(len(each.encode("utf-8")) for each in texts)
    if size > MOST_TEXT_BYTES:
        raise BadInput(field, f"at most {MOST_TEXT_BYTES} bytes in all", Described(f"{size} bytes"))
    return tuple(texts)
