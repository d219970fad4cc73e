"""What cannot be done fails with its reason, and a part that breaks once or was done all the same makes no second asset."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from c2d_adapter.carry import Patience
from c2d_adapter.engine import NO_ENGINE, Outcome
from c2d_adapter.faults import JobOver
from c2d_adapter.texts import provide_texts
from control_plane.did import Bytes32, Did
from control_plane.errors import BadInput, ChangedByOwner, Forbidden, NotFound, OutcomeUnknown, Refused, Unavailable
from control_plane.jobs.job import BUYERS_FAULTS, Job
from control_plane.jobs.states import Kind, State
from control_plane.provider.fetch import FILE_BROKE_OFF, WHOLE_S
from control_plane.serving.inference import never
from tests.fixtures_publish import Breaking
from tests.fixtures_workers import EVALUATION, TRAINING, done, market, ordered, wait, working
from tests.simulators.jobs import JobMarket, make_weights

__all__ = ["market"]


Spoil = Callable[[JobMarket], None]


def _listing(**changes: Any) -> Spoil:
    return lambda market: setattr(market.models, "listing", replace(market.models.listing, **changes))


def _parts(**changes: Any) -> Spoil:
    return lambda market: setattr(market, "parts", replace(market.parts, **changes))


def _ends(code: str) -> Spoil:
    return lambda market: setattr(market.program, "ended", Outcome("failed", 1, code, "A sentence of the program."))


def _not_begun(market: JobMarket) -> None:
    market.program.ended = Outcome("not_begun", 1, "internal", "The machines here cannot run this job: 4 GPU asked, 0 there.")


def _result(**more: Any) -> Spoil:
    return lambda market: market.program.result.update(more)


def _no_weights(market: JobMarket) -> None:
    for folder in (market.home / "weights").iterdir():
        folder.rename(market.home / "gone")


def _no_part(market: JobMarket) -> None:
    (market.home / "wikitext" / "valid.txt").unlink()


def _raises(error: Exception) -> Any:
    def texts_of(*_arguments: Any) -> None:
        raise error

    return texts_of


DATASET = {**TRAINING, "dataset": "did:op:" + "9" * 64}


@pytest.mark.parametrize(
    ("spoil", "state", "code"),
    [
        (_listing(weights_digest=None), State.FAILED_DATA, "weights_missing"),
        (_no_weights, State.FAILED_DATA, "weights_missing"),
        (_listing(state="withdrawn"), State.FAILED_DATA, "model_gone"),
        (_listing(model_digest=Bytes32("0x" + "99" * 32)), State.FAILED_DATA, "model_gone"),
        (_parts(wikitext=None), State.FAILED_DATA, "dataset_missing"),
        (_no_part, State.FAILED_DATA, "dataset_missing"),
        *((_ends(code), State.FAILED, code) for code in ("out_of_memory", "loss_not_finite", "dataset_not_text", "internal")),
        (_not_begun, State.FAILED_ALGORITHM_PROVISIONING, "internal"),
        (_result(note="x" * (65 << 10)), State.FAILED, "result_too_long"),
        (_result(path="/home"), State.FAILED, "internal"),
        (_result(seconds=float("nan")), State.FAILED, "internal"),
        (_result(steps="many"), State.FAILED, "internal"),
    ],
)
def test_a_job_that_cannot_be_done_fails_with_its_reason_and_gives_its_payment_back(
    spoil: Spoil, state: State, code: str, market: JobMarket
) -> None:
    job = ordered(market)
    spoil(market)
    found = done(market, job)
    assert found.reason is not None
    assert (found.state, found.reason.code, found.holds_payment, found.attempts) == (state, code, False, 1)
    assert str(market.home) not in found.reason.message and "Traceback" not in found.reason.message
    assert market.assets.mintings() == []


@pytest.mark.parametrize(
    ("texts_of", "code"),
    [
        (_raises(NotFound("did:op:9")), "dataset_missing"),
        (_raises(Forbidden("not ordered")), "dataset_not_ordered"),
        (_raises(BadInput("file", "one that can be fetched", "another")), "dataset_unreadable"),
        (_raises(Unavailable("the file ended early")), "unavailable"),
        (lambda *_: None, "dataset_missing"),
    ],
)
def test_a_data_set_that_cannot_be_read_fails_the_job(texts_of: Any, code: str, market: JobMarket) -> None:
    market.parts = replace(market.parts, texts_of=texts_of)
    found = done(market, ordered(market, DATASET, dataset_did=Did(DATASET["dataset"])))
    assert found.state is State.FAILED_DATA and found.reason is not None and found.reason.code == code


def _drips(_did: Did, _order: Any, into: Path, is_over: Callable[[], bool]) -> None:
    """A server that sends a byte now and then."""
    with (into / "000000.txt").open("wb") as stream:
        while not is_over():
            stream.write(b".")
            time.sleep(0.02)
    raise Unavailable("the files took too long", code=FILE_BROKE_OFF)


def test_a_server_that_drips_has_one_time_for_all_tries_and_then_the_job_is_over(
    market: JobMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the patience that a worker really has: after it the next job had to wait for half an hour."""
    monkeypatch.setattr("c2d_adapter.texts.WHOLE_S", 0.5)
    market.parts = replace(market.parts, texts_of=_drips)
    found = done(market, ordered(market, DATASET, dataset_did=Did(DATASET["dataset"])), patience=Patience())
    assert found.reason is not None
    assert (found.state, found.reason.code, found.holds_payment) == (State.FAILED_DATA, "file_broke_off", False)
    assert found.reason.code in BUYERS_FAULTS


def test_the_time_of_a_file_goes_on_where_an_earlier_try_left_it(market: JobMarket, tmp_path: Path) -> None:
    job, noted = ordered(market, DATASET, dataset_did=Did(DATASET["dataset"])), tmp_path / "fetching"
    asked: list[bool] = []

    def breaks_off(_did: Did, _order: Any, _into: Path, is_over: Callable[[], bool]) -> None:
        asked.append(is_over())
        time.sleep(0.05)
        raise Unavailable("the file ended early", code=FILE_BROKE_OFF)

    for _ in range(2):
        with pytest.raises(Unavailable):
            provide_texts(job, None, breaks_off, tmp_path / "texts", never)
    assert 0.1 <= float(noted.read_text()) < WHOLE_S
    noted.write_text(str(WHOLE_S))
    with pytest.raises(JobOver):
        provide_texts(job, None, breaks_off, tmp_path / "texts", never)
    assert asked == [False, False, True]


def test_who_is_told_to_leave_does_not_fail_a_job_for_its_slow_server(market: JobMarket, tmp_path: Path) -> None:
    job = ordered(market, DATASET, dataset_did=Did(DATASET["dataset"]))
    with pytest.raises(Unavailable):
        provide_texts(job, None, _drips, tmp_path / "texts", lambda: True)


def test_a_file_that_breaks_off_again_and_again_is_tried_five_times(market: JobMarket) -> None:
    tries: list[Did] = []

    def texts_of(did: Did, *_arguments: Any) -> None:
        tries.append(did)
        raise Unavailable("the file ended early", code=FILE_BROKE_OFF)

    market.parts = replace(market.parts, texts_of=texts_of)
    patience = replace(Patience(), first_pause_s=0.01)
    found = done(market, ordered(market, DATASET, dataset_did=Did(DATASET["dataset"])), patience=patience)
    assert found.reason is not None and (found.reason.code, len(tries)) == ("file_broke_off", patience.tries)


def test_a_data_set_asset_is_read_by_its_did_and_order(market: JobMarket) -> None:
    asked: list[tuple[Any, ...]] = []

    def texts_of(did: Did, order: Any, into: Path, _is_over: Any) -> None:
        asked.append((did, order))
        (into / "000000.txt").write_text("texts of a seller")

    market.parts = replace(market.parts, texts_of=texts_of)
    order = "0x" + "77" * 32
    found = done(market, ordered(market, DATASET, dataset_did=Did(DATASET["dataset"]), dataset_order=order))
    assert found.state is State.FINISHED and asked == [(DATASET["dataset"], order)]


def test_a_disk_that_is_full_while_weights_are_brought_is_told_as_no_room(
    market: JobMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Any, _target: Any, **_more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("c2d_adapter.steps.shutil.copyfile", full)
    found = done(market, ordered(market, {"dataset": "wikitext-2", "steps": 3, "batch_size": 1}))
    assert found.reason is not None
    assert (found.state, found.reason.code, found.holds_payment) == (State.FAILED_DATA, "no_room", False)


def test_weights_that_were_damaged_here_are_fetched_from_the_storage(market: JobMarket, tmp_path: Path) -> None:
    digest = str(market.models.listing.weights_digest)
    market.kept(digest).rename(market.home / "objects-source")
    assert make_weights(tmp_path / "same", b"alice") == digest
    from c2d_adapter.storage import WEIGHTS

    market.objects.put(WEIGHTS, tmp_path / "same", digest)
    make_weights(market.kept(digest), b"mallory")
    assert done(market, ordered(market)).state is State.FINISHED


def test_a_statement_of_a_model_that_was_changed_meanwhile_is_not_given_out(market: JobMarket) -> None:
    market.server.before_piece = lambda _number: setattr(market.models, "is_tampered", True)
    found = done(market, ordered(market, EVALUATION, Kind.EVALUATE))
    assert found.state is State.FAILED and found.reason is not None and found.reason.code == "model_tampered"
    assert found.result is None


def test_an_asset_that_its_owner_changed_ends_the_job_at_once_and_its_payment_stays_spent(market: JobMarket) -> None:
    """With the patience that a worker really has: who owns the asset could otherwise hold everybody's jobs up for a day."""
    tries: list[Job] = []

    def derive(job: Job, *_arguments: Any) -> Did:
        tries.append(job)
        raise ChangedByOwner("0x77: its owner took the right to mint")

    market.parts = replace(market.parts, derive=derive)
    changed = ordered(market)
    another = ordered(market, EVALUATION, Kind.EVALUATE, payment="0x" + "77" * 32, owner="0x" + "55" * 20)
    with working(market, patience=Patience()):
        wait(lambda: market.store.get(another.job_id).is_over, 20)
    found = market.store.get(changed.job_id)
    assert found.reason is not None
    assert (found.state, found.reason.code, found.holds_payment, len(tries)) == (State.FAILED, "changed_by_owner", True, 1)
    assert "0x77" not in found.reason.message and "spent" in found.reason.message
    assert market.store.get(another.job_id).state is State.FINISHED


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "write", ["put", "derive", "train", "advance 1", "advance 2", "advance 3", "advance 4", "claim", "progress"]
)
def test_a_write_that_fails_once_or_was_done_all_the_same_makes_one_asset(write: str, when: str, market: JobMarket) -> None:
    method, _, number = write.partition(" ")
    objects, assets, program, store = (Breaking(each) for each in (market.objects, market.assets, market.program, market.store))
    broken = {"put": objects, "derive": assets, "train": program}.get(method, store)
    broken.break_call("run" if method == "train" else method, when, int(number or 1))
    job = ordered(market)
    market.parts = replace(market.parts, objects=objects, derive=assets.derive, train=program.run)  # type: ignore[arg-type]
    market.store = store  # type: ignore[assignment]
    found = done(market, job)
    assert found.state is State.FINISHED, found.reason
    assert market.assets.mintings() == [f"{found.job_id} {found.owner} 200 {found.weights_digest}"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", ["release", "reclaim"])
def test_a_job_whose_handing_over_is_lost_goes_on_with_the_next_worker(write: str, when: str, market: JobMarket) -> None:
    market.program.pause_s = 0.1
    job, healthy = ordered(market), market.store
    breaking = Breaking(healthy)
    breaking.break_call(write, when)
    if write == "release":
        market.store = breaking  # type: ignore[assignment]
        with working(market) as (_, lines):
            wait(lambda: healthy.get(job.job_id).progress is not None, lambda: lines)
        market.store = healthy
    else:  # a worker that is dead has it
        assert healthy.claim("d" * 32) is not None
        market.store = breaking  # type: ignore[assignment]
    market.program.pause_s = 0.0
    found = done(market, job)
    assert found.state is State.FINISHED, found.reason
    assert market.assets.mintings() == [f"{found.job_id} {found.owner} 200 {found.weights_digest}"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("http://s3/bucket does not answer"), "unavailable"),
        (OSError(errno.ENOSPC, "No space left", "/home/x"), "no_room"),
        (Refused("no right to write in s3://bucket"), "refused"),
        (ZeroDivisionError("a secret"), "internal"),
    ],
)
@pytest.mark.parametrize(
    ("method", "state"), [("provide", State.FAILED_DATA), ("train", State.FAILED), ("put", State.FAILED), ("derive", State.FAILED)]
)
def test_a_part_that_stays_broken_fails_the_job_in_the_end(
    method: str, state: State, error: Exception, code: str, market: JobMarket
) -> None:
    def broken(*_arguments: Any, **_named: Any) -> Any:
        raise error

    if method == "put":
        market.objects.put = broken  # type: ignore[method-assign]
    elif method == "provide":
        market.models.find = broken  # type: ignore[method-assign]
    else:
        market.parts = replace(market.parts, **{method: broken})
    found = done(market, ordered(market))
    assert found.reason is not None
    assert (found.state, found.reason.code, found.holds_payment) == (state, code, False)
    assert not any(word in found.reason.message for word in ("bucket", "/home", "secret")), found.reason.message


def test_a_job_for_which_no_engine_starts_fails_before_its_algorithm(market: JobMarket) -> None:
    def broken(*_arguments: Any) -> Outcome:
        raise Unavailable("Ray: expected it to start within 120 s, found nothing", code=NO_ENGINE)

    market.parts = replace(market.parts, train=broken)
    found = done(market, ordered(market))
    assert found.reason is not None
    assert (found.state, found.reason.code) == (State.FAILED_ALGORITHM_PROVISIONING, NO_ENGINE)
    assert not found.holds_payment and "Ray" not in found.reason.message


def test_what_is_done_but_never_answered_is_an_asset_though_its_job_failed(market: JobMarket) -> None:
    """The one case in which a payment comes back for what was made: nobody could say that it was."""

    def lost(*arguments: Any) -> Did:
        market.assets.derive(*arguments)
        raise OutcomeUnknown("sent, and the node is silent")

    market.parts = replace(market.parts, derive=lost)
    found = done(market, ordered(market))
    assert found.state is State.FAILED and len(market.assets.mintings()) == 1
