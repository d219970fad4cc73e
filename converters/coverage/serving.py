"""An entry put into a real Triton, asked its probes, and taken out again.

In: an entry's folder and a running Triton. Out: the attempt, completed. This module must never leave an entry in the model folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from converters.coverage.attempts import Attempt
from converters.coverage.replay import ServedWrongly, Server
from converters.coverage.rows import steady
from converters.entry import model_digest, read_entry
from converters.pbtxt import config_pbtxt

Revive = Callable[[], Server]


class Serving:
    """One Triton and the folder it reads. revive: starts it anew when an entry has brought it down; None when we may not."""

    def __init__(self, server: Server, models: Path, revive: Revive | None = None) -> None:
        """Raises ConnectionError when no Triton is ready there."""
        if not server.is_ready():
            raise ConnectionError(f"{server.url}: expected a Triton that is ready, found none")
        self._server, self._models, self._revive = server, models, revive

    def tried(self, attempt: Attempt, made: Path) -> Attempt:
        """The attempt with Triton's part of it; the entry `made` is moved and then removed.

        Raises ConnectionError when Triton has ended and may not be started again.
        """
        digest, entry = model_digest(made), read_entry(made)
        folder = self._models / made.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(made, folder)
        (folder / "config.pbtxt").write_text(config_pbtxt(entry, folder.name, digest), encoding="utf-8")
        seconds = dict(attempt.seconds)
        step, began = "triton load", time.monotonic()
        try:
            self._server.load(folder.name)
            seconds[step] = round(time.monotonic() - began, 3)
            step, began = "triton replay", time.monotonic()
            replayed = self._server.replay(folder.name, entry, folder)
            seconds[step] = round(time.monotonic() - began, 3)
        # OSError: no answer in time, or none at all. The others: an answer that is not one of the protocol.
        except (ServedWrongly, OSError, KeyError, ValueError, TypeError) as error:
            return attempt.failed(step, type(error).__name__, steady(str(error)))
        else:
            return replace(
                attempt,
                step="done",
                served=replayed.relative,
                bound=replayed.bound,
                probes=replayed.probes,
                seconds=seconds,
            )
        finally:
            self._remove(folder)

    def _remove(self, folder: Path) -> None:
        try:
            self._server.unload(folder.name)
        except (ServedWrongly, OSError) as error:
            if not self._server.is_ready():
                if self._revive is None:
                    raise ConnectionError(f"Triton ended: {error}") from error
                self._server = self._revive()
        shutil.rmtree(folder, ignore_errors=True)
