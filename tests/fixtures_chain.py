"""The local chain for tests: a real anvil with Ocean's contracts, and the same market on a simulated ledger.

`anvil` starts one chain for the whole run; tests keep apart by their own keys and outbox folders. `Chain` is what a test gets
either way: a ledger, funded wallets, and the few things that tests do to a chain.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from control_plane.chain.ledger import Ledger, Terms
from control_plane.chain.networks import LOCAL, LOCAL_CHAIN_ID
from control_plane.chain.ocean import OceanLedger
from control_plane.chain.outbox import Outbox
from control_plane.chain.rpc import Rpc
from control_plane.chain.wallet import LocalWallet
from control_plane.did import Address, TokenWei
from control_plane.errors import Unavailable
from deploy.local.chain import ACCOUNTS, anvil_command, deploy_ocean, local_accounts
from deploy.local.ports import HOST, free_port
from tests.simulators.ledger import SimulatedLedger

ANVIL = Path(__file__).resolve().parent.parent / "node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
ONE = 10**18


@contextmanager
def running_anvil(folder: Path, port: int | None = None) -> Iterator[str]:
    """A chain that answers, without contracts; its URL. Ended by its own process id."""
    if not ANVIL.is_file():
        pytest.skip("no anvil: run `npm ci` in the checkout")
    chosen = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(anvil_command(ANVIL, chosen, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://{HOST}:{chosen}"
        wait_for_chain(url)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def wait_for_chain(url: str) -> None:
    rpc, until = Rpc(url, LOCAL_CHAIN_ID), time.monotonic() + 20
    while True:
        try:
            rpc.head()
            return
        except Unavailable:
            assert time.monotonic() < until, "anvil did not answer within 20 s"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def anvil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running local chain with Ocean's contracts."""
    with running_anvil(tmp_path_factory.mktemp("anvil")) as url:
        deploy_ocean(url)
        yield url


@dataclass(frozen=True)
class Chain:
    """advance_blocks: mine empty blocks. now: the chain's clock in seconds since 1970. remember: returns what undoes all
    blocks that come after."""

    ledger: Ledger
    wallets: dict[str, LocalWallet]
    advance_blocks: Callable[[int], None]
    now: Callable[[], float]
    remember: Callable[[], Callable[[], None]]

    @property
    def ocean(self) -> Address:
        return self.ledger.network.ocean

    def terms(self, rate: int = ONE, publish_fee: int = 5 * 10**16, swap_fee: int = 10**16) -> Terms:
        return Terms(TokenWei(rate), self.ocean, TokenWei(publish_fee), self.wallets["operator"].address, swap_fee if rate else 0)


def simulated_chain() -> tuple[SimulatedLedger, Chain]:
    ledger, wallets = SimulatedLedger(), local_accounts()
    for wallet in wallets.values():
        ledger.mint(ledger.network.ocean, wallet.address, 100_000 * ONE)
    return ledger, Chain(ledger, wallets, ledger.advance_blocks, ledger.now, ledger.remember)


def real_chain(url: str, outbox: Path, wait_s: float = 20.0) -> Chain:
    rpc = Rpc(url, LOCAL_CHAIN_ID)
    ledger = OceanLedger(rpc, LOCAL, Outbox(outbox, rpc, wait_s=wait_s, poll_s=0.01))

    def advance_blocks(count: int) -> None:
        rpc.ask("anvil_mine", [hex(count)])

    def remember() -> Callable[[], None]:
        snapshot = rpc.ask("evm_snapshot", [])
        return lambda: (rpc.ask("evm_revert", [snapshot]), None)[1]

    return Chain(ledger, local_accounts(), advance_blocks, lambda: float(rpc.head().timestamp), remember)


BOTH = [pytest.param("simulated"), pytest.param("anvil", marks=pytest.mark.live)]
"""Parameters of a fixture that gives a simulated and a real chain."""


def either_chain(kind: str, request: pytest.FixtureRequest, folder: Path) -> Chain:
    if kind == "simulated":
        return simulated_chain()[1]
    return real_chain(request.getfixturevalue("anvil"), folder / "outbox")


__all__ = ["ACCOUNTS", "BOTH", "Chain", "anvil", "either_chain", "real_chain", "running_anvil", "simulated_chain"]
