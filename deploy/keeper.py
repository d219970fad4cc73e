"""The log keeper's process: `python -m deploy.keeper`.

In: `POSTHUMAN_*` settings. Out: one JSON line on standard output for everything done. This module must never print a key, and
two of it must never run on one state folder.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from control_plane.errors import PosthumanError
from control_plane.receipts.keeper import Keeper, Step, lease
from control_plane.receipts.keeper_metrics import KeeperMetrics, keeper_metrics_file
from control_plane.receipts.workers import is_alive
from control_plane.settings import read_settings
from control_plane.wiring import keeper_steps_of
from deploy.local.life import alive_file, with_sign_of_life
from deploy.local.stopping import StopFlag

EXIT_FAILED = 1
EXIT_UNAVAILABLE = 4
LEASE_WAIT_S = 3.0
"""A keeper that was told to end may still be writing; a restarted one waits this long for it, and its supervisor tries again."""


SWEEP_EVERY_S = 60.0


def sweep(folder: Path, clock: Callable[[], float] = time.time) -> None:
    """Remove the signs of processes that are gone: commands and killed workers leave theirs behind.

    A young one is left alone: its process may have made it and not locked it yet. clock: seconds since 1970, as files are dated.
    """
    for path in list(folder.glob("*")):
        with suppress(FileNotFoundError):
            if clock() - path.stat().st_mtime > SWEEP_EVERY_S:
                is_alive(folder, path.name)


def report(record: Mapping[str, object]) -> None:
    print(json.dumps({"at": round(time.time(), 3), **record}), flush=True)


def main() -> int:
    """Run until SIGTERM or SIGINT, which end it after the step that is running."""
    stop = StopFlag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = read_settings()
        with lease(settings.home / "run" / "keeper.lock", wait_s=LEASE_WAIT_S):
            swept = Step("sweep", SWEEP_EVERY_S, lambda: sweep(settings.workers_folder))
            steps = (*keeper_steps_of(settings), swept)
            watched = KeeperMetrics(keeper_metrics_file(settings.home)).watched(steps)
            keeper = Keeper(with_sign_of_life(watched, alive_file(settings.home)), report)
            report({"step": "start", "home": str(settings.home)})
            keeper.run_until(stop)
    except PosthumanError as error:
        report({"step": "start", "error": error.code, "message": error.message})
        return EXIT_UNAVAILABLE if error.retry_after_s else EXIT_FAILED
    report({"step": "end"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
