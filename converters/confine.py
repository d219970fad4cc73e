"""Give up what a conversion or a job does not need: the network, other programs, and a look into other processes.

In: nothing but the kernel. Out: the names of what could not be given up, empty when all of it was. This module must never import
anything but the standard library, since it runs before anything else is there; and nothing that it does can be undone.

Two locks, since either may be closed to us (containers often forbid the first, other processors lack our table for the second):

- a user and a network namespace of our own (`unshare(2)`): no interface, and no right to look into processes outside it;
- a filter on system calls (`seccomp(2)`): no socket of any family, so no Unix socket of a container engine either; no new process
  or program; no look into another process; no io_uring, which would do all that past the filter.

Processes that do one job together speak to each other: they share a namespace whose one interface leads back to itself, and their
filter lets through sockets for that alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_THREAD = 0x10000000, 0x40000000, 0x00010000
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_EPERM, _ENOSYS = 1, 38
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
# Instructions of the classic packet filter, linux/bpf_common.h: load a word; jump if equal, if at least, if a bit is set; return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data


@dataclass(frozen=True)
class _Calls:
    """A processor's numbers of system calls, from Linux' tables. refused: what a conversion never does."""

    architecture: int
    seccomp: int
    clone: int
    refused: Mapping[str, int]
    has_x32: bool


def _numbers(told: str) -> dict[str, int]:
    return {name: int(number) for name, number in (pair.split("=") for pair in told.split())}


_CALLS: Mapping[str, _Calls] = {
    "x86_64": _Calls(
        architecture=0xC000003E,
        seccomp=317,
        clone=56,
        refused=_numbers(
            "socket=41 connect=42 fork=57 vfork=58 execve=59 execveat=322 ptrace=101 process_vm_readv=310 process_vm_writev=311"
            " pidfd_open=434 pidfd_getfd=438 io_uring_setup=425 mount=165 kexec_load=246 bpf=321 setns=308 unshare=272"
            " perf_event_open=298 add_key=248 request_key=249 keyctl=250"
        ),
        has_x32=True,
    ),
    "aarch64": _Calls(
        architecture=0xC00000B7,
        seccomp=277,
        clone=220,
        refused=_numbers(
            "socket=198 connect=203 execve=221 execveat=281 ptrace=117 process_vm_readv=270 process_vm_writev=271"
            " pidfd_open=434 pidfd_getfd=438 io_uring_setup=425 mount=40 kexec_load=104 bpf=280 setns=268 unshare=97"
            " perf_event_open=241 add_key=217 request_key=218 keyctl=219"
        ),
        has_x32=False,
    ),
}
_CLONE3 = 435


def confine(owned: Path) -> tuple[str, ...]:
    """Close both locks on this process; returns a line for each that did not close. Again: the second time neither opens.

    owned: a folder this process must go on writing to. When it is another user's, the namespace leaves us our rights as root.
    """
    said = []
    if error := leave_the_network(owned):
        said.append(f"no network namespace of its own: {error}")
    if error := filter_calls():
        said.append(f"no filter on system calls: {error}")
    return tuple(said)


def has_network_lock(said: tuple[str, ...]) -> bool:
    """Did at least one lock close that keeps this process off the network?"""
    return len(said) < 2


def leave_the_network(owned: Path, *, has_loopback: bool = False) -> str | None:
    """A new network namespace, which has no way out; the user namespace around it takes our rights over other processes.

    owned: as for `confine`. has_loopback: this process and those it starts may speak to each other at 127.0.0.1, and to nobody
    else. Returns why it could not be, None when it is done. A process that has threads is refused by the kernel.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    is_ours = owned.stat().st_uid == user
    if libc.unshare((_CLONE_NEWUSER if is_ours else 0) | _CLONE_NEWNET) != 0:
        return os.strerror(ctypes.get_errno())
    if is_ours:
        try:
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        except OSError as error:
            return f"users cannot be mapped: {error.strerror}"
    if has_loopback:
        try:
            _raise_loopback()
        except OSError as error:
            return f"no loopback in it: {error.strerror}"
    return None


def _raise_loopback() -> None:
    """`ip link set lo up`: a new namespace has its loopback, switched off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING))


def filter_calls(families: tuple[int, ...] = ()) -> str | None:
    """Refuse what a conversion or job never does, from here on, in all threads. Returns why it could not be, None when it is done.

    families: of sockets, which may be opened nevertheless.
    """
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return f"expected a processor among {sorted(_CALLS)}, found {platform.machine()}"
    libc = ctypes.CDLL(None, use_errno=True)
    program = _program(calls, families)
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions and where they are.
    place = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    asked = ctypes.create_string_buffer(place, len(place))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return os.strerror(ctypes.get_errno())
    if libc.syscall(calls.seccomp, _SET_MODE_FILTER, _ALL_THREADS, asked) != 0:
        return os.strerror(ctypes.get_errno())
    return None


def _program(calls: _Calls, families: tuple[int, ...] = ()) -> bytes:
    """The filter: refused calls answer EPERM, `clone` for anything but a thread as well, and all others go through.

    `clone3` keeps its flags in memory, where no filter sees them; told that it does not exist, the C library takes `clone`.
    """

    def step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, operand)

    refuse = step(_RETURN, _ERROR | _EPERM)
    steps = [
        step(_LOAD, _ARCHITECTURE_AT),
        step(_EQUAL, calls.architecture, 1, 0),
        step(_RETURN, _KILL),  # the 32-bit calls have other numbers
        step(_LOAD, _NUMBER_AT),
    ]
    if calls.has_x32:
        steps += [step(_AT_LEAST, 0x40000000, 0, 1), refuse]
    if families:
        # jumped over unless the call is `socket`; a family that is not on the list falls through to the refusal
        allowed = [part for family in families for part in (step(_EQUAL, family, 0, 1), step(_RETURN, _ALLOW))]
        body = [step(_LOAD, _FIRST_ARGUMENT_AT), *allowed, refuse]
        steps += [step(_EQUAL, calls.refused["socket"], 0, len(body)), *body]
    for name, number in sorted(calls.refused.items()):
        if not (families and name in ("socket", "connect")):
            steps += [step(_EQUAL, number, 0, 1), refuse]
    steps += [step(_EQUAL, _CLONE3, 0, 1), step(_RETURN, _ERROR | _ENOSYS)]
    steps += [step(_EQUAL, calls.clone, 1, 0), step(_RETURN, _ALLOW)]
    steps += [step(_LOAD, _FIRST_ARGUMENT_AT), step(_ANY_BIT, _CLONE_THREAD, 1, 0), refuse, step(_RETURN, _ALLOW)]
    return b"".join(steps)
