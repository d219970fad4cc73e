"""How many steps a second a training job makes, beside transformers' own Trainer, how soon it makes the first, and how long
it takes from the last until what was trained is an asset that answers.

In: nothing but the checkout. Out: `docs/benchmarks/train.json`, `train-derived.json` and their tables in `docs/benchmarks.md`.
Run: `python -m bench.train`, or one part of it by `--part`.
Ours goes the whole way: an engine, Ray, a confined process, progress and checkpoints. The other is a script of a page. Same model,
texts, batch, length, schedule, optimizer, clipping and number of threads; the first step counts for neither.
Processor seconds a step are told as well: they change less with what else the machine does.
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

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import derived
from bench.decoders import decoder_folder
from bench.encoders import CORPUS
from bench.load import median
from bench.plot import Bar, Chart, Group, Mark
from bench.report import REPOSITORY, machine, write_report
from c2d_adapter.engine import Engine, Resources

SHAPES = {
    "GPT-2, 17 MB": {"layers": 4, "width": 256, "heads": 8, "vocabulary": 4096},
    "GPT-2, 81 MB": {"layers": 8, "width": 384, "heads": 6},
}
STEPS = {"GPT-2, 17 MB": 40, "GPT-2, 81 MB": 16}
PARAMETERS = {"batch_size": 8, "sequence_length": 128, "learning_rate": 5e-5, "seed": 0}
RATIO, FIRST_STEP_S = 0.9, 10.0
OURS, THEIRS = "posthuman", "Trainer"


def job_folder(path: Path, model: Path, steps: int) -> Path:
    (path / "texts").mkdir(parents=True)
    shutil.copyfile(CORPUS, path / "texts" / "0.txt")
    shutil.copytree(model, path / "weights", ignore=shutil.ignore_patterns("README.md"))
    (path / "job.json").write_text(json.dumps({"kind": "train", "parameters": {**PARAMETERS, "steps": steps}}))
    return path


def ours(engine: Engine, folder: Path, cpus: int) -> dict[str, float]:
    """steps_per_second, worked_s (processor seconds a step), first_step_s (from the order to the first step)."""
    seen: list[tuple[int, float, float]] = []
    ordered = time.monotonic()

    def look(told: Any) -> None:
        times = [rank.cpu_times() for cell in engine.processes() for rank in psutil.Process(cell).children()]
        if times:  # the last progress may be read when the process has ended
            seen.append((told["step"], time.monotonic() - ordered, sum(one.user + one.system for one in times)))

    outcome = engine.run(folder, "train", 1, Resources(cpus=cpus), 1800, look, lambda: False)
    if outcome.state != "finished":
        raise RuntimeError(f"our training: {outcome}")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    steps, worked = seen[-1][0] - seen[0][0], seen[-1][2] - seen[0][2]
    worked_s = worked / steps if steps else 0.0
    return {"steps_per_second": result["steps_per_second"], "worked_s": worked_s, "first_step_s": seen[0][1]}


def theirs(folder: Path, cpus: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.plain_trainer", str(folder), str(cpus)],
        cwd=REPOSITORY, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(cpus)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"transformers' Trainer: exit {done.returncode}\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(home: Path, rounds: int, cpus: int) -> dict[str, Any]:
    rates: dict[str, dict[str, list[float]]] = {name: {OURS: [], THEIRS: []} for name in SHAPES}
    worked: dict[str, dict[str, list[float]]] = {name: {OURS: [], THEIRS: []} for name in SHAPES}
    first: dict[str, list[float]] = {"cold": [], "warm": []}
    models = {name: decoder_folder(home / "models" / str(number), **shape) for number, (name, shape) in enumerate(SHAPES.items())}
    smallest = next(iter(SHAPES))
    for number in range(rounds):
        engine = Engine(home / f"engine-{number}", os.environ)
        try:
            cold = ours(engine, job_folder(home / f"cold-{number}", models[smallest], 2), cpus)
            first["cold"].append(cold["first_step_s"])
            for name, model in models.items():
                engine.warm(1, Resources(cpus=cpus))
                mine = ours(engine, job_folder(home / f"ours-{number}" / model.name, model, STEPS[name]), cpus)
                first["warm"].append(mine["first_step_s"])
                engine.warm(1, Resources(cpus=cpus))  # or the other would run while the next cell loads its libraries
                other = theirs(job_folder(home / f"theirs-{number}" / model.name, model, STEPS[name]), cpus)
                for side, found in ((OURS, mine), (THEIRS, other)):
                    rates[name][side].append(found["steps_per_second"])
                    worked[name][side].append(found["worked_s"])
                print(f"{name}: {mine} {other}", flush=True)
        finally:
            engine.close()
    return {"rates": rates, "worked_s": worked, "first_step_s": first, "cpus": cpus}


def ahead(report: dict[str, Any], name: str) -> float:
    """Ours over the other's, the median of the rounds."""
    found = report["rates"][name]
    return median([one / other for one, other in zip(found[OURS], found[THEIRS], strict=True)])


def _measured(report: dict[str, Any], more: str = "") -> str:
    note = f" {report['note']}" if report["note"] else ""
    return (
        f"Measured {report['when']} on {report['machine']}; {report['rounds']} rounds, medians (least to most){more}."
        f" Load of the machine before and after: {report['load'][0]:.1f}, {report['load'][1]:.1f}.{note}"
    )


def table(report: dict[str, Any]) -> str:
    first = report["first_step_s"]
    lines = [
        _measured(report, f", threads of each: {report['cpus']}"),
        "",
        "| model | posthuman, steps/s | Trainer, steps/s | ours over theirs | posthuman, processor s a step | Trainer |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in report["rates"].items():
        shown = [f"{median(found[side]):.2f} ({min(found[side]):.2f} to {max(found[side]):.2f})" for side in (OURS, THEIRS)]
        work = " | ".join(f"{median(report['worked_s'][name][side]):.3f}" for side in (OURS, THEIRS))
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {ahead(report, name):.2f} | {work} |")
    lines += ["", "| from the order to the first step | s (least to most) |", "|---|---|"]
    for how, said in (("warm", "warm: a process waits"), ("cold", "cold: Ray is not started yet")):
        lines.append(f"| {said} | {median(first[how]):.1f} ({min(first[how]):.1f} to {max(first[how]):.1f}) |")
    return "\n".join(lines)


def charts(report: dict[str, Any]) -> list[Chart]:
    groups = [
        Group(name, [Bar(OURS, found[OURS], ours=True), Bar(THEIRS, found[THEIRS])]) for name, found in report["rates"].items()
    ]
    first = report["first_step_s"]
    waits = [
        Group(
            "from the order to the first step",
            [Bar("warm", first["warm"], ours=True), Bar("cold", first["cold"], ours=True)],
            [Mark(f"bar: {FIRST_STEP_S:g} s", FIRST_STEP_S)],
        )
    ]
    return [
        Chart("train", "Training", "steps a second, more is better; whiskers: least and most of the rounds", groups),
        Chart("train-first-step", "A job's first step", "seconds, less is better; whiskers: least and most of the rounds", waits),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--part", choices=PARTS, help="only this one (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1, help="threads of each side (default: one a processor)")
    parser.add_argument("--note", default="", help="a sentence for the page, about what else the machine did")
    parser.add_argument("--dry", action="store_true", help="print the table, write no file")
    chosen = parser.parse_args(arguments)
    for part, go in PARTS.items():
        if chosen.part in (None, part):
            go(chosen)
    return 0


def _speed(chosen: argparse.Namespace) -> None:
    home = Path(tempfile.mkdtemp(prefix="posthuman-bench-"))
    load = os.getloadavg()[0]
    try:
        found = measure(home, chosen.rounds, chosen.cpus)
    finally:
        shutil.rmtree(home)
    report = {**_about(chosen, load), "parameters": PARAMETERS, **found}
    print(table(report))
    if not chosen.dry:
        write_report("train", report, table(report), charts=charts(report))


def _derived(chosen: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="posthuman-bench-"))
    load = os.getloadavg()[0]
    try:
        found = derived.measure(folder, SHAPES, chosen.rounds)
    finally:
        shutil.rmtree(folder)
    report = {**_about(chosen, load), "parameters": derived.TRAINED, "models": found}
    shown = f"{_measured(report)}\n\n{derived.table(found)}"
    print(shown)
    if not chosen.dry:
        write_report("train-derived", report, shown, charts=[derived.chart(found)])


PARTS = {"speed": _speed, "derived": _derived}


def _about(chosen: argparse.Namespace, load: float) -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "rounds": chosen.rounds,
        "note": chosen.note,
        "load": [load, os.getloadavg()[0]],
    }


if __name__ == "__main__":
    raise SystemExit(main())
