"""The benchmark on a GPU, as far as a machine without one goes."""

from __future__ import annotations

import pytest

from bench import gptj_gpu


def test_without_a_gpu_it_says_so_and_is_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert gptj_gpu.main([]) == 0
    assert capsys.readouterr().out == "not run: no GPU: expected nvidia-smi on PATH\n"


def test_the_model_is_gptj_6b_and_fewer_layers_change_nothing_else() -> None:
    whole, short = gptj_gpu.trial_of(None, False), gptj_gpu.trial_of(2, False)
    assert whole.architecture == {"n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50_400, "n_positions": 2048}
    assert short.architecture == {**whole.architecture, "n_layer": 2}


@pytest.mark.live
@pytest.mark.long
def test_the_whole_way_but_the_gpu_measures_every_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert gptj_gpu.main(["--tiny", "--on", "cpu", "--rounds", "1"]) == 0
    told = capsys.readouterr().out
    assert "Keys and values: shared" in told
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row[0] for row in rows] == ["| 1", "| 8", "| 32"]
    assert all(float(row[1].split()[0]) > 0 and float(row[4]) > 0 for row in rows)
