"""What is staged for Triton and how it is started. The live server's tests are in tests/control_plane/serving/test_triton.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.local.triton_server import (
    OUR_BACKENDS,
    RESTRICTED,
    TritonPorts,
    remove_leftovers,
    shared_memory_prefix,
    stage_backends,
    triton_command,
)
from tests.fixtures_triton import ENVIRONMENT

PORTS = TritonPorts(http=28000, grpc=28001, metrics=28002)


@pytest.fixture(scope="module")
def environment() -> Path:
    if not (ENVIRONMENT / "bin" / "python3").exists():
        pytest.skip("no Triton environment in .venv-triton: run `make setup`")
    return ENVIRONMENT


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_staged_files_are_copies_and_none_is_a_link(environment: Path, tmp_path: Path) -> None:
    stage_backends(environment, tmp_path)
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    ours = {path.relative_to(OUR_BACKENDS).as_posix() for path in OUR_BACKENDS.glob("*/*.py")}
    assert {"generate/model.py", "predict/model.py"} <= ours
    python = {f"python/{name}" for name in ("libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py")}
    assert set(files(tmp_path)) == ours | python
    assert (tmp_path / "python" / "triton_python_backend_stub").stat().st_mode & 0o100


def test_staging_again_touches_only_what_changed(environment: Path, tmp_path: Path) -> None:
    ours, staged = tmp_path / "ours", tmp_path / "staged"
    (ours / "generate").mkdir(parents=True)
    (ours / "generate" / "model.py").write_text("one = 1\n")
    (ours / "generate" / "old.py").write_text("two = 2\n")
    stage_backends(environment, staged, ours)
    before = files(staged)
    stage_backends(environment, staged, ours)
    assert files(staged) == before

    (ours / "generate" / "model.py").write_text("one = 11\n")
    (ours / "generate" / "old.py").unlink()
    stage_backends(environment, staged, ours)
    after = files(staged)
    assert (staged / "generate" / "model.py").read_text() == "one = 11\n"
    assert set(before) - set(after) == {"generate/old.py"}
    assert [name for name in after if after[name] != before[name]] == ["generate/model.py"]


def test_the_server_listens_on_this_machine_only_and_locks_all_but_its_health(environment: Path, tmp_path: Path) -> None:
    stage_backends(environment, tmp_path)
    command, variables = triton_command(environment, tmp_path / "models", tmp_path, PORTS, "k3y")
    for door in ("http", "grpc", "metrics"):
        assert f"--{door}-address=127.0.0.1" in command
        assert f"--{door}-port={getattr(PORTS, door)}" in command
    assert f"--http-restricted-api={','.join(RESTRICTED)}:triton-key=k3y" in command
    assert f"--grpc-restricted-protocol={','.join(RESTRICTED)}:triton-key=k3y" in command
    assert {"inference", "model-repository", "shared-memory"} <= set(RESTRICTED)
    assert "--model-control-mode=explicit" in command
    (forwarded,) = [part.partition("=")[2] for part in command if "header-forward" in part]
    names = ("X-Request-Id", "x-posthuman-wait-ms", "Authorization", "triton-key", "Idempotency-Key", "X-X-Request-Id")
    assert [name for name in names if re.search(forwarded, name)] == list(names[:2]), "no token goes on"
    assert variables["PATH"].startswith(str(environment / "bin"))
    assert variables["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


def test_the_server_gets_none_of_our_secrets(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTHUMAN_OPERATOR_KEY", "0xsecret")
    monkeypatch.setenv("LD_PRELOAD_X", "secret")
    command, variables = triton_command(environment, tmp_path, tmp_path, PORTS, "k3y")
    assert "secret" not in " ".join([*command, *variables.values()])


def test_only_our_own_leftovers_are_removed() -> None:
    ours, neighbours = TritonPorts(1, 2, 3), TritonPorts(12, 13, 14)
    shared = Path("/dev/shm")
    if not shared.is_dir():
        pytest.skip("no /dev/shm: run `pytest tests/deploy/test_triton_server.py` on Linux")
    made = [shared / f"{shared_memory_prefix(ports)}test" for ports in (ours, neighbours)]
    try:
        for path in made:
            path.write_bytes(b"")
        assert remove_leftovers(ours) == 1
        assert [path.exists() for path in made] == [False, True]
        assert remove_leftovers(ours) == 0
    finally:
        for path in made:
            path.unlink(missing_ok=True)
