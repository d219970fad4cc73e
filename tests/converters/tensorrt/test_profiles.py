"""The shapes that engines are built for follow from the entry, and from nothing that is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import ConversionFailed
from converters.tensorrt.profiles import Profile, Span, onnxruntime_shapes, profiles_of
from tests.converters.tensorrt.graphs import CACHED, IMAGE, TEXT, tensor


def test_a_text_model_has_one_profile_up_to_its_context() -> None:
    (profile,) = profiles_of(TEXT, 8)
    assert profile.at("least")["input_ids"] == (1, 1)
    assert profile.at("usual")["input_ids"] == (4, 64)
    assert profile.at("most")["input_ids"] == profile.at("most")["attention_mask"] == (8, 64)


def test_a_generator_reads_a_prompt_with_one_profile_and_makes_a_token_with_the_other() -> None:
    prompt, token = profiles_of(CACHED, 4)
    key = "past_key_values.0.key"
    assert [profile.name for profile in (prompt, token)] == ["prompt", "token"]
    assert (prompt.at("least")[key], prompt.at("most")[key]) == ((1, 4, 0, 8), (4, 4, 0, 8))
    assert (prompt.at("least")["input_ids"], prompt.at("most")["input_ids"]) == ((1, 1), (4, 1024))
    assert (token.at("least")["input_ids"], token.at("most")["input_ids"]) == ((1, 1), (4, 1))
    assert (token.at("least")[key], token.at("usual")[key], token.at("most")[key]) == (
        (1, 4, 1, 8),
        (2, 4, 512, 8),
        (4, 4, 1023, 8),
    )


@pytest.mark.parametrize("which", ["least", "usual", "most"])
def test_the_mask_is_as_long_as_cache_and_new_tokens_together(which: str) -> None:
    for profile in profiles_of(CACHED, 4):
        shapes = profile.at(which)
        assert shapes["attention_mask"][1] == shapes["input_ids"][1] + shapes["past_key_values.0.key"][2]
        assert shapes["attention_mask"][1] <= CACHED["context_length"]


def test_an_axis_that_the_entry_does_not_say_is_asked_for_by_its_name() -> None:
    with pytest.raises(ConversionFailed, match="num_channels"):
        profiles_of(IMAGE, 8)


def test_a_publisher_can_say_an_axis() -> None:
    fixed = {"num_channels": Span(3, 3, 3), "height": Span(224, 224, 224), "width": Span(224, 224, 224)}
    (profile,) = profiles_of(IMAGE, 2, fixed)
    assert (profile.at("least")["pixel_values"], profile.at("most")["pixel_values"]) == ((1, 3, 224, 224), (2, 3, 224, 224))


def test_two_graphs_are_not_made_one_plan() -> None:
    with pytest.raises(ConversionFailed, match="one graph"):
        profiles_of({**TEXT, "encoder": "1/encoder.onnx"}, 8)


def test_a_shared_cache_is_refused_with_the_way_out() -> None:
    shared = {**CACHED, "graph_inputs": [*CACHED["graph_inputs"], tensor("seqlens_k", "batch_size", dtype="INT32")]}
    with pytest.raises(ConversionFailed, match="--kv-cache grown"):
        profiles_of(shared, 4)


@pytest.mark.parametrize("lengths", [(2, 1, 3), (1, 3, 2), (-1, 0, 1)])
def test_lengths_out_of_order_are_refused(lengths: tuple[int, int, int]) -> None:
    with pytest.raises(ConversionFailed, match="least"):
        Span(*lengths)


@given(st.integers(2, 1 << 20), st.integers(1, 512))
def test_no_profile_leaves_the_context_whatever_its_length(context: int, batch: int) -> None:
    for profile in profiles_of({**CACHED, "context_length": context}, batch):
        assert profile.at("most")["attention_mask"] in ((batch, context),)
        assert Profile.from_json(profile.to_json()) == profile


def test_onnx_runtime_gets_an_input_once_for_each_profile() -> None:
    least, most = (onnxruntime_shapes(profiles_of(CACHED, 4), which) for which in ("least", "most"))
    assert least.count("input_ids:") == most.count("input_ids:") == 2
    assert "past_key_values.0.key:4x4x1023x8" in most and "past_key_values.0.key:1x4x0x8" in least
