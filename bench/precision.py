"""What each precision saves and costs: file size, worst difference, quality, speed, side by side in one run.

`python bench/precision.py MODEL... [--rounds N]` writes `docs/benchmarks/precision.json` and the table in `docs/precision.md`.
Speed is through our own backends' rows and session settings, one thread, without Triton, a generator's with the cache that is
served: rounds alternate between the precisions, and what is told is the median over rounds of (this precision's rate / fp32's in
the same round), with least and most.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "model_repository" / "backends")]

import numpy as np  # noqa: E402  # after the path of our own packages

from bench.engines import greedy  # noqa: E402  # likewise
from bench.report import machine, write_report  # noqa: E402  # likewise
from converters.pipeline import convert  # noqa: E402  # likewise
from converters.precision.passage import PASSAGE, SENTENCES  # noqa: E402  # likewise
from generate.model_rows import rows_of  # noqa: E402  # likewise
from opening.entry import OpenEntry, open_entry  # noqa: E402  # likewise

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
CPU_HAS_NO = ("bf16",)
PROMPT, TOKENS = 64, 48
_CACHE_BYTES = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / ".posthuman" / "bench-precision")
    given = parser.parse_args()
    found = [measure(model, given.out, given.rounds) for model in given.models]
    run = {
        "machine": machine(),
        "load": round(os.getloadavg()[1], 1),
        "rounds": given.rounds,
        "models": found,
    }
    write_report("precision", run, table(run), ROOT / "docs" / "precision.md")


def measure(model: Path, out: Path, rounds: int) -> dict[str, Any]:
    made = {precision: convert(str(model), out, precision=precision) for precision in PRECISIONS}
    opened = {name: open_entry(one.folder, threads=1) for name, one in made.items() if name not in CPU_HAS_NO}
    rates: dict[str, list[float]] = {name: [] for name in opened}
    for number in range(rounds + 1):
        for name in sorted(opened, key=lambda _name: os.urandom(4)):
            rate = tokens_a_second(opened[name]) if "layers" in made[name].entry.details else sentences_a_second(opened[name])
            if number:  # the first round warms up
                rates[name].append(rate)
    rows = []
    for name, one in made.items():
        ratios = [mine / full for mine, full in zip(rates[name], rates["fp32"], strict=True)] if name in rates else []
        rows.append(
            {
                "precision": name,
                "digest": one.digest,
                "bytes": sum(path.stat().st_size for path in one.folder.glob("1/*.onnx*")),
                "parity": [{key: line[key] for key in ("output", "worst_relative", "bound")} for line in one.entry.parity],
                "quality": [dict(line) for line in one.entry.quality],
                "kv_cache": one.entry.export.get("kv_cache", "").split(":")[0].split(",")[0],
                "speed": [round(pick(ratios), 2) for pick in (statistics.median, min, max)] if ratios else None,
            }
        )
    return {"name": made["fp32"].entry.name, "task": made["fp32"].entry.task, "rows": rows}


def tokens_a_second(entry: OpenEntry) -> float:
    """Greedy tokens after a prompt of 64, the prompt's time included."""
    prompt = tuple(entry.tokenizer.encode(PASSAGE).ids[:PROMPT])
    rows, began = rows_of(entry, most_bytes=_CACHE_BYTES), time.perf_counter()
    place = rows.enter(greedy(prompt, TOKENS))
    while (logits := rows.begin(place)) is None:
        pass
    for _ in range(TOKENS):
        (logits,) = rows.step([place], [int(logits.argmax())])
    return TOKENS / (time.perf_counter() - began)


def sentences_a_second(entry: OpenEntry) -> float:
    """One sentence a pass."""
    names = entry.graph_input_names(frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"}))
    encoded = [entry.tokenizer.encode(sentence) for sentence in SENTENCES]
    began = time.perf_counter()
    for one in encoded:
        ids = np.array([one.ids], np.int64)
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.arange(ids.shape[1], dtype=np.int64)[None],
        }
        entry.session.run([entry.detail("output")], {name: feeds[name] for name in names})
    return len(encoded) / (time.perf_counter() - began)


def table(run: dict[str, Any]) -> str:
    lines = [f"Measured on {run['machine']}, load {run['load']}; one thread, {run['rounds']} alternating rounds."]
    for model in run["models"]:
        lines += ["", f"**{model['name']}** ({model['task']})", ""]
        lines += [
            "| precision | MB | worst difference / bound | quality (fp32) | cache | speed over fp32, CPU (least to most) |",
            "|---|---|---|---|---|---|",
        ]
        for row in model["rows"]:
            parity = ", ".join(f"{one['output']} {one['worst_relative']:g} / {one['bound']:g}" for one in row["parity"])
            quality = ", ".join(f"{one['measure']} {one['value']:g} ({one['full_precision']:g})" for one in row["quality"])
            speed = "{:.2f} ({:.2f} to {:.2f})".format(*row["speed"]) if row["speed"] else "does not run on a CPU"
            cells = (row["precision"], f"{row['bytes'] / 1e6:.1f}", parity, quality or "-", row["kv_cache"] or "-", speed)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
