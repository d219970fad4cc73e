"""From a training job's weights to an asset that the trainer owns, on the simulated and on the real chain."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from control_plane.chain import ddo
from control_plane.chain.ledger import PARENT_LABEL, Rights, data_key
from control_plane.chain.lineage import Parent
from control_plane.did import Bytes32, TokenWei
from control_plane.errors import BadInput, ChangedByOwner, IntegrityBroken, NotFound, Refused, Unavailable
from control_plane.flows.derive import MINTED, Derived, Trained, derive
from control_plane.flows.entries import Made
from control_plane.flows.market import Conversion
from converters.entry import ModelDigest, model_digest, read_entry
from tests.check_market import Seen, broken_promises, check_market
from tests.fixtures_chain import BOTH, ONE, anvil, either_chain, simulated_chain
from tests.fixtures_derive import ALGORITHM, other_weights, published, trained
from tests.fixtures_publish import Stand, open_stand

__all__ = ["anvil"]


@pytest.fixture(params=BOTH)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    return open_stand(either_chain(request.param, request, tmp_path), tmp_path)


def run(stand: Stand, job: Trained) -> Derived:
    return derive(stand.market, stand.chain.wallets["operator"], job)


def check(stand: Stand) -> None:
    check_market(
        stand.chain.ledger,
        Seen(stand.catalogue.listings(), stand.market.log_nft, stand.market.models, stand.chain.wallets["operator"]),
    )


def test_what_was_trained_is_an_asset_of_the_trainer(stand: Stand) -> None:
    bob, operator = stand.chain.wallets["bob"], stand.chain.wallets["operator"]
    parent = published(stand)
    job = trained(stand, parent, bob.address)
    derived = run(stand, job)
    listing, ledger = derived.listing, stand.chain.ledger
    assert stand.catalogue.find(listing.did) == listing
    assert (listing.publisher, listing.task, listing.rate, listing.timeout_s) == (
        bob.address,
        parent.task,
        parent.rate,
        parent.timeout_s,
    )
    assert listing.weights_digest == job.derivation.weights_digest != parent.weights_digest
    assert listing.model_digest != parent.model_digest
    assert listing.name == f"GPT {job.derivation.job[:8]}"
    facts = ledger.asset(listing.nft)
    assert facts.owner == bob.address
    assert facts.parent == Parent(parent.nft, parent.model_digest, job.derivation.digest())
    assert ledger.minted(listing.datatoken, bob.address) == (MINTED,)
    assert ledger.balance(listing.datatoken, bob.address) == 200 * ONE
    assert ledger.rights(listing.nft, listing.datatoken, operator.address) == Rights()
    sale = ledger.sale(listing.datatoken, listing.exchange)
    assert (sale.exchange_owner, sale.collector, sale.publish_fee_to) == (bob.address, bob.address, operator.address)
    assert read_entry(stand.catalogue.folder(listing)).parents == (parent.model_digest,)
    assert listing.entry_name in stand.names.loaded()
    assert stand.kept_weights.kept[job.derivation.weights_digest] == 1
    check(stand)


def test_its_document_tells_how_it_came_to_be(stand: Stand) -> None:
    job = trained(stand, published(stand), stand.chain.wallets["bob"].address)
    listing = run(stand, job).listing
    sealed = stand.chain.ledger.document(listing.nft)
    assert sealed is not None
    document = ddo.unseal(sealed, stand.chain.wallets["operator"])
    facts = document["metadata"]["additionalInformation"]["posthuman"]
    assert facts["derivation"] == job.derivation.to_json() | {"statement": job.derivation.digest()}
    assert (facts["derivation"]["algorithm"], facts["derivation"]["parameters"]["steps"]) == (ALGORITHM, 500)
    assert (document["metadata"]["license"], facts["licence_given_by"]) == ("apache-2.0", "parent")
    assert document["metadata"]["author"] == stand.chain.wallets["bob"].address
    assert listing.statement is not None
    assert json.loads(listing.statement) == job.derivation.to_json()


def test_deriving_again_changes_nothing(stand: Stand) -> None:
    job = trained(stand, published(stand), stand.chain.wallets["bob"].address)
    first = run(stand, job)
    block = stand.chain.ledger.head().number
    assert run(stand, job) == first
    assert stand.chain.ledger.head().number == block
    check(stand)


def test_a_derived_model_is_trained_further(stand: Stand) -> None:
    bob, carol = stand.chain.wallets["bob"].address, stand.chain.wallets["carol"].address
    first = published(stand)
    second = run(stand, trained(stand, first, bob)).listing
    job = trained(stand, second, carol, "two")
    third = run(stand, job).listing
    parent = stand.chain.ledger.asset(third.nft).parent
    assert parent is not None
    assert (parent.nft, parent.model_digest) == (second.nft, second.model_digest)
    assert (third.publisher, third.name) == (carol, f"GPT {job.derivation.job[:8]}")
    assert len({each.did for each in stand.catalogue.listings()}) == 3
    check(stand)


def test_two_jobs_that_came_to_the_same_weights_are_two_assets(stand: Stand) -> None:
    bob, parent = stand.chain.wallets["bob"].address, published(stand)
    one = trained(stand, parent, bob)
    two = replace(one, derivation=replace(one.derivation, job="f" * 32))
    made = [run(stand, job).listing for job in (one, two)]
    assert len({listing.did for listing in made}) == 2
    check(stand)


def test_the_owner_sells_and_is_paid(stand: Stand) -> None:
    bob, carol = stand.chain.wallets["bob"], stand.chain.wallets["carol"]
    job = replace(trained(stand, published(stand), bob.address), rate=TokenWei(7 * ONE), name="Bob's own")
    listing = run(stand, job).listing
    assert (listing.name, listing.rate) == ("Bob's own", 7 * ONE)
    stand.chain.ledger.buy_datatoken(carol, f"{job.derivation.job} buy", listing.datatoken, listing.exchange, TokenWei(8 * ONE))
    assert stand.chain.ledger.balance(listing.datatoken, carol.address) == ONE
    assert run(stand, job).listing == listing  # also when datatokens were minted since
    check(stand)


def test_what_was_trained_from_a_free_model_has_a_price(stand: Stand) -> None:
    parent = replace(published(stand), rate=TokenWei(0))
    stand.catalogue.put_on_sale(parent)
    listing = run(stand, trained(stand, parent, stand.chain.wallets["bob"].address)).listing
    assert listing.rate == ONE


def test_an_operator_who_trains_keeps_what_is_his(stand: Stand) -> None:
    operator = stand.chain.wallets["operator"].address
    listing = run(stand, trained(stand, published(stand), operator)).listing
    assert stand.chain.ledger.rights(listing.nft, listing.datatoken, operator).is_owner
    assert stand.chain.ledger.minted(listing.datatoken, operator) == (MINTED,)
    check(stand)


def test_other_weights_than_the_job_stored_are_not_derived(stand: Stand) -> None:
    job = trained(stand, published(stand), stand.chain.wallets["bob"].address)
    with pytest.raises(IntegrityBroken, match="expected the weights 0x0000"):
        run(stand, other_weights(job))
    (job.weights / "model.py").write_text("import os")
    with pytest.raises(IntegrityBroken, match=r"model\.py"):
        run(stand, job)
    assert stand.ledger.counts["create_asset_for"] == 0


def test_weights_that_change_while_they_are_converted_are_not_derived(stand: Stand) -> None:
    job = trained(stand, published(stand), stand.chain.wallets["bob"].address)

    def convert(asked: Conversion, out: Path) -> Made:
        (job.weights / "model.safetensors").write_bytes(b"swapped")
        return stand.market.convert(asked, out)

    with pytest.raises(IntegrityBroken, match="converted was"):
        derive(replace(stand.market, convert=convert), stand.chain.wallets["operator"], job)
    assert stand.ledger.counts["create_asset_for"] == 0


def test_a_parent_that_was_never_of_that_digest_is_refused(stand: Stand) -> None:
    job = trained(stand, published(stand), stand.chain.wallets["bob"].address)
    changed = replace(job.derivation, parent_digest=Bytes32("0x" + "77" * 32))
    with pytest.raises(IntegrityBroken, match="which the chain never named"):
        run(stand, replace(job, derivation=changed))


def test_a_parent_that_is_not_here_is_not_found(stand: Stand) -> None:
    job = trained(stand, published(stand), stand.chain.wallets["bob"].address)
    with pytest.raises(NotFound):
        run(stand, replace(job, derivation=replace(job.derivation, parent_nft=stand.market.log_nft)))


@pytest.mark.parametrize(
    ("field", "value"), [("name", " "), ("name", "x" * 129), ("rate", TokenWei(0)), ("rate", TokenWei(2**256))]
)
def test_terms_that_make_no_sense_are_refused(stand: Stand, field: str, value: Any) -> None:
    job = trained(stand, published(stand), stand.chain.wallets["bob"].address)
    with pytest.raises(BadInput) as caught:
        run(stand, replace(job, **{field: value}))
    assert caught.value.field == field


def test_another_chain_than_the_markets_is_refused(stand: Stand) -> None:
    parent = published(stand)
    job = trained(stand, parent, stand.chain.wallets["bob"].address)
    with pytest.raises((BadInput, NotFound)):  # the parent's DID is another one there
        run(stand, replace(job, derivation=replace(job.derivation, chain_id=1)))


def test_a_served_answer_that_is_not_pytorchs_is_not_put_on_sale(stand: Stand) -> None:
    parent = published(stand)
    job = trained(stand, parent, stand.chain.wallets["bob"].address)
    stand.names.off_by = 0.01
    with pytest.raises(Refused, match="embedding") as refused:
        run(stand, job)
    assert refused.value.code == "parity_failed"
    assert [listing.did for listing in stand.catalogue.listings()] == [parent.did]
    stand.names.off_by = 0.0
    run(stand, job)
    check(stand)


def test_each_step_is_told(stand: Stand) -> None:
    job = trained(stand, published(stand), stand.chain.wallets["bob"].address)
    told: list[str] = []
    derive(stand.market, stand.chain.wallets["operator"], job, lambda name, detail: told.append(name) if detail else None)
    steps = ["weights", "convert", "install", "asset", "metadata", "rights", "store", "compare", "load", "parity", "on sale"]
    assert told == steps


def test_an_asset_that_names_another_parent_on_chain_is_not_served(stand: Stand) -> None:
    parent = published(stand)
    job = trained(stand, parent, stand.chain.wallets["bob"].address)
    derived = run(stand, job)
    bob, name = stand.chain.wallets["bob"], f"{job.derivation.job} parent"
    other = Parent(parent.nft, Bytes32("0x" + "01" * 32), job.derivation.digest())
    stand.chain.ledger.record_data(bob, name, derived.listing.nft, _key(), other.value())
    with pytest.raises(ChangedByOwner, match="expected the parent"):
        run(stand, job)


def _key() -> Bytes32:
    return data_key(PARENT_LABEL)


def test_the_outside_checker_finds_what_a_dishonest_maker_did(tmp_path: Path) -> None:
    ledger, chain = simulated_chain()
    stand = open_stand(chain, tmp_path)
    bob, operator = chain.wallets["bob"].address, chain.wallets["operator"].address
    listing = run(stand, trained(stand, published(stand), bob)).listing
    check(stand)
    seen, sold = Seen(stand.catalogue.listings(), stand.market.log_nft), ledger._datatokens[listing.datatoken]
    damages: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("still has", lambda: sold.minters.add(operator), lambda: sold.minters.discard(operator)),
        ("once, the chain says", lambda: sold.mints.append((bob, MINTED, operator)), lambda: sold.mints.pop()),
        ("its orders", lambda: setattr(sold, "collector", operator), lambda: setattr(sold, "collector", bob)),
        ("its sales pay", lambda: setattr(sold, "exchange_owner", operator), lambda: setattr(sold, "exchange_owner", bob)),
    ]
    for words, damage, mend in damages:
        damage()
        (line,) = broken_promises(ledger, seen)
        assert words in line
        mend()
    other = Parent(listing.nft, listing.model_digest, Bytes32("0x" + "01" * 32))
    ledger.record_data(chain.wallets["bob"], "another parent", listing.nft, _key(), other.value())
    assert broken_promises(ledger, seen) == []  # a digest that the chain does name, in its own block
    never = replace(other, model_digest=Bytes32("0x" + "02" * 32))
    ledger.record_data(chain.wallets["bob"], "no parent", listing.nft, _key(), never.value())
    assert any("derived from 0x0202" in line for line in broken_promises(ledger, seen))


def test_jobs_that_are_derived_at_once_are_each_one_asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, chain = simulated_chain()
    stand = open_stand(chain, tmp_path)
    parent = published(stand)
    jobs = [trained(stand, parent, chain.wallets[name].address, name) for name in ("bob", "carol", "derek", "elena")]
    meet = Barrier(len(jobs))

    def hashed_together(folder: Path) -> ModelDigest:
        meet.wait(20)  # all of them have brought their entry, and none has installed it
        return model_digest(folder)

    monkeypatch.setattr("control_plane.flows.entries.model_digest", hashed_together)
    with ThreadPoolExecutor(len(jobs)) as pool:
        listings = list(pool.map(lambda job: run(stand, job).listing, jobs))
    assert len({listing.did for listing in listings}) == len({listing.model_digest for listing in listings}) == len(jobs)
    assert [listing.publisher for listing in listings] == [job.derivation.trainer for job in jobs]
    check(stand)


def test_a_parent_whose_entry_is_broken_is_an_alarm(stand: Stand) -> None:
    parent = published(stand)
    job = trained(stand, parent, stand.chain.wallets["bob"].address)
    (stand.catalogue.folder(parent) / "entry.json").write_text("{}")
    with pytest.raises(IntegrityBroken, match="entry on disk is broken"):
        run(stand, job)


def test_terms_that_change_in_the_middle_do_not_end_a_derivation(stand: Stand) -> None:
    """Whoever derives chose nothing himself: the parent's terms, and the operator's, are those of when it was begun."""
    bob = stand.chain.wallets["bob"]
    parent = published(stand)
    job = trained(stand, parent, bob.address)

    def broken(step: str, _detail: Any) -> None:
        if step == "metadata":
            raise Unavailable("a worker died here")

    with pytest.raises(Unavailable):
        derive(stand.market, stand.chain.wallets["operator"], job, broken)
    stand.catalogue.put_on_sale(replace(parent, rate=TokenWei(9 * ONE), timeout_s=77))
    derived = derive(replace(stand.market, publish_fee=TokenWei(5)), stand.chain.wallets["operator"], job)
    assert (derived.listing.rate, derived.listing.timeout_s) == (parent.rate, parent.timeout_s)
    assert stand.chain.ledger.minted(derived.created.datatoken, bob.address) == (MINTED,)


@pytest.mark.parametrize(
    "document",
    [{}, {"metadata": []}, {"metadata": {"license": 5}}, {"metadata": {"license": ""}}, {"metadata": {"license": "A" * 1001}}],
    ids=["nothing", "a list", "a number", "no letter", "too many letters"],
)
def test_a_parent_whose_document_states_no_licence_any_more_is_refused(tmp_path: Path, document: dict[str, Any]) -> None:
    """Its owner writes it; the operator would pay for writing it again."""
    stand = open_stand(simulated_chain()[1], tmp_path)
    parent, operator, ledger = published(stand), stand.chain.wallets["operator"], stand.chain.ledger
    sealed, owner = ddo.seal(document, operator.public_key), stand.chain.wallets["alice"]
    ledger.record_metadata(owner, "another", parent.nft, sealed, ddo.clear_hash(document), "http://127.0.0.1", operator.address)
    before = len(stand.catalogue.listings())
    with pytest.raises(Refused, match="licence") as caught:
        run(stand, trained(stand, parent, stand.chain.wallets["bob"].address))
    assert caught.value.code == "document_damaged"
    assert len(stand.catalogue.listings()) == before
