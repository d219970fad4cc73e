"""What was promised, what was measured, held or missed and by how much: one table over all benchmarks.

    python -m bench.summary

In: the reports in `docs/benchmarks/*.json`. Out: the table at the top of `docs/benchmarks.md`. This module must never measure, nor
call anything held that it has no figure for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gate_report import ADDED_MS, OF_LITELLM, SLOW_MS, THROUGHPUT, added_p50, alone_p50, throughput
from bench.load import median
from bench.publish import BUDGET_S
from bench.report import FIGURES, PAGE, with_marked
from bench.served import added_per_token
from bench.train import FIRST_STEP_S, RATIO, ahead

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Limit:
    """value: in `unit`, which may be empty for a ratio."""

    value: float
    unit: str = ""
    is_upper: bool = True

    def said(self) -> str:
        return f"{'at most' if self.is_upper else 'at least'} {_shown(self.value, self.unit)}"

    def verdict(self, measured: float) -> str:
        beyond = measured - self.value if self.is_upper else self.value - measured
        if beyond <= 0:
            return "held"
        return f"**missed by {_shown(beyond, self.unit)}**" + (f" ({100 * beyond / self.value:.0f} %)" if self.value else "")


@dataclass(frozen=True)
class Promise:
    """One bar. measured: None when no report has it, and then `note` says what is missing; else how it was measured."""

    what: str
    limit: Limit
    measured: float | None
    note: str = ""

    def row(self) -> str:
        found, verdict = "-", f"not measured{': ' + self.note if self.note else ''}"
        if self.measured is not None:
            found, verdict = _shown(self.measured, self.limit.unit), self.limit.verdict(self.measured)
            found += f" ({self.note})" if self.note else ""
        return f"| {self.what} | {self.limit.said()} | {found} | {verdict} |"


def _shown(value: float, unit: str) -> str:
    text = f"{value:.0f}" if unit == "broken" else f"{value:.2f}"
    return f"{text} {unit}".strip()


def promises(reports: Mapping[str, Report]) -> list[Promise]:
    """Every bar, whether or not its report is there. reports: by the name of the bench; one in another form counts as missing."""
    return [
        *_of("gate", reports, _gate, (Promise("the gate", Limit(ADDED_MS, "ms"), None),)),
        *_of("generation", reports, _engine, (Promise("the engine against its peers", Limit(1.0, "", False), None),)),
        *_of("embeddings", reports, _embeddings, (Promise("embeddings against their peers", Limit(1.0, "", False), None),)),
        *_of("gptj_gpu", reports, _gptj, (Promise("GPT-J 6B on a GPU", Limit(1.0, "", False), None),)),
        *_of("publish", reports, _publish, (Promise("from the command to the first answer", Limit(BUDGET_S, "s"), None),)),
        *_of("train", reports, _train, (Promise("training against transformers' Trainer", Limit(RATIO, "", False), None),)),
        *_of("stress", reports, _stress, (Promise("the load test", Limit(0, "broken"), None),)),
    ]


def _of(name: str, reports: Mapping[str, Report], read: Any, missing: tuple[Promise, ...]) -> list[Promise]:
    if name not in reports:
        return [Promise(one.what, one.limit, None, f"there is no {name}.json") for one in missing]
    try:
        return list(read(reports[name]))
    except (KeyError, TypeError) as error:
        return [Promise(one.what, one.limit, None, f"{name}.json is of an older form, without {error}") for one in missing]


def _gate(report: Report) -> Iterator[Promise]:
    for name, contest in report["gate"].items():
        yield Promise(f"gate, added p50, /v2 infer, {name}", Limit(ADDED_MS, "ms"), added_p50(contest, "gate"))
    for name, contest in report["gateways"].items():
        yield Promise(f"gate, added p50, /v1/{name}", Limit(ADDED_MS, "ms"), added_p50(contest, "gate"))
    for name, contest in report["gateways"].items():
        ours, theirs = added_p50(contest, "gate"), added_p50(contest, "LiteLLM")
        why = report["not_measured"].get("LiteLLM") or contest["not_measured"].get("LiteLLM", "")
        share = None if ours is None or theirs is None else ours / theirs
        note = f"{ours:.2f} ms of {theirs:.2f} ms" if ours is not None and theirs is not None else why
        yield Promise(f"gate, added p50 over LiteLLM's, /v1/{name}", Limit(OF_LITELLM), share, note)
    for name, contest in report["gate"].items():
        takes = alone_p50(contest, "Triton")
        if takes >= SLOW_MS:
            what = f"gate, calls a second of 16 clients over Triton's, {name} ({takes:.1f} ms)"
            yield Promise(what, Limit(THROUGHPUT, "", False), throughput(contest, "gate"))


def _engine(report: Report) -> Iterator[Promise]:
    """Ahead of the best peer: the least of the medians over rounds of our tokens a second over a peer's."""
    for run in report["runs"]:
        engines, precision = run["engines"], run["precision"]
        ours = engines["posthuman"]["tokens_per_second"]
        for batch in ("1", "8"):
            what = f"engine, {precision}, tokens a second over the best peer's, {batch} at once"
            ahead = {
                name: median([one / other for one, other in zip(ours[batch], peer["tokens_per_second"][batch], strict=True)])
                for name, peer in engines.items()
                if name != "posthuman" and batch in peer["tokens_per_second"]
            }
            best = min(ahead, key=lambda name: ahead[name]) if ahead else ""
            left_out = ", ".join(sorted(run["failed"]))
            note = f"{best}; without {left_out}" if left_out else best
            yield Promise(what, Limit(1.0, "", False), ahead[best] if ahead else None, note)
        if precision == "fp32":
            for batch, least in (("1", 0.75), ("8", 0.5)):
                what = f"engine, fp32, of the memory's bound, {batch} at once"
                yield Promise(what, Limit(least, "", False), median(ours[batch]) / run["bound"][batch])
    yield from _served(report)
    for precision in {"fp32", "int8"} - {run["precision"] for run in report["runs"]}:
        what = f"engine, {precision}, tokens a second over the best peer's"
        yield Promise(what, Limit(1.0, "", False), None, f"generation.json has no {precision}")


def _embeddings(report: Report) -> Iterator[Promise]:
    """Through the gate, against those that compute in the process that asks them."""
    for run in report["runs"]:
        rates = run["sentences_per_second"]
        ours: dict[str, list[float]] = next((rates[name] for name in ("posthuman, gate", "posthuman, Triton") if name in rates), {})
        peers = {name: found for name, found in rates.items() if not name.startswith("posthuman")}
        for load in ("1 x 1", "1 x 8", "1 x 64"):
            ahead = {
                name: median([one / other for one, other in zip(ours[load], found[load], strict=True)])
                for name, found in peers.items()
                if load in ours and load in found
            }
            best = min(ahead, key=lambda name: ahead[name]) if ahead else ""
            what = f"embeddings, {run['precision']}, sentences a second over the best peer's, {load.split()[-1]} a call"
            yield Promise(what, Limit(1.0, "", False), ahead[best] if ahead else None, best)


def _gptj(report: Report) -> Iterator[Promise]:
    rates = report["tokens_per_second"]
    for batch, ours in rates["Triton"].items():
        ahead = median([one / other for one, other in zip(ours, rates["transformers"][batch], strict=True)])
        what = f"GPT-J 6B on a GPU through Triton, tokens a second over transformers', {batch} at once"
        yield Promise(what, Limit(1.0, "", False), ahead, f"{median(ours) / report['bound'][batch]:.2f} of the memory's bound")


def _served(report: Report) -> Iterator[Promise]:
    """From the engine to the buyer."""
    added, many, late = Limit(3.0, "%"), Limit(4.0, "", False), Limit(5.0)
    found = report.get("served")
    if not found:
        yield Promise("Triton, added to the engine's time of a token", added, None, "generation.json has no way to the buyer")
        return
    rates = found["tokens_per_second"]
    yield Promise(
        "Triton, added to the engine's time of a token, one stream", added, 100 * median(added_per_token(rates, "Triton", "1"))
    )
    for way, first in found["first_text"].items():
        ratios = [eight / one for eight, one in zip(rates[way]["8"], rates[way]["1"], strict=True)]
        yield Promise(f"tokens a second of eight streams over one's, {way}", many, median(ratios))
        yield Promise(f"first text, p95 of eight clients over one alone, {way}", late, first["loaded_p95_ms"] / first["alone_ms"])


def _publish(report: Report) -> Iterator[Promise]:
    for name, rounds in report["models"].items():
        yield Promise(
            f"from the command to the first answer, {name}", Limit(BUDGET_S, "s"), median([one["all_s"] for one in rounds])
        )


def _train(report: Report) -> Iterator[Promise]:
    for name in report["rates"]:
        what = f"training, steps a second over those of transformers' Trainer, {name}"
        yield Promise(what, Limit(RATIO, "", False), ahead(dict(report), name))
    yield Promise("from a job's order to its first step, warm", Limit(FIRST_STEP_S, "s"), median(report["first_step_s"]["warm"]))


def _stress(report: Report) -> Iterator[Promise]:
    how = f"{report['clients']} clients, {report['seconds']:g} s"
    for name, found in report["broken"].items():
        yield Promise(f"load test: {name}", Limit(0, "broken"), float(found["number"]), how)


def table(found: list[Promise]) -> str:
    kept = sum(one.measured is not None and one.limit.verdict(one.measured) == "held" for one in found)
    open_ = sum(one.measured is None for one in found)
    missed = len(found) - kept - open_
    lines = [f"{kept} held, {missed} missed, {open_} not measured.", "", "| what | bar | measured | |", "|---|---|---|---|"]
    return "\n".join([*lines, *(one.row() for one in found)])


def read_reports(figures: Path) -> dict[str, Report]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(figures.glob("*.json"))}


def main() -> int:
    text = table(promises(read_reports(FIGURES)))
    print(text)
    PAGE.write_text(with_marked(PAGE.read_text(encoding="utf-8"), "summary", text, PAGE.name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
