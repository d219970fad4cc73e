"""A model's process cannot take the machine's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from opening.memory import ceiling

BACKENDS = Path(__file__).resolve().parent.parent.parent / "model_repository" / "backends"
GIB = 1 << 30


@pytest.mark.parametrize(
    ("container", "bytes_"),
    [(None, 0.9 * 8 * GIB), ("max", 0.9 * 8 * GIB), (str(2 * GIB), 0.9 * 2 * GIB), (str(64 * GIB), 0.9 * 8 * GIB)],
)
def test_the_ceiling_is_nine_tenths_of_the_machine_or_of_its_container(
    container: str | None, bytes_: float, tmp_path: Path
) -> None:
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text(f"MemTotal:       {8 * GIB // 1024} kB\nMemFree:  1 kB\n")
    if container is not None:
        cgroup.write_text(container + "\n")
    assert ceiling(meminfo, cgroup) == int(bytes_)


def test_past_the_ceiling_an_allocation_fails_and_the_process_goes_on() -> None:
    script = (
        "import numpy\n"
        "from opening.memory import limit_memory\n"
        f"limit_memory({GIB})\n"
        "try:\n"
        "    numpy.ones(2**28)\n"
        "except MemoryError:\n"
        "    print('refused', int(numpy.ones(8).sum()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(BACKENDS), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "refused 8\n", done.stderr
