"""What the scan lets through, although it looks odd: published models have it."""

from __future__ import annotations

import math
import time

import pytest

from converters.errors import ModelRefused
from converters.scan import check_config, check_processor, parse_json, refuse_code_in

MAMBA = b'{"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "time_step_limit": [0.0, Infinity]}'


def test_the_infinite_limit_that_mamba_2_states_is_read() -> None:
    config = parse_json("config.json", MAMBA)
    assert config["time_step_limit"] == [0.0, math.inf]
    assert check_config(config)[0] == "mamba2"


@pytest.mark.parametrize("key", ["hidden_size", "rope_theta", "time_step_limits"])
def test_infinity_under_another_key_is_refused(key: str) -> None:
    config = parse_json("config.json", MAMBA.replace(b"time_step_limit", key.encode()))
    with pytest.raises(ModelRefused, match=key):
        check_config(config)


def test_infinity_in_another_file_is_refused() -> None:
    with pytest.raises(ModelRefused, match="Infinity"):
        parse_json("generation_config.json", MAMBA)


def test_a_string_that_never_ends_is_read_once() -> None:
    """Read again from each quote in it, these 200 kB took minutes; the 4 MB of the second, copied letter by letter, much memory."""
    for text in (b'"' + b'\\"' * 100_000 + b"\\", b'{"a": "' + b"\\n" * 2_000_000):
        began = time.process_time()
        with pytest.raises(ModelRefused, match="JSON"):
            parse_json("tokenizer.json", text)
        assert time.process_time() - began < 5


@pytest.mark.parametrize("value", [{"text_config": "pickle"}, ["eager"]])
def test_what_is_no_name_where_a_name_belongs_is_refused(value: object) -> None:
    with pytest.raises(ModelRefused, match="torch_dtype"):
        check_config({"model_type": "bert", "torch_dtype": value})
    with pytest.raises(ModelRefused, match="attn_implementation"):
        refuse_code_in("config.json", {"_attn_implementation": value})


def test_an_edge_may_count_pixels_only_for_a_processor_that_counts_them() -> None:
    size = {"size": {"shortest_edge": 3136, "longest_edge": 12_845_056}}
    check_processor("preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessor", **size})
    with pytest.raises(ModelRefused, match="longest_edge"):
        check_processor("preprocessor_config.json", {"image_processor_type": "ViTImageProcessor", **size})
    with pytest.raises(ModelRefused, match="longest_edge"):
        check_processor(
            "preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessor", "size": {"longest_edge": 10**9}}
        )
