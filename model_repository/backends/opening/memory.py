"""What memory there is, and a ceiling on a model process' own, so that one call's attention over a very long input fails, and the
machine does not.

In: what the machine, the container and a GPU have. Out: bytes, and a limit on this process. This module must never lower a limit
below what a model needs to be opened: it is a share of the whole machine.
"""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

_SHARE = 0.9
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def ceiling(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Bytes: nine tenths of the machine's memory, or of the container's where that is less.

    Raises OSError, KeyError or ValueError when the machine does not say what it has as Linux does.
    """
    lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines() if ":" in line)
    whole = int(lines["MemTotal"].split()[0]) * 1024
    stated = cgroup.read_text(encoding="ascii").strip() if cgroup.exists() else "max"
    return int(_SHARE * (whole if stated == "max" else min(whole, int(stated))))


def limit_memory(most: int) -> None:
    """From here on, an allocation past `most` bytes of this process' own data fails: ONNX Runtime refuses that call, and goes on.

    Files that are mapped are not counted. Again: a lower limit holds, a higher one does not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def device_ceiling(number: int) -> int:
    """Bytes: nine tenths of a GPU's memory, asked of its driver: ONNX Runtime tells nothing of it.

    number: as CUDA counts those that this process may see. Raises OSError when there is no driver, or no such GPU.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    device, size = ctypes.c_int(), ctypes.c_size_t()
    for name, arguments in (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), number)),
        ("cuDeviceTotalMem_v2", (ctypes.byref(size), device)),
    ):
        if status := getattr(driver, name)(*arguments):
            raise OSError(f"GPU {number}: {name} answered {status}")
    return int(_SHARE * size.value)
