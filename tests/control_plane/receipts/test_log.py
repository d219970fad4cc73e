"""The log: places, tiles, checkpoints, and what a crash, a restored backup or a second keeper can do to it."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import update

from control_plane.database import receipts
from control_plane.errors import BadInput, IntegrityBroken, NotFound, Unavailable
from control_plane.receipts import log as log_module
from control_plane.receipts import tiles as tiles_module
from control_plane.receipts.checkpoint import NoteSigner, open_checkpoint
from control_plane.receipts.fsck import Fsck, fsck
from control_plane.receipts.merkle import extends
from control_plane.receipts.proof import Proof
from control_plane.receipts.tiles import TILE_WIDTH, TileFolder, tile_path
from tests.fixtures_log import LogMarket, market_on_either

__all__ = ["market_on_either"]


def check_log(market: LogMarket) -> Fsck:
    found = fsck(
        TileFolder(market.folder / "log"),
        market.notes.name,
        market.notes.public_key,
        guard=market.folder / "guard" / "checkpoint",
        engine=market.engine,
        anchors=market.open_log().anchors(),
    )
    assert found.problems == ()
    return found


def test_receipts_get_their_place_in_the_order_of_storing(market: LogMarket) -> None:
    made = market.issue(3)
    done = market.log.integrate()
    assert (done.size, done.added, done.is_new) == (3, 3, True)
    assert [market.store.receipt(issued.id).leaf_index for issued in made] == [0, 1, 2]
    assert check_log(market).root == done.root
    again = market.log.integrate()
    assert (again.size, again.added, again.is_new) == (3, 0, False)


def test_an_empty_log_publishes_no_checkpoint(market: LogMarket) -> None:
    assert market.log.integrate().size == 0
    assert market.log.latest_checkpoint() is None
    with pytest.raises(NotFound):
        market.public()


def test_every_receipt_has_a_proof_that_a_stranger_can_check(market: LogMarket) -> None:
    made = market.issue(20)
    market.log.integrate()
    for issued in made:
        hashed = bytes.fromhex(issued.id[2:])
        ours, theirs = market.log.prove(issued.id), market.public().prove(hashed)
        assert ours == theirs == Proof.from_text(ours.to_text())
        assert theirs.verify(hashed, market.notes.name, market.notes.public_key).size == 20
        with pytest.raises(BadInput):
            theirs.verify(
                bytes.fromhex(made[0].id[2:]) if issued != made[0] else bytes(32), market.notes.name, market.notes.public_key
            )


def test_a_receipt_that_waits_has_no_proof_yet(market: LogMarket) -> None:
    market.issue(1)
    market.log.integrate()
    (late,) = market.issue(1)
    with pytest.raises(Unavailable) as caught:
        market.log.prove(late.id)
    assert caught.value.code == "not_logged"
    with pytest.raises(NotFound):
        market.public().prove(bytes.fromhex(late.id[2:]))
    with pytest.raises(NotFound):
        market.log.prove(market.order)  # type: ignore[arg-type]  # some other 32 bytes


def test_checkpoints_are_consistent_and_a_reader_between_two_of_them_is_served(market: LogMarket) -> None:
    market.issue(200)
    market.log.integrate()
    old = market.public()
    market.issue(100)
    market.log.integrate()
    new = market.public()
    assert extends(old.size, new.size, old.root(), new.root(), new.consistency(old.size, new.size))
    first = old.leaf(7)  # tiles of 200 leaves are gone, the full tile took their place
    assert old.prove(first).index == 7
    assert new.root(200) == old.root()
    assert [len(new.entries(0)), len(new.entries(1))] == [256, 44]


def test_a_log_opened_again_goes_on(market: LogMarket) -> None:
    market.issue(3)
    market.log.integrate()
    market.issue(2)
    market.log = market.open_log()
    assert market.log.integrate().size == 5
    check_log(market)


# crashes


class Crash(BaseException):
    """Not an Exception: nothing may catch it and go on."""


def crash_at(monkeypatch: pytest.MonkeyPatch, point: int, when: str) -> Callable[[], bool]:
    """The `point`-th durable write fails before or after it is done; returns whether it was reached."""
    count, reached, real = itertools.count(), threading.Event(), tiles_module.replace_durably

    def breaking(target: Path, content: bytes, mode: int = 0o644) -> None:
        is_it = next(count) == point
        if is_it and when == "before":
            reached.set()
            raise Crash(target.name)
        real(target, content, mode)
        if is_it:
            reached.set()
            raise Crash(target.name)

    monkeypatch.setattr(tiles_module, "replace_durably", breaking)
    monkeypatch.setattr(log_module, "replace_durably", breaking)
    return reached.is_set


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("first", [0, 250])
def test_a_crash_at_any_write_leaves_a_log_that_goes_on(tmp_path: Path, first: int, when: str) -> None:
    """From 250 to 260 leaves a partial tile becomes full, a second one and a level begin: every kind of write is met."""
    market = LogMarket(tmp_path / "start")
    market.issue(first)
    if first:
        market.log.integrate()
    market.issue(10)
    market.engine.dispose()
    for point in itertools.count():
        shutil.copytree(tmp_path / "start", tmp_path / str(point))
        market = LogMarket(tmp_path / str(point))
        notes = ListeningSigner(market)
        with pytest.MonkeyPatch.context() as patch:
            is_reached = crash_at(patch, point, when)
            with suppress(Crash):
                market.log.integrate()
        if not is_reached():
            assert point >= 4  # the loop has seen tiles, entries, guard and checkpoint fail
            break
        market.issue(3)
        if point % 2:
            market.log = market.open_log()  # another process takes over; otherwise the same one tries again
        assert market.log.integrate().size == first + 13
        check_log(market)
        for note in notes.signed:  # nothing was ever signed that contradicts what is there now
            checkpoint = open_checkpoint(note, market.notes.name, market.notes.public_key)
            assert market.log.root(checkpoint.size) == checkpoint.root
        market.engine.dispose()


class ListeningSigner(NoteSigner):
    """Takes the place of the market's signer and remembers every note it signs."""

    def __init__(self, market: LogMarket) -> None:
        self.__dict__.update(market.notes.__dict__)
        self.signed: list[str] = []
        market.notes = self
        market.log = market.open_log()

    def sign(self, text: str) -> str:
        self.signed.append(super().sign(text))
        return self.signed[-1]


def test_a_crash_before_the_commit_of_places_changes_nothing(market: LogMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    market.issue(5)
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise Crash

        patch.setattr(market.engine.dialect, "do_commit", die)
        with pytest.raises(Crash):
            market.log.integrate()
    assert market.store.standing(market.folder / "log").waiting == 5
    assert market.log.integrate().size == 5
    check_log(market)


def test_a_full_disk_signs_nothing_and_heals(market: LogMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    market.issue(2)
    market.log.integrate()
    market.issue(2)
    with monkeypatch.context() as patch:

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                market.log.integrate()
    assert market.public().size == 2
    assert market.log.integrate().size == 4
    check_log(market)


# what must not be signed


def test_a_database_restored_from_a_backup_is_refused(market: LogMarket) -> None:
    market.issue(3)
    market.log.integrate()
    with market.engine.begin() as connection:
        connection.execute(receipts.delete().where(receipts.c.sequence == 2))
    market.issue(2)  # other receipts would take the place of the lost one
    for _ in range(2):
        with pytest.raises(IntegrityBroken, match="backup"):
            market.open_log().integrate()
    assert market.public().size == 3


def test_other_receipts_in_the_same_places_are_refused(market: LogMarket) -> None:
    made = market.issue(3)
    market.log.integrate()
    with market.engine.begin() as connection:
        for number, place in ((0, 10), (1, 0), (0, 1)):
            chosen = receipts.c.receipt_id == made[number].id
            connection.execute(update(receipts).where(chosen).values(leaf_index=place))
    market.issue(1)
    with pytest.raises(IntegrityBroken, match="not those of the last checkpoint"):
        market.open_log().integrate()


def test_an_edited_leaf_is_refused(market: LogMarket) -> None:
    market.issue(2)
    market.log.integrate()
    (made,) = market.issue(1)
    with market.engine.begin() as connection:
        chosen = receipts.c.receipt_id == made.id
        connection.execute(update(receipts).where(chosen).values(leaf=b"{}"))
    with pytest.raises(IntegrityBroken, match="is not the receipt"):
        market.log.integrate()
    assert market.public().size == 2


def test_a_lost_guard_is_refused_and_not_begun_anew(market: LogMarket) -> None:
    market.issue(2)
    market.log.integrate()
    guard = market.folder / "guard" / "checkpoint"
    kept = guard.read_bytes()
    guard.unlink()
    with pytest.raises(IntegrityBroken, match="put the guard back"):
        market.open_log().integrate()
    guard.write_bytes(kept)
    market.open_log().integrate()


def test_an_empty_database_does_not_begin_a_second_log_over_public_files(market: LogMarket) -> None:
    market.issue(2)
    market.log.integrate()
    (market.folder / "guard" / "checkpoint").unlink()
    with market.engine.begin() as connection:
        connection.execute(receipts.delete())
    with pytest.raises(IntegrityBroken, match="second history"):
        market.open_log().integrate()


def test_a_guard_by_another_key_is_refused(market: LogMarket) -> None:
    market.issue(1)
    market.log.integrate()
    guard = market.folder / "guard" / "checkpoint"
    guard.write_text(guard.read_text().replace("\n1\n", "\n2\n"))
    with pytest.raises(IntegrityBroken, match="not a checkpoint"):
        market.open_log().integrate()


def test_a_second_keeper_cannot_sign_a_fork(market: LogMarket) -> None:
    market.issue(1)
    market.log.integrate()
    second = market.open_log()
    second.integrate()
    market.issue(1)
    market.log.integrate()
    market.issue(1)
    with pytest.raises(IntegrityBroken):
        second.integrate()  # it still believes in one leaf
    assert second.integrate().size == 3  # having read everything anew, it continues what the first one did
    check_log(market)


def test_a_checkpoint_that_contradicts_the_last_anchor_is_refused(market: LogMarket) -> None:
    market.issue(2)
    market.log.integrate()
    market.anchor()
    path = market.folder / "log" / "anchors.json"
    path.write_text(path.read_text().replace(market.log.root(2).hex(), "00" * 32))
    market.issue(1)
    with pytest.raises(IntegrityBroken, match="anchor of 2 leaves"):
        market.log.integrate()
    assert market.public().size == 2


# fsck


@pytest.mark.parametrize(
    ("path", "problem"),
    [("tile/entries/000.p/3", "entries"), ("tile/0/000.p/3", "tile/0/000.p/3"), ("checkpoint", "checkpoint"), ("guard", "guard")],
)
def test_fsck_names_the_damaged_part(market: LogMarket, path: str, problem: str) -> None:
    market.issue(3)
    market.log.integrate()
    target = market.folder / "guard" / "checkpoint" if path == "guard" else market.folder / "log" / path
    raw = bytearray(target.read_bytes())
    raw[len(raw) // 2] ^= 1
    target.write_bytes(raw)
    try:
        found = fsck(
            TileFolder(market.folder / "log"),
            market.notes.name,
            market.notes.public_key,
            guard=market.folder / "guard" / "checkpoint",
            engine=market.engine,
        ).problems
    except BadInput as error:  # a checkpoint that is no text any more
        found = (error.message,)
    assert any(problem in line for line in found), found


def test_fsck_sees_a_database_that_differs(market: LogMarket) -> None:
    market.issue(3)
    market.log.integrate()
    with market.engine.begin() as connection:
        connection.execute(update(receipts).where(receipts.c.leaf_index == 1).values(leaf=b"{}"))
    files = TileFolder(market.folder / "log")
    assert fsck(files, market.notes.name, market.notes.public_key).problems == ()
    (problem,) = fsck(files, market.notes.name, market.notes.public_key, engine=market.engine).problems
    assert "leaf 1" in problem


def test_missing_tiles_are_named_and_not_guessed(market: LogMarket) -> None:
    market.issue(3)
    market.log.integrate()
    shutil.rmtree(market.folder / "log" / "tile" / "0")
    with pytest.raises(NotFound, match="does not serve tile/0/000"):
        market.public().prove(bytes(32))


def test_a_log_that_grows_while_it_is_read_is_sound(market: LogMarket) -> None:
    """A tile that becomes full takes the place of its parts, after the checkpoint that names a part was read."""
    market.issue(TILE_WIDTH - 1)
    market.log.integrate()
    folder = TileFolder(market.folder / "log")

    class Growing:
        def read(self, path: str) -> bytes | None:
            content = folder.read(path)
            if path == "checkpoint":
                market.issue(2)
                market.log.integrate()
            return content

    found = fsck(Growing(), market.notes.name, market.notes.public_key)
    assert (found.size, found.problems) == (TILE_WIDTH - 1, ())
    assert folder.read(tile_path(0, 0, TILE_WIDTH - 1)) is None
