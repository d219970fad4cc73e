"""Serves the control plane: `python -m control_plane.web.serve`, granian with several workers.

In: `POSTHUMAN_*` settings. Out: a server that runs until it is told to end. This module must never import the application: each
worker does, in a process of its own.

At its start granian warns of more threads than cores; most of them wait for Triton.
"""

from __future__ import annotations

from granian import Granian
from granian.constants import HTTPModes, Interfaces

from control_plane.settings import Settings, read_settings

_BACKLOG = 1024
_RESPAWN_AFTER_S = 0.5
_KILL_AFTER_S = 8
"""How long calls under way may take to end when the server is told to; whoever supervises it waits for ten seconds."""


def server(settings: Settings) -> Granian:
    """A call holds one of its worker's threads; a stream does from its first byte to its last."""
    return Granian(
        "control_plane.wiring:application",
        address="127.0.0.1",
        port=settings.web_port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=settings.web_workers,
        blocking_threads=settings.web_threads,
        backlog=_BACKLOG,
        factory=True,
        respawn_failed_workers=True,
        respawn_interval=_RESPAWN_AFTER_S,
        workers_kill_timeout=_KILL_AFTER_S,
    )


def main() -> None:
    server(read_settings()).serve()


if __name__ == "__main__":
    main()
