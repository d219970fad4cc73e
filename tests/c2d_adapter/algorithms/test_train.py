"""The training program in this process: what it learns, how it goes on, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from c2d_adapter.algorithms import checkpoint, train
from c2d_adapter.job_io import FAILED, Folder, Place
from tests.c2d_adapter.jobs import CORPUS, held_out_loss, job_folder, said, tensors, widest_difference

QUICK = {"steps": 12, "batch_size": 4, "sequence_length": 32, "learning_rate": 3e-3}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """These models are so small that a second thread only waits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def do(folder: Folder, place: Place | None = None) -> int:
    return train.main(folder, place or Place())


def test_it_learns_what_it_reads_and_writes_a_plain_model(tiny_gpt2: Path, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", tiny_gpt2, **{**QUICK, "steps": 40})
    assert do(folder) == 0
    corpus = CORPUS.read_text(encoding="utf-8")
    held_out = corpus[len(corpus) * 3 // 4 :]
    before, after = held_out_loss(folder.weights, held_out), held_out_loss(folder.out, held_out)
    assert after < before - 0.5
    result = said(folder, "result")
    assert result["steps"] == 40 and result["last_loss"] < result["first_loss"]
    assert said(folder, "progress")["step"] == 40
    # The same files, the same configuration, the same tensors by name and shape: a plain model.
    assert {path.name for path in folder.out.iterdir()} == {path.name for path in folder.weights.iterdir()}
    written, given = (json.loads((one / "config.json").read_text()) for one in (folder.out, folder.weights))
    given.pop("torch_dtype", None)
    assert written == {**given, "dtype": "float32"}
    shapes = [{name: value.shape for name, value in tensors(one).items()} for one in (folder.out, folder.weights)]
    assert shapes[0] == shapes[1]


class _Killed(BaseException):
    """Past every handler, as a signal would be."""


def test_a_training_that_was_cut_off_ends_as_an_undisturbed_one(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = job_folder(tmp_path / "one", tiny_gpt2, **QUICK)
    assert do(undisturbed) == 0
    folder = job_folder(tmp_path / "two", tiny_gpt2, **QUICK)
    real, saved = checkpoint.save, list[int]()

    def save(into: Path, step: int, state: dict[str, Any]) -> None:
        if step == 4:  # before it is written
            saved.append(step)
            monkeypatch.setattr(checkpoint, "save", real)
            raise _Killed
        real(into, step, state)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(_Killed):
        do(folder, Place(checkpoint_s=0))
    assert saved == [4] and checkpoint.newest_step(folder.checkpoints) == 3

    def save_and_die(into: Path, step: int, state: dict[str, Any]) -> None:
        real(into, step, state)
        if step == 9:  # after it was written
            raise _Killed

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(_Killed):
        do(folder, Place(checkpoint_s=0))
    monkeypatch.setattr(checkpoint, "save", real)
    (folder.checkpoints / "new").write_bytes(b"half a checkpoint")
    assert not folder.is_done
    assert do(folder, Place(checkpoint_s=0)) == 0
    # To the bit: batches, rates and random numbers follow from the step's number, and the rest was stored as it was.
    assert widest_difference(undisturbed.out, folder.out) == 0.0
    ours, theirs = said(folder, "result"), said(undisturbed, "result")
    assert [ours[name] for name in ("first_loss", "last_loss")] == [theirs[name] for name in ("first_loss", "last_loss")]


def test_a_job_that_is_done_is_not_done_again(tiny_gpt2: Path, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", tiny_gpt2, **QUICK)
    assert do(folder) == 0
    stamps = [path.stat().st_mtime_ns for path in sorted(folder.out.iterdir())]
    assert do(folder) == 0
    assert stamps == [path.stat().st_mtime_ns for path in sorted(folder.out.iterdir())]


def test_another_seed_gives_another_model_and_the_same_seed_the_same(tiny_gpt2: Path, tmp_path: Path) -> None:
    folders = [job_folder(tmp_path / str(number), tiny_gpt2, **QUICK, seed=seed) for number, seed in enumerate((5, 5, 6))]
    assert [do(folder) for folder in folders] == [0, 0, 0]
    assert widest_difference(folders[0].out, folders[1].out) == 0.0
    assert widest_difference(folders[0].out, folders[2].out) > 1e-4


@pytest.mark.parametrize("family", ["tiny_gpt2", "tiny_llama"])
def test_adapters_change_linear_layers_only(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = job_folder(tmp_path / "job", request.getfixturevalue(family), **QUICK, method="lora", lora_rank=2)
    assert do(folder) == 0
    before, after = tensors(folder.weights), tensors(folder.out)
    assert before.keys() == after.keys()
    changed = {name for name in before if (before[name] != after[name]).any()}
    within = (
        "attn.c_attn.weight",
        "c_proj.weight",
        "c_fc.weight",
        *(f"{part}_proj.weight" for part in ["q", "k", "v", "o", "gate", "up", "down"]),
    )
    assert changed == {name for name in before if name.endswith(within)} and changed
    result = said(folder, "result")
    assert result["trained_parameters"] < result["parameters"] / 4
    assert result["last_loss"] < result["first_loss"]


def test_adapters_go_on_from_a_checkpoint(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = job_folder(tmp_path / "one", tiny_gpt2, **QUICK, method="lora")
    assert do(undisturbed) == 0
    folder = job_folder(tmp_path / "two", tiny_gpt2, **QUICK, method="lora")
    real = checkpoint.save

    def save_and_die(into: Path, step: int, state: dict[str, Any]) -> None:
        real(into, step, state)
        if step == 6:
            raise _Killed

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(_Killed):
        do(folder, Place(checkpoint_s=0))
    assert do(folder) == 0
    assert widest_difference(undisturbed.out, folder.out) == 0.0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_too(precision: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", tiny_gpt2, **QUICK, precision=precision)
    assert do(folder) == 0
    result = said(folder, "result")
    assert result["last_loss"] < result["first_loss"]
    assert {str(value.dtype) for value in tensors(folder.out).values()} == {"float32"}


def _broken(tmp_path: Path, model: Path, **parameters: Any) -> dict[str, Any]:
    """Do a job that must fail; returns what its owner is told."""
    folder = job_folder(tmp_path / "job", model, **{**QUICK, **parameters})
    assert do(folder) == FAILED
    assert not folder.is_done and not folder.out.exists()
    return said(folder, "failure")


def test_a_loss_that_is_no_number_ends_the_job_with_advice(tiny_gpt2: Path, tmp_path: Path) -> None:
    told = _broken(tmp_path, tiny_gpt2, learning_rate=1.0, gradient_clip=0.0, weight_decay=1e38)
    assert told["code"] == "loss_not_finite" and "learning rate" in told["sentence"]


def test_a_loss_that_overflows_at_the_last_step_is_not_exported(tiny_gpt2: Path, tmp_path: Path) -> None:
    told = _broken(tmp_path, tiny_gpt2, steps=1, learning_rate=1.0, schedule="constant", weight_decay=3.4e38 * 10)
    assert told["code"] == "loss_not_finite"


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (("short",), "dataset_too_small"),
        ((), "dataset_too_small"),
        (("",), "dataset_too_small"),
        (("\x00\x01\x02\x03" * 2000,), "dataset_not_text"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(texts: tuple[str, ...], code: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    assert _broken(tmp_path, tiny_gpt2, texts=texts)["code"] == code


def test_bytes_that_are_no_text_are_refused_without_a_byte_of_them(tiny_gpt2: Path, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", tiny_gpt2, **QUICK)
    (folder.path / "texts" / "001.txt").write_bytes(b"secret words" + bytes(range(128, 256)))
    assert do(folder) == FAILED
    told = said(folder, "failure")
    assert told["code"] == "dataset_not_text"
    assert "Text 2 of 2" in told["sentence"] and "byte 12" in told["sentence"] and "secret" not in told["sentence"]


def test_a_sequence_past_the_context_is_refused_with_both_lengths(tiny_gpt2: Path, tmp_path: Path) -> None:
    told = _broken(tmp_path, tiny_gpt2, sequence_length=65)
    assert told["code"] == "sequence_too_long" and "64" in told["sentence"] and "65" in told["sentence"]


def test_a_model_with_a_missing_tensor_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = job_folder(tmp_path / "job", tiny_gpt2, **QUICK)
    kept = load_file(weights := folder.weights / "model.safetensors")
    kept.pop("transformer.h.1.attn.c_attn.weight")
    weights.unlink()
    save_file(kept, weights, metadata={"format": "pt"})
    assert do(folder) == FAILED
    told = said(folder, "failure")
    assert told["code"] == "unsupported_model" and "1 of the model's tensors" in told["sentence"]


def test_a_tokenizer_that_knows_more_than_its_model_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    small = tmp_path / "small"
    small.mkdir()
    for path in tiny_gpt2.iterdir():
        (small / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1, n_positions=64)).save_pretrained(small)
    told = _broken(tmp_path, small)
    assert told["code"] == "unsupported_model" and "the model knows 20 tokens" in told["sentence"]


def test_code_beside_the_weights_is_not_run(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_gpt2.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "theirs.py").write_text("raise SystemExit('it ran')")
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    (model / "config.json").write_text(json.dumps(config))
    folder = job_folder(tmp_path / "job", model, **QUICK)
    assert do(folder) == 0 and "theirs.py" not in {path.name for path in folder.out.iterdir()}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_a_job_without_room_says_so(error: Exception, tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(train, "open_model", fail)
    assert _broken(tmp_path, tiny_gpt2)["code"] == "out_of_memory"


def test_an_error_of_a_library_is_told_without_its_words(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("/secret/place/model.safetensors holds [0.123, 0.456]")

    monkeypatch.setattr(train, "open_model", fail)
    told = _broken(tmp_path, tiny_gpt2)
    assert told["code"] == "internal" and "ValueError" in told["sentence"]
    log = capfd.readouterr().err
    assert "test_train.py:" in log
    for part in ("secret", "0.123", "Traceback", str(tmp_path)):
        assert part not in json.dumps(told) and part not in log


def test_what_the_owner_sees_holds_no_weight_no_path_and_no_traceback(tiny_gpt2: Path, tmp_path: Path) -> None:
    import struct

    folder = job_folder(tmp_path / "job", tiny_gpt2, **QUICK)
    assert do(folder) == 0
    answers = b"".join((folder.path / name).read_bytes() for name in ("progress.json", "result.json"))
    assert b"/" not in answers and b"Traceback" not in answers and len(answers) < 1024
    shown = {f"{value:.4f}" for value in said(folder, "result").values() if isinstance(value, float)}
    for one in (folder.weights, folder.out):
        for value in tensors(one).values():
            for number in value.ravel()[:50].tolist():
                assert struct.pack("<f", number) not in answers
                if len(repr(number)) > 8:  # a weight that is 0.0 stands in many a number
                    assert repr(number).encode() not in answers
    assert all(len(number.split(".")[1]) <= 4 for number in shown)
