"""The catalogue serves only what the chain says, notices every change on disk, and brings Triton back to what is on sale."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from control_plane.chain.ledger import MODEL_LABEL, data_key
from control_plane.did import Did, TokenWei
from control_plane.errors import IntegrityBroken, NotFound, Unavailable
from control_plane.serving import catalogue as catalogue_module
from control_plane.serving.catalogue import Catalogue, fingerprint
from converters.entry import DERIVED
from tests.fixtures_market import Market, market

__all__ = ["market"]

SETTLED_S = 0.12
"""A little longer than the time after which a content may be remembered by its fingerprint."""


def weights(market: Market) -> Path:
    return market.services.catalogue.folder(market.gpt) / "1" / "model.onnx"


def swap(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def swap_and_hide_the_time(path: Path) -> None:
    state = path.stat()
    swap(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def replace_by_rename(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(bytes(path.stat().st_size))
    other.rename(path)


def add_a_file(path: Path) -> None:
    path.with_name("model.onnx_data").write_bytes(b"more")


def remove_a_file(path: Path) -> None:
    path.with_name("tokenizer.json").unlink()


def rename_a_file(path: Path) -> None:
    path.rename(path.with_name("model.bin"))


def link_a_file(path: Path) -> None:
    elsewhere = path.parents[3] / "weights.bin"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def remove_everything(path: Path) -> None:
    shutil.rmtree(path.parents[1])


CHANGES = (
    swap,
    swap_and_hide_the_time,
    replace_by_rename,
    add_a_file,
    remove_a_file,
    rename_a_file,
    link_a_file,
    remove_everything,
)


@pytest.mark.parametrize("looks", [1, 3], ids=["hashed", "known by its files' signs"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_entry_is_refused_and_withdrawn(market: Market, change: Callable[[Path], None], looks: int) -> None:
    catalogue = market.services.catalogue
    time.sleep(SETTLED_S)
    for _ in range(looks):
        catalogue.verify(market.gpt)
    change(weights(market))
    with pytest.raises(IntegrityBroken) as caught:
        catalogue.verify(market.gpt)
    assert (caught.value.code, caught.value.status) == ("model_tampered", 503)
    assert str(market.services.settings.home) not in caught.value.message
    found = catalogue.find(market.gpt.did)
    assert (found.state, found.reason) == ("withdrawn", caught.value.message)
    assert catalogue.find(market.other_gpt.did).state == "on_sale"


def test_the_refusal_names_both_digests(market: Market) -> None:
    swap(weights(market))
    with pytest.raises(
        IntegrityBroken, match=rf"weights on disk have digest 0x[0-9a-f]{{64}}, the chain says {market.gpt.model_digest}"
    ):
        market.services.catalogue.verify(market.gpt)


def test_an_untouched_entry_is_hashed_once(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    real = catalogue_module.model_digest
    monkeypatch.setattr(catalogue_module, "model_digest", lambda folder: hashed.append(folder) or real(folder))
    time.sleep(SETTLED_S)
    for _ in range(5):
        market.services.catalogue.verify(market.gpt)
    assert len(hashed) == 1


def test_an_untouched_entry_is_listed_twice_and_then_known_by_its_files(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Path] = []
    monkeypatch.setattr(catalogue_module, "fingerprint", lambda folder: listed.append(folder) or fingerprint(folder))
    catalogue = market.services.catalogue
    time.sleep(SETTLED_S)
    catalogue.verify(market.gpt)
    catalogue.verify(market.gpt)
    before = len(listed)
    for _ in range(5):
        catalogue.verify(market.gpt)
    assert len(listed) == before
    (catalogue.folder(market.gpt) / DERIVED).unlink()  # no change of the entry, but one of its folder
    catalogue.verify(market.gpt)
    assert len(listed) == before + 1


def test_a_touched_entry_with_the_same_content_stays_on_sale(market: Market) -> None:
    time.sleep(SETTLED_S)
    market.services.catalogue.verify(market.gpt)
    before = fingerprint(market.services.catalogue.folder(market.gpt))
    weights(market).write_bytes(weights(market).read_bytes())
    assert fingerprint(market.services.catalogue.folder(market.gpt)) != before
    market.services.catalogue.verify(market.gpt)
    assert market.services.catalogue.find(market.gpt.did).state == "on_sale"


def test_tritons_own_file_is_not_part_of_the_entry(market: Market) -> None:
    folder = market.services.catalogue.folder(market.gpt)
    before = fingerprint(folder)
    (folder / DERIVED).write_text("anything")
    assert fingerprint(folder) == before
    market.services.catalogue.load_verified(market.gpt, market.server, market.ledger)
    assert f'name: "{market.gpt.entry_name}"' in (folder / DERIVED).read_text()
    assert fingerprint(folder) == before


def test_an_entry_that_the_chain_does_not_name_is_not_loaded(market: Market) -> None:
    market.server.restart()
    alice = market.wallet("alice")
    market.ledger.record_data(alice, "another digest", market.gpt.nft, data_key(MODEL_LABEL), bytes(32))
    with pytest.raises(IntegrityBroken, match="the chain says 0x0000"):
        market.services.catalogue.load_verified(market.gpt, market.server, market.ledger)
    assert market.gpt.entry_name not in market.server.loaded()


def test_weights_that_are_swapped_while_they_are_loaded_are_noticed(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    real = market.server.load

    def load_and_swap(name: str) -> None:
        real(name)
        swap(weights(market))

    monkeypatch.setattr(market.server, "load", load_and_swap)
    with pytest.raises(IntegrityBroken, match="weights on disk have digest"):
        market.services.catalogue.load_verified(market.gpt, market.server, market.ledger)


def test_weights_that_are_swapped_and_swapped_back_while_they_are_loaded_are_noticed(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would hold the others' bytes, and both hashes would be right."""
    real, path = market.server.load, weights(market)
    honest = path.read_bytes()

    def load_others(name: str) -> None:
        swap(path)
        real(name)
        path.write_bytes(honest)

    monkeypatch.setattr(market.server, "load", load_others)
    market.server.restart()
    with pytest.raises(IntegrityBroken, match="changed and changed back"):
        market.services.catalogue.load_verified(market.gpt, market.server, market.ledger)
    assert market.gpt.entry_name not in market.server.loaded()


def test_one_entry_that_does_not_load_does_not_keep_the_others_waiting(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried = market.server.load, []

    def load(name: str) -> None:
        tried.append(name)
        if name == market.gpt.entry_name:
            raise Unavailable(f"{name}: did not load", code="load_failed")
        real(name)

    monkeypatch.setattr(market.server, "load", load)
    market.server.restart()
    for _ in range(3):
        market.services.catalogue.reconcile(market.server, market.ledger)
    assert market.server.loaded() == {market.other_gpt.entry_name, market.embedder.entry_name}
    assert tried.count(market.gpt.entry_name) == 1
    assert all(listing.state == "on_sale" for listing in market.services.catalogue.listings())


def test_publication_needs_the_chain_and_a_restart_does_not(market: Market) -> None:
    market.ledger.is_down = True
    with pytest.raises(Unavailable):
        market.services.catalogue.load_verified(market.gpt, market.server, market.ledger)
    assert market.services.catalogue.load_verified(market.gpt, market.server, market.ledger, is_chain_needed=False) is False
    market.ledger.is_down = False
    assert market.services.catalogue.load_verified(market.gpt, market.server, market.ledger) is True


def test_after_a_restart_of_triton_everything_on_sale_is_loaded_again(market: Market) -> None:
    catalogue = market.services.catalogue
    market.server.restart()
    catalogue.withdraw(market.other_gpt.did, "not any more")
    done = catalogue.reconcile(market.server, market.ledger)
    assert set(done.loaded) == {market.gpt.did, market.embedder.did}
    assert market.server.loaded() == {market.gpt.entry_name, market.embedder.entry_name}
    assert catalogue.reconcile(market.server, market.ledger) == type(done)()


def test_a_restart_while_the_chain_is_down_goes_by_the_catalogue_and_says_so(market: Market) -> None:
    market.server.restart()
    market.ledger.is_down = True
    swap(weights(market))
    done = market.services.catalogue.reconcile(market.server, market.ledger)
    assert set(done.by_catalogue) == {market.other_gpt.did, market.embedder.did}
    assert [did for did, _reason in done.refused] == [market.gpt.did]
    assert market.gpt.entry_name not in market.server.loaded()
    assert market.services.catalogue.find(market.gpt.did).state == "withdrawn"


def test_a_withdrawn_model_is_unloaded_unless_another_asset_sells_the_same_entry(market: Market) -> None:
    catalogue = market.services.catalogue
    twin = replace(market.gpt, did=Did("did:op:" + "1" * 64))
    catalogue.put_on_sale(twin)
    catalogue.withdraw(market.gpt.did, "one of two")
    assert catalogue.reconcile(market.server, market.ledger).unloaded == ()
    catalogue.withdraw(twin.did, "two of two")
    assert catalogue.reconcile(market.server, market.ledger).unloaded == (market.gpt.entry_name,)
    assert market.gpt.entry_name not in market.server.loaded()


def test_triton_being_down_is_not_a_reason_to_withdraw(market: Market) -> None:
    market.server.is_down = True
    with pytest.raises(Unavailable):
        market.services.catalogue.reconcile(market.server, market.ledger)
    assert {listing.state for listing in market.services.catalogue.listings()} == {"on_sale"}


def test_an_unknown_did_is_not_found_by_name(market: Market) -> None:
    with pytest.raises(NotFound) as caught:
        market.services.catalogue.find(Did("did:op:" + "0" * 64))
    assert caught.value.code == "model_unknown"


def test_a_listing_comes_back_as_it_was_put_and_can_be_put_again(market: Market) -> None:
    catalogue = market.services.catalogue
    assert catalogue.find(market.gpt.did) == market.gpt
    catalogue.withdraw(market.gpt.did, "first")
    catalogue.withdraw(market.gpt.did, "second")
    assert catalogue.find(market.gpt.did).reason == "first"
    catalogue.put_on_sale(market.gpt)
    catalogue.put_on_sale(market.gpt)
    assert catalogue.find(market.gpt.did) == market.gpt
    assert len(catalogue.listings()) == 3


def test_several_who_put_one_model_on_sale_at_once_leave_one_listing(market: Market, engine: Engine) -> None:
    """engine: of each kind of database; amounts are as large as the chain's."""
    listing = replace(market.gpt, rate=TokenWei(2**256 - 1), parity="[1.5e-06]")
    catalogue = Catalogue(engine, market.services.settings.models)

    def put(number: int) -> None:
        catalogue.put_on_sale(replace(listing, publish_fee=TokenWei(number)))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(24)))
    catalogue.put_on_sale(listing)
    assert catalogue.listings() == (listing,)


def test_a_withdrawal_in_one_worker_is_seen_by_another_after_its_memory_ends(market: Market) -> None:
    other = Catalogue(market.engine, market.services.settings.models, cache_ttl_s=0.05)
    assert other.find(market.gpt.did).state == "on_sale"
    market.services.catalogue.withdraw(market.gpt.did, "elsewhere")
    time.sleep(0.06)
    assert other.find(market.gpt.did).state == "withdrawn"
