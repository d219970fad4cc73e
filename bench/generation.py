"""Tokens a second of our engine and of those it is compared with, on the same model and machine, side by side.

    python -m bench.generation [--rounds 5] [--precision fp32 int8] [--dry]

A GPT-2 of 124 M parameters with random weights, prompts of 32 tokens, 64 new ones, greedy. Each engine is a process of its own; in
each round every engine computes every batch once, one engine after the other, so that what else the machine does meets all alike.
The memory's speed is measured in the same rounds: a step must read every weight once, and no engine can be faster than that.

A peer that does not install or does not run is in the report with its error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from bench.load import median
from bench.report import REPOSITORY, machine, write_report

PEERS = {"ctranslate2": "4.8.5", "onnxruntime-genai": "0.18.0"}
PROMPT, TOKENS, BATCHES = 32, 64, (1, 4, 8, 16)
SHAPE = {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50_257}
OF_PRECISION = {
    "fp32": ("posthuman", "transformers", "optimum", "ctranslate2", "onnxruntime-genai"),
    "int8": ("posthuman", "optimum", "ctranslate2", "onnxruntime-genai"),
}
"""transformers has no int8 weights for a CPU without further libraries."""
GIB = 1 << 30


@dataclass
class Engine:
    """One process. said: the file that it writes its errors to. rates: tokens a second by batch, a number a round."""

    name: str
    process: subprocess.Popen[str]
    said: Path
    version: str = ""
    error: str = ""
    rates: dict[int, list[float]] = field(default_factory=dict)

    def ask(self, order: dict[str, Any]) -> dict[str, Any] | None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.heard()

    def heard(self) -> dict[str, Any] | None:
        """The next answer; None when the process has ended, and then `error` says what it wrote last."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return dict(json.loads(line))
        said = self.said.read_text(encoding="utf-8", errors="replace").strip()
        self.error = (said.splitlines() or ["ended without a word"])[-1][:300]
        return None

    def end(self) -> None:
        with suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def install(peers: Path) -> dict[str, str]:
    """Fetch the peers that are not ours into a folder of their own; the error of each that does not install."""
    errors = {}
    for name, wanted in PEERS.items():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--upgrade",
            "--target",
            str(peers),
            f"{name}=={wanted}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors[name] = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    return errors


def prepare(work: Path, precision: str, peers: Path) -> dict[str, str]:
    """The model in each engine's form; the error of each that takes it in none."""
    from bench.decoders import decoder_folder

    model = work / "model"
    if not model.exists():
        decoder_folder(model, **SHAPE)
    folder = work / precision
    folder.mkdir()
    (folder / "model").symlink_to(model)
    for name, kind in (("entry", "shared"), ("grown", "grown")):
        out = folder / f"{name}.out"
        command = [sys.executable, "-m", "converters", str(model), "--out", str(out), "--precision", precision, "--kv-cache", kind]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        (entry,) = (path for path in out.iterdir() if (path / "entry.json").exists())
        entry.rename(folder / name)
    for graph in (folder / "grown" / "1").glob("model.onnx*"):
        (folder / "grown" / graph.name).symlink_to(graph)
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(model / name, folder / "grown" / name)
    errors: dict[str, str] = {}
    with noting(errors, "ctranslate2"):
        code = (
            "import sys; from ctranslate2.converters import TransformersConverter as Converter;"
            " Converter(sys.argv[1]).convert(sys.argv[2], quantization=sys.argv[3] or None)"
        )
        quantization = "int8" if precision == "int8" else ""
        command = [sys.executable, "-c", code, str(named(model, folder / "named")), str(folder / "ct2"), quantization]
        subprocess.run(command, check=True, capture_output=True, text=True, env=_environment(peers))
    write_genai(folder)
    return errors


def named(model: Path, out: Path) -> Path:
    """The model with a name for every row of its embedding and for every role of a token, without which CTranslate2 takes none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.bos_token = tokenizer.unk_token = tokenizer.eos_token
    tokenizer.add_tokens([f"<extra {number}>" for number in range(len(tokenizer), SHAPE["vocabulary"])])
    tokenizer.save_pretrained(out)
    for file in model.iterdir():
        if not (out / file.name).exists():
            (out / file.name).symlink_to(file)
    return out


@contextmanager
def noting(errors: dict[str, str], name: str) -> Iterator[None]:
    """Keep the last line that a command said before it failed, by name."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        errors[name] = (str(error.stderr).strip().splitlines() or [str(error)])[-1][:300]


def write_genai(folder: Path) -> None:
    """onnxruntime-genai runs any decoder's export from a description of its tensors."""
    into = folder / "genai"
    into.mkdir()
    for graph in (folder / "grown" / "1").glob("model.onnx*"):
        (into / graph.name).symlink_to(graph)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / "model" / name, into / name)
    described = {
        "model": {
            "type": "decoder",
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "vocab_size": SHAPE["vocabulary"],
            "context_length": 256,
            "decoder": {
                "session_options": {"intra_op_num_threads": 2},
                "filename": "model.onnx",
                "head_size": SHAPE["width"] // SHAPE["heads"],
                "hidden_size": SHAPE["width"],
                "num_attention_heads": SHAPE["heads"],
                "num_key_value_heads": SHAPE["heads"],
                "num_hidden_layers": SHAPE["layers"],
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
            },
        },
        "search": {"do_sample": False, "num_beams": 1, "max_length": 256, "past_present_share_buffer": False},
    }
    (into / "genai_config.json").write_text(json.dumps(described), encoding="utf-8")


def step_bytes(entry: Path) -> int:
    """Bytes of weights that one step reads: all but those of which it takes single rows."""
    import onnx

    graph = onnx.load(str(entry / "1" / "model.onnx"), load_external_data=False).graph
    gathered = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    read = {name for node in graph.node if node.op_type != "Gather" for name in node.input}
    sizes = {}
    for tensor in graph.initializer:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        sizes[tensor.name] = width * int(numpy.prod(tensor.dims)) if tensor.dims else width
    return sum(size for name, size in sizes.items() if name in read or name not in gathered)


def _environment(peers: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(peers), "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}


def started(name: str, folder: Path, peers: Path) -> Engine:
    said = folder / f"{name}.said"
    with said.open("w", encoding="utf-8") as errors:  # a file: a pipe that nobody reads would be full one day
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.engines", name, str(folder)],
            cwd=REPOSITORY,
            env=_environment(peers),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    return Engine(name, process, said)


def measure(work: Path, precision: str, rounds: int, peers: Path, errors: dict[str, str]) -> dict[str, Any]:
    folder = work / precision
    failed = {**errors, **prepare(work, precision, peers)}
    engines = [started(name, folder, peers) for name in (*OF_PRECISION[precision], "bandwidth") if name not in failed]
    chances = numpy.random.default_rng(0)
    try:
        for engine in engines:
            ready = engine.heard()
            engine.version = ready["ready"] if ready else ""
        reads: list[float] = []
        for number in range(rounds + 1):
            for batch in BATCHES:
                prompts = chances.integers(3, 1000, (batch, PROMPT)).tolist()
                for engine in engines:
                    if engine.error:
                        continue
                    found = engine.ask({"prompts": prompts, "tokens": TOKENS})
                    if found is None or number == 0:  # the first round warms up
                        continue
                    if engine.name == "bandwidth":
                        reads.append(GIB / found["seconds"])
                        continue
                    counts = [len(row) for row in found["tokens"]]
                    if counts != [TOKENS] * batch:
                        engine.error = f"expected {TOKENS} tokens for each prompt, found {counts}"
                        continue
                    engine.rates.setdefault(batch, []).append(batch * TOKENS / found["seconds"])
            print(f"{precision}: round {number} of {rounds}", file=sys.stderr)
    finally:
        for engine in engines:
            engine.end()
    weights, speed = step_bytes(folder / "entry"), median(reads)
    cached = 2 * 4 * SHAPE["layers"] * SHAPE["width"] * (PROMPT + TOKENS / 2)
    return {
        "precision": precision,
        "memory_bytes_per_second": speed,
        "weights_bytes": weights,
        "bound": {str(batch): batch * speed / (weights + batch * cached) for batch in BATCHES},
        "engines": {
            engine.name: {"version": engine.version, "tokens_per_second": {str(b): rates for b, rates in engine.rates.items()}}
            for engine in engines
            if engine.name != "bandwidth" and not engine.error
        },
        "failed": failed | {engine.name: engine.error for engine in engines if engine.error},
    }


def table(report: dict[str, Any]) -> str:
    lines = [
        f"Measured on {report['machine']}, load {report['load']:.1f} before; {report['rounds']} rounds, medians (least to most)."
    ]
    for run in report["runs"]:
        speed = run["memory_bytes_per_second"] / 1e9
        lines += [
            "",
            f"**{run['precision']}**: {run['weights_bytes'] / 1e6:.0f} MB of weights a step, memory reads {speed:.1f} GB/s",
            "",
        ]
        titles = [f"{batch} at once" for batch in BATCHES]
        lines += [f"| engine | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
        ours = run["engines"].get("posthuman", {}).get("tokens_per_second", {})
        for name, engine in run["engines"].items():
            cells = []
            for batch in map(str, BATCHES):
                rates = engine["tokens_per_second"].get(batch, [])
                if not rates:
                    cells.append("-")
                    continue
                cell = f"{median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
                if name == "posthuman":
                    cell += f", {median(rates) / run['bound'][batch]:.2f} of the bound"
                elif batch in ours:
                    ahead = median([one / other for one, other in zip(ours[batch], rates, strict=False)])
                    cell += f"; ours {ahead:.2f} times"
                cells.append(cell)
            lines.append(f"| {name} {engine['version']} | {' | '.join(cells)} |")
        bounds = " | ".join(f"{run['bound'][str(batch)]:.0f}" for batch in BATCHES)
        lines.append(f"| bound: memory's speed | {bounds} |")
        lines += [f"\n{name}: not measured: {error}" for name, error in run["failed"].items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", nargs="+", choices=sorted(OF_PRECISION), default=["fp32", "int8"])
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    chosen = parser.parse_args()
    peers = REPOSITORY / ".posthuman" / "cache" / "bench-peers"
    peers.mkdir(parents=True, exist_ok=True)
    errors = install(peers)
    load = os.getloadavg()[0]
    work = Path(tempfile.mkdtemp(prefix="posthuman-bench-"))
    try:
        runs = [measure(work, precision, chosen.rounds, peers, errors) for precision in chosen.precision]
    finally:
        shutil.rmtree(work)
    report = {"machine": machine(), "load": load, "rounds": chosen.rounds, "prompt": PROMPT, "tokens": TOKENS, "runs": runs}
    print(table(report))
    if not chosen.dry:
        write_report("generation", report, table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
