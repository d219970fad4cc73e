"""What publishing keeps for jobs, and which jobs a published model sells."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.chain import ddo
from control_plane.chain.compute import Algorithm, compute_service
from control_plane.did import Address
from control_plane.errors import IntegrityBroken, OutcomeUnknown, Unavailable
from control_plane.flows.entries import Made, weights_folder
from control_plane.flows.market import Conversion, Market
from control_plane.flows.publish import publish
from control_plane.jobs.algorithms import known
from control_plane.jobs.states import Kind
from converters.entry import read_entry, write_entry
from converters.weights_folder import weights_digest
from tests.fixtures_chain import anvil
from tests.fixtures_publish import Stand, check, make_model, stand

__all__ = ["anvil", "stand"]


def test_what_a_model_was_converted_from_is_kept_for_training(stand: Stand, tmp_path: Path) -> None:
    alice, model = stand.chain.wallets["alice"], make_model(tmp_path / "model")
    listing = publish(stand.market, alice, stand.request(model=str(model))).listing
    digest = weights_digest(model)
    assert listing.weights_digest == digest
    assert stand.catalogue.find(listing.did) == listing
    assert weights_digest(weights_folder(stand.market.weights, digest)) == digest
    assert stand.kept_weights.kept == {digest: 1}
    sealed = stand.chain.ledger.document(listing.nft)
    assert sealed is not None
    facts = ddo.unseal(sealed, stand.chain.wallets["operator"])["metadata"]["additionalInformation"]["posthuman"]
    assert facts["weights_digest"] == digest
    check(stand)


def test_the_publishers_folder_is_not_read_a_second_time(stand: Stand, tmp_path: Path) -> None:
    model, alice = make_model(tmp_path / "model"), stand.chain.wallets["alice"]
    digest = weights_digest(model)

    def convert(conversion: Conversion, out: Path) -> Made:
        made = stand.market.convert(conversion, out)
        (model / "model.safetensors").write_bytes(b"changed when it had been converted")
        return made

    listing = publish(replace(stand.market, convert=convert), alice, stand.request(model=str(model))).listing
    assert listing.weights_digest == digest == weights_digest(weights_folder(stand.market.weights, digest))


def test_weights_that_the_entry_was_not_made_from_are_not_kept(stand: Stand, tmp_path: Path) -> None:
    def convert(conversion: Conversion, out: Path) -> Made:
        made = stand.market.convert(conversion, out)
        assert made.weights is not None
        (made.weights / "model.safetensors").write_bytes(b"other weights")
        return made

    market, model = replace(stand.market, convert=convert), make_model(tmp_path / "model")
    with pytest.raises(IntegrityBroken, match="is not what its entry was made from"):
        publish(market, stand.chain.wallets["alice"], stand.request(model=str(model)))
    assert stand.catalogue.listings() == ()
    assert not stand.market.weights.exists()


def test_a_finished_entry_cannot_be_trained_unless_its_weights_are_kept(stand: Stand, tmp_path: Path) -> None:
    alice, carol = stand.chain.wallets["alice"], stand.chain.wallets["carol"]
    assert publish(stand.market, alice, stand.request()).listing.weights_digest is None
    model = publish(stand.market, alice, stand.request(model=str(make_model(tmp_path / "model")), name="From a model")).listing
    again = publish(stand.market, carol, stand.request(model=str(stand.catalogue.folder(model)), name="Again")).listing
    assert again.model_digest == model.model_digest
    assert again.weights_digest == model.weights_digest is not None


def test_an_architecture_that_is_not_trained_is_sold_without_trainings(stand: Stand, tmp_path: Path) -> None:
    usual = of_another_release(stand, *Kind)

    def convert(conversion: Conversion, out: Path) -> Made:
        made = usual.convert(conversion, out)
        write_entry(made.entry, replace(read_entry(made.entry), architecture="PerceiverForMaskedLM"))
        return made

    market = replace(usual, convert=convert)
    listing = publish(market, stand.chain.wallets["alice"], stand.request(model=str(make_model(tmp_path / "model")))).listing
    assert listing.weights_digest is None and stand.kept_weights.kept == {}
    assert trusted(stand, listing.nft) == ()


def of_another_release(stand: Stand, *kinds: Kind) -> Market:
    """The market of a release that does these kinds of jobs, and converts to models that hide words."""

    def convert(conversion: Conversion, out: Path) -> Made:
        made = stand.market.convert(conversion, out)
        write_entry(made.entry, replace(read_entry(made.entry), task="fill-mask"))
        return made

    nfts = {kind.value: Address("0x" + f"{number:040x}") for number, kind in enumerate(Kind, 1) if kind in kinds}
    return replace(stand.market, convert=convert, algorithms=known(nfts, 8996))


def trusted(stand: Stand, nft: Address) -> tuple[Algorithm, ...]:
    sealed = stand.chain.ledger.document(nft)
    assert sealed is not None
    service = compute_service(ddo.unseal(sealed, stand.chain.wallets["operator"]))
    return () if service is None else service.trusted


def test_publishing_again_sells_the_jobs_that_are_possible_by_now(stand: Stand, tmp_path: Path) -> None:
    alice, request = stand.chain.wallets["alice"], stand.request(model=str(make_model(tmp_path / "model")))
    before, now = of_another_release(stand, Kind.EVALUATE, Kind.INFER), of_another_release(stand, *Kind)
    first = publish(before, alice, request)
    assert trusted(stand, first.listing.nft) == ()
    again = publish(now, alice, request)
    assert again == replace(first, metadata=again.metadata) and again.metadata != first.metadata
    assert trusted(stand, first.listing.nft) == (now.algorithms[Kind.TRAIN],)
    block = stand.chain.ledger.head().number
    assert publish(now, alice, request) == again
    assert publish(now, alice, replace(request, model=str(stand.catalogue.folder(first.listing)))) == again  # by its entry
    assert publish(replace(now, algorithms={}), alice, request) == again  # set up only in part
    assert stand.chain.ledger.head().number == block
    publish(before, alice, request)
    assert trusted(stand, first.listing.nft) == ()
    check(stand)


def test_a_document_that_its_owner_has_written_otherwise_stays(stand: Stand, tmp_path: Path) -> None:
    alice, request = stand.chain.wallets["alice"], stand.request(model=str(make_model(tmp_path / "model")))
    first = publish(of_another_release(stand, Kind.INFER), alice, request)
    operator, nft = stand.chain.wallets["operator"], first.listing.nft
    sealed = stand.chain.ledger.document(nft)
    assert sealed is not None
    hers = ddo.unseal(sealed, operator)
    hers["metadata"]["description"] = "In her own words"
    own = ddo.seal(hers, operator.public_key)
    stand.chain.ledger.record_metadata(alice, "her own", nft, own, ddo.clear_hash(hers), "http://127.0.0.1", operator.address)
    block = stand.chain.ledger.head().number
    assert publish(of_another_release(stand, *Kind), alice, request) == first
    assert (stand.chain.ledger.document(nft), stand.chain.ledger.head().number) == (own, block)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_document_whose_writing_anew_was_interrupted_is_written_once(stand: Stand, when: str, tmp_path: Path) -> None:
    alice, request = stand.chain.wallets["alice"], stand.request(model=str(make_model(tmp_path / "model")))
    first, now = publish(of_another_release(stand, Kind.INFER), alice, request), of_another_release(stand, *Kind)
    stand.ledger.break_call("record_metadata", when, 2)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        publish(now, alice, request)
    block = stand.chain.ledger.head().number
    again = publish(now, alice, request)
    assert stand.chain.ledger.head().number == block + (1 if when == "before" else 0)
    assert publish(now, alice, request) == again == replace(first, metadata=again.metadata)
    assert trusted(stand, first.listing.nft) == (now.algorithms[Kind.TRAIN],)
    check(stand)


def test_weights_that_were_lost_are_made_once_more(stand: Stand, tmp_path: Path) -> None:
    alice, request = stand.chain.wallets["alice"], stand.request(model=str(make_model(tmp_path / "model")))
    first = publish(stand.market, alice, request)
    shutil.rmtree(stand.market.weights)
    assert publish(stand.market, alice, request) == first
    assert first.listing.weights_digest is not None
    assert weights_folder(stand.market.weights, first.listing.weights_digest).is_dir()
