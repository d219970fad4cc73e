"""How the embeddings' figures are told: a table and a picture.

In: the report of `bench/embeddings.py`. Out: text and charts. This module must never measure; it takes medians, and their ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.load import median
from bench.plot import Bar, Chart, Group

SIZES = (1, 8, 64)
"""Sentences of a call."""
CROWD = 16
"""Clients at once."""
OURS, APART, GATE = "posthuman, Triton", "posthuman, calls apart", "posthuman, gate"


def table(report: Mapping[str, Any]) -> str:
    lines = [
        f"Measured {report['when']} on {report['machine']}, load {report['load']:.1f} before; {report['model']}, "
        f"{report['rounds']} rounds of {report['seconds']:g} s each, sentences a second, medians (least to most)."
    ]
    for found in report["runs"]:
        rates, worst = found["sentences_per_second"], max(found["differences"].values(), default=0.0)
        lines += ["", f"**{found['precision']}**; vectors within {worst:.1e} of each other", ""]
        titles = [f"{size} a call" for size in SIZES]
        lines += [f"| one client | {' | '.join(titles)} |", "|---" * (len(SIZES) + 1) + "|"]
        for name, measured in rates.items():
            if name == APART:
                continue
            cells = []
            for size in SIZES:
                own = measured.get(f"1 x {size}", [])
                cell = shown(own)
                if own and not name.startswith("posthuman"):
                    cell += "".join(
                        f"; {ours.removeprefix('posthuman, ')} {times(rates[ours].get(f'1 x {size}', []), own)}"
                        for ours in (OURS, GATE)
                        if ours in rates
                    )
                cells.append(cell)
            lines.append(f"| {name} {found['versions'][name]} | {' | '.join(cells)} |")
        lines += ["", f"| one sentence a call | 1 client | {CROWD} clients |", "|---|---|---|"]
        for name in (OURS, APART, GATE):
            if name in rates:
                lines.append(f"| {name} | {shown(rates[name].get('1 x 1', []))} | {shown(rates[name].get(f'{CROWD} x 1', []))} |")
        if OURS in rates and APART in rates:
            gain = times(rates[OURS].get(f"{CROWD} x 1", []), rates[APART].get(f"{CROWD} x 1", []))
            lines += ["", f"Calls that share passes, {CROWD} clients, against calls apart: {gain}."]
        lines += [f"\n{name}: not measured: {error}" for name, error in found["failed"].items()]
    return "\n".join(lines)


def shown(rates: Sequence[float]) -> str:
    return f"{median(list(rates)):.0f} ({min(rates):.0f} to {max(rates):.0f})" if rates else "-"


def times(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Ours against theirs, round by round."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=False)]
    return f"{median(ratios):.2f} times" if ratios else "-"


def charts(report: Mapping[str, Any]) -> list[Chart]:
    groups = []
    for found in report["runs"]:
        rates = found["sentences_per_second"]
        for size in SIZES:
            bars = [
                Bar(name, measured.get(f"1 x {size}", []), ours=name.startswith("posthuman"))
                for name, measured in rates.items()
                if name != APART
            ]
            bars += [Bar(name, [], note=error) for name, error in found["failed"].items() if name != APART]
            groups.append(Group(f"{found['precision']}, one client, {size} a call", bars))
        crowd = [
            Bar(name, rates[name].get(f"{CROWD} x 1", []), ours=name != APART) for name in (OURS, APART, GATE) if name in rates
        ]
        if crowd:
            groups.append(Group(f"{found['precision']}, {CROWD} clients, one a call", crowd))
    axis = "sentences a second, more is better; whiskers: least and most of the rounds"
    return [Chart("embeddings", "Embeddings", axis, groups, one_scale=False)]
