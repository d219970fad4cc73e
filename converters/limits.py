"""How much of the machine one conversion may take.

In: the size of a model's files and what the machine has. Out: `Limits`, and the same imposed on this process. This module must
never open a model's file, or import anything but the standard library and our errors.

Memory is limited twice. RLIMIT_DATA counts what the process may write and has to itself, so mapped weights are free: that is the
limit that a hostile or absurd model meets. RLIMIT_AS counts every address, also what is only reserved (each thread reserves 64 MB),
and lies far above.
"""

from __future__ import annotations

import faulthandler
import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from converters.errors import ConversionFailed

GIB = 1 << 30

_LIBRARIES = 3 * GIB
"""torch, transformers, the exporter and ONNX Runtime write 0.4 GB when imported (torch 2.13); a tiny model's conversion 0.9 GB."""
_TIMES_WEIGHTS = 12
"""Half-precision files widened to float32 (2), the exporter's graph and its copies (6 more), ONNX Runtime's session (4)."""
_RESERVED = 64 * GIB
_SECONDS, _SECONDS_A_GIB = 1800, 1800
"""A small model takes under 30 s on two cores; CPU seconds count every thread."""
_GRACE_S = 30
_SMALL_FILES = GIB >> 2
_TIMES_FILE = 3
"""All weights of a sharded half-precision model may go into one file, widened, with padding between tensors."""
_OPEN_FILES = 4096


@dataclass(frozen=True)
class Limits:
    """memory_bytes: what the process may write to. address_bytes: what it may map. cpu_s: of all threads together.

    wall_s: seconds from now. file_bytes: the largest file it may write.
    """

    memory_bytes: int
    address_bytes: int
    cpu_s: int
    wall_s: int
    file_bytes: int


def limits_for(weights_bytes: int, available_bytes: int) -> Limits:
    """What a conversion of weights of that size (as files) may take on a machine with that much memory free."""
    memory = min(_LIBRARIES + _TIMES_WEIGHTS * weights_bytes, available_bytes * 9 // 10)
    seconds = _SECONDS + _SECONDS_A_GIB * weights_bytes // GIB
    return Limits(
        memory_bytes=memory,
        address_bytes=memory + _RESERVED + 6 * weights_bytes,
        cpu_s=2 * seconds,
        wall_s=2 * seconds,
        file_bytes=_SMALL_FILES + _TIMES_FILE * weights_bytes,
    )


def files_bytes(folder: Path) -> int:
    """The size of the safetensors in a folder, links not followed and nothing opened."""
    return sum(path.lstat().st_size for path in folder.iterdir() if path.suffix == ".safetensors")


def available_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process can still take before the machine or its control group runs out (Linux, groups of both versions)."""
    told = dict(line.split(":", 1) for line in (proc / "meminfo").read_text(encoding="ascii").splitlines())
    free = int(told["MemAvailable"].split()[0]) * 1024
    for line in (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = groups / "memory" if controllers else groups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        # A group is bound by those above it as well; in a container its own place may not be visible, only the top.
        inside = top / place.lstrip("/")
        for group in (inside, *(parent for parent in inside.parents if parent.is_relative_to(top))):
            limit, used = (_number(group / name) for name in names)
            if limit is not None and used is not None:
                free = min(free, max(0, limit - used + _reclaimable(group)))
    return free


def impose(limits: Limits) -> None:
    """Set the limits on this process, for good. Past its time it raises ConversionFailed wherever it stands, or ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a stranger's weights
    _lower(resource.RLIMIT_DATA, limits.memory_bytes)
    _lower(resource.RLIMIT_AS, limits.address_bytes)
    _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = limits.cpu_s if hard == resource.RLIM_INFINITY else min(limits.cpu_s, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + _GRACE_S if hard == resource.RLIM_INFINITY else hard))

    def late(number: int, _frame: FrameType | None) -> None:
        said = f"{limits.cpu_s} s of processor time" if number == signal.SIGXCPU else f"{limits.wall_s} s"
        raise ConversionFailed(f"this machine: expected a conversion of this model within {said}, and it was not done")

    signal.signal(signal.SIGXCPU, late)
    signal.signal(signal.SIGALRM, late)
    signal.alarm(limits.wall_s)
    # A library that never returns to Python runs no handler of ours: this thread is the C library's and asks nobody.
    faulthandler.dump_traceback_later(limits.wall_s + _GRACE_S, exit=True)


def _lower(what: int, limit: int) -> None:
    hard = resource.getrlimit(what)[1]
    lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (lowest, lowest))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable(group: Path) -> int:
    """Cached file pages of a group: they count as used, and are given up when memory is wanted."""
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    told = dict(line.split(" ", 1) for line in lines)
    return sum(int(told.get(name, 0)) for name in ("inactive_file", "active_file"))
