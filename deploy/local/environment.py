"""What the embedded stack chooses for itself: ports and the keys of local servers, once, and kept.

In: the state folder, the caller's environment. Out: `environment.json`, and the environment of each component. This module must
never hand a wallet's key or passphrase to a component.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from control_plane.chain.networks import LOCAL_CHAIN_ID
from control_plane.database import place_of
from control_plane.settings import REPOSITORY
from control_plane.state import ENVIRONMENT_FILE, read_environment_file, write_environment_file
from deploy.local import objects
from deploy.local.ports import HOST, choose_ports
from deploy.local.triton_server import TritonPorts

WANTED = {
    "CHAIN_PORT": 8545,
    "S3_PORT": 9000,
    "TRITON_PORT": 8000,
    "TRITON_GRPC_PORT": 8001,
    "TRITON_METRICS_PORT": 8002,
    "WEB_PORT": 8030,
}
EXTERNAL = {"RPC_URL": "chain", "TRITON_URL": "triton", "S3_URL": "objects"}
"""A setting that names somebody else's server, and the component that is then not started."""
DATABASE = "POSTHUMAN_DATABASE_URL"
_OWN_PORT = {"RPC_URL": "CHAIN_PORT", "TRITON_URL": "TRITON_PORT", "S3_URL": "S3_PORT", "PUBLIC_URL": "WEB_PORT"}
_WITH = {
    "RPC_URL": ("CHAIN_ID", "CONFIRMATIONS", "OPERATOR_KEY_FILE"),
    "TRITON_URL": ("TRITON_KEY",),
    "S3_URL": ("S3_BUCKET", "S3_KEY_ID", "S3_SECRET", "S3_ENCRYPTION"),
    "PUBLIC_URL": (),
}
"""What belongs to a server that somebody else runs; kept beside its URL, so that no command reads one without the other."""
_KEPT_BACK = frozenset({"POSTHUMAN_PRIVATE_KEY", "POSTHUMAN_PASSPHRASE"})
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "LD_LIBRARY_PATH", "RAY_ADDRESS")


@dataclass(frozen=True)
class Places:
    """Programs and folders of this checkout."""

    repository: Path
    python: Path
    rclone: Path
    anvil: Path
    triton_environment: Path


def places(repository: Path = REPOSITORY) -> Places:
    """Where `make setup` put them."""
    binaries = repository / ".venv" / "bin"
    return Places(
        repository=repository,
        python=binaries / "python",
        rclone=binaries / "rclone",
        anvil=repository / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil",
        triton_environment=repository / ".venv-triton",
    )


def elsewhere(home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """URLs that are not this stack's own, by setting (`RPC_URL` and the like): given now, or given to an earlier `up`."""
    kept = read_environment_file(home)
    found = {}
    for name, port in _OWN_PORT.items():
        own = f"http://{HOST}:{kept.get(f'POSTHUMAN_{port}')}"
        remembered = kept.get(f"POSTHUMAN_{name}", own)
        url = environ.get(f"POSTHUMAN_{name}") or ("" if remembered == own else remembered)
        if url:
            found[name] = url
    return found


def external(home: Path, environ: Mapping[str, str]) -> frozenset[str]:
    """Components that are not ours to start, because a setting names somebody else's."""
    return frozenset(EXTERNAL[name] for name in elsewhere(home, environ) if name in EXTERNAL)


def remembered_lines(home: Path, environ: Mapping[str, str]) -> list[str]:
    """One line for each server that `up` uses only because an earlier `up` was given it. The database's password is in none."""
    kept = read_environment_file(home)
    lines = []
    if (url := kept.get(DATABASE)) is not None and not environ.get(DATABASE):
        lines.append(f"the database is the {place_of(url)}, as an earlier `up` was told by {DATABASE}")
    for name, url in elsewhere(home, environ).items():
        if environ.get(f"POSTHUMAN_{name}"):
            continue
        chain = f", chain {kept.get('POSTHUMAN_CHAIN_ID', LOCAL_CHAIN_ID)}" if name == "RPC_URL" else ""
        what = f"no {EXTERNAL[name]} is started" if name in EXTERNAL else "buyers reach the market there"
        lines.append(
            f"{what}: {url}{chain}, as an earlier `up` was told by POSTHUMAN_{name}; "
            f"another POSTHUMAN_HOME starts anew, without its line in {home / ENVIRONMENT_FILE} `up` starts our own"
        )
    return lines


def choose_environment(home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Choose what is not chosen yet, and write it down. Call it while nothing of ours runs.

    A port in `environ` (POSTHUMAN_WEB_PORT and the like) goes before the remembered one. A URL of somebody else's server is
    remembered with what belongs to it, and so is the database's: with another one the log would not be continued.
    Again: the same ports, unless one is taken by somebody else now; the same keys and URLs.
    """
    kept = read_environment_file(home)
    asked = {name: int(value) for name in WANTED if (value := environ.get(f"POSTHUMAN_{name}", "")).isdigit()}
    remembered = {name: int(value) for name in WANTED if (value := kept.get(f"POSTHUMAN_{name}", "")).isdigit()}
    remembered.update(asked)
    ports = choose_ports(WANTED, remembered)
    ports.update(asked)
    key_id, secret = objects.new_keys()
    not_ours = elsewhere(home, environ)
    database = {"DATABASE_URL": given} if (given := environ.get(DATABASE)) else {}
    beside = {part: given for name in not_ours for part in _WITH[name] if (given := environ.get(f"POSTHUMAN_{part}"))}
    stale = _WITH["RPC_URL"] if "RPC_URL" not in not_ours else ()
    chosen = {
        "S3_KEY_ID": key_id,
        "S3_SECRET": secret,
        "TRITON_KEY": secrets.token_urlsafe(24),
        "S3_BUCKET": "posthuman",
        **{name: value for key, value in kept.items() if (name := key.removeprefix("POSTHUMAN_")) not in stale},
        **{name: str(port) for name, port in ports.items()},
        **{name: f"http://{HOST}:{ports[port]}" for name, port in _OWN_PORT.items()},
        **not_ours,
        **beside,
        **database,
    }
    values = {f"POSTHUMAN_{name}": value for name, value in chosen.items()}
    write_environment_file(home, values)
    return values


def triton_ports(values: Mapping[str, str]) -> TritonPorts:
    """Triton's ports out of `environment.json`."""
    return TritonPorts(*(int(values[f"POSTHUMAN_{name}"]) for name in ("TRITON_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")))


def component_environment(home: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of our own components: settings, a few things of the caller's, and no place to write outside `home`."""
    given = dict(os.environ if environ is None else environ)
    scratch = home / "cache" / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    return {
        **{name: given[name] for name in _PASSED_ON if name in given},
        **{name: value for name, value in given.items() if name.startswith("POSTHUMAN_") and name not in _KEPT_BACK},
        "POSTHUMAN_HOME": str(home),
        "HOME": str(home / "cache" / "home"),
        "TMPDIR": str(scratch),
        "XDG_CACHE_HOME": str(home / "cache" / "xdg"),
        "XDG_CONFIG_HOME": str(home / "cache" / "xdg"),
        "XDG_DATA_HOME": str(home / "cache" / "xdg"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore:pkg_resources is deprecated",
    }
