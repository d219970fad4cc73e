"""Several servers asked the same, in turns, by the same client: what each takes, and what one adds to another.

In: targets. Out: figures for JSON. This module must never know what a target is. Every block and every round goes over all sides
before the next begins, each time in another order, so that what else the machine does meets all alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.load import Crowd, Target, median, one_after_another, percentile, side_by_side

CLIENTS = 16
_WARM_UP = 50


@dataclass(frozen=True)
class Lengths:
    """blocks of `calls` calls by one client, then rounds of `seconds` by sixteen."""

    blocks: int
    calls: int
    rounds: int
    seconds: float

    def said(self) -> str:
        return (
            f"{self.blocks} blocks of {self.calls} calls by one client and {self.rounds} rounds of {self.seconds:g} s "
            f"by {CLIENTS} clients, each block and round going over all sides in turn"
        )


@dataclass
class _Side:
    """blocks: seconds of each call. failed: why it was left out from then on."""

    target: Target
    blocks: list[list[float]] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)
    failed: str = ""


def compete(targets: Sequence[Target], over: Mapping[str, str], lengths: Lengths, ours: frozenset[str]) -> dict[str, Any]:
    """Figures of each side, and what each side of `over` adds to the one it names there.

    A side that answers with an error is left out, and its reason is in the figures. Raises RuntimeError when it is one of `ours`.
    """
    sides = [_Side(target) for target in targets]
    for side in sides:
        with _left_out_if_it_fails(side, ours):
            one_after_another(side.target, _WARM_UP)
    for turn in range(lengths.blocks):
        for side in _in_turn(sides, turn):
            with _left_out_if_it_fails(side, ours):
                side.blocks.append([answered.seconds for answered in one_after_another(side.target, lengths.calls)])
    for turn in range(lengths.rounds):
        for side in _in_turn(sides, turn):
            with _left_out_if_it_fails(side, ours):
                side.crowds.append(side_by_side(side.target, CLIENTS, lengths.seconds))
    whole = {side.target.name: side for side in sides if not side.failed}
    return {
        "sides": {name: _figures(side) for name, side in whole.items()},
        "added": {
            name: _added(whole[name], whole[base]) | {"over": base} for name, base in over.items() if {name, base} <= whole.keys()
        },
        "not_measured": {side.target.name: side.failed for side in sides if side.failed},
    }


def _in_turn(sides: Sequence[_Side], turn: int) -> list[_Side]:
    first = turn % len(sides)
    return [side for side in (*sides[first:], *sides[:first]) if not side.failed]


@contextmanager
def _left_out_if_it_fails(side: _Side, ours: frozenset[str]) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        if side.target.name in ours:
            raise
        side.failed = str(error)


def _figures(side: _Side) -> dict[str, Any]:
    alone = [seconds for block in side.blocks for seconds in block]
    together = [seconds for crowd in side.crowds for seconds in crowd.seconds]
    return {
        "one_client": {**_milliseconds(alone), "p50_ms_of_blocks": [1e3 * median(block) for block in side.blocks]},
        "clients": {**_milliseconds(together), "calls_per_s_of_rounds": [crowd.calls_per_s for crowd in side.crowds]},
    }


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    return {"p50_ms": 1e3 * median(seconds), "p99_ms": 1e3 * percentile(seconds, 0.99)}


def _added(side: _Side, base: _Side) -> dict[str, Any]:
    """p50_ms_of_blocks: what this side's median of a block has more than the base's of the same turn. ratio: of calls a second."""
    pairs = zip(side.blocks, base.blocks, strict=True)
    crowds = zip(side.crowds, base.crowds, strict=True)
    alone, below = ([seconds for block in one.blocks for seconds in block] for one in (side, base))
    return {
        "p50_ms_of_blocks": [1e3 * (median(one) - median(other)) for one, other in pairs],
        "p99_ms": 1e3 * (percentile(alone, 0.99) - percentile(below, 0.99)),
        "ratio_of_rounds": [one.calls_per_s / other.calls_per_s for one, other in crowds],
    }


def stages(target: Target, calls: int) -> dict[str, float]:
    """Milliseconds, medians: each stage that the answers' `Server-Timing` names, and "outside": what the client waited beyond them.

    "outside" is the connection, HTTP, the web server and its framework, and the client itself.
    """
    found: dict[str, list[float]] = {}
    one_after_another(target, _WARM_UP)
    for answered in one_after_another(target, calls):
        named = dict(_stage(part) for part in answered.headers["Server-Timing"].split(","))
        named["outside"] = 1e3 * answered.seconds - sum(named.values())
        for name, milliseconds in named.items():
            found.setdefault(name, []).append(milliseconds)
    return {name: median(values) for name, values in found.items()}


def _stage(part: str) -> tuple[str, float]:
    name, duration = part.strip().split(";dur=")
    return name, float(duration)
