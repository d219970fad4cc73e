"""How long it takes from `posthuman publish` to the first answered call, stage by stage.

In: nothing but the checkout. Out: `docs/benchmarks/publish.json` and a table in `docs/benchmarks.md`.
Run: `python -m bench.publish`.
It starts a stack of its own in a temporary state folder. Each round publishes another model of the same shape, so that nothing is
found finished, buys it, and calls it; the clock starts with the first command and stops with the answer.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.decoders import decoder_folder
from bench.load import median
from bench.plot import Bar, Chart, Group, Mark
from bench.report import REPOSITORY, machine, write_report
from bench.stack import posthuman

SHAPES = {"GPT-2, 4 MB": {"layers": 2, "width": 64, "heads": 2}, "GPT-2, 81 MB": {"layers": 8, "width": 384, "heads": 6}}
BUDGET_S = 30.0
_STAGE = re.compile(r"^\s*(.+?):?\s+([0-9.]+) s\s*$")


def publish(home: Path, folder: Path, name: str) -> dict[str, float]:
    """Seconds of each stage that `posthuman publish` shows, in order; a stage that it shows twice is added up."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "publish", str(folder), "--as", "alice", "--free", "--name", name],
        cwd=REPOSITORY, env={**os.environ, "POSTHUMAN_HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"posthuman publish: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    stages: dict[str, float] = {}
    for line in done.stderr.splitlines():
        shown = _STAGE.match(line)
        if shown and "..." not in line:  # a reminder that a stage still runs
            stages[shown[1].strip()] = stages.get(shown[1].strip(), 0.0) + float(shown[2])
    return stages


def one_round(home: Path, folder: Path, name: str) -> dict[str, Any]:
    began = time.monotonic()
    stages = publish(home, folder, name)
    published = time.monotonic()
    did = next(model["id"] for model in posthuman(home, "models")["models"] if model["name"] == name)
    bought_from = time.monotonic()
    posthuman(home, "buy", did, "--as", "bob")
    bought = time.monotonic()
    posthuman(home, "call", did, "The market stands by the harbour", "--as", "bob", "--max-tokens", "4", "--temperature", "0")
    ended = time.monotonic()
    # Finding out the DID is this script's business, not the publisher's.
    return {
        "publish_s": published - began,
        "buy_s": bought - bought_from,
        "call_s": ended - bought,
        "all_s": ended - began - (bought_from - published),
        "stages": stages,
    }


def table(report: dict[str, Any]) -> str:
    lines = [
        f"Measured {report['when']} on {report['machine']}; {report['rounds']} rounds, medians (least to most). Load of the"
        f" machine before and after: {report['load'][0]:.1f}, {report['load'][1]:.1f}.",
        "",
        "| model | publish s | buy s | first call s | all s (least to most) | of the budget |",
        "|---|---|---|---|---|---|",
    ]
    for name, rounds in report["models"].items():
        middle = {key: median([one[key] for one in rounds]) for key in ("publish_s", "buy_s", "call_s", "all_s")}
        every = [one["all_s"] for one in rounds]
        lines.append(
            f"| {name} | {middle['publish_s']:.1f} | {middle['buy_s']:.1f} | {middle['call_s']:.1f} "
            f"| {middle['all_s']:.1f} ({min(every):.1f} to {max(every):.1f}) | {middle['all_s'] / BUDGET_S:.2f} |"
        )
    last = list(report["models"].values())[-1][-1]["stages"]
    lines += ["", "Stages of the last publication, seconds: " + ", ".join(f"{stage} {s:.1f}" for stage, s in last.items()) + "."]
    return "\n".join(lines)


def charts(report: dict[str, Any]) -> list[Chart]:
    groups = [
        Group(
            name,
            [
                Bar("publish", [one["publish_s"] for one in rounds]),
                Bar("buy", [one["buy_s"] for one in rounds]),
                Bar("first call", [one["call_s"] for one in rounds]),
                Bar("all", [one["all_s"] for one in rounds], ours=True),
            ],
            [Mark(f"budget: {BUDGET_S:g} s", BUDGET_S)],
        )
        for name, rounds in report["models"].items()
    ]
    axis = "seconds, less is better; whiskers: least and most of the rounds"
    return [Chart("publish", "From the command to the first answer", axis, groups)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print the table, write no file")
    chosen = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="posthuman-bench-"))
    load = [os.getloadavg()[0]]
    try:
        posthuman(home, "up")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in SHAPES}
        for number in range(chosen.rounds):
            for name, shape in SHAPES.items():
                folder = decoder_folder(home / "sources" / f"{shape['width']}-{number}", seed=number, **shape)
                found[name].append(one_round(home, folder, f"bench {shape['width']} {number}"))
                print(f"{name}: {found[name][-1]['all_s']:.1f} s", flush=True)
        report = {
            "when": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": machine(),
            "rounds": chosen.rounds,
            "load": [*load, os.getloadavg()[0]],
            "models": found,
        }
        print(table(report))
        if not chosen.dry:
            write_report("publish", report, table(report), charts=charts(report))
    finally:
        posthuman(home, "down")
        shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
