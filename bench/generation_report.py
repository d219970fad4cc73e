"""The generation benchmark's figures as a table and as pictures.

In: the report that `bench.generation` makes. Out: text and charts. This module must never leave out an engine that failed.
"""

from __future__ import annotations

from typing import Any

from bench import served
from bench.load import median
from bench.plot import Bar, Chart, Group, Mark

OURS = "posthuman"
_LARGE = {"ours": "our engine's process, as our server starts it; the peers' run as they come", "all": "every engine's process"}
BARS = {"fp32": {"1": 0.75, "8": 0.5}}
"""Part of the bound that is asked for, by precision and batch."""


def table(report: dict[str, Any]) -> str:
    lines = [
        f"Measured on {report['machine']}, load {report['load']:.1f} before; {report['rounds']} rounds, medians (least to most), "
        f"prompts of {report['prompt']} tokens, {report['tokens']} new ones. Large pages: {_LARGE[report['large_pages']]}."
    ]
    for run in report["runs"]:
        lines += ["", *_of_precision(run)]
    if report["served"]:
        found = report["served"]
        lines += [
            "",
            f"**To the buyer**: the {found['precision']} entry, streamed, tokens a second; in per cent how much longer a token"
            " takes than inside the engine with as many threads",
            "",
            *served.table(found),
        ]
    return "\n".join(lines)


def _of_precision(run: dict[str, Any]) -> list[str]:
    speed, batches = run["memory_bytes_per_second"] / 1e9, list(run["bound"])
    lines = [
        f"**{run['precision']}**: {run['weights_bytes'] / 1e6:.0f} MB of weights a step; memory was read with at most"
        f" {speed:.1f} GB/s ({run['memory_read_by']})",
        "",
        f"| engine | {' | '.join(f'{batch} at once' for batch in batches)} |",
        "|---" * (len(batches) + 1) + "|",
    ]
    ours = run["engines"].get(OURS, {}).get("tokens_per_second", {})
    for name, engine in run["engines"].items():
        cells = []
        for batch in batches:
            rates = engine["tokens_per_second"].get(batch, [])
            cell = f"{median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})" if rates else "-"
            if rates and name == OURS:
                cell += f", {median(rates) / run['bound'][batch]:.2f} of the bound"
            elif rates and batch in ours:
                cell += f"; ours {median([one / other for one, other in zip(ours[batch], rates, strict=False)]):.2f} times"
            cells.append(cell)
        lines.append(f"| {name} {engine['version']} | {' | '.join(cells)} |")
    lines.append(f"| bound: memory's speed | {' | '.join(f'{bound:.0f}' for bound in run['bound'].values())} |")
    lines.append("")
    lines += [f"- {name} computes with {engine['computes']}" for name, engine in run["engines"].items()]
    return lines + [f"- {name}: not measured: {error}" for name, error in run["failed"].items()]


def charts(report: dict[str, Any]) -> list[Chart]:
    made = [
        Chart(
            f"generation-{run['precision']}",
            f"Text generation, {run['precision']}, GPT-2 124M",
            "tokens a second, more is better",
            [_group(run, batch) for batch in run["bound"]],
            one_scale=False,
        )
        for run in report["runs"]
    ]
    if report["served"]:
        rates = report["served"]["tokens_per_second"]
        groups = [
            Group(f"{count} at once", [Bar(name, by_count[count], ours=name == "gate") for name, by_count in rates.items()])
            for count in rates["engine"]
        ]
        title = f"From the engine to the buyer, {report['served']['precision']}, streamed"
        made.append(Chart("generation-served", title, "tokens a second, more is better", groups, one_scale=False))
    return made


def _group(run: dict[str, Any], batch: str) -> Group:
    bars = [
        Bar(f"{name} {engine['version']}", engine["tokens_per_second"].get(batch, []), ours=name == OURS)
        for name, engine in run["engines"].items()
    ]
    bars += [Bar(name, [], error) for name, error in run["failed"].items()]
    bound, asked = run["bound"][batch], BARS.get(run["precision"], {}).get(batch)
    marks = [Mark("bound", bound), *([Mark(f"{asked} of the bound", asked * bound)] if asked else [])]
    return Group(f"{batch} at once", bars, marks)
