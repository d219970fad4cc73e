"""How much a conversion may take: decided from the size of its files and what is free."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.limits import GIB, available_memory, files_bytes, limits_for


@given(st.integers(0, 1 << 45), st.integers(1 << 20, 1 << 45))
def test_a_conversion_never_gets_all_that_is_free(weights: int, available: int) -> None:
    limits = limits_for(weights, available)
    assert 0 < limits.memory_bytes < available
    assert limits.address_bytes > limits.memory_bytes and limits.file_bytes >= 3 * weights


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_a_larger_model_never_gets_less(one: int, other: int) -> None:
    small, large = sorted((one, other))
    less, more = limits_for(small, 64 * GIB), limits_for(large, 64 * GIB)
    assert less.memory_bytes <= more.memory_bytes and less.wall_s <= more.wall_s and less.file_bytes <= more.file_bytes


def test_a_small_model_gets_a_small_share_of_a_large_machine() -> None:
    assert limits_for(1 << 20, 512 * GIB).memory_bytes < 4 * GIB


def test_only_weights_count_and_a_link_counts_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "README.md").write_bytes(b"x" * 5000)
    (tmp_path / "model-00001-of-00001.safetensors").symlink_to("/dev/zero")
    assert 1000 <= files_bytes(tmp_path) < 1100


def machine(folder: Path, free_kib: int, cgroup: str) -> Path:
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {free_kib} kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    return proc


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize("place", ["/", "/a/b", "/a"])
def test_a_control_group_of_version_2_bounds_what_is_free(place: str, tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, 1 << 20, f"0::{place}\n"), tmp_path / "groups"
    write(groups / place.lstrip("/"), memory__max=f"{1 << 29}\n", memory__current=f"{1 << 28}\n", memory__stat="active_file 4096\n")
    assert available_memory(proc, groups) == (1 << 28) + 4096


def test_a_group_above_bounds_those_within(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, 1 << 20, "0::/a/b\n"), tmp_path / "groups"
    write(groups / "a" / "b", memory__max="max\n", memory__current="10\n")
    write(groups / "a", memory__max="1000\n", memory__current="400\n")
    assert available_memory(proc, groups) == 600


def test_a_control_group_of_version_1_bounds_what_is_free(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, 1 << 20, "8:pids:/\n4:memory:/box\n0::/\n"), tmp_path / "groups"
    write(groups / "memory" / "box", memory__limit_in_bytes="5000\n", memory__usage_in_bytes="2000\n")
    assert available_memory(proc, groups) == 3000


def test_without_a_limit_the_machine_decides(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, 1 << 20, "0::/\n"), tmp_path / "groups") == 1 << 30


def test_this_machine_says_something_sensible() -> None:
    assert 1 << 20 < available_memory() < 1 << 50
