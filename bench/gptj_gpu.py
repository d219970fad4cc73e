"""GPT-J 6B's architecture with random fp16 weights on one GPU, through Triton, beside `transformers` on the same GPU.

    python -m bench.gptj_gpu [--layers 28] [--rounds 5] [--work DIR] [--dry]
    python -m bench.gptj_gpu --tiny --on cpu           the whole way but the GPU, with a tiny model; writes nothing

Time to the first token and tokens a second at 1, 8 and 32 calls at once, streamed, and their part of what the GPU's memory allows,
which is measured in the same rounds: a step must read every weight once. Without a GPU it says "not run" and exits 0.
What a machine must have is in `docs/gpu.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from bench.convert_gptj import SIZES, write_model
from bench.generation_models import FIRST_NAMED, convert, name_tokens, step_bytes, text_of
from bench.load import median
from bench.report import REPOSITORY, machine, write_report
from bench.streams import Door, together, tokens_a_second
from control_plane.serving.triton import Triton
from control_plane.serving.triton_messages import generate_body
from converters.entry import model_digest, read_entry, triton_name
from converters.pbtxt import Hardware, config_pbtxt

BATCHES = (1, 8, 32)
GIB = 1 << 30
_LOAD_S = 900.0
"""Until Triton has loaded 12 GB of weights."""


@dataclass(frozen=True)
class Trial:
    """architecture: of `GPTJConfig`. prompt, tokens: of each call. block_bytes: what is copied and read for the memory's speed."""

    architecture: dict[str, int]
    prompt: int
    tokens: int
    block_bytes: int


def trial_of(layers: int | None, is_tiny: bool) -> Trial:
    """layers: fewer than GPT-J's for a short try; its other sizes stay."""
    if is_tiny:
        tiny = {"n_embd": 64, "n_layer": layers or 2, "n_head": 4, "vocab_size": 6_000, "n_positions": 128}
        return Trial(tiny, prompt=16, tokens=6, block_bytes=1 << 24)
    whole = {**SIZES["6b"], "vocab_size": 50_400, "n_positions": 2048}
    return Trial({**whole, "n_layer": layers or whole["n_layer"]}, prompt=128, tokens=128, block_bytes=2 * GIB)


def why_not(device: str) -> str:
    """What is missing for a run on this device; empty when nothing is."""
    import torch

    if device == "cpu":
        return ""
    if shutil.which("nvidia-smi") is None:
        return "no GPU: expected nvidia-smi on PATH"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no GPU: its CUDA build is needed"
    code = "import onnxruntime; print(*onnxruntime.get_available_providers())"
    python = REPOSITORY / ".venv-triton" / "bin" / "python"
    has = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return "" if "CUDAExecutionProvider" in has else f"Triton's environment needs onnxruntime-gpu; its ONNX Runtime has {has}"


@contextmanager
def triton(folder: Path, entry: Path, device: str) -> Iterator[Door]:
    """A Triton of our own that serves the entry and nothing else."""
    command = [sys.executable, "-m", "deploy.local.triton_alone", "--folder", str(folder)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"Triton did not start: see {folder / 'triton.log'}")
            told = json.loads(line)
            digest = model_digest(entry)
            name = triton_name(digest)
            target = Path(told["models"]) / name
            entry.rename(target)
            hardware = Hardware(("cpu",) if device == "cpu" else ("cuda", "cpu"))
            (target / "config.pbtxt").write_text(config_pbtxt(read_entry(target), name, digest, hardware), encoding="utf-8")
            client = Triton(told["url"], told["key"], timeout_s=_LOAD_S)
            client.load(name)
            client.close()
            headers = {"Content-Type": "application/json", "triton-key": told["key"]}
            yield Door("Triton", f"{told['url']}/v2/models/{name}/generate_stream", headers, _body)
        finally:
            process.terminate()


def _body(prompt: str, tokens: int) -> bytes:
    return generate_body({"text_input": prompt, "max_tokens": tokens, "temperature": 0.0}, is_streamed=True, caller="bench")


def transformers(model: Path, device: str) -> Callable[[list[list[int]], int], float]:
    """Seconds that `generate` takes in fp16 for so many tokens after each prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float16).to(device).eval()

    def generate(prompts: list[list[int]], tokens: int) -> float:
        ids = torch.tensor(prompts, device=device)
        began = time.perf_counter()
        with torch.inference_mode():
            made = loaded.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                pad_token_id=0,
            ).cpu()
        took = time.perf_counter() - began
        if made.shape != (len(prompts), len(prompts[0]) + tokens):
            raise RuntimeError(f"transformers: expected {tokens} tokens for each prompt, found {tuple(made.shape)}")
        return took

    return generate


def memory_speeds(device: str, size: int) -> dict[str, float]:
    """Bytes a second that the device's memory moves: read and written in a copy, read in a sum."""
    import torch

    values = torch.ones(size // 4, dtype=torch.float32, device=device)
    into = torch.empty_like(values)

    def timed(work: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(4):  # the first loads its kernel
            _wait(device)
            began = time.perf_counter()
            work()
            _wait(device)
            best = min(best, time.perf_counter() - began)
        return best

    return {"copy, read and written": 2 * size / timed(lambda: into.copy_(values)), "sum, read": size / timed(values.sum)}


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def measure(trial: Trial, work: Path, device: str, rounds: int) -> dict[str, Any]:
    model, entry = work / "model", work / "entry"
    parameters = write_model(model, trial.architecture)
    name_tokens(model, trial.architecture["vocab_size"])
    say("converting")
    convert(model, entry, "fp16", "shared")
    facts, weights = read_entry(entry), step_bytes(entry)
    say("loading")
    chances = numpy.random.default_rng(0)
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    first: dict[str, dict[str, list[float]]] = {"Triton": {}, "transformers": {}}
    speeds: dict[str, list[float]] = {}
    with triton(work / "triton", entry, device) as door:
        generate = transformers(model, device)
        for number in range(rounds + 1):
            for batch in BATCHES:
                prompts = chances.integers(FIRST_NAMED, trial.architecture["vocab_size"], (batch, trial.prompt)).tolist()
                made = together(door, [text_of(prompt) for prompt in prompts], trial.tokens)
                whole, begun = generate(prompts, trial.tokens), generate(prompts, 1)
                if not number:  # the first round warms up
                    continue
                ours.setdefault(str(batch), []).append(tokens_a_second(made))
                theirs.setdefault(str(batch), []).append(batch * trial.tokens / whole)
                first["Triton"].setdefault(str(batch), []).append(median([one.first - one.began for one in made]))
                first["transformers"].setdefault(str(batch), []).append(begun)
            for way, speed in memory_speeds(device, trial.block_bytes).items():
                speeds.setdefault(way, []).append(speed)
            say(f"round {number} of {rounds}")
    speed = max(max(found) for found in speeds.values())
    cached = 2 * 2 * trial.architecture["n_layer"] * trial.architecture["n_embd"] * (trial.prompt + trial.tokens / 2)
    return {
        "machine": f"{machine()}, {gpu_name(device)}",
        "architecture": trial.architecture,
        "parameters": parameters,
        "prompt": trial.prompt,
        "tokens": trial.tokens,
        "rounds": rounds,
        "kv_cache": facts.export.get("kv_cache"),
        "weights_bytes": weights,
        "memory_bytes_per_second": speed,
        "memory_bytes_per_second_by_way": speeds,
        "bound": {str(batch): batch * speed / (weights + batch * cached) for batch in BATCHES},
        "tokens_per_second": {"Triton": ours, "transformers": theirs},
        "first_token_s": first,
    }


def gpu_name(device: str) -> str:
    import torch

    return "no GPU" if device == "cpu" else torch.cuda.get_device_name(0)


def table(report: dict[str, Any]) -> str:
    rates, first = report["tokens_per_second"], report["first_token_s"]
    lines = [
        f"Measured on {report['machine']}; {report['parameters'] / 1e9:.2f}e9 parameters, prompts of {report['prompt']} tokens,"
        f" {report['tokens']} new ones, {report['rounds']} rounds, medians (least to most). Keys and values: {report['kv_cache']}."
        f" {report['weights_bytes'] / 1e9:.2f} GB of weights a step; memory moves"
        f" {report['memory_bytes_per_second'] / 1e9:.0f} GB/s.",
        "",
        "| at once | Triton, tokens/s | of the bound | transformers | ours / theirs | first token, ms: Triton | transformers |",
        "|---|---|---|---|---|---|---|",
    ]
    for batch in rates["Triton"]:
        ours, theirs = rates["Triton"][batch], rates["transformers"][batch]
        ahead = median([one / other for one, other in zip(ours, theirs, strict=True)])
        lines.append(
            f"| {batch} | {_spread(ours)} | {median(ours) / report['bound'][batch]:.2f} | {_spread(theirs)} | {ahead:.2f}"
            f" | {1e3 * median(first['Triton'][batch]):.0f} | {1e3 * median(first['transformers'][batch]):.0f} |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{median(list(values)):.0f} ({min(values):.0f} to {max(values):.0f})"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gptj_gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, help="fewer than GPT-J's 28, for a short try")
    parser.add_argument("--tiny", action="store_true", help="a tiny model; writes nothing")
    parser.add_argument("--on", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="a folder with room for six times the weights (default: a temporary one)")
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    given = parser.parse_args(arguments)
    if missing := why_not(given.on):
        print(f"not run: {missing}")
        return 0
    trial = trial_of(given.layers, given.tiny)
    work = Path(tempfile.mkdtemp(prefix="gptj_gpu-", dir=given.work))
    try:
        report = measure(trial, work, given.on, given.rounds)
    finally:
        shutil.rmtree(work)
    print(table(report))
    if not (given.dry or given.tiny or given.layers or given.on == "cpu"):
        write_report("gptj_gpu", report, table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
