"""`python -m c2d_adapter.cell`: a process that has the programs' libraries loaded, waits for one job, and runs it behind locks.

In: one JSON line on stdin, an `Order`. Out: JSON lines on stdout, what the programs write into the job's folder, and nothing else:

    {"ready": ["no filter on system calls: ..."]}       when it can take a job; the list is of locks that did not close
    {"ended": "done" | "failed" | "lost", "said": ""}   last; lost: a process died, another try goes on

This module must never open a model, and must never outlive who started it: when stdin ends, all ends.

Loading PyTorch and transformers takes seconds, so a cell is started before there is a job. It gives up the network at once (a
process with threads could not), loads, and forks the job's processes when the order comes; each closes its filter before it
reads the job. A cell runs one job and ends: no job meets what another left in memory.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from c2d_adapter.job_io import FAILED, Folder, Place
from converters.confine import filter_calls, leave_the_network

PROGRAMS: Mapping[str, str] = {"train": "c2d_adapter.algorithms.train"}
"""Kind of job -> the module whose `main` does it."""
LOADED = ("torch._dynamo", "torch.distributed", "transformers.models.gpt2.modeling_gpt2", *PROGRAMS.values())
"""What is imported before there is a job; the first is loaded by the first optimizer otherwise."""
_PR_SET_PDEATHSIG = 1
_LOOK_S = 0.05


@dataclass(frozen=True)
class Order:
    """What a cell is told. ranks: which of the job's `world` processes run here. memory_bytes: most that each may write to."""

    kind: str
    folder: str
    ranks: tuple[int, ...] = (0,)
    world: int = 1
    rendezvous: str = "127.0.0.1:29500"
    threads: int = 1
    memory_bytes: int | None = None
    checkpoint_s: float = 30.0
    sharding: str = "ddp"
    has_gpu: bool = False

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run one job; returns the exit code, 0 also when the job failed."""
    parser = argparse.ArgumentParser(prog="python -m c2d_adapter.cell", description="Wait for one job, and run it behind locks.")
    parser.add_argument("--owned", required=True, type=Path, metavar="DIR", help="a folder that the job must go on writing to")
    parser.add_argument("--open", action="store_true", help="keep the network: for a job whose processes are on several machines")
    given = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold weights
    lines = _own_stdout()
    said = None if given.open else leave_the_network(given.owned, has_loopback=True)
    left = "no network namespace: several machines" if given.open else "" if said is None else f"no network namespace: {said}"
    for name in LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # looking for garbage would otherwise write to, and so copy, pages that the forks share
    _write(lines, {"ready": [left] if left else []})
    told = sys.stdin.readline()
    if not told:
        return 0
    record = json.loads(told)
    order = Order(**{**record, "ranks": tuple(record["ranks"])})
    processes = {_fork(order, rank, local, left): rank for local, rank in enumerate(order.ranks)}
    _write(lines, _wait(processes))
    return 0


def _fork(order: Order, rank: int, local_rank: int, left: str) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        code = _run(order, rank, local_rank, left)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException as error:
        print(f"rank {rank}: {type(error).__name__}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _run(order: Order, rank: int, local_rank: int, left: str) -> int:
    """One of the job's processes, in the fork: locks first. left: which lock is open already, empty for none."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked to be told
        return 1
    folder = Folder(Path(order.folder))
    log = os.open(folder.path / "program.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    said = filter_calls(_families(order))
    if open_locks := [one for one in (left, said and f"no filter on system calls: {said}") if one]:
        print(f"rank {rank}: not all locks closed: {'; '.join(open_locks)}", file=sys.stderr, flush=True)
    if order.memory_bytes is not None and not order.has_gpu:  # a GPU's driver reserves addresses as if it wrote to them
        resource.setrlimit(resource.RLIMIT_DATA, (order.memory_bytes, order.memory_bytes))
    host, port = order.rendezvous.rsplit(":", 1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(local_rank), WORLD_SIZE=str(order.world), MASTER_ADDR=host, MASTER_PORT=port,
        LOCAL_SIZE=str(len(order.ranks)),  # without it DeepSpeed asks a program for it, in every step
    )  # fmt: skip
    if not order.has_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # or DeepSpeed, which transformers loads where it is, warns of finding no GPU
    if host == "127.0.0.1":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # or gloo asks for this machine's name, which nobody answers in here
    torch = importlib.import_module("torch")
    torch.set_num_threads(order.threads)
    place = Place(rank, local_rank, order.world, order.checkpoint_s, order.sharding)
    return int(importlib.import_module(PROGRAMS[order.kind]).main(folder, place))


def _families(order: Order) -> tuple[int, ...]:
    """Of sockets: none for one process; those that speak to each other ask the kernel for the names of interfaces as well."""
    if order.world == 1:
        return ()
    inner = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
    return (*inner, socket.AF_UNIX) if order.has_gpu else inner  # NCCL hands memory over by sockets of that kind


def _wait(processes: dict[int, int]) -> dict[str, str]:
    """How the job ended. When one process ends badly the others end too: they would wait for it."""
    while processes:
        ready, _, _ = select.select([sys.stdin], [], [], _LOOK_S)
        if ready and not sys.stdin.read(1):  # who started us is gone, or wants no more
            _kill(processes)
            return {"ended": "lost", "said": "stopped"}
        for process, rank in list(processes.items()):
            done, status = os.waitpid(process, os.WNOHANG)
            if not done:
                continue
            del processes[process]
            code = os.waitstatus_to_exitcode(status)
            if code != 0:
                _kill(processes)
                return {"ended": "failed" if code == FAILED else "lost", "said": f"rank {rank} ended with {code}"}
    return {"ended": "done", "said": ""}


def _kill(processes: dict[int, int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)
    for process in processes:
        os.waitpid(process, 0)


def _own_stdout() -> TextIO:
    """The real stdout for our lines alone; what a library prints goes to stderr."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


def _write(lines: TextIO, record: Mapping[str, object]) -> None:
    print(json.dumps(record), file=lines, flush=True)


if __name__ == "__main__":
    sys.exit(main())
