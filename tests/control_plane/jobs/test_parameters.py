"""Parameters that are within the limits become one canonical text; every other is refused by its field."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import BadInput
from control_plane.fields import schema_of
from control_plane.jobs.parameters import (
    MOST_ANSWER_TOKENS,
    TABLES,
    Evaluate,
    Infer,
    Limits,
    Train,
    canonical,
    dataset_needed,
    parse_parameters,
)
from control_plane.jobs.states import Kind

LIMITS = Limits(context_length=1024)
DATASET = "did:op:" + "a" * 64
LONE_SURROGATE = json.loads('"\\ud800"')


def test_without_a_word_training_takes_the_defaults() -> None:
    assert parse_parameters(Kind.TRAIN, {}, LIMITS) == Train(
        dataset="wikitext-2",
        steps=500,
        batch_size=8,
        learning_rate=5e-5,
        schedule="linear",
        warmup_steps=50,
        sequence_length=256,
        seed=0,
        precision="fp32",
        method="full",
        lora_rank=None,
        weight_decay=0.01,
        gradient_clip=1.0,
    )
    assert parse_parameters(Kind.EVALUATE, {}, LIMITS) == Evaluate("wikitext-2", 10, 0, None, 256)
    assert parse_parameters(Kind.INFER, {"prompts": ["a"]}, LIMITS) == Infer(("a",), 16, 1.0, 1.0, 0, 0)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"steps": 9}, 0),
        ({"steps": 20}, 2),
        ({"steps": 100_000}, 100),
        ({"steps": 20, "warmup_steps": None}, 2),
        ({"steps": 20, "warmup_steps": 0}, 0),
        ({"warmup_steps": 500}, 500),
    ],
)
def test_a_warm_up_that_nobody_names_follows_from_the_steps(asked: dict[str, Any], found: int) -> None:
    trained = parse_parameters(Kind.TRAIN, asked, LIMITS)
    assert isinstance(trained, Train) and trained.warmup_steps == found
    assert json.loads(canonical(trained))["warmup_steps"] == found


def test_a_small_model_has_smaller_defaults() -> None:
    small = Limits(context_length=64, max_new_tokens=8)
    trained = parse_parameters(Kind.TRAIN, {}, small)
    assert isinstance(trained, Train) and trained.sequence_length == 64
    evaluated = parse_parameters(Kind.EVALUATE, {"texts": ["a"]}, small)
    assert isinstance(evaluated, Evaluate) and evaluated.max_tokens == 64
    asked = parse_parameters(Kind.INFER, {"prompts": ["a"]}, small)
    assert isinstance(asked, Infer) and asked.max_tokens == 8


BAD: list[tuple[Kind, dict[str, Any], str, str]] = [
    *((Kind.TRAIN, {"steps": value}, "steps", "1 to 100000") for value in (0, -1, 10**9, 1.0, 1.5, "500", True, [500], math.nan)),
    *((Kind.TRAIN, {"batch_size": value}, "batch_size", "1 to 256") for value in (0, 257, 8.0, "8")),
    *(
        (Kind.TRAIN, {"learning_rate": value}, "learning_rate", "above 0, at most 1")
        for value in (0, 0.0, -1e-4, 1.01, math.nan, math.inf, 10**400, "1e-4", True)
    ),
    *((Kind.TRAIN, {"schedule": value}, "schedule", "'linear' or 'constant' or 'cosine'") for value in ("polynomial", "", 1, [])),
    *((Kind.TRAIN, {"warmup_steps": value}, "warmup_steps", "at most") for value in (-1, 501, 0.5, 10**9)),
    (Kind.TRAIN, {"steps": 10, "warmup_steps": 11}, "warmup_steps", "at most 10"),
    *((Kind.TRAIN, {"sequence_length": value}, "sequence_length", "8 to 1024") for value in (0, 7, 1025, 16.0, "16")),
    *((Kind.TRAIN, {"seed": value}, "seed", "0 to 4294967295") for value in (-1, 2**32, 0.0, "0")),
    *((Kind.TRAIN, {"precision": value}, "precision", "'fp32' or 'bf16' or 'fp16'") for value in ("int8", "FP32", 32)),
    *((Kind.TRAIN, {"method": value}, "method", "'full' or 'lora'") for value in ("qlora", "", 0)),
    *((Kind.TRAIN, {"method": "lora", "lora_rank": value}, "lora_rank", "1 to 256") for value in (0, 257, 8.0)),
    (Kind.TRAIN, {"lora_rank": 8}, "lora_rank", "unless method is 'lora'"),
    (Kind.TRAIN, {"method": "full", "lora_rank": 8}, "lora_rank", "unless method is 'lora'"),
    *((Kind.TRAIN, {"weight_decay": value}, "weight_decay", "0 to 1") for value in (-0.1, 1.1, math.nan, "0")),
    *((Kind.TRAIN, {"gradient_clip": value}, "gradient_clip", "above 0") for value in (0, -1, 1001, math.inf)),
    *(
        (Kind.TRAIN, {"dataset": value}, "dataset", "'wikitext-2' or the DID")
        for value in ("wikitext-103", "", "did:op:" + "A" * 64, "../../etc/passwd", "https://example.com/a.txt", 7, ["wikitext-2"])
    ),
    (Kind.TRAIN, {"code": "import os"}, "code", "no such parameter"),
    (Kind.TRAIN, {"prompts": ["a"]}, "prompts", "no such parameter"),
    *((Kind.EVALUATE, {"samples": value}, "samples", "1 to 100") for value in (0, 101, 1.0, "10")),
    *((Kind.EVALUATE, {"seed": value}, "seed", "0 to 4294967295") for value in (-1, 2**32)),
    *((Kind.EVALUATE, {"dataset": value}, "dataset", "'wikitext-2'") for value in (DATASET, "x", 1)),
    *(
        (Kind.EVALUATE, {"texts": value}, "texts", "1 to 100 texts")
        for value in ([], ["a"] * 101, "a", [""], [1], [None], {"a": 1})
    ),
    (Kind.EVALUATE, {"texts": [LONE_SURROGATE]}, "texts", "1 to 100 texts"),
    (Kind.EVALUATE, {"texts": ["x" * 65_537]}, "texts", "at most 65536 bytes"),
    (Kind.EVALUATE, {"texts": ["x" * 10_000_000]}, "texts", "at most 65536 bytes"),
    (Kind.EVALUATE, {"texts": ["é" * 32_769]}, "texts", "at most 65536 bytes"),
    (Kind.EVALUATE, {"texts": ["a" * 40_000, "a" * 40_000]}, "texts", "at most 65536 bytes"),
    (Kind.EVALUATE, {"texts": ["a"], "samples": 3}, "samples", "nothing beside texts"),
    (Kind.EVALUATE, {"texts": ["a"], "seed": 3}, "seed", "nothing beside texts"),
    (Kind.EVALUATE, {"texts": ["a"], "dataset": "wikitext-2"}, "dataset", "nothing beside texts"),
    *((Kind.EVALUATE, {"max_tokens": value}, "max_tokens", "2 to 1024") for value in (0, 1, 1025, 8.0)),
    (Kind.INFER, {}, "prompts", "1 to 256 texts"),
    (Kind.INFER, {"prompts": None}, "prompts", "1 to 256 texts"),
    *((Kind.INFER, {"prompts": value}, "prompts", "1 to 256 texts") for value in ([], ["a"] * 257, "a", [""], [LONE_SURROGATE])),
    (Kind.INFER, {"prompts": ["x" * 65_537]}, "prompts", "at most 65536 bytes"),
    *((Kind.INFER, {"prompts": ["a"], "max_tokens": value}, "max_tokens", "1 to 1024") for value in (0, 1025, 8.0, "8")),
    (Kind.INFER, {"prompts": ["a"] * 9, "max_tokens": 1024}, "max_tokens", f"at most {MOST_ANSWER_TOKENS} tokens"),
    *((Kind.INFER, {"prompts": ["a"], "temperature": value}, "temperature", "0 (") for value in (-0.1, 2.1, math.nan, "1", False)),
    *((Kind.INFER, {"prompts": ["a"], "top_p": value}, "top_p", "above 0, at most 1") for value in (0, 1.1, -1)),
    *((Kind.INFER, {"prompts": ["a"], "top_k": value}, "top_k", "from 0") for value in (-1, 2**31, 1.0)),
    *((Kind.INFER, {"prompts": ["a"], "seed": value}, "seed", "from 0") for value in (-1, 2**53, "0")),
]


@pytest.mark.parametrize(("kind", "record", "field", "expected"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_input_is_refused_by_its_field(kind: Kind, record: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_parameters(kind, record, LIMITS)
    assert caught.value.field == field
    assert expected in caught.value.message


def test_a_precision_that_this_market_s_trainings_cannot_have_is_refused() -> None:
    limits = Limits(context_length=1024, precisions=("fp32", "bf16"))
    assert parse_parameters(Kind.TRAIN, {"precision": "bf16"}, limits) == parse_parameters(
        Kind.TRAIN, {"precision": "bf16"}, LIMITS
    )
    with pytest.raises(BadInput, match="'fp32' or 'bf16'") as caught:
        parse_parameters(Kind.TRAIN, {"precision": "fp16"}, limits)
    assert caught.value.field == "precision"
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("record", [None, [], "{}", 7, b"{}"])
@pytest.mark.parametrize("kind", Kind)
def test_what_is_no_object_is_refused(kind: Kind, record: object) -> None:
    with pytest.raises(BadInput) as caught:
        parse_parameters(kind, record, LIMITS)
    assert caught.value.field == "parameters"


def test_a_model_that_reads_too_little_cannot_be_trained() -> None:
    with pytest.raises(BadInput, match="at least 8 tokens"):
        parse_parameters(Kind.TRAIN, {}, Limits(context_length=7))


def test_no_error_shows_a_prompt() -> None:
    secret = "canary-4c1d"
    for kind, record in (
        (Kind.INFER, {"prompts": [secret, ""]}),
        (Kind.INFER, {"prompts": secret}),
        (Kind.EVALUATE, {"texts": [secret * 10_000]}),
        (Kind.EVALUATE, {"texts": [secret], "dataset": "wikitext-2"}),
        (Kind.TRAIN, {"dataset": secret}),
        (Kind.TRAIN, {secret: 1}),
    ):
        with pytest.raises(BadInput) as caught:
            parse_parameters(kind, record, LIMITS)
        assert secret not in caught.value.message


GOOD_TRAINING = st.fixed_dictionaries(
    {},
    optional={
        "dataset": st.sampled_from(["wikitext-2", DATASET]),
        "steps": st.integers(1, 100_000),
        "batch_size": st.integers(1, 256),
        "learning_rate": st.floats(0, 1, exclude_min=True) | st.just(1),
        "schedule": st.sampled_from(["constant", "linear", "cosine"]),
        "sequence_length": st.integers(8, 1024),
        "seed": st.integers(0, 2**32 - 1),
        "precision": st.sampled_from(["fp32", "bf16", "fp16"]),
        "method": st.sampled_from(["full", "lora", None]),
        "weight_decay": st.floats(0, 1) | st.integers(0, 1),
        "gradient_clip": st.floats(1e-9, 1000),
    },
)
GOOD_EVALUATION = st.fixed_dictionaries(
    {}, optional={"samples": st.integers(1, 100), "seed": st.integers(0, 2**32 - 1), "max_tokens": st.integers(2, 1024)}
) | st.fixed_dictionaries({"texts": st.lists(st.text(min_size=1), min_size=1, max_size=9)})
GOOD_PROMPTS = st.fixed_dictionaries(
    {"prompts": st.lists(st.text(min_size=1), min_size=1, max_size=9)},
    optional={"temperature": st.floats(0, 2) | st.integers(0, 2), "top_k": st.integers(0, 99), "max_tokens": st.integers(1, 900)},
)
GOOD = st.one_of(
    st.tuples(st.just(Kind.TRAIN), GOOD_TRAINING),
    st.tuples(st.just(Kind.EVALUATE), GOOD_EVALUATION),
    st.tuples(st.just(Kind.INFER), GOOD_PROMPTS),
)


@given(GOOD)
def test_the_canonical_text_is_read_back_as_the_same_parameters(given_: tuple[Kind, dict[str, Any]]) -> None:
    kind, record = given_
    parameters = parse_parameters(kind, record, LIMITS)
    text = canonical(parameters)
    again = parse_parameters(kind, json.loads(text), LIMITS)
    assert again == parameters
    assert canonical(again) == text
    assert all(asdict(parameters)[name] == (tuple(value) if isinstance(value, list) else value)
               for name, value in record.items() if value is not None)  # fmt: skip


def test_an_order_of_fields_or_a_way_to_write_a_number_changes_no_canonical_text() -> None:
    one = parse_parameters(Kind.TRAIN, {"steps": 10, "gradient_clip": 1, "seed": None}, LIMITS)
    other = parse_parameters(Kind.TRAIN, {"gradient_clip": 1.0, "steps": 10}, LIMITS)
    assert canonical(one) == canonical(other)
    assert canonical(parse_parameters(Kind.INFER, {"prompts": ["é\n"]}, LIMITS)) == (
        '{"max_tokens":16,"prompts":["é\\n"],"seed":0,"temperature":1.0,"top_k":0,"top_p":1.0}'
    )


def test_only_a_named_dataset_asset_needs_an_order() -> None:
    assert dataset_needed(parse_parameters(Kind.TRAIN, {"dataset": DATASET}, LIMITS)) == DATASET
    for kind, record in (
        (Kind.TRAIN, {}),
        (Kind.EVALUATE, {}),
        (Kind.EVALUATE, {"texts": ["a"]}),
        (Kind.INFER, {"prompts": ["a"]}),
    ):
        assert dataset_needed(parse_parameters(kind, record, LIMITS)) is None


@pytest.mark.parametrize("kind", Kind)
def test_every_field_can_be_told_as_a_schema(kind: Kind) -> None:
    schema = schema_of(TABLES[kind](LIMITS))
    assert schema["additionalProperties"] is False
    assert all(each["description"] and ("type" in each or "enum" in each) for each in schema["properties"].values())
