"""What the gate costs: the same calls straight to Triton and through the control plane, side by side in one run.

In: nothing but the checkout. Out: `docs/benchmarks/gate.json` and the table in `docs/benchmarks.md`. Run: `make bench`.
It starts a stack of its own in a temporary state folder, publishes two encoders with random weights (one that answers at
once, one that takes several milliseconds), buys them, and alternates blocks of calls so that a noisy neighbour hurts both
sides alike.
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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tritonclient.http as triton_http

from bench.encoders import encoder_folder
from bench.load import Crowd, Target, median, one_after_another, percentile, side_by_side
from bench.report import REPOSITORY, machine, write_report
from control_plane.settings import read_settings
from converters.entry import ModelDigest, triton_name
from deploy.buyer import BuyerFiles
from deploy.local.chain import local_accounts
from deploy.market import Market
from deploy.trading import session_for

TEXT = "The market stands by the harbour, and every stall keeps its own book of what was sold."
SHAPES = {"small": {"layers": 1, "width": 32, "heads": 2}, "MiniLM's shape": {"layers": 6, "width": 384, "heads": 12}}


def posthuman(home: Path, *arguments: str) -> dict[str, Any]:
    """Run the command as a person would; its answer as JSON."""
    environment = {**os.environ, "POSTHUMAN_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments, "--json"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"posthuman {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def request() -> tuple[bytes, int]:
    """One text as a binary tensor, as the stock client sends it: body and the length of its JSON header."""
    text = triton_http.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([TEXT.encode()], dtype=np.object_))
    embedding = triton_http.InferRequestedOutput("embedding", binary_data=True)
    return triton_http.InferenceServerClient.generate_request_body([text], outputs=[embedding])


def targets(home: Path, folder: Path, name: str) -> tuple[Target, Target]:
    """Publish and buy one model; where to call it straight, and through the gate."""
    published = posthuman(home, "publish", str(folder), "--as", "alice", "--price", "1", "--name", name)
    did = published["did"]
    posthuman(home, "buy", did, "--as", "bob")
    settings = read_settings({**os.environ, "POSTHUMAN_HOME": str(home)})
    bob = local_accounts()["bob"]
    session = session_for(Market(settings.public_url), bob, BuyerFiles(home, bob.address), did, settings.chain_id)
    body, header_length = request()
    headers = {"Inference-Header-Content-Length": str(header_length), "Content-Type": "application/octet-stream"}
    entry = triton_name(ModelDigest(published["model_digest"]))
    straight = Target(
        "Triton", f"{settings.triton_url}/v2/models/{entry}/infer", {**headers, "triton-key": settings.triton_key}, body
    )
    gated = Target(
        "gate", f"{settings.public_url}/v2/models/{did}/infer", {**headers, "Authorization": f"Bearer {session.token}"}, body
    )
    return straight, gated


def compare(straight: Target, gated: Target, *, blocks: int, calls: int, rounds: int, duration_s: float) -> dict[str, Any]:
    """Milliseconds and ratios of one model; blocks and rounds alternate between the two sides."""
    for target in (straight, gated):
        one_after_another(target, 50)
    alone: dict[str, list[float]] = {"Triton": [], "gate": []}
    added: list[float] = []
    for _ in range(blocks):
        pair = {target.name: one_after_another(target, calls) for target in (straight, gated)}
        for name, seconds in pair.items():
            alone[name] += seconds
        added.append(median(pair["gate"]) - median(pair["Triton"]))
    crowds: dict[str, list[Crowd]] = {"Triton": [], "gate": []}
    for _ in range(rounds):
        for target in (straight, gated):
            crowds[target.name].append(side_by_side(target, 16, duration_s))
    ratios = [gate.calls_per_s / triton.calls_per_s for gate, triton in zip(crowds["gate"], crowds["Triton"], strict=True)]
    result: dict[str, Any] = {}
    for name in ("Triton", "gate"):
        crowd = [seconds for one in crowds[name] for seconds in one.seconds]
        result[name] = {
            "one client": {"p50_ms": 1e3 * median(alone[name]), "p99_ms": 1e3 * percentile(alone[name], 0.99)},
            "16 clients": {
                "p50_ms": 1e3 * median(crowd),
                "p99_ms": 1e3 * percentile(crowd, 0.99),
                "calls_per_s": median([one.calls_per_s for one in crowds[name]]),
            },
        }
    result["added_p50_ms"] = {"median": 1e3 * median(added), "least": 1e3 * min(added), "most": 1e3 * max(added)}
    result["added_p99_ms"] = result["gate"]["one client"]["p99_ms"] - result["Triton"]["one client"]["p99_ms"]
    result["throughput_ratio"] = {"median": median(ratios), "least": min(ratios), "most": max(ratios)}
    return result


def table(report: dict[str, Any]) -> str:
    lines = [
        f"Measured {report['when']} on {report['machine']}; {report['settings']}.",
        "",
        "| model | Triton p50 / p99 ms | gate p50 / p99 ms | added p50 ms (least to most) | added p99 ms | calls/s, 16 clients: "
        "Triton / gate | ratio (least to most) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in report["models"].items():
        triton, gate, added, ratio = found["Triton"], found["gate"], found["added_p50_ms"], found["throughput_ratio"]
        lines.append(
            f"| {name} | {triton['one client']['p50_ms']:.2f} / {triton['one client']['p99_ms']:.2f} "
            f"| {gate['one client']['p50_ms']:.2f} / {gate['one client']['p99_ms']:.2f} "
            f"| {added['median']:.2f} ({added['least']:.2f} to {added['most']:.2f}) | {found['added_p99_ms']:.2f} "
            f"| {triton['16 clients']['calls_per_s']:.0f} / {gate['16 clients']['calls_per_s']:.0f} "
            f"| {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f}) |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blocks", type=int, default=20, help="blocks of calls by one client, each side")
    parser.add_argument("--calls", type=int, default=100, help="calls a block")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of 16 clients, each side")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of such a round")
    parser.add_argument("--dry", action="store_true", help="print the table, write no file")
    chosen = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="posthuman-bench-"))
    try:
        posthuman(home, "up")
        found: dict[str, Any] = {}
        for name, shape in SHAPES.items():
            print(f"{name}: publishing and buying", flush=True)
            folder = encoder_folder(home / "sources" / name.replace(" ", "-").replace("'", ""), **shape)
            straight, gated = targets(home, folder, f"bench {name}")
            print(f"{name}: measuring", flush=True)
            found[name] = compare(
                straight, gated, blocks=chosen.blocks, calls=chosen.calls, rounds=chosen.rounds, duration_s=chosen.seconds
            )
        report = {
            "when": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": f"{machine()}, clients on the same",
            "settings": f"{chosen.blocks} alternating blocks of {chosen.calls} calls by one client, {chosen.rounds} alternating "
            f"rounds of {chosen.seconds:g} s by 16 clients, one text of {len(TEXT)} letters, binary tensors",
            "models": found,
        }
        print(table(report))
        if not chosen.dry:
            write_report("gate", report, table(report))
    finally:
        posthuman(home, "down")
        shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
