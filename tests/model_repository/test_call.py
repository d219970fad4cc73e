"""A call to `generate` is checked before anything is computed, and its refusal names the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from generate.call import Parameters, read_call, read_parameters
from opening.entry import OpenEntry
from opening.refusal import Refused

CONTEXT = 10
FP32 = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        *(("", Parameters()), ("{}", Parameters()), ("[]", Parameters())),
        ('{"caller":"0xB0b","x-did":"did:op:1"}', Parameters("0xB0b")),
        ('{"caller":7,"wait_ms":1500}', Parameters("7", most_wait_s=1.5)),
        ('{"wait_ms":0}', Parameters(most_wait_s=0)),
        *(('{"wait_ms":-1}', Parameters()), ('{"wait_ms":"soon"}', Parameters())),
    ],
)
def test_who_asks_and_how_long_it_waits_is_read_from_the_requests_parameters(parameters: str, said: Parameters) -> None:
    assert read_parameters(parameters) == said


def test_signs_of_life_are_sent_only_to_who_asks_for_them() -> None:
    """Triton's `generate` takes exactly one response."""
    assert read_parameters('{"beats":true}').has_beats
    assert not read_parameters('{"beats":"no","caller":"0xB0b"}').has_beats


@pytest.mark.parametrize("name", ["min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logprobs", "score"])
def test_an_input_that_triton_made_a_parameter_of_is_refused_and_not_overlooked(name: str) -> None:
    """It knows no such tensor of a model that was loaded with a config.pbtxt from before there was one."""
    with pytest.raises(Refused) as refused:
        read_parameters(json.dumps({name: 0.5, "caller": "0xB0b"}))
    assert refused.value.field == name


def entry(**details: Any) -> OpenEntry:
    """An entry whose words are tokens; no graph, since none is needed here."""
    tokenizer = Tokenizer(models.WordLevel({"<end>": 0, "one": 1, "two": 2, "far": 99}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    known = {
        "add_special_tokens": True,
        "context_length": CONTEXT,
        "vocabulary": 50,
        "defaults": {"max_tokens": 4, "temperature": 0.7, "top_p": 0.9, "top_k": 3},
    }
    return OpenEntry("text-generation", {**known, **details}, Path(), tokenizer, session=None)


def tensors(**values: Any) -> dict[str, np.ndarray]:
    kinds = {
        "text_input": object,
        "stop": object,
        "seed": np.int64,
        "stream": bool,
        "logprobs": bool,
        **dict.fromkeys(FP32, np.float32),
    }
    return {
        name: np.array(value if isinstance(value, list) else [value], kinds.get(name, np.int32))
        for name, value in {"text_input": b"one two", **values}.items()
    }


def test_what_a_call_leaves_out_comes_from_the_entry() -> None:
    call = read_call(tensors(), entry())
    assert (call.prompt, call.max_tokens, call.top_k, call.seed, call.stops, call.is_streamed) == ((1, 2), 4, 3, None, (), False)
    assert (call.temperature, call.top_p) == (0.7, 0.9)


def test_what_a_call_leaves_out_and_the_entry_does_not_know_is_off() -> None:
    call = read_call(tensors(), entry())
    assert (call.min_p, call.repetition_penalty, call.frequency_penalty, call.presence_penalty) == (0.0, 1.0, 0.0, 0.0)
    assert call.has_logprobs is False


def test_what_a_call_says_is_taken() -> None:
    call = read_call(
        tensors(max_tokens=2, temperature=0.0, top_p=1.0, top_k=0, seed=-5, stop=["é".encode(), b"two"], stream=True), entry()
    )
    assert (call.max_tokens, call.temperature, call.top_p, call.top_k, call.seed) == (2, 0.0, 1.0, 0, -5)
    assert (call.stops, call.is_streamed) == (("é", "two"), True)
    call = read_call(
        tensors(min_p=0.25, repetition_penalty=1.5, frequency_penalty=-2.0, presence_penalty=2.0, logprobs=True), entry()
    )
    assert (call.min_p, call.repetition_penalty, call.frequency_penalty, call.presence_penalty) == (0.25, 1.5, -2.0, 2.0)
    assert call.has_logprobs is True


def test_a_call_ends_where_the_context_ends() -> None:
    assert read_call(tensors(text_input=b"one " * 7, max_tokens=CONTEXT), entry()).max_tokens == 3
    assert read_call(tensors(text_input=b"one " * (CONTEXT - 1), max_tokens=5), entry()).max_tokens == 1


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("text_input", b"", "0 bytes"),
        ("text_input", b"   ", "0 tokens"),
        ("text_input", b"one \xff", "byte 0xff at 4"),
        ("text_input", b"one " * CONTEXT, "10 tokens"),
        ("text_input", b"one " * 300_000, "1200000 bytes"),
        ("text_input", b"far", "token 99"),
        ("text_input", [b"one", b"two"], "2 values"),
        ("max_tokens", 0, "0"),
        ("max_tokens", -1, "-1"),
        ("max_tokens", CONTEXT + 1, "11"),
        ("max_tokens", 2**31 - 1, "2147483647"),
        ("temperature", -0.5, "-0.5"),
        ("temperature", float("nan"), "nan"),
        ("temperature", float("inf"), "inf"),
        ("temperature", 101.0, "101.0"),
        ("top_p", 0.0, "0.0"),
        ("top_p", 1.5, "1.5"),
        ("top_p", -1.0, "-1.0"),
        ("top_p", float("nan"), "nan"),
        ("top_k", -1, "-1"),
        ("min_p", -0.5, "-0.5"),
        ("min_p", 1.5, "1.5"),
        ("min_p", float("nan"), "nan"),
        ("repetition_penalty", 0.0, "0.0"),
        ("repetition_penalty", -1.0, "-1.0"),
        ("repetition_penalty", 17.0, "17.0"),
        ("repetition_penalty", float("nan"), "nan"),
        ("frequency_penalty", 2.5, "2.5"),
        ("frequency_penalty", float("nan"), "nan"),
        ("presence_penalty", -2.5, "-2.5"),
        ("presence_penalty", [0.0, 0.0], "2 values"),
        ("stop", [b"a", b""], "0 bytes in item 1"),
        ("stop", [b"a"] * 17, "17 texts"),
        ("stop", [b"a" * 257], "257 bytes"),
        ("stop", [b"\xf0"], "byte 0xf0 at 0 in item 0"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(field: str, value: Any, found: str) -> None:
    with pytest.raises(Refused) as refused:
        read_call(tensors(**{field: value}), entry())
    said = json.loads(refused.value.to_json())
    assert (said["field"], said["found"]) == (field, found)
    assert said["expected"]


def test_a_call_without_a_prompt_is_refused() -> None:
    with pytest.raises(Refused, match="text_input"):
        read_call({}, entry())


def test_a_refusal_never_shows_the_prompt() -> None:
    secret = b"one " * CONTEXT + b"password"
    with pytest.raises(Refused) as refused:
        read_call(tensors(text_input=secret), entry())
    assert "password" not in str(refused.value)
