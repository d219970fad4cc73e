"""Tokens a second of our engine and of those it is compared with, on the same model and machine, side by side.

    python -m bench.generation [--rounds 3] [--precision fp32 int8] [--without-served] [--alike] [--tiny] [--dry]

A GPT-2 of 124 M parameters with random weights, prompts of 32 tokens, 64 new ones, greedy. Each engine is a process of its own; in
each round every engine computes every batch once, one engine after the other, so that what else the machine does meets all alike.
The memory's speed is measured in the same rounds: a step must read every weight once, and no engine can be faster than that.
Then the float32 entry is published, and the same is asked of the engine, of Triton and of the gate in turns (`bench.served`).

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from bench import served
from bench.engines import ENGINES
from bench.generation_models import FULL, TINY, Shape, environment, prepare, prepare_ours, step_bytes
from bench.generation_report import charts, table
from bench.load import median
from bench.report import REPOSITORY, machine, write_report
from bench.stack import running_stack
from deploy.local.triton_server import LARGE_PAGES

PEERS = {"ctranslate2": "4.8.5", "onnxruntime-genai": "0.18.0"}
PROMPT, BATCHES = 32, (1, 4, 8, 16)
WARM_TOKENS = 4
OURS = "posthuman"
COMPARED = (OURS, "transformers", "optimum", "ctranslate2", "onnxruntime-genai")
SERVED = "fp32"
"""The precision that is published; the cost of what lies around the engine is in milliseconds, whatever computes inside."""


@dataclass
class Engine:
    """One process. said: the file that it writes its errors to. rates: tokens a second by batch, a number a round."""

    name: str
    process: subprocess.Popen[str]
    said: Path
    version: str = ""
    error: str = ""
    rates: dict[int, list[float]] = field(default_factory=dict)

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        return self.heard()

    def seconds(self, prompts: list[list[int]], tokens: int) -> float:
        """Raises RuntimeError, with what the process said, when it does not make these tokens."""
        found = self.ask({"prompts": prompts, "tokens": tokens})
        counts = [] if found is None else [len(row) for row in found["tokens"]]
        if found is None or counts != [tokens] * len(prompts):
            self.error = self.error or f"expected {tokens} tokens for each of {len(prompts)} prompts, found {counts}"
            raise RuntimeError(f"{self.name}: {self.error}")
        return float(found["seconds"])

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
        if (peers / f"{name.replace('-', '_')}-{wanted}.dist-info").is_dir():
            continue
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(peers)]
        done = subprocess.run([*command, f"{name}=={wanted}"], capture_output=True, text=True, check=False)
        if done.returncode:
            errors[name] = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    return errors


@contextmanager
def started(names: Sequence[str], folder: Path, peers: Path, are_all_alike: bool = False) -> Iterator[list[Engine]]:
    """Processes that are ready, or have an error; none is left afterwards.

    Ours asks for large pages, as the server that we start does. are_all_alike: so do all others.
    """
    engines: list[Engine] = []
    try:
        for name in names:
            said = folder / f"{name}.said"
            with said.open("w", encoding="utf-8") as errors:  # a file: a pipe that nobody reads would be full one day
                process = subprocess.Popen(
                    [sys.executable, "-m", "bench.engines", name, str(folder)],
                    cwd=REPOSITORY,
                    env=environment(peers) | (LARGE_PAGES if are_all_alike or name.startswith(OURS) else {}),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            engines.append(Engine(name, process, said))
        for engine in engines:
            ready = engine.heard()
            engine.version = ready["ready"] if ready else ""
        yield engines
    finally:
        for engine in engines:
            engine.end()


def measure(
    work: Path, precision: str, shape: Shape, rounds: int, peers: Path, failed: dict[str, str], are_all_alike: bool
) -> dict[str, Any]:
    """One precision: every engine's rates, and the bound."""
    folder = work / precision
    failed = {**failed, **prepare(work, precision, peers, shape)}
    wanted = [name for name in COMPARED if precision in ENGINES[name].precisions and name not in failed]
    chances = numpy.random.default_rng(0)
    speeds: dict[str, list[float]] = {}
    with started([*wanted, "bandwidth"], folder, peers, are_all_alike) as (*engines, memory):
        for number in range(rounds + 1):
            for batch in BATCHES:
                prompts = shape.prompts(chances, batch, PROMPT)
                for engine in (one for one in engines if not one.error):
                    with suppress(RuntimeError):  # its error is in the report
                        seconds = engine.seconds(prompts, shape.tokens if number else WARM_TOKENS)
                        if number:
                            engine.rates.setdefault(batch, []).append(batch * shape.tokens / seconds)
                read = memory.ask({"prompts": [], "tokens": 0})
                if read is None:
                    raise RuntimeError(f"memory's speed: {memory.error}")
                for way, speed in read["tokens"].items():
                    speeds.setdefault(way, []).append(speed)
            print(f"{precision}: round {number} of {rounds}", file=sys.stderr, flush=True)
    weights = step_bytes(folder / "entry")
    way, speed = max(((way, max(found)) for way, found in speeds.items()), key=lambda one: one[1])
    cached = shape.cached_bytes(PROMPT + shape.tokens / 2)
    return {
        "precision": precision,
        "memory_bytes_per_second": speed,
        "memory_read_by": way,
        "memory_bytes_per_second_by_way": {way: {"median": median(found), "most": max(found)} for way, found in speeds.items()},
        "weights_bytes": weights,
        "bound": {str(batch): batch * speed / (weights + batch * cached) for batch in BATCHES},
        "engines": {
            engine.name: {
                "version": engine.version,
                "computes": ENGINES[engine.name].precisions[precision],
                "tokens_per_second": {str(batch): rates for batch, rates in engine.rates.items()},
            }
            for engine in engines
            if not engine.error
        },
        "failed": failed | {engine.name: engine.error for engine in engines if engine.error},
    }


def measure_served(work: Path, shape: Shape, rounds: int, peers: Path) -> dict[str, Any]:
    """The way from the engine to a buyer, on a market of its own."""
    folder = prepare_ours(work, SERVED, shape)
    with running_stack() as stack, started([OURS], folder, peers) as (engine,):
        model = stack.publish(work / "model", "bench generation", "--precision", SERVED)
        if engine.error:
            raise RuntimeError(f"{engine.name}: {engine.error}")
        print("published; engine, Triton and gate in turns", file=sys.stderr, flush=True)
        ways = served.doors(stack, model)
        return {"precision": SERVED} | served.compare(engine.seconds, ways, shape, rounds=rounds, prompt=PROMPT)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="*", choices=("fp32", "int8"), default=["fp32", "int8"])
    parser.add_argument("--without-served", action="store_true", help="engines alone, no Triton and no gate")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model and short answers: a try of the whole way, writes nothing"
    )
    parser.add_argument("--alike", action="store_true", help="large pages for the peers' processes too, not for ours alone")
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    chosen = parser.parse_args()
    shape = TINY if chosen.tiny else FULL
    peers = REPOSITORY / ".posthuman" / "cache" / "bench-peers"
    peers.mkdir(parents=True, exist_ok=True)
    errors = install(peers)
    load = os.getloadavg()[0]
    work = Path(tempfile.mkdtemp(prefix="posthuman-bench-"))
    try:
        runs = [measure(work, precision, shape, chosen.rounds, peers, errors, chosen.alike) for precision in chosen.precision]
        around = None if chosen.without_served else measure_served(work, shape, chosen.rounds, peers)
    finally:
        shutil.rmtree(work)
    report = {
        "machine": machine(),
        "load": load,
        "rounds": chosen.rounds,
        "large_pages": "all" if chosen.alike else "ours",
        "prompt": PROMPT,
        "tokens": shape.tokens,
        "runs": runs,
        "served": around,
    }
    print(table(report))
    if not (chosen.dry or chosen.tiny):
        write_report("generation", report, table(report), charts=charts(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
