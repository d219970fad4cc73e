"""The embedded stack: which components there are, in which order they start, and what is done in between.

In: a state folder. Out: a supervisor that runs them (`python -m deploy.local.stack HOME`). This module must never start a process
itself, and never wait for one.

    chain -> Ocean's contracts -> keys, log NFT, algorithms -> objects and Triton -> database -> web, keeper, worker -> models
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from control_plane.chain.networks import LOCAL_CHAIN_ID
from control_plane.chain.rpc import Rpc
from control_plane.chain.wallet import LocalWallet, save_keystore
from control_plane.errors import BadInput
from control_plane.flows.algorithms import publish_algorithms
from control_plane.flows.open_log import open_log
from control_plane.receipts.keys import create_checkpoint_key, create_receipt_key, receipt_address
from control_plane.settings import Settings, read_settings
from control_plane.state import read_environment_file, write_environment_file
from control_plane.wiring import (
    build_services,
    open_catalogue,
    open_ledger,
    open_triton,
    operator_wallet,
    receipt_key_file,
)
from deploy.local import objects
from deploy.local.chain import anvil_command, deploy_ocean, local_account
from deploy.local.environment import (
    Places,
    choose_environment,
    component_environment,
    external,
    places,
    triton_ports,
)
from deploy.local.life import alive_file, shows_life, worker_alive_file
from deploy.local.supervisor import Component, Launch, Stage, Supervisor, Task
from deploy.local.triton_server import remove_leftovers, stage_backends, triton_command

_PROBE_S = 2.0
_WORKER_STOPS_WITHIN_S = 45.0
"""Its jobs are given up first, then Ray is ended."""
_LOCAL_SCRYPT = 1024
"""scrypt's cost for a key that everybody knows; 2**18, as for others, would cost each worker's start a second."""


@dataclass(frozen=True)
class Embedded:
    """One state folder's stack. values: `environment.json` as it was just written."""

    home: Path
    settings: Settings
    values: Mapping[str, str]
    places: Places
    not_ours: frozenset[str]

    def port(self, name: str) -> int:
        return int(self.values[f"POSTHUMAN_{name}"])

    def environment(self) -> dict[str, str]:
        """For our own components. The ports and keys come from environment.json, which they read themselves."""
        return component_environment(self.home)


def plan(home: Path) -> Sequence[Stage]:
    """Choose ports and keys, and say what to start. Call it while nothing of this folder runs."""
    values = choose_environment(home, os.environ)
    settings = read_settings({**os.environ, "POSTHUMAN_HOME": str(home)})
    stack = Embedded(home, settings, values, places(), external(home, os.environ))
    contracts = (Task("Ocean's contracts", lambda: _deploy(stack)),) if "chain" not in stack.not_ours else ()
    return (
        Stage(
            _ours(stack, chain(stack)),
            (*contracts, Task("keys and log NFT", lambda: prepare_log(home)), Task("algorithms", lambda: prepare_algorithms(home))),
        ),
        Stage(_ours(stack, object_storage(stack), triton(stack)), (Task("database", lambda: _migrate(home)),)),
        Stage((web(stack), keeper(stack), worker(stack)), (Task("models", lambda: load_models(home)),)),
    )


def _ours(stack: Embedded, *components: Component) -> tuple[Component, ...]:
    return tuple(component for component in components if component.name not in stack.not_ours)


def _settings(home: Path) -> Settings:
    return read_settings({**os.environ, "POSTHUMAN_HOME": str(home)})


def chain(stack: Embedded) -> Component:
    folder = stack.home / "chain"

    def launch() -> Launch:
        folder.mkdir(parents=True, exist_ok=True)
        return Launch(anvil_command(stack.places.anvil, stack.port("CHAIN_PORT"), folder), stack.environment())

    rpc = Rpc(stack.settings.rpc_url, stack.settings.chain_id)
    return Component(
        "chain",
        launch,
        lambda: rpc.head().number >= 0,
        stack.port("CHAIN_PORT"),
        on_return=lambda: _deploy(stack),
    )


def _deploy(stack: Embedded) -> None:
    deploy_ocean(stack.settings.rpc_url)


def object_storage(stack: Embedded) -> Component:
    port = stack.port("S3_PORT")
    keys = objects.environment(stack.settings.s3_key_id, stack.settings.s3_secret)
    command = objects.command(stack.places.rclone, stack.home / "objects", port, stack.home / "cache" / "rclone")
    return Component("objects", lambda: Launch(command, {**stack.environment(), **keys}), lambda: objects.is_ready(port), port)


def triton(stack: Embedded) -> Component:
    ports = triton_ports(stack.values)
    backends = stack.home / "backends"

    def launch() -> Launch:
        stack.settings.models.mkdir(parents=True, exist_ok=True)
        remove_leftovers(ports)
        stage_backends(stack.places.triton_environment, backends)
        command, environment = triton_command(
            stack.places.triton_environment, stack.settings.models, backends, ports, stack.settings.triton_key
        )
        return Launch(command, environment)

    server = open_triton(stack.settings)
    return Component(
        "triton",
        launch,
        server.is_ready,
        ports.http,
        ready_within_s=120.0,
        stop_within_s=15.0,
        on_return=lambda: load_models(stack.home),  # a restarted server is empty
        on_stop=lambda: remove_leftovers(ports),
    )


def web(stack: Embedded) -> Component:
    def launch() -> Launch:
        repository = stack.places.repository
        command = (str(stack.places.python), "-m", "control_plane.web.serve")
        return Launch(command, {**stack.environment(), "PYTHONPATH": str(repository)})

    return Component("web", launch, _answers(f"http://127.0.0.1:{stack.settings.web_port}/healthz"), stack.settings.web_port)


def keeper(stack: Embedded) -> Component:
    command = (str(stack.places.python), "-m", "deploy.keeper")
    environment = {**stack.environment(), "PYTHONPATH": str(stack.places.repository)}

    def launch() -> Launch:
        alive_file(stack.home).unlink(missing_ok=True)  # an earlier keeper's
        return Launch(command, environment)

    return Component("keeper", launch, lambda: shows_life(alive_file(stack.home)))


def worker(stack: Embedded) -> Component:
    """Runs jobs. It loads what they need at the first one."""
    alive = worker_alive_file(stack.home)
    command = (str(stack.places.python), "-m", "c2d_adapter.worker", f"--alive={alive}")
    environment = {**stack.environment(), "PYTHONPATH": str(stack.places.repository)}

    def launch() -> Launch:
        alive.unlink(missing_ok=True)
        return Launch(command, environment)

    return Component("worker", launch, lambda: shows_life(alive), stop_within_s=_WORKER_STOPS_WITHIN_S)


def _answers(url: str) -> Callable[[], bool]:
    session = requests.Session()
    session.trust_env = False
    return lambda: bool(session.get(url, timeout=_PROBE_S).status_code == 200)


def prepare_log(home: Path) -> None:
    """Make the operator's keys, readable by their owner alone, and the log's NFT; write its address down. Again: finds them."""
    settings = _settings(home)
    wallet = operator_key(settings)
    receipt_key = create_receipt_key(receipt_key_file(settings))
    checkpoint_key = create_checkpoint_key(settings.checkpoint_key_file)
    public = checkpoint_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    nft = open_log(open_ledger(settings), wallet, receipt_address(receipt_key), public)
    values = {**read_environment_file(home), "POSTHUMAN_LOG_NFT": str(nft)}
    if values != read_environment_file(home):
        write_environment_file(home, values)


def prepare_algorithms(home: Path) -> None:
    """Publish the market's own algorithms and write their NFTs down. Again: finds them."""
    settings = _settings(home)
    wallet = operator_key(settings)
    folder = settings.home / "algorithms"
    made = publish_algorithms(open_ledger(settings), wallet, wallet.public_key, settings.public_url, folder, time.time)
    found = {f"POSTHUMAN_ALGORITHM_{kind.value.upper()}": str(nft) for kind, nft in made.items()}
    if (values := {**read_environment_file(home), **found}) != read_environment_file(home):
        write_environment_file(home, values)


def operator_key(settings: Settings) -> LocalWallet:
    """The operator's wallet. On the local chain its key is public and is put in place; elsewhere the operator brings a keystore.

    Again: a crash leaves a passphrase without a keystore, and both are made anew.
    """
    path = settings.operator_key_file
    if not path.exists() and settings.chain_id == LOCAL_CHAIN_ID:
        passphrase = path.with_name(path.name + ".passphrase")
        passphrase.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret = secrets.token_urlsafe(18)
        with os.fdopen(os.open(passphrase, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as stream:
            stream.write(secret + "\n")
        save_keystore(path, local_account("operator"), secret, iterations=_LOCAL_SCRYPT)
    if not path.exists():
        raise BadInput(
            "POSTHUMAN_OPERATOR_KEY_FILE", f"a keystore for chain {settings.chain_id}: `posthuman wallet new`", str(path)
        )
    return operator_wallet(settings)


def _migrate(home: Path) -> None:
    open_catalogue(_settings(home))


def load_models(home: Path) -> None:
    """Load what is on sale into Triton; an entry that does not verify is withdrawn, with its reason."""
    services = build_services(_settings(home))
    done = services.catalogue.reconcile(services.server, services.ledger)
    for did, reason in done.refused:
        logging.getLogger(__name__).error("%s is not served: %s", did, reason)


def main(arguments: Sequence[str]) -> int:
    home = Path(arguments[0]).resolve()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    return Supervisor(home, lambda: plan(home)).run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
