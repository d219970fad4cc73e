"""Ports of the local servers.

In: names and the ports we would like. Out: a port for each. This module must never bind anywhere but 127.0.0.1.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # servers set it too; without, a port they closed seconds ago would look taken
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def is_open(port: int, timeout_s: float = 0.3) -> bool:
    """Whether somebody listens."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def free_port(taken: Iterable[int] = ()) -> int:
    """A port the system offers. Nobody holds it: start the server soon."""
    avoided = set(taken)
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in avoided:
            return port


def choose_ports(wanted: Mapping[str, int], remembered: Mapping[str, int]) -> dict[str, int]:
    """A port for each name: the remembered one, else the wanted one, else any; always one that is free now.

    Call it when no server of ours runs: a port that our own server holds would look taken.
    """
    chosen: dict[str, int] = {}
    for name, port in wanted.items():
        candidates = (remembered.get(name, 0), port)
        usable = (one for one in candidates if one and one not in chosen.values() and is_free(one))
        chosen[name] = next(usable, 0) or free_port(chosen.values())
    return chosen
