"""A call: no answer without a receipt, no charge without an answer, and nothing asked of the chain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from sqlalchemy import select

from control_plane.database import calls
from control_plane.did import Bytes32
from control_plane.errors import BadInput, Conflict, Forbidden, IntegrityBroken, NotFound, PosthumanError, Unavailable
from control_plane.flows.call import Admitted, Answer, Ended, Piece, admit, call, call_streaming
from control_plane.receipts.receipt import FIRST_PREVIOUS, CallStatus, request_hash, response_hash
from control_plane.receipts.signing import recover_signer
from control_plane.receipts.store import Issued
from tests.fixtures_market import Market, market

__all__ = ["market"]

BODY, ANSWER = b'{"prompt": "x"}', b'{"text": "y"}'


@pytest.fixture
def admitted(market: Market) -> Admitted:
    return admit(market.services, market.services.sessions.find(market.sign_in("bob", market.gpt)), market.gpt.did)


def used(market: Market, admitted: Admitted) -> int:
    return market.calls_used(admitted.session.order)


def under_way(market: Market) -> int:
    with market.engine.connect() as connection:
        return len(connection.execute(select(calls)).all())


def receipts(market: Market, admitted: Admitted) -> tuple[Issued, ...]:
    return market.services.store.receipts_of(order=admitted.session.order)


def test_a_whole_call_leaves_a_receipt_that_binds_what_was_asked_and_answered(market: Market, admitted: Admitted) -> None:
    called = call(market.services, admitted, BODY, lambda _call_id: Answer(ANSWER, 3, 4))
    receipt = called.issued.signed.receipt
    assert receipt.request_hash == request_hash(called.issued.salt, BODY)
    assert receipt.response_hash == response_hash(called.issued.salt, ANSWER)
    assert (receipt.did, receipt.model_digest) == (market.gpt.did, market.gpt.model_digest)
    assert (receipt.consumer, receipt.order) == (market.wallet("bob").address, admitted.session.order)
    assert (receipt.units_in, receipt.units_out, receipt.status) == (3, 4, CallStatus.DONE)
    assert recover_signer(called.issued.signed) == market.services.store._signer.address
    assert (used(market, admitted), under_way(market)) == (1, 0)
    assert [issued.id for issued in receipts(market, admitted)] == [called.issued.id]


def test_the_receipts_of_an_order_form_a_chain(market: Market, admitted: Admitted) -> None:
    chain = [call(market.services, admitted, BODY, lambda _call_id: Answer(ANSWER, 1, 1)).issued for _ in range(4)]
    assert [issued.signed.receipt.sequence for issued in chain] == [0, 1, 2, 3]
    assert chain[0].signed.receipt.previous == FIRST_PREVIOUS
    assert all(later.signed.receipt.previous == earlier.id for earlier, later in pairwise(chain))


@pytest.mark.parametrize(
    "error", [Unavailable("down"), BadInput("prompt", "a text", "none"), ValueError("ours"), KeyboardInterrupt()]
)
def test_a_call_that_is_not_answered_is_not_charged(market: Market, admitted: Admitted, error: BaseException) -> None:
    def ask(_call_id: str) -> Answer:
        raise error

    with pytest.raises(type(error)):
        call(market.services, admitted, BODY, ask)
    assert (used(market, admitted), under_way(market), receipts(market, admitted)) == (0, 0, ())


def test_an_answer_whose_receipt_cannot_be_stored_is_not_given(
    market: Market, admitted: Admitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_named: object) -> Issued:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(market.services.store, "settle", full)
    with pytest.raises(Unavailable):
        call(market.services, admitted, BODY, lambda _call_id: Answer(ANSWER, 1, 1))
    assert (used(market, admitted), under_way(market)) == (0, 0)


def test_a_known_session_goes_on_without_a_chain_node(market: Market, admitted: Admitted) -> None:
    market.ledger.is_down = True
    again = admit(market.services, admitted.session, market.gpt.did)
    assert call(market.services, again, BODY, lambda _call_id: Answer(ANSWER, 1, 1)).issued


def test_admission_asks_about_the_model_the_session_and_the_weights(market: Market, admitted: Admitted) -> None:
    with pytest.raises(NotFound):
        admit(market.services, admitted.session, type(market.gpt.did)("did:op:" + "0" * 64))
    with pytest.raises(Forbidden, match="token is for"):
        admit(market.services, admitted.session, market.other_gpt.did)
    market.tamper(market.gpt)
    with pytest.raises(IntegrityBroken, match="weights on disk have digest"):
        admit(market.services, admitted.session, market.gpt.did)
    with pytest.raises(IntegrityBroken, match=r"is withdrawn: .*weights on disk"):
        admit(market.services, admitted.session, market.gpt.did)
    assert used(market, admitted) == 0


def test_two_calls_at_the_last_charge_are_one_call(market: Market, admitted: Admitted) -> None:
    """The quota is counted where the call is charged, whatever a worker remembers of the session."""
    token = market.services.sessions.open(
        admitted.session.wallet, market.gpt.did, admitted.session.order, 1, Bytes32("0x" + "1" * 64), market.clock() + 60, 1
    )[0]
    last = admit(market.services, market.services.sessions.find(token), market.gpt.did)
    outcomes: list[str] = []

    def run() -> None:
        try:
            call(market.services, last, BODY, lambda _call_id: Answer(ANSWER, 1, 1))
            outcomes.append("answered")
        except Forbidden as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["answered"] + ["quota_exhausted"] * 5


class Stream:
    """A stream of three pieces and what it left behind."""

    def __init__(self, market: Market, admitted: Admitted, breaks: BaseException | None = None) -> None:
        self.market, self.admitted = market, admitted
        self.is_closed = False
        self.ended: list[Ended] = []
        self.breaks = breaks
        self.call_id, self.body = call_streaming(
            market.services,
            admitted,
            BODY,
            self._ask,
            lambda issued: b"last " + issued.id.encode(),
            self._failed,
            self.ended.append,
        )

    def _ask(self, _call_id: str) -> Iterator[Piece]:
        try:
            for number in range(1, 4):
                if number == 3 and self.breaks is not None:
                    raise self.breaks
                yield Piece(b"piece %d " % number, 5, number)
        finally:
            self.is_closed = True

    @staticmethod
    def _failed(error: PosthumanError) -> bytes:
        return b"failed " + error.code.encode()


def test_a_stream_ends_with_its_receipt_over_all_bytes_before(market: Market, admitted: Admitted) -> None:
    stream = Stream(market, admitted)
    sent = list(stream.body)
    issued = receipts(market, admitted)[0]
    assert sent[-1] == b"last " + issued.id.encode()
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, b"".join(sent[:-1]))
    assert (issued.signed.receipt.units_in, issued.signed.receipt.units_out) == (5, 3)
    assert [ended.outcome for ended in stream.ended] == ["done"]
    assert (used(market, admitted), under_way(market)) == (1, 0)


def test_a_stream_that_its_reader_leaves_has_a_receipt_of_what_was_sent(market: Market, admitted: Admitted) -> None:
    stream = Stream(market, admitted)
    sent = [next(stream.body), next(stream.body)]
    stream.body.close()  # type: ignore[attr-defined]  # a generator
    issued = receipts(market, admitted)[0]
    assert stream.is_closed
    assert issued.signed.receipt.status is CallStatus.CUT
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, b"".join(sent))
    assert issued.signed.receipt.units_out == 2
    assert [ended.outcome for ended in stream.ended] == ["cut"]
    assert (used(market, admitted), under_way(market)) == (1, 0)
    assert market.services.store.receipt_of_call(stream.call_id) is not None


def test_a_stream_that_is_left_before_its_first_byte_is_not_charged(market: Market, admitted: Admitted) -> None:
    stream = Stream(market, admitted)
    stream.body.close()  # type: ignore[attr-defined]  # a generator
    assert stream.is_closed
    assert (used(market, admitted), under_way(market), receipts(market, admitted)) == (0, 0, ())


def test_a_stream_whose_server_breaks_says_so_and_is_not_charged(market: Market, admitted: Admitted) -> None:
    stream = Stream(market, admitted, Unavailable("gone"))
    assert list(stream.body) == [b"piece 1 ", b"piece 2 ", b"failed unavailable"]
    assert [ended.outcome for ended in stream.ended] == ["failed"]
    assert (used(market, admitted), under_way(market), receipts(market, admitted)) == (0, 0, ())


def test_a_fault_of_ours_in_a_stream_gives_the_charge_back(market: Market, admitted: Admitted) -> None:
    stream = Stream(market, admitted, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        list(stream.body)
    assert (used(market, admitted), under_way(market)) == (0, 0)


@pytest.mark.parametrize("error", [BadInput("prompt", "short", "long"), Unavailable("down")])
def test_a_stream_that_is_refused_before_its_first_piece_is_a_plain_refusal(
    market: Market, admitted: Admitted, error: PosthumanError
) -> None:
    def refuse(_call_id: str) -> Iterator[Piece]:
        raise error
        yield  # makes this a generator

    nothing: Callable[..., bytes] = lambda *_: b""  # noqa: E731  # never called
    with pytest.raises(type(error)):
        call_streaming(market.services, admitted, BODY, refuse, nothing, nothing, lambda _ended: None)
    assert (used(market, admitted), under_way(market)) == (0, 0)


def test_what_a_killed_worker_left_is_closed_without_a_second_charge(market: Market, admitted: Admitted) -> None:
    """Its stream became a receipt with status CUT; should the worker live after all, it can no longer complete it."""
    stream = Stream(market, admitted)
    next(stream.body)
    closed = market.services.store.reap(lambda _worker: False)
    assert (closed.cut, closed.released) == (1, 0)
    assert receipts(market, admitted)[0].signed.receipt.status is CallStatus.CUT
    assert list(stream.body)[-1] == b"failed " + Conflict("").code.encode()
    assert (used(market, admitted), len(receipts(market, admitted))) == (1, 1)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_model_the_server_has_not_loaded_yet_is_worth_another_try(market: Market, admitted: Admitted, is_streaming: bool) -> None:
    """After a restart of the server its models are loaded one by one: a buyer must not be told that his model is gone."""

    def ask(_call_id: str) -> Answer:
        raise NotFound("no such entry")

    def ask_stream(call_id: str) -> Iterator[Piece]:
        ask(call_id)
        yield Piece(b"", 0, 0)

    with pytest.raises(Unavailable) as caught:
        if is_streaming:
            call_streaming(market.services, admitted, BODY, ask_stream, lambda _i: b"", lambda _e: b"", lambda _e: None)
        else:
            call(market.services, admitted, BODY, ask)
    assert caught.value.code == "model_not_loaded"
    assert used(market, admitted) == 0


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_crashed_model_is_reported_once_and_loaded_anew(market: Market, admitted: Admitted, is_streaming: bool) -> None:
    entry = market.gpt.entry_name
    crash = Unavailable("its process has died", code="backend_crashed")
    unloaded: list[str] = []
    unload = market.server.unload
    market.server.unload = lambda name: (unloaded.append(name), unload(name))[1]  # type: ignore[method-assign]  # to count
    for _ in range(2):
        with pytest.raises(Unavailable):
            if is_streaming:
                call_streaming(
                    market.services, admitted, BODY, lambda _c: _raising(crash), lambda _i: b"", lambda _e: b"", lambda _e: None
                )
            else:
                call(market.services, admitted, BODY, lambda _c: next(_raising(crash)))  # type: ignore[arg-type]  # never returns
    assert used(market, admitted) == 0
    done = market.services.catalogue.reconcile(market.server, market.ledger)
    assert (done.loaded, unloaded) == ((market.gpt.did,), [entry])
    assert market.services.catalogue.reconcile(market.server, market.ledger).loaded == ()
    assert unloaded == [entry]


def _raising(error: Exception) -> Iterator[Piece]:
    raise error
    yield
