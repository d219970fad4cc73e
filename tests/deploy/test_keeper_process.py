"""The log keeper as the process it is: on a real chain, killed, started twice, and with its node away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control_plane.chain.ledger import KEYS_LABEL, data_key
from control_plane.did import Bytes32
from control_plane.flows.keep import request_anchor
from control_plane.flows.open_log import keys_value
from control_plane.receipts.checkpoint import NoteSigner, origin_of
from control_plane.receipts.keys import create_checkpoint_key, create_receipt_key
from control_plane.receipts.receipt import CallStatus
from control_plane.receipts.signing import ReceiptSigner
from control_plane.receipts.store import ReceiptStore
from deploy.local.life import alive_file, shows_life
from deploy.local.ports import free_port
from tests.fixtures_chain import anvil, real_chain
from tests.fixtures_log import LogMarket

__all__ = ["anvil"]

pytestmark = pytest.mark.live
REPOSITORY = Path(__file__).parents[2]
WITHIN_S = 30.0


class KeptHome:
    """A state folder as `posthuman up` leaves it, with one order on a real chain, and keeper processes on it."""

    def __init__(self, home: Path, rpc_url: str) -> None:
        self.home, self.rpc_url = home, rpc_url
        self.market = LogMarket(home, real_chain(rpc_url, home / "outbox"))
        market = self.market
        receipt_key = create_receipt_key(home / "keys" / "receipt.key")
        market.signer = ReceiptSigner(receipt_key, market.signer.chain_id, market.log_nft)
        market.notes = NoteSigner(
            origin_of(market.signer.chain_id, market.log_nft), create_checkpoint_key(home / "keys" / "checkpoint.pem")
        )
        value = keys_value(market.signer.address, market.notes.public_key)
        market.ledger.record_data(market.operator, "own keys", market.log_nft, data_key(KEYS_LABEL), value)
        market.store = ReceiptStore(market.engine, market.signer, worker="0" * 32, merge_delay_s=3600)
        wallet = home / "keys" / "operator.json"
        wallet.touch(0o600)
        wallet.write_text(bytes(market.operator._key.secret).hex())
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, rpc_url: str | None = None) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "POSTHUMAN_HOME": str(self.home),
            "POSTHUMAN_RPC_URL": rpc_url or self.rpc_url,
            "POSTHUMAN_LOG_NFT": self.market.log_nft,
            "POSTHUMAN_TRITON_URL": f"http://127.0.0.1:{free_port()}",
            "POSTHUMAN_CHECKPOINT_INTERVAL_S": "0.2",
        }
        command = [sys.executable, "-m", "deploy.keeper"]
        with (self.home / f"keeper-{len(self.processes)}.log").open("w") as out, (self.home / "stderr.log").open("a") as error:
            process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=out, stderr=error, text=True)
        self.processes.append(process)
        return process

    def lines(self, number: int = -1) -> list[dict[str, object]]:
        path = self.home / f"keeper-{range(len(self.processes))[number]}.log"
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait(self, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + WITHIN_S
        while not is_so():
            assert time.monotonic() < until, self.lines()
            time.sleep(0.05)

    def size(self) -> int:
        return self.market.public().size if (self.home / "log" / "checkpoint").exists() else 0

    def is_anchored(self, size: int) -> bool:
        return any(anchor.size >= size for anchor in self.market.log.anchors())


@pytest.fixture
def kept(tmp_path: Path, anvil: str) -> Iterator[KeptHome]:
    home = KeptHome(tmp_path, anvil)
    yield home
    for process in home.processes:
        process.kill()
        process.wait(10)
    home.market.engine.dispose()


def test_the_keeper_logs_anchors_and_a_stranger_verifies(kept: KeptHome) -> None:
    process = kept.start()
    (made,) = kept.market.issue(1)
    kept.market.reserve()
    kept.market.reserve(is_streaming=True)  # by a worker that does not exist: the keeper closes both
    kept.wait(lambda: kept.size() == 2)
    assert shows_life(alive_file(kept.home))
    request = request_anchor(kept.home / "run")
    kept.wait(lambda: not request.exists())
    assert kept.is_anchored(2)
    assert kept.market.verify(made).is_verified
    _first, cut = kept.market.store.receipts_of(order=kept.market.order)
    assert cut.signed.receipt.status is CallStatus.CUT and kept.market.verify(cut).is_verified
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert kept.lines()[-1]["step"] == "end"
    shown = "\n".join(json.dumps(line) for line in kept.lines()) + (kept.home / "stderr.log").read_text()
    for secret in (kept.home / "keys").iterdir():
        assert secret.read_text().strip() not in shown


def test_a_killed_keeper_is_followed_by_one_that_goes_on(kept: KeptHome) -> None:
    made: list[Bytes32] = []
    for number in range(4):
        process = kept.start()
        kept.wait(lambda: any(line["step"] == "start" for line in kept.lines()))
        made += [issued.id for issued in kept.market.issue(3)]
        if number % 2:
            request_anchor(kept.home / "run")
        time.sleep(0.15 * number)
        process.kill()
        process.wait(10)
    kept.start()
    request_anchor(kept.home / "run")
    kept.wait(lambda: kept.is_anchored(12))
    for identity in made:
        assert kept.market.verify(kept.market.store.receipt(identity)).is_verified


def test_a_second_keeper_gives_up_with_exit_code_4(kept: KeptHome) -> None:
    kept.start()
    kept.wait(lambda: bool(kept.lines()))
    assert kept.start().wait(WITHIN_S) == 4
    assert "another log keeper" in str(kept.lines()[-1]["message"])


def test_without_its_node_the_keeper_goes_on_with_checkpoints(kept: KeptHome) -> None:
    process = kept.start(f"http://127.0.0.1:{free_port()}")
    kept.market.issue(2)
    request_anchor(kept.home / "run")
    kept.wait(lambda: kept.size() == 2)
    kept.wait(lambda: any(line.get("error") == "unavailable" and line["step"] == "anchor" for line in kept.lines()))
    process.terminate()
    assert process.wait(10) == 0
    kept.start()
    kept.wait(lambda: kept.is_anchored(2))
