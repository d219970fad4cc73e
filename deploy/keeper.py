"""The log keeper's process: `python -m deploy.keeper`.

In: `POSTHUMAN_*` settings. Out: one JSON line on standard output for everything done. This module must never print a key, and
two of it must never run on one state folder.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Mapping

from control_plane.errors import PosthumanError
from control_plane.receipts.keeper import Keeper, lease
from control_plane.settings import read_settings
from control_plane.wiring import keeper_steps_of

EXIT_FAILED = 1
EXIT_UNAVAILABLE = 4
LEASE_WAIT_S = 3.0
"""A keeper that was told to end may still be writing; a restarted one waits this long for it, and its supervisor tries again."""


def report(record: Mapping[str, object]) -> None:
    print(json.dumps({"at": round(time.time(), 3), **record}), flush=True)


def main() -> int:
    """Run until SIGTERM or SIGINT, which end it after the step that is running."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = read_settings()
        with lease(settings.home / "run" / "keeper.lock", wait_s=LEASE_WAIT_S):
            keeper = Keeper(keeper_steps_of(settings), report)
            report({"step": "start", "home": str(settings.home)})
            keeper.run_until(stop)
    except PosthumanError as error:
        report({"step": "start", "error": error.code, "message": error.message})
        return EXIT_UNAVAILABLE if error.retry_after_s else EXIT_FAILED
    report({"step": "end"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
