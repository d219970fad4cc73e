"""What telling of a call costs the call: its id, its line, its numbers. Microseconds, of the gate's millisecond.

In: nothing. Out: a table on standard output; no file, for the figures stand in no document. Run: `python -m bench.telling`.
As in production: numbers in memory-mapped files that other workers read, a line written at once to a file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from control_plane.serving.request_ids import begin
from control_plane.web.shared_metrics import share


@dataclass
class Parts:
    """What a call brings along, as far as telling reads it."""

    admitted: Any
    called: Any


def parts() -> Parts:
    listing = SimpleNamespace(task="text-generation", did="did:op:" + "a" * 64)
    admitted = SimpleNamespace(listing=listing, session=SimpleNamespace(order="0x" + "b" * 64), access_s=0.0002)
    receipt = SimpleNamespace(signed=SimpleNamespace(receipt=SimpleNamespace(sequence=12)), id="0x" + "c" * 64)
    answer = SimpleNamespace(units_in=32, units_out=64)
    return Parts(admitted, SimpleNamespace(answer=answer, call_id="d" * 32, issued=receipt, server_s=0.002, receipt_s=0.0003))


@contextmanager
def measured(repeats: int, number: int) -> Iterator[Callable[[str, Callable[[], object]], None]]:
    def measure(name: str, act: Callable[[], object]) -> None:
        seconds = sorted(timeit.repeat(act, number=number, repeat=repeats))
        print(f"{name:<44} {1e6 * seconds[0] / number:7.2f} {1e6 * seconds[len(seconds) // 2] / number:7.2f}")

    print(f"{'':<44} {'least':>7} {'median':>7}  microseconds of {number} each, {repeats} times")
    yield measure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=5_000, help="calls a repetition")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dry", action="store_true", help="a few calls only, to see that it runs")
    chosen = parser.parse_args()
    number, repeats = (50, 2) if chosen.dry else (chosen.calls, chosen.repeats)
    with tempfile.TemporaryDirectory(prefix="posthuman-bench-") as folder, (Path(folder) / "web.log").open("w") as log:
        share(Path(folder) / "metrics")
        from control_plane.web.journal import Journal  # after `share`: see there
        from control_plane.web.metrics import exposition, meter
        from control_plane.web.telling import Telling

        given, journal = parts(), Journal(log)

        def whole() -> None:
            begin(None)
            Telling(journal, "infer", given.admitted).answered(given.called)

        def numbers() -> None:
            one = meter("infer", "text-generation")
            one.begin()
            one.stages(0.0002, 0.002, 0.0003)
            one.end("done", 32, 64, 0.003)

        begin(None)
        stream = Telling(journal, "infer", given.admitted)
        with measured(repeats, number) as measure:
            measure("a whole call: id, numbers, line", whole)
            measure("  of it the id", lambda: begin(None))
            measure("  of it the numbers", numbers)
            measure("a piece of a stream", stream.next_piece)
        with measured(repeats, max(1, number // 100)) as measure:
            measure("a scrape of one worker's numbers", lambda: exposition(Path(folder) / "metrics"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
