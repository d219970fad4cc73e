"""How the real Triton server is started on this machine, from the files of the `nvidia-pytriton` wheel.

In: Triton's environment (a virtual environment), the models folder, ports, the management key. Out: backends staged in the state
folder, a command with its environment, and leftovers removed. This module must never start or stop a process: the supervisor does.

Triton 2.51 as found in nvidia-pytriton 0.7.0, tested on Debian 12. It needs glibc 2.35 and, in its environment, numpy 1: the
wheel's stubs give empty tensors with numpy 2.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OUR_BACKENDS = REPOSITORY / "model_repository" / "backends"
KEY_HEADER = "triton-key"
"""HTTP header that carries the management key; over gRPC it is `triton-grpc-protocol-triton-key`."""

FORWARDED = "(?i)^x-(request-id|posthuman-wait-ms)$"
"""The two headers that Triton hands on to a backend, as parameters of the request: under which name its log tells of a call, so
that whoever reads it finds the gate's line, and how long the call may wait for its turn."""

RESTRICTED = ("inference", "model-repository", "model-config", "shared-memory", "statistics", "trace", "logging")
"""Every API but `health` and `metadata` needs the key. Inference too: who calls Triton past the gate calls without paying."""

LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Memory from malloc asks for pages of 2 MB, as numpy's does unasked. Weights are read whole for each token: with these pages a
GPT-2 of 124 M in float32 takes two thirds of the time (DECISIONS.md). It needs glibc 2.35, as the server does."""

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory; not a place for temporary files
_EXIT_TIMEOUT_S = 5


@dataclass(frozen=True)
class TritonPorts:
    """TCP ports on 127.0.0.1."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True)
class _Python:
    """What must be known of the environment's interpreter. library_folder: where its `libpython3.x.so` is."""

    version: str
    library_folder: Path
    site_packages: Path


@cache
def _python_of(environment: Path) -> _Python:
    program = (
        "import sys, sysconfig; print('%d.%d' % sys.version_info[:2]); "
        "print(sysconfig.get_config_var('LIBDIR')); print(sysconfig.get_path('purelib'))"
    )
    done = subprocess.run([environment / "bin" / "python3", "-I", "-c", program], capture_output=True, text=True, check=True)
    version, library_folder, site_packages = done.stdout.splitlines()
    return _Python(version, Path(library_folder), Path(site_packages))


def stage_backends(environment: Path, destination: Path, ours: Path = OUR_BACKENDS) -> None:
    """Put the python backend, its stub and our own backends into `destination`, as Triton's `--backend-directory`.

    They are copies: Triton refuses a python-based backend when the library it finds is a symbolic link that leaves the folder.
    Again: replaces what changed and removes what is gone, one whole file at a time, so a running server keeps what it has open.
    """
    python = _python_of(environment)
    server = python.site_packages / "pytriton" / "tritonserver"
    wanted = {
        Path("python", "libtriton_python.so"): server / "backends" / "python" / "libtriton_python.so",
        Path("python", "triton_python_backend_utils.py"): server / "backends" / "python" / "triton_python_backend_utils.py",
        Path("python", "triton_python_backend_stub"): server
        / "python_backend_stubs"
        / python.version
        / "triton_python_backend_stub",
    }
    wanted.update({path.relative_to(ours): path for path in ours.glob("*/*.py")})
    for name, source in wanted.items():
        target = destination / name
        if target.is_file() and filecmp.cmp(source, target, shallow=True):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(target.name + ".part")
        shutil.copy2(source, scratch)
        scratch.replace(target)
    for path in _files(destination):
        if path.relative_to(destination) not in wanted:
            path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in list(folder.rglob("*")) if path.is_file())


def shared_memory_prefix(ports: TritonPorts) -> str:
    """The name under which this server's stubs make their shared memory, so that no other server's is ever touched."""
    return f"posthuman-{ports.http}-"


def remove_leftovers(ports: TritonPorts) -> int:
    """Remove shared memory that a killed server left behind; return how many. Only while no server runs on these ports."""
    found = list(_SHARED_MEMORY.glob(shared_memory_prefix(ports) + "*"))
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def triton_command(
    environment: Path, models: Path, backends: Path, ports: TritonPorts, management_key: str
) -> tuple[list[str], Mapping[str, str]]:
    """The server's argument list and its whole environment; `backends` is what `stage_backends` filled.

    Nothing of our own environment is passed on: wallets' keys have no business in the process that opens models.
    The key stands in the argument list, Triton has no other way, so other users of this machine may see it in `ps`.
    """
    environment, models, backends = environment.absolute(), models.absolute(), backends.absolute()
    python = _python_of(environment)
    packages = python.site_packages
    backend_names = ["python", *sorted(path.parent.name for path in backends.glob("*/model.py"))]
    command = [
        str(packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={models}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={ports.http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={ports.grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports.metrics}",
        f"--http-restricted-api={','.join(RESTRICTED)}:{KEY_HEADER}={management_key}",
        f"--grpc-restricted-protocol={','.join(RESTRICTED)}:{KEY_HEADER}={management_key}",
        *(f"--backend-config={name},shm-region-prefix-name={shared_memory_prefix(ports)}" for name in backend_names),
        f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
        f"--http-header-forward-pattern={FORWARDED}",
        "--log-verbose=0",
    ]
    # The stub takes its site-packages from the first python3 on PATH and ignores PYTHONPATH.
    libraries = f"{packages / 'nvidia_pytriton.libs'}{os.pathsep}{python.library_folder}"
    return command, {
        "PATH": os.pathsep.join([str(environment / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
        "LD_LIBRARY_PATH": libraries,
        "LANG": "C.UTF-8",
        "HOME": str(backends),
        "PYTHONDONTWRITEBYTECODE": "1",
        **LARGE_PAGES,
    }
