"""How much memory each process of a market holds, over time.

In: a state folder. Out: resident megabytes by process, and whether they grow. This module must never start or end a process.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from deploy.local.processes import supervised

WATCHED = {
    "web": "control_plane.web.serve",
    "keeper": "deploy.keeper",
    "Triton": "tritonserver",
    "model": "triton_python_backend_stub",
}
"""The part of a command line by which a process is known."""
SHARE, LEAST_MB = 0.05, 8.0


@dataclass(frozen=True)
class Held:
    """One process. megabytes: at even times, from the end of the first quarter of the run on, when caches are filled."""

    name: str
    megabytes: Sequence[float]

    @property
    def grew_mb(self) -> float:
        """The median of the last third less the median of the first."""
        third = max(1, len(self.megabytes) // 3)
        return median(self.megabytes[-third:]) - median(self.megabytes[:third])

    @property
    def may_grow_mb(self) -> float:
        return max(LEAST_MB, SHARE * self.megabytes[0])

    @property
    def is_flat(self) -> bool:
        return self.grew_mb <= self.may_grow_mb

    def to_json(self) -> dict[str, Any]:
        rounded = [round(value, 2) for value in self.megabytes]
        return {
            "name": self.name,
            "megabytes": rounded,
            "grew_mb": self.grew_mb,
            "may_grow_mb": self.may_grow_mb,
            "is_flat": self.is_flat,
        }


class Watch:
    """Reads the memory of every process that is there at `__enter__` once a second, until `__exit__`."""

    def __init__(self, home: Path, every_s: float = 1.0) -> None:
        self._home, self._every_s = home, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._seen: list[tuple[psutil.Process, str, list[float]]] = []

    def __enter__(self) -> Watch:
        named = [(process, _name(process)) for process in supervised(self._home)]
        self._seen = [(process, f"{name} {process.pid}", []) for process, name in named if name is not None]
        missing = WATCHED.keys() - {name for _, name in named}
        if missing:
            raise RuntimeError(f"{self._home}: expected processes of each kind, found none of {sorted(missing)}")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def held(self) -> list[Held]:
        """What each process held. Raises RuntimeError when one of them has ended, or there was no time to read any."""
        most = max((len(values) for _, _, values in self._seen), default=0)
        gone = [name for _, name, values in self._seen if len(values) != most]
        if gone or most == 0:
            raise RuntimeError(
                f"expected every process to live through the test, found {most} readings, and that these did not: {gone}"
            )
        return [Held(name, values[len(values) // 4 :]) for _, name, values in sorted(self._seen, key=lambda one: one[1])]

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            for process, _, values in self._seen:
                with suppress(psutil.NoSuchProcess):
                    values.append(process.memory_info().rss / 1e6)


def _name(process: psutil.Process) -> str | None:
    line = " ".join(process.cmdline())
    return next((name for name, part in WATCHED.items() if part in line), None)
