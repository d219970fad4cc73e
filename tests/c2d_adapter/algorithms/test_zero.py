"""What a training by DeepSpeed refuses before it touches a weight; what it does is tested with processes, in `test_engine.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from c2d_adapter.algorithms.learner import Manner, PlainLearner, learner_of
from c2d_adapter.algorithms.parallel import ZERO_STAGES
from c2d_adapter.algorithms.plain_model import open_model
from c2d_adapter.job_io import JobFailed
from control_plane.settings import DEEPSPEED
from tests.converters.tiny_models import tiny_model

MANNER = {"learning_rate": 1e-3, "weight_decay": 0.01, "clip": 1.0, "precision": "fp32"}


def refusal(model: Any, **changed: Any) -> JobFailed:
    workers: Any = SimpleNamespace(zero_stage=2)
    with pytest.raises(JobFailed) as caught:
        learner_of(model, Manner(**{**MANNER, **changed}), workers, None)
    return caught.value


def test_the_stages_are_those_that_the_settings_name() -> None:
    assert tuple(ZERO_STAGES) == DEEPSPEED


def test_a_machine_without_deepspeed_says_so_and_shares_in_no_other_way(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    said = refusal(open_model(tiny_gpt2)[0])
    assert said.code == "internal" and "lacks DeepSpeed" in str(said)


def test_half_precision_is_refused_and_not_changed(tiny_gpt2: Path) -> None:
    assert "fp16" in str(refusal(open_model(tiny_gpt2)[0], precision="fp16"))


def test_a_model_that_leaves_a_part_out_is_refused(tmp_path: Path) -> None:
    model = open_model(tiny_model(tmp_path / "opt", "opt", "ForCausalLM", layerdrop=0.5))[0]
    assert refusal(model).code == "unsupported_model"


def test_one_process_alone_needs_no_deepspeed(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from c2d_adapter.algorithms.parallel import Workers
    from c2d_adapter.job_io import Place

    monkeypatch.setitem(sys.modules, "deepspeed", None)
    workers = Workers(Place(sharding="deepspeed-zero3"))
    assert isinstance(learner_of(open_model(tiny_gpt2)[0], Manner(**MANNER), workers, None), PlainLearner)
