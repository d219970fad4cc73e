"""A market under load: many clients, mixed calls, streams cut off at random, nonsense among it; then every receipt is looked at.

    python -m bench.stress [--clients 64] [--seconds 120] [--dry]

In: nothing but the checkout. Out: `docs/benchmarks/stress.json`, a picture, a table in `docs/benchmarks.md`. Exit code 1 when a
criterion is broken. It starts a market of its own, with a text generator and an encoder on sale to four buyers.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.audit import settled, signer_of, unproved
from bench.crowd import Attempt, Seat, crowd
from bench.decoders import decoder_folder
from bench.encoders import encoder_folder
from bench.load import median, percentile
from bench.memory import Watch
from bench.plot import Bar, Chart, Group
from bench.report import machine, write_report
from bench.settlement import settle
from bench.stack import Stack, running_stack
from control_plane.chain.ocean import open_reader
from control_plane.settings import Settings

BUYERS = ("bob", "carol", "derek", "elena")
AT_ONCE = 8
"""Calls under way that a session may have: so few that some are refused."""
_PROVED = 25
"""Receipts that are verified whole, as a stranger would; the signatures of all are checked."""
_SHOWN = 20


def stress(settings: Settings, seats: Sequence[Seat], *, clients: int, duration_s: float, seed: int = 7) -> dict[str, Any]:
    """Load a running market, then settle with it; `broken` names each criterion, and what does not hold of it."""
    assert settings.log_nft is not None
    with Watch(settings.home, every_s=min(1.0, duration_s / 20)) as watch:
        attempts = crowd(settings.public_url, seats, clients, duration_s, seed)
    held = watch.held()
    reader = open_reader(settings.rpc_url, settings.chain_id)
    receipts = settled(settings.public_url, seats)
    settlement = settle(attempts, receipts, signer_of(reader, settings.log_nft))
    problems = {name: list(found) for name, found in settlement.problems.items()}
    problems["receipts verify"] += unproved(reader, settings.public_url, receipts, _PROVED)
    problems["memory is flat"] = [
        f"{one.name}: {one.megabytes[0]:.0f} MB, grew by {one.grew_mb:.1f}, may grow by {one.may_grow_mb:.1f}"
        for one in held
        if not one.is_flat
    ]
    return {
        "clients": clients,
        "seconds": duration_s,
        "sessions": len(seats),
        "broken": {name: {"number": len(found), "first": found[:_SHOWN]} for name, found in problems.items()},
        "counts": dict(settlement.counts),
        "calls": _calls(attempts),
        "memory": [one.to_json() for one in held],
    }


def is_good(report: Mapping[str, Any]) -> bool:
    return not any(found["number"] for found in report["broken"].values())


def _calls(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """By kind: how many of each status ("cut": we left), and milliseconds of the answered ones."""
    found: dict[str, Any] = {}
    for kind in sorted({attempt.kind for attempt in attempts}):
        mine = [attempt for attempt in attempts if attempt.kind == kind]
        seconds = [attempt.seconds for attempt in mine if attempt.status == attempt.expected and not attempt.is_cut]
        found[kind] = {
            "statuses": dict(sorted(Counter("cut" if attempt.is_cut else str(attempt.status) for attempt in mine).items())),
            "p50_ms": 1e3 * median(seconds) if seconds else None,
            "p99_ms": 1e3 * percentile(seconds, 0.99) if seconds else None,
        }
    return found


def table(report: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{number} {name}" for name, number in report["counts"].items())
    lines = [
        f"Measured {report['when']} on {report['machine']}, clients on the same, load {report['load']:.1f} before; "
        f"{report['clients']} clients for {report['seconds']:g} s, {report['sessions']} sessions. {counts}.",
        "",
        "| criterion | |",
        "|---|---|",
        *(
            f"| {name} | {'holds' if not found['number'] else 'broken ' + str(found['number']) + ' times: ' + found['first'][0]} |"
            for name, found in report["broken"].items()
        ),
        "",
        "| call | by status | p50 / p99 ms |",
        "|---|---|---|",
    ]
    for kind, found in report["calls"].items():
        statuses = ", ".join(f"{status}: {number}" for status, number in found["statuses"].items())
        took = "-" if found["p50_ms"] is None else f"{found['p50_ms']:.0f} / {found['p99_ms']:.0f}"
        lines.append(f"| {kind} | {statuses} | {took} |")
    return "\n".join(lines)


def charts(report: Mapping[str, Any]) -> list[Chart]:
    groups = []
    for one in report["memory"]:
        third = max(1, len(one["megabytes"]) // 3)
        first, last = one["megabytes"][:third], one["megabytes"][-third:]
        groups.append(
            Group(
                one["name"].split()[0],
                [Bar("first third", first), Bar("last third", last, f"may grow by {one['may_grow_mb']:.0f}", ours=True)],
            )
        )
    axis = "resident megabytes of each process, after the first quarter; whiskers: least and most"
    return [Chart("stress-memory", f"Memory under {report['clients']} clients", axis, groups)]


def seats_of(stack: Stack) -> list[Seat]:
    """Two models on sale, and a session for each of them for every buyer."""
    sources = stack.home / "sources"
    generator = stack.publish(decoder_folder(sources / "generator", layers=2, width=64, heads=2), "stress generator")
    encoder = stack.publish(encoder_folder(sources / "encoder", layers=1, width=32, heads=2), "stress encoder")
    seats = []
    for buyer in BUYERS:
        for model, task in ((generator, "text-generation"), (encoder, "feature-extraction")):
            session = stack.buy(model, buyer)
            seats.append(Seat(model.did, task, session.token, session.order))
    return seats


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    with running_stack(SESSION_CONCURRENCY=str(AT_ONCE)) as stack:
        report = stress(stack.settings, seats_of(stack), clients=chosen.clients, duration_s=chosen.seconds)
    report = {"when": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine(), "load": load, **report}
    print(table(report))
    if not chosen.dry:
        write_report("stress", report, table(report), charts=charts(report))
    return 0 if is_good(report) else 1


if __name__ == "__main__":
    sys.exit(main())
