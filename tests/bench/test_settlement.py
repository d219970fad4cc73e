"""The judge of a load test: an honest market passes, and each way to cheat is found and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.crowd import Attempt, Seat
from bench.settlement import settle
from control_plane.did import Address, Bytes32, Did, TransactionHash, UnixMillis
from control_plane.receipts.receipt import FIRST_PREVIOUS, CallStatus, Issued, Receipt, receipt_id, request_hash, response_hash
from control_plane.receipts.signing import ReceiptSigner

LOG = Address("0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC")
SIGNER = ReceiptSigner(b"\x07" * 32, 8996, LOG)
SEAT = Seat(Did("did:op:" + "ab" * 32), "text-generation", "ph_x", TransactionHash("0x" + "05" * 32))
SALT = b"\x09" * 32
ANSWER = b"answer"


def told(requests: Sequence[bytes], *, cut: Sequence[int] = (), signer: ReceiptSigner = SIGNER) -> list[Issued]:
    """An order's receipts, one for each request; `cut` are the indices of streams that their readers left."""
    made: list[Issued] = []
    for number, request in enumerate(requests):
        receipt = Receipt(
            did=SEAT.did,
            model_digest=Bytes32("0x" + "01" * 32),
            request_hash=request_hash(SALT, request),
            response_hash=response_hash(SALT, ANSWER),
            consumer=LOG,
            order=SEAT.order,
            sequence=number,
            previous=made[-1].id if made else FIRST_PREVIOUS,
            started_at=UnixMillis(1),
            finished_at=UnixMillis(2),
            units_in=1,
            units_out=1,
            status=CallStatus.CUT if number in cut else CallStatus.DONE,
            merge_by=UnixMillis(3),
        )
        signed = signer.sign(receipt)
        made.append(Issued(signed, SALT, receipt_id(signed)))
    return made


def answered(request: bytes, issued: Issued) -> Attempt:
    return Attempt("completion", SEAT, request, 200, 200, 0.1, issued=issued, fits=True)


def left(request: bytes) -> Attempt:
    return Attempt("cut stream", SEAT, request, 200, 200, 0.1, is_cut=True)


def broken(attempts: Sequence[Attempt], receipts: Sequence[Issued]) -> set[str]:
    found = settle(attempts, {SEAT.order: receipts}, SIGNER.address)
    return {name for name, problems in found.problems.items() if problems}


REQUESTS = [b"first", b"second", b"third"]
RECEIPTS = told(REQUESTS, cut=[1])
HONEST = [answered(b"first", RECEIPTS[0]), left(b"second"), answered(b"third", RECEIPTS[2])]


def test_an_honest_market_passes_and_what_became_of_cut_streams_is_counted() -> None:
    uncharged = left(b"never charged")
    found = settle([*HONEST, uncharged], {SEAT.order: RECEIPTS}, SIGNER.address)
    assert broken([*HONEST, uncharged], RECEIPTS) == set()
    assert found.counts == {"receipts": 3, "cut streams charged, receipt says cut": 1, "cut streams not charged": 1}


def test_a_receipt_by_another_key_does_not_verify() -> None:
    forged = told(REQUESTS, cut=[1], signer=ReceiptSigner(b"\x08" * 32, 8996, LOG))
    attempts = [answered(b"first", forged[0]), left(b"second"), answered(b"third", forged[2])]
    assert broken(attempts, forged) == {"receipts verify"}


def test_an_answer_whose_receipt_is_not_listed_is_found() -> None:
    assert broken(HONEST, RECEIPTS[:2]) == {"every answer has its receipt"}


def test_an_answer_that_its_receipt_is_not_of_is_found() -> None:
    assert broken([replace(HONEST[0], fits=False), *HONEST[1:]], RECEIPTS) == {"every answer has its receipt"}


def test_a_gap_is_found() -> None:
    assert broken([HONEST[0], HONEST[2]], [RECEIPTS[0], RECEIPTS[2]]) == {"sequences have no gap"}


def test_a_charge_without_an_answer_is_found() -> None:
    assert broken([HONEST[0], HONEST[2]], RECEIPTS) == {"no charge without an answer"}


def test_a_cut_stream_that_is_charged_twice_is_found() -> None:
    twice = told([b"first", b"second", b"second"], cut=[1, 2])
    assert broken([answered(b"first", twice[0]), left(b"second")], twice) == {"no charge without an answer"}


@pytest.mark.parametrize(
    "attempt",
    [
        Attempt("completion", SEAT, b"", 200, 500, 0.1),
        Attempt("completion", SEAT, b"", 200, 503, 0.1),
        Attempt("nonsense", SEAT, b"", 400, 200, 0.1),
        Attempt("nonsense", SEAT, b"", 401, 400, 0.1),
        Attempt("stream", SEAT, b"", 200, 200, 0.1, trouble="a broken stream: backend_crashed"),
        Attempt("completion", SEAT, b"", 200, 0, 0.1, trouble="the connection broke: ConnectionResetError"),
    ],
    ids=lambda attempt: f"{attempt.kind} {attempt.status}",
)
def test_an_answer_that_was_not_stated_is_found(attempt: Attempt) -> None:
    assert broken([*HONEST, attempt], RECEIPTS) == {"only the stated answers"}


def test_a_refusal_that_says_when_to_come_again_is_a_stated_answer() -> None:
    refused = Attempt("completion", SEAT, b"", 200, 429, 0.1, has_retry_after=True)
    assert broken([*HONEST, refused], RECEIPTS) == set()
