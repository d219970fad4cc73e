"""A market over HTTP that sells jobs, and a buyer before it: what the commands that buy jobs are tested on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from c2d_adapter.steps import Parts
from c2d_adapter.worker import Hands
from control_plane.chain.ledger import OPERATOR_LABEL, data_key
from control_plane.did import TokenWei
from control_plane.errors import Unavailable
from control_plane.flows.job_receipts import leave_receipt
from control_plane.flows.open_log import open_log
from control_plane.jobs.environments import PAID
from control_plane.receipts.signing import ReceiptSigner
from control_plane.receipts.store import ReceiptStore
from deploy.buyer import BuyerFiles
from deploy.job_trading import Due, Wanted, order_job, with_any_session
from deploy.local.ports import free_port
from deploy.market import Market as Buyers
from tests.fixtures_jobs import ALGORITHMS, index
from tests.fixtures_market import LOG_NFT, ONE, Market, open_market
from tests.simulators.jobs import TEXT, Assets, Counting, no_assets

CHAIN = 8996
SIGNING_KEY = b"\x07" * 32


class Stand:
    """A market over HTTP, and bob before it with a purse."""

    def __init__(self, home: Path) -> None:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        self.market: Market = open_market(home / "home", POSTHUMAN_PUBLIC_URL=url, **ALGORITHMS)
        index(self.market, self.market.gpt)
        self.server = make_server("127.0.0.1", port, self.market.client.application, threaded=True)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.bob = self.market.wallet("bob")
        self.market.ledger.mint(self.market.gpt.base_token, self.bob.address, 100 * ONE)
        self.files = BuyerFiles(home / "buyer", self.bob.address, self.market.clock)
        self.buyers = Buyers(url, clock=self.market.clock)
        self.told: list[Due] = []
        self.signer = ReceiptSigner(SIGNING_KEY, CHAIN, LOG_NFT)
        self.wanted = Wanted("train", self.market.gpt.did, {"steps": 20}, PAID, 600)

    def sign_statements(self) -> None:
        """Name the receipt key and the log on chain, as set-up and publishing do: only then a statement can be verified."""
        ledger, operator, signer = self.market.ledger, self.market.wallet("operator"), ReceiptSigner(SIGNING_KEY, CHAIN, LOG_NFT)
        log = open_log(ledger, operator, signer.address, bytes(32))
        ledger.record_data(
            self.market.wallet("alice"), "gpt operator", self.market.gpt.nft, data_key(OPERATOR_LABEL), bytes.fromhex(log[2:])
        )
        self.signer = ReceiptSigner(SIGNING_KEY, CHAIN, log)

    @contextmanager
    def working(self) -> Iterator[None]:
        """A worker that does the jobs of this market which ask the served model."""
        home, services = self.market.services.settings.home, self.market.services
        wikitext = home / "wikitext"
        wikitext.mkdir(exist_ok=True)
        (wikitext / "test.txt").write_text(TEXT)
        parts = Parts(
            jobs=home / "jobs",
            weights=home / "weights",
            wikitext=wikitext,
            catalogue=services.catalogue,
            objects=None,
            texts_of=no_assets,
            train=Counting().run,
            server=services.server,
            signer=self.signer,
            derive=Assets(home / "assets").derive,
            publish=services.evaluations.publish,
            leave_receipt=partial(
                leave_receipt, ReceiptStore(self.market.engine, self.signer, worker="a" * 32, merge_delay_s=3600)
            ),
            clock=self.market.clock,
        )
        told: list[Any] = []
        hands = Hands(
            services.jobs,
            lambda: parts,
            workers=home / "run" / "workers",
            jobs=parts.jobs,
            alive=home / "run" / "worker.alive",
            at_once=1,
            report=told.append,
        )
        thread = threading.Thread(target=hands.work)
        thread.start()
        yield
        hands.leaving.set()
        thread.join(20)
        assert not thread.is_alive(), told

    def order(self, most: TokenWei | None = None, **changes: Any) -> dict[str, Any]:
        wanted = replace(self.wanted, **changes)
        return order_job(self.buyers, self.market.ledger, self.bob, self.files, wanted, self.told.append, most)

    def paid(self) -> int:
        return 100 * ONE - self.market.ledger.balance(self.market.gpt.base_token, self.bob.address)

    def orders(self) -> int:
        return [method for method, _ in self.market.ledger.writes].count("start_order")

    def jobs(self) -> list[dict[str, Any]]:
        def ask(token: str) -> list[dict[str, Any]]:
            return self.buyers.jobs(token)

        return with_any_session(self.buyers, self.bob, self.files, self.market.ledger.network.chain_id, ask)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.market.engine.dispose()


def silent(*_arguments: Any) -> None:
    """In place of a function that reaches a market which does not answer."""
    raise Unavailable("no answer")
