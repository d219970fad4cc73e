"""The flag that ends the supervisor and the log keeper: a signal may come at any moment."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from deploy.local.stopping import StopFlag

REPOSITORY = Path(__file__).resolve().parent.parent.parent

RAIN = """
import random, signal
from deploy.local.stopping import StopFlag
flag = StopFlag()
signal.signal(signal.SIGALRM, lambda *_: flag.set())
for _ in range(8000):
    flag.clear()
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 3e-4))
    while not flag.wait(1e-6):
        pass
"""


def test_signals_at_any_moment_do_not_lock_it() -> None:
    subprocess.run([sys.executable, "-c", RAIN], cwd=REPOSITORY, check=True, timeout=60)


def test_it_waits_as_long_as_it_is_told() -> None:
    flag = StopFlag()
    began = time.monotonic()
    assert flag.wait(0.12) is False
    assert 0.11 < time.monotonic() - began < 30
    flag.set()
    assert flag.is_set() and flag.wait() is True
