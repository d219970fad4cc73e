"""`python -m bench.convert_gptj`: GPT-J's architecture with random fp16 weights, converted; memory and time measured.

In: a size and a folder with room for three times the weights. Out: `docs/benchmarks/convert_gptj.json` and a line in
`docs/benchmarks.md`. This module must never be imported by the project, or hold more than one tensor.

What is measured is the child process that converts, as `posthuman publish` starts it: it starts no process of its own. Memory is
sampled every 50 ms: anonymous (what it wrote to), and resident with mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy

from bench.report import FIGURES, REPOSITORY, write_report
from converters.child import child_environment, conversion_command

RESULTS = FIGURES / "convert_gptj.json"
CORPUS = REPOSITORY / "deploy" / "demo" / "corpus.txt"

SIZES = {
    "125m": {"n_embd": 768, "n_layer": 6, "n_head": 12},
    "350m": {"n_embd": 1024, "n_layer": 20, "n_head": 16},
    "1.3b": {"n_embd": 2048, "n_layer": 22, "n_head": 16},
    "2.7b": {"n_embd": 2560, "n_layer": 32, "n_head": 20},
    "6b": {"n_embd": 4096, "n_layer": 28, "n_head": 16},
}
"""6b is GPT-J 6B itself; the others have its width and depth cut."""
_SHARD_BYTES = 2 << 30
_EVERY_S = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.convert_gptj", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="6b")
    parser.add_argument("--work", type=Path, help="a folder with room for three times the weights (default: a temporary one)")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16")
    parser.add_argument("--memory-mb", type=int, help="give the conversion no more than this, to see what a small machine does")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="convert_gptj-", dir=given.work))
    try:
        record = measure(work, given.size, given.precision, given.memory_mb)
    finally:
        shutil.rmtree(work)
    print(json.dumps(record, indent=1))
    if record["result"] == "converted":
        keep(record)
    return 0 if record["result"] == "converted" else 1


def measure(work: Path, size: str, precision: str, memory_mb: int | None) -> dict[str, Any]:
    say(f"writing {size} of random weights")
    model = work / "gptj"
    parameters = write_model(model, SIZES[size])
    files = sorted(model.glob("*.safetensors"))
    weights_bytes = sum(path.stat().st_size for path in files)
    say(f"copying {weights_bytes / 1e9:.2f} GB")
    copied_s = copy(files, work / "copy")
    shutil.rmtree(work / "copy")
    command = conversion_command(str(model), work / "out", task="text-generation", name="gptj")
    options = [f"--precision={precision}", *([] if memory_mb is None else [f"--memory-mb={memory_mb}"])]
    command = [*command[:-2], *options, *command[-2:]]
    say("converting")
    (work / "home").mkdir()
    began = time.monotonic()
    with subprocess.Popen(
        command, env=child_environment(os.environ, work / "home"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        peaks: dict[str, int] = {}
        watcher = threading.Thread(target=watch, args=(child, peaks))
        watcher.start()
        out, err = child.communicate()
        watcher.join()
    seconds = time.monotonic() - began
    lines = [json.loads(line) for line in out.splitlines()]
    last = lines[-1] if lines else {}
    entry = last.get("entry", {})
    made = sum(path.stat().st_size for path in Path(last["folder"]).rglob("*")) if "folder" in last else 0
    return {
        "result": "converted" if child.returncode == 0 else "not converted",
        "reason": last.get("message") or err.strip()[-400:],
        "measured": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load_before": os.getloadavg()[0],
        },
        "size": size,
        "architecture": SIZES[size],
        "precision": precision,
        "memory_mb": memory_mb,
        "parameters": parameters,
        "weights_bytes": weights_bytes,
        "entry_bytes": made,
        "copy_s": round(copied_s, 1),
        "convert_s": round(seconds, 1),
        "stages": last.get("stages", {line["stage"]: line["seconds"] for line in lines if "stage" in line}),
        "peak_anonymous_bytes": peaks.get("RssAnon", 0),
        "peak_resident_bytes": peaks.get("VmRSS", 0),
        "route": entry.get("export", {}).get("route"),
        "parity": entry.get("parity", []),
    }


def write_model(folder: Path, shape: dict[str, int]) -> int:
    """A Hugging Face folder in fp16, written tensor by tensor; returns how many values its weights have."""
    from accelerate import init_empty_weights
    from transformers import GPTJConfig, GPTJForCausalLM

    folder.mkdir(parents=True)
    config = GPTJConfig(**shape, rotary_dim=min(64, shape["n_embd"] // shape["n_head"]), architectures=["GPTJForCausalLM"])
    config.torch_dtype = "float16"
    config.save_pretrained(folder)
    with init_empty_weights():
        shapes = {name: tuple(weight.shape) for name, weight in GPTJForCausalLM(config).named_parameters()}
    shards = list(in_shards(shapes))
    weight_map: dict[str, str] = {}
    chances = numpy.random.default_rng(0)
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / file, {name: shapes[name] for name in names}, chances)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom weights, for benchmarks.\n", encoding="utf-8")
    write_tokenizer(folder)
    return sum(math.prod(shape) for shape in shapes.values())


def in_shards(shapes: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, shape in shapes.items():
        if names and held + 2 * math.prod(shape) > _SHARD_BYTES:
            yield names
            names, held = [], 0
        names.append(name)
        held += 2 * math.prod(shape)
    yield names


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]], chances: numpy.random.Generator) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            middle = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            for rows in range(0, shape[0], 4096):
                part = (min(4096, shape[0] - rows), *shape[1:])
                values = chances.standard_normal(part, dtype=numpy.float32) * 0.02 + middle
                stream.write(values.astype(numpy.float16).tobytes())


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train([str(CORPUS)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, "eos_token": "<end>", "bos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")


def copy(files: list[Path], into: Path) -> float:
    """Seconds to copy the files and have them on the disk."""
    into.mkdir()
    began = time.monotonic()
    for path in files:
        with path.open("rb") as reader, (into / path.name).open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
    return time.monotonic() - began


def watch(child: subprocess.Popen[str], peaks: dict[str, int]) -> None:
    """Keep the highest VmRSS and RssAnon of the child, in bytes, until it ends."""
    status = Path(f"/proc/{child.pid}/status")
    while child.poll() is None:
        try:
            told = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        except (FileNotFoundError, ProcessLookupError):
            return
        for name in ("VmRSS", "RssAnon"):
            if name in told:
                peaks[name] = max(peaks.get(name, 0), int(told[name].split()[0]) * 1024)
        time.sleep(_EVERY_S)


def keep(record: dict[str, Any]) -> None:
    """Put the record beside those of other sizes, and write the page's table from all of them."""
    records = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    records[f"{record['size']} {record['precision']}"] = record
    titles = ("model", "parameters", "weights, GB", "way", "peak GB: written to", "with mapped files", "seconds", "times a copy")
    lines = [f"| {' | '.join((*titles, 'export alone'))} |", "|---" * (len(titles) + 1) + "|"]
    for one in sorted(records.values(), key=lambda one: one["parameters"]):
        peaks = (one[f"peak_{kind}_bytes"] / 1e9 for kind in ("anonymous", "resident"))
        export_s = one["stages"].get("export", 0.0)
        cells = (
            f"GPT-J {one['size']}, {one['precision']}",
            f"{one['parameters'] / 1e9:.2f}e9",
            f"{one['weights_bytes'] / 1e9:.2f}",
            one["route"],
            *(f"{peak:.2f}" for peak in peaks),
            f"{one['convert_s']:.0f}",
            f"{one['convert_s'] / one['copy_s']:.0f}",
            f"{export_s:.0f} s, {export_s / one['copy_s']:.1f} times a copy",
        )
        lines.append(f"| {' | '.join(cells)} |")
    write_report("convert_gptj", dict(sorted(records.items())), "\n".join(lines))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
