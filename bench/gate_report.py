"""What the bench of the gate found, as tables and pictures.

In: the report of `bench/gate.py`. Out: text and charts. This module must never measure; it takes medians, and their ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.load import median
from bench.plot import Bar, Chart, Group, Mark

ADDED_MS, OF_LITELLM, THROUGHPUT, SLOW_MS = 1.0, 0.2, 0.8, 5.0
"""The budgets: milliseconds that our gate adds; what share that may be of what LiteLLM's proxy adds; calls a second by 16 clients
over Triton's, of a model that takes `SLOW_MS` or more."""


def added_p50(contest: Mapping[str, Any], side: str) -> float | None:
    """Median over blocks of what `side` adds; None when it was not measured."""
    added = contest["added"].get(side)
    return median(added["p50_ms_of_blocks"]) if added else None


def throughput(contest: Mapping[str, Any], side: str) -> float | None:
    """Median over rounds of `side`'s calls a second over those of what it stands before."""
    added = contest["added"].get(side)
    return median(added["ratio_of_rounds"]) if added else None


def alone_p50(contest: Mapping[str, Any], side: str) -> float:
    return float(contest["sides"][side]["one_client"]["p50_ms"])


def table(report: Mapping[str, Any]) -> str:
    lines = [f"Measured {report['when']} on {report['machine']}, load {report['load']:.1f} before; {report['lengths']}."]
    for title, contests in _parts(report):
        lines += ["", f"**{title}**"]
        for name, contest in contests.items():
            lines += ["", f"{name}:", "", *_sides(contest)]
            lines += [f"\n{side}: left out: {reason}" for side, reason in contest["not_measured"].items()]
    lines += [
        "",
        "**Where the time of a call goes**, milliseconds, medians (`Server-Timing` of our answers):",
        "",
        *_stages(report["stages"]),
    ]
    lines += [f"\n{peer}: not measured: {reason}" for peer, reason in report["not_measured"].items()]
    lines += ["", f"Peers: {', '.join(report['peers'].values())}."]
    return "\n".join(lines)


def _parts(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        ("Our gate over Triton, a text as a binary tensor", report["gate"]),
        ("Two gates, each over its server, the same question by OpenAI's API", report["gateways"]),
        ("Servers of one ONNX graph, tensors in JSON", report["servers"]),
    ]


def _sides(contest: Mapping[str, Any]) -> list[str]:
    lines = [
        "| | one client: p50 / p99 ms | added p50 ms (least to most) | added p99 ms | 16 clients: p50 / p99 ms "
        "| calls/s (least to most) | of the other's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, side in contest["sides"].items():
        alone, crowd, added = side["one_client"], side["clients"], contest["added"].get(name)
        cells = [name, f"{alone['p50_ms']:.2f} / {alone['p99_ms']:.2f}"]
        cells += [f"{_spread(added['p50_ms_of_blocks'], 2)} over {added['over']}", f"{added['p99_ms']:.2f}"] if added else ["", ""]
        cells += [f"{crowd['p50_ms']:.1f} / {crowd['p99_ms']:.1f}", _spread(crowd["calls_per_s_of_rounds"], 0)]
        cells.append(_spread(added["ratio_of_rounds"], 2) if added else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stages(stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = list(dict.fromkeys(name for found in stages.values() for name in found))
    lines = [f"| call | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    return lines + [
        f"| {call} | {' | '.join(f'{found[name]:.2f}' if name in found else '-' for name in names)} |"
        for call, found in stages.items()
    ]


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{median(list(values)):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def charts(report: Mapping[str, Any]) -> list[Chart]:
    whiskers = "whiskers: least and most of the blocks"
    rounds = "whiskers: least and most of the rounds"
    added = [
        Group(
            f"/v1/{name}",
            _added_bars(contest, report["not_measured"]),
            [Mark(f"budget: {ADDED_MS:g} ms", ADDED_MS), *_fifth(contest)],
        )
        for name, contest in report["gateways"].items()
    ]
    added += [
        Group(f"/v2 infer, {name}", [_added_bar(contest, "gate", "our gate")], [Mark(f"budget: {ADDED_MS:g} ms", ADDED_MS)])
        for name, contest in report["gate"].items()
    ]
    alone, crowds = (
        [Group(name, _server_bars(contest, report["not_measured"], kind, key)) for name, contest in report["servers"].items()]
        for kind, key in (("one_client", "p50_ms_of_blocks"), ("clients", "calls_per_s_of_rounds"))
    )
    return [
        Chart("gate-added", "What a gate adds to a call", f"milliseconds by one client, less is better; {whiskers}", added),
        Chart(
            "servers-alone",
            "The same ONNX graph, one client",
            f"milliseconds a call, less is better; {whiskers}",
            alone,
            one_scale=False,
        ),
        Chart(
            "servers-crowd", "The same ONNX graph, 16 clients", f"calls a second, more is better; {rounds}", crowds, one_scale=False
        ),
    ]


def _added_bars(contest: Mapping[str, Any], failed: Mapping[str, str]) -> list[Bar]:
    reason = failed.get("LiteLLM") or contest["not_measured"].get("LiteLLM", "")
    return [_added_bar(contest, "gate", "our gate"), _added_bar(contest, "LiteLLM", "LiteLLM's proxy", reason)]


def _added_bar(contest: Mapping[str, Any], side: str, name: str, reason: str = "") -> Bar:
    added = contest["added"].get(side)
    return Bar(name, added["p50_ms_of_blocks"] if added else (), "" if added else reason, ours=side == "gate")


def _fifth(contest: Mapping[str, Any]) -> list[Mark]:
    theirs = added_p50(contest, "LiteLLM")
    return [Mark("a fifth of LiteLLM's", OF_LITELLM * theirs)] if theirs is not None else []


def _server_bars(contest: Mapping[str, Any], failed: Mapping[str, str], kind: str, key: str) -> list[Bar]:
    reasons = {**failed, **contest["not_measured"]}
    names = {"Triton": "Triton alone", "gate": "our gate over Triton", "MLServer": "MLServer", "KServe": "KServe's ModelServer"}
    return [
        Bar(
            name,
            contest["sides"][side][kind][key] if side in contest["sides"] else (),
            "" if side in contest["sides"] else reasons.get(side, ""),
            side == "gate",
        )
        for side, name in names.items()
    ]
