"""How fast this machine's memory can be read: what no engine that reads its weights at each step can pass.

In: a number of threads. Out: bytes a second by each of several ways of reading a block much larger than any cache. This module must
never write to that block while it measures, or tell a mean: the fastest way that was seen is the bound.

Ways differ by a third and more, and which is fastest depends on the machine: PyTorch's sum alone was too slow to be a bound.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

BLOCK_BYTES = 1 << 29
"""About as much as the weights that the benchmark's engines read in one step."""
_SOURCE = """
#include <stddef.h>
#include <stdint.h>
uint64_t read_all(const uint64_t *values, size_t count)
{
    uint64_t lanes[64] = {0}, whole = 0;
    for (size_t at = 0; at + 64 <= count; at += 64)
        for (int lane = 0; lane < 64; lane++)
            lanes[lane] ^= values[at + lane];
    for (int lane = 0; lane < 64; lane++)
        whole ^= lanes[lane];
    return whole;
}
"""

Read = Callable[[numpy.ndarray], object]


class Reading:
    """Ways to read one block. Making it fills the block and compiles what there is to compile."""

    def __init__(self, threads: int, folder: Path) -> None:
        """folder: for the compiled way; without a C compiler it is left out."""
        self._threads = threads
        self._block: Any = numpy.ones(BLOCK_BYTES // 8, numpy.int64)
        self._ways: dict[str, Read] = {
            "numpy, sum of int64": lambda part: part.sum(),
            "numpy, xor of int64": numpy.bitwise_xor.reduce,
            "numpy, largest float32": lambda part: part.view(numpy.float32).max(),
            "numpy, product of float32 with itself": lambda part: numpy.dot(part.view(numpy.float32), part.view(numpy.float32)),
        }
        if compiled := _compiled(folder):
            self._ways["C, xor of int64"] = compiled

    def speeds(self) -> dict[str, float]:
        """Bytes a second by way, each with one thread and with all, whichever is faster; PyTorch's sum beside ours."""
        found = {name: max(self._speed(read, count) for count in {1, self._threads}) for name, read in self._ways.items()}
        return found | {"PyTorch, sum of float32": self._by_torch()}

    def _speed(self, read: Read, threads: int) -> float:
        parts = numpy.array_split(self._block, threads)
        readers = [threading.Thread(target=read, args=(part,)) for part in parts]
        began = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return BLOCK_BYTES / (time.perf_counter() - began)

    def _by_torch(self) -> float:
        import torch

        torch.set_num_threads(self._threads)
        values = torch.from_numpy(self._block.view(numpy.float32))
        began = time.perf_counter()
        values.sum()
        return BLOCK_BYTES / (time.perf_counter() - began)


def _compiled(folder: Path) -> Read | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    source, library = folder / "reading.c", folder / "reading.so"
    source.write_text(_SOURCE, encoding="utf-8")
    command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    read_all = ctypes.CDLL(str(library)).read_all
    read_all.argtypes, read_all.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_uint64
    return lambda part: read_all(part.ctypes.data, len(part))
