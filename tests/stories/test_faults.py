"""Components die while Bob is calling; what he was answered stays provable, and what he was not answered costs him nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from control_plane.database import open_database, sessions
from control_plane.did import TransactionHash, parse_did
from control_plane.errors import PosthumanError, Unavailable
from control_plane.receipts.receipt import Issued, SignedReceipt, receipt_id, response_hash
from control_plane.serving.sessions import token_hash_of
from converters.entry import triton_name
from deploy.local.chain import local_accounts
from deploy.market import Answered, Market, MarketRefused
from tests.fixtures_outsider import Outsider, outsider
from tests.fixtures_stack import LiveStack

__all__ = ["outsider"]

pytestmark = [pytest.mark.live, pytest.mark.slow]

HEALED_S = 60


class Bob:
    """A buyer with an order and a session of his own, so that his receipts can be counted."""

    def __init__(self, stack: LiveStack, did: str) -> None:
        self.stack, self.did = stack, parse_did(did)
        self.market = Market(stack.settings.public_url, timeout_s=60)
        self.wallet = local_accounts()["bob"]
        bought = stack.run("buy", did, "--as", "bob", "--json")
        assert bought.code == 0, bought.out + bought.err
        self.order = TransactionHash(bought.json["order"])
        self.token = self.sign_in()

    def sign_in(self) -> str:
        return self.market.sign_in(self.wallet, self.did, self.order, self.stack.settings.chain_id).token

    def call(self, prompt: str = "The market", tokens: int = 4) -> Answered:
        body = {"model": self.did, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        return Market(self.market.url, timeout_s=60).complete(self.token, body)

    def receipts(self) -> list[Mapping[str, Any]]:
        """Every receipt that the market has of this order, by sequence."""
        found: list[Mapping[str, Any]] = []
        while page := self.market.get_json(f"/v1/receipts?limit=1000&from={len(found)}", self.token)["receipts"]:
            found += page
        return found

    def charged(self) -> int:
        engine = open_database(self.stack.settings.database_url)
        try:
            with engine.connect() as connection:
                used = select(sessions.c.calls_used).where(sessions.c.token_hash == token_hash_of(self.token))
                return int(connection.execute(used).scalar_one())
        finally:
            engine.dispose()


@pytest.fixture
def bob(stack: LiveStack, on_sale: str, outsider: Outsider) -> Iterator[Bob]:
    """After each test an outsider must find every promise kept, whatever died meanwhile."""
    bob = Bob(stack, on_sale)
    yield bob
    outsider.orders.append((bob.order, bob.did))
    outsider.receipts += [Issued(SignedReceipt.from_json(one["signed"]), bytes(32), one["id"]) for one in bob.receipts()]
    outsider.check()


def pid_of(stack: LiveStack, component: str) -> int:
    components = stack.run("status", "--json").json["components"]
    return next(int(one["pid"]) for one in components if one["name"] == component)


def await_healed(bob: Bob) -> Answered:
    """The first answer after a fault; every refusal until then must say that it is worth trying again."""
    until = time.monotonic() + HEALED_S
    while True:
        try:
            return bob.call()
        except MarketRefused as refused:
            assert refused.status == 503, (refused.status, refused.message)
            assert refused.retry_after_s is not None, refused.message
        except Unavailable:
            pass  # the market itself is being started again
        assert time.monotonic() < until, "not healed"
        time.sleep(0.2)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that is there and does not answer: worse than one that is gone."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_kill_9_of_the_control_plane_loses_no_answer(bob: Bob) -> None:
    answered: list[Answered] = []
    stop = threading.Event()

    def client(number: int) -> None:
        while not stop.is_set():
            try:
                answered.append(bob.call(f"The market {number}", 2 + number))
            except PosthumanError:
                time.sleep(0.05)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in clients:
        thread.start()
    kills = 0
    try:
        for _ in range(3):
            before = len(answered)
            until = time.monotonic() + HEALED_S
            while len(answered) < before + 40:
                assert time.monotonic() < until, f"only {len(answered) - before} answers since the last kill"
                time.sleep(0.05)
            master = psutil.Process(pid_of(bob.stack, "web"))
            for process in (*master.children(recursive=True), master):
                process.kill()
                kills += 1
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    assert kills >= 6
    await_healed(bob)
    until = time.monotonic() + HEALED_S
    while bob.charged() != len(bob.receipts()):  # the log keeper closes what the dead workers left open
        assert time.monotonic() < until, f"{bob.charged()} calls are charged, {len(bob.receipts())} have a receipt"
        time.sleep(0.2)
    stored = bob.receipts()
    assert {one.receipt["id"] for one in answered} <= {one["id"] for one in stored}
    for one in answered:
        salt = bytes.fromhex(one.receipt["salt"][2:])
        assert response_hash(salt, one.response) == one.receipt["signed"]["receipt"]["response_hash"]
    previous = "0x" + "0" * 64
    for number, one in enumerate(stored):
        signed = SignedReceipt.from_json(one["signed"])
        assert (signed.receipt.sequence, signed.receipt.previous) == (number, previous)
        previous = receipt_id(signed)


def test_a_killed_triton_is_503_without_charge_and_comes_back_by_itself(bob: Bob) -> None:
    bob.call()
    charged = bob.charged()
    os.kill(pid_of(bob.stack, "triton"), signal.SIGKILL)
    with pytest.raises(MarketRefused) as caught:
        bob.call()
    assert (caught.value.status, caught.value.retry_after_s is not None) == (503, True)
    assert bob.charged() == charged
    await_healed(bob)
    assert bob.charged() == charged + 1
    assert len(bob.receipts()) == charged + 1


def test_a_model_whose_process_died_is_loaded_anew(bob: Bob) -> None:
    """Triton never restarts such a process: without the log keeper the model would stay silent for ever."""
    bob.call()
    triton = psutil.Process(pid_of(bob.stack, "triton"))
    listed = bob.market.get_json("/v1/models", bob.token)["data"]
    entry = triton_name(next(model["model_digest"] for model in listed if model["id"] == bob.did))
    lines = {one: " ".join(one.cmdline()) for one in triton.children(recursive=True)}
    stubs = [one for one, line in lines.items() if "triton_python_backend_stub" in line and entry in line]
    assert len(stubs) == 1, lines
    stubs[0].kill()
    with pytest.raises(MarketRefused) as caught:
        bob.call()
    assert caught.value.status == 503
    await_healed(bob)
    assert pid_of(bob.stack, "triton") == triton.pid


def test_known_sessions_go_on_without_the_chain_and_new_ones_are_told_to_wait(bob: Bob) -> None:
    bob.call()
    with stopped(pid_of(bob.stack, "chain")):
        assert bob.call().receipt["signed"]["receipt"]["order"] == bob.order
        with pytest.raises(MarketRefused) as caught:
            bob.sign_in()
        assert (caught.value.status, caught.value.retry_after_s is not None) == (503, True)
        bob.call()
    assert bob.sign_in().startswith("ph_")


def test_a_stream_that_is_cut_has_its_receipt(bob: Bob) -> None:
    class Enough(Exception):
        pass

    def leave(text: str) -> None:
        if text:
            raise Enough

    call = {"model": bob.did, "prompt": "The market", "max_tokens": 100, "temperature": 0}
    # The model is small: where the machine is busy, all its tokens may be under way before the reader has left.
    for number in range(1, 11):
        with pytest.raises(Enough):
            bob.market.stream(bob.token, call, leave)
        until = time.monotonic() + 20
        while len(found := bob.receipts()) < number:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert bob.charged() == number
        if 1 in [issued["signed"]["receipt"]["status"] for issued in found]:
            return
    pytest.fail(f"{number} readers left, and no stream was cut: {found}")


def test_no_prompt_and_no_token_stands_in_any_file_of_the_operator(bob: Bob) -> None:
    canary = "zanzibar-canary-7731"
    bob.call(f"The {canary}")
    for path in Path(bob.stack.home).rglob("*"):
        if not path.is_file() or "buyer" in path.parts or "demo" in path.parts:
            continue  # what the buyer keeps is his own
        content = path.read_bytes()
        assert canary.encode() not in content, path
        assert bob.token.encode() not in content, path


def test_a_did_of_nobody_is_not_found(bob: Bob) -> None:
    with pytest.raises(MarketRefused) as caught:
        bob.market.complete(bob.token, {"model": "did:op:" + "0" * 64, "prompt": "x"})
    assert caught.value.status == 404
    assert bob.charged() == 0
