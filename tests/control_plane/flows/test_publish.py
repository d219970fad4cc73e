"""From a folder to an asset on sale."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.chain import ddo
from control_plane.chain.ledger import MODEL_LABEL, data_key
from control_plane.did import TokenWei, did_of
from control_plane.errors import BadInput, Conflict, IntegrityBroken, Refused
from control_plane.flows.entries import Made
from control_plane.flows.market import Conversion
from control_plane.flows.publications import publication_id
from control_plane.flows.publish import publish, symbol_of
from control_plane.serving.catalogue import Catalogue
from converters.entry import model_digest, triton_name
from tests.fixtures_chain import ONE, anvil
from tests.fixtures_publish import Stand, check, make_entry, make_model, stand

__all__ = ["anvil", "stand"]


def test_publishing_puts_one_asset_on_sale(stand: Stand) -> None:
    alice = stand.chain.wallets["alice"]
    published = publish(stand.market, alice, stand.request())
    listing = published.listing
    assert listing == stand.catalogue.find(listing.did)
    assert listing.did == did_of(listing.nft, 8996)
    assert (listing.publisher, listing.task, listing.rate) == (alice.address, "feature-extraction", ONE)
    assert listing.model_digest == model_digest(stand.entry)
    assert listing.entry_name == triton_name(model_digest(stand.entry))
    assert stand.names.loads == [listing.entry_name]
    assert stand.kept.kept == {listing.model_digest: 1}
    check(stand)


def test_publishing_again_changes_nothing(stand: Stand) -> None:
    alice = stand.chain.wallets["alice"]
    first = publish(stand.market, alice, stand.request())
    block = stand.chain.ledger.head().number
    assert publish(stand.market, alice, stand.request()) == first
    assert stand.chain.ledger.head().number == block
    assert stand.names.loads == [first.listing.entry_name]
    check(stand)


def test_a_free_model_has_no_exchange(stand: Stand) -> None:
    published = publish(stand.market, stand.chain.wallets["alice"], stand.request(rate=TokenWei(0)))
    assert published.listing.exchange is None
    assert published.listing.swap_fee == 0
    check(stand)


def test_other_terms_for_the_same_model_are_refused(stand: Stand) -> None:
    alice = stand.chain.wallets["alice"]
    publish(stand.market, alice, stand.request())
    with pytest.raises(Conflict, match="rate is 1000000000000000000, asked now for 2"):
        publish(stand.market, alice, stand.request(rate=TokenWei(2)))
    check(stand)


def test_another_name_or_publisher_is_another_asset(stand: Stand) -> None:
    made = [
        publish(stand.market, stand.chain.wallets["alice"], stand.request()),
        publish(stand.market, stand.chain.wallets["alice"], stand.request(name="Tiny, dearer", rate=TokenWei(2 * ONE))),
        publish(stand.market, stand.chain.wallets["carol"], stand.request()),
    ]
    assert len({each.listing.did for each in made}) == 3
    assert len({each.listing.entry_name for each in made}) == 1
    check(stand)


def test_terms_may_change_as_long_as_nothing_was_sent(stand: Stand) -> None:
    alice = stand.chain.wallets["alice"]
    stand.ledger.break_call("create_asset", "before")
    with pytest.raises(Exception, match="broken before"):
        publish(stand.market, alice, stand.request())
    assert publish(stand.market, alice, stand.request(rate=TokenWei(2 * ONE))).listing.rate == 2 * ONE
    check(stand)


def test_the_document_says_what_the_files_say(stand: Stand) -> None:
    operator = stand.chain.wallets["operator"]
    listing = publish(stand.market, stand.chain.wallets["alice"], stand.request()).listing
    sealed = stand.chain.ledger.document(listing.nft)
    assert sealed is not None
    document = ddo.unseal(sealed, operator)
    assert (document["id"], document["version"], document["nftAddress"]) == (listing.did, "4.1.0", listing.nft)
    assert document["metadata"]["license"] == "apache-2.0"
    facts = document["metadata"]["additionalInformation"]["posthuman"]
    assert (facts["model_digest"], facts["task"], facts["files"]) == (listing.model_digest, "feature-extraction", 4)
    assert (facts["source"]["id"], facts["source"]["revision"], facts["licence_given_by"]) == ("tiny", None, "model")
    assert (facts["precision"], facts["route"], facts["parity"][0]["output"]) == ("fp32", "optimum", "embedding")
    (service,) = document["services"]
    assert (service["id"], service["type"], service["timeout"]) == ("0", "access", 3600)
    files = json.loads(operator.decrypt(bytes.fromhex(service["files"][2:])))
    assert files["files"] == [{"type": "url", "url": f"http://127.0.0.1:8030/models/{listing.did}", "method": "POST"}]


def test_a_model_that_states_no_licence_is_published_under_the_one_that_is_given(stand: Stand, tmp_path: Path) -> None:
    alice, operator = stand.chain.wallets["alice"], stand.chain.wallets["operator"]
    bare = make_entry(tmp_path / "bare", licence=None)
    with pytest.raises(BadInput, match="--licence") as asked:
        publish(stand.market, alice, stand.request(model=str(bare)))
    assert asked.value.field == "licence"
    assert stand.ledger.counts["create_asset"] == 0
    listing = publish(stand.market, alice, stand.request(model=str(bare), licence="cc-by-4.0")).listing
    sealed = stand.chain.ledger.document(listing.nft)
    assert sealed is not None
    metadata = ddo.unseal(sealed, operator)["metadata"]
    assert metadata["license"] == "cc-by-4.0"
    facts = metadata["additionalInformation"]["posthuman"]
    assert (facts["licence_given_by"], facts["source"]["licence"]) == ("publisher", None)
    check(stand)


def test_each_step_is_told_when_it_begins_and_when_it_is_done(stand: Stand) -> None:
    told: list[tuple[str, dict[str, Any] | None]] = []
    publish(
        stand.market,
        stand.chain.wallets["alice"],
        stand.request(),
        lambda name, detail: told.append((name, None if detail is None else dict(detail))),
    )
    names = ["convert", "install", "asset", "digest", "log", "metadata", "store", "compare", "load", "parity", "on sale"]
    assert [name for name, detail in told if detail is None] == names
    assert [name for name, detail in told if detail is not None] == names
    asset = next(detail for name, detail in told if name == "asset" and detail is not None)
    assert {"did", "nft", "datatoken", "exchange", "transaction", "block", "gas_used", "seconds"} == set(asset)


def test_the_digest_is_on_chain_before_the_model_is_loaded(stand: Stand) -> None:
    stand.ledger.break_call("record_data", "before")
    with pytest.raises(Exception, match="broken before"):
        publish(stand.market, stand.chain.wallets["alice"], stand.request())
    assert stand.names.loads == []
    assert stand.catalogue.listings() == ()


def test_weights_swapped_before_loading_are_not_put_on_sale(stand: Stand) -> None:
    alice = stand.chain.wallets["alice"]
    stand.server.break_call("loaded", "before")
    with pytest.raises(Exception, match="broken before"):
        publish(stand.market, alice, stand.request())
    (stand.market.models / triton_name(model_digest(stand.entry)) / "1" / "model.onnx").write_bytes(b"swapped")
    with pytest.raises(IntegrityBroken):
        publish(stand.market, alice, stand.request())
    assert stand.catalogue.listings() == ()
    assert stand.names.loads == []


def test_a_served_answer_that_is_not_pytorchs_is_not_put_on_sale(stand: Stand) -> None:
    alice = stand.chain.wallets["alice"]
    stand.names.off_by = 0.01
    for _ in range(2):
        with pytest.raises(Refused, match=r"by 1.0e-02 of the largest value at output 'embedding'; bound is 1.0e-04") as refused:
            publish(stand.market, alice, stand.request())
        assert refused.value.code == "parity_failed"
        assert stand.catalogue.listings() == ()
        assert stand.names.loaded() == frozenset()
    stand.names.off_by = 0.0
    published = publish(stand.market, alice, stand.request())
    assert stand.names.loaded() == {published.listing.entry_name}
    check(stand)


def test_the_served_parity_is_told_and_kept_with_the_listing(stand: Stand) -> None:
    stand.names.off_by = 5e-5
    published = publish(stand.market, stand.chain.wallets["alice"], stand.request())
    (line,) = published.parity
    assert (line.output, line.bound, line.probes) == ("embedding", 1e-4, 3)
    assert line.worst_absolute == line.worst_relative == 5e-5
    assert json.loads(stand.catalogue.find(published.listing.did).parity) == [asdict(line)]


def test_a_refused_entry_that_another_listing_sells_stays_loaded(stand: Stand) -> None:
    sold = publish(stand.market, stand.chain.wallets["alice"], stand.request()).listing
    stand.names.off_by = 0.01
    with pytest.raises(Refused, match="embedding"):
        publish(stand.market, stand.chain.wallets["alice"], stand.request(name="Tiny again"))
    assert stand.names.loaded() == {sold.entry_name}
    assert stand.catalogue.listings() == (sold,)


@pytest.mark.parametrize("probes", [None, "{}", '{"format":"posthuman/probes/v1","probes":[]}'])
def test_an_entry_that_nobody_can_compare_is_not_put_on_sale(stand: Stand, probes: str | None) -> None:
    (stand.entry / "probes.json").unlink() if probes is None else (stand.entry / "probes.json").write_text(probes)
    with pytest.raises(Refused, match="probes"):
        publish(stand.market, stand.chain.wallets["alice"], stand.request())
    assert stand.catalogue.listings() == ()


def test_the_log_keeper_lets_an_entry_be_while_it_is_published_anew(stand: Stand) -> None:
    alice, keeper = stand.chain.wallets["alice"], Catalogue(stand.engine, stand.market.models)
    listing = publish(stand.market, alice, stand.request()).listing
    stand.catalogue.withdraw(listing.did, "for a while")
    unloaded: list[tuple[str, ...]] = []

    def watching(name: str, detail: object) -> None:
        if name in ("load", "parity") and detail is not None:
            unloaded.append(keeper.reconcile(stand.names, stand.chain.ledger).unloaded)

    publish(stand.market, alice, stand.request(), watching)
    assert unloaded == [(), ()]
    stand.catalogue.withdraw(listing.did, "for good")
    assert keeper.reconcile(stand.names, stand.chain.ledger).unloaded == (listing.entry_name,)


def test_a_log_that_the_chain_does_not_name_is_not_served(stand: Stand) -> None:
    alice = stand.chain.wallets["alice"]
    publish(stand.market, alice, stand.request())
    other = replace(stand.market, log_nft=stand.chain.ocean)
    with pytest.raises(Conflict):
        publish(other, alice, stand.request())


def test_a_model_that_is_not_converted_yet_is_converted_once(stand: Stand, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    asked: list[Path] = []

    def convert(conversion: Conversion, out: Path) -> Made:
        asked.append(out)
        return stand.market.convert(conversion, out)

    market = replace(stand.market, convert=convert)
    first = publish(market, stand.chain.wallets["alice"], stand.request(model=str(model)))
    assert publish(market, stand.chain.wallets["alice"], stand.request(model=str(model))) == first
    assert len(asked) == 1
    assert not asked[0].exists()
    (model / "model.safetensors").write_bytes(b"other weights")
    publish(market, stand.chain.wallets["alice"], stand.request(model=str(model)))
    assert len(asked) == 2
    check(stand)


def test_a_folder_that_is_no_entry_is_refused(stand: Stand, tmp_path: Path) -> None:
    broken = make_entry(tmp_path / "broken")
    (broken / "1" / "link").symlink_to(broken / "1" / "model.onnx")
    with pytest.raises(Refused, match="link"):
        publish(stand.market, stand.chain.wallets["alice"], stand.request(model=str(broken)))
    assert not list(stand.market.models.glob("m-*"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", " "),
        ("name", "x" * 129),
        ("name", "a\nb"),
        ("rate", TokenWei(-1)),
        ("rate", TokenWei(2**256)),
        ("timeout_s", 0),
        ("licence", " "),
        ("precision", "fp8"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(stand: Stand, field: str, value: Any) -> None:
    with pytest.raises(BadInput) as caught:
        publish(stand.market, stand.chain.wallets["alice"], stand.request(**{field: value}))
    assert caught.value.field == field


def test_the_marketplace_owner_is_paid_by_every_asset(stand: Stand) -> None:
    listing = publish(stand.market, stand.chain.wallets["alice"], stand.request()).listing
    sale = stand.chain.ledger.sale(listing.datatoken, listing.exchange)
    assert sale.publish_fee_to == stand.chain.wallets["operator"].address
    assert len(stand.chain.ledger.data_history(listing.nft, data_key(MODEL_LABEL))) == 1


def test_a_publication_is_named_by_who_where_what_and_how() -> None:
    names = {
        publication_id(publisher, chain, digest, name)  # type: ignore[arg-type]  # any text makes the point
        for publisher in ("a", "b")
        for chain in (1, 2)
        for digest in ("c", "d")
        for name in ("e", "f")
    }
    assert len(names) == 16


@pytest.mark.parametrize(("name", "symbol"), [("GPT-2 small", "GPT2SMALL"), ("", "MODEL"), ("模型", "MODEL"), ("a" * 40, "A" * 11)])
def test_a_symbol_is_made_of_letters_and_digits(name: str, symbol: str) -> None:
    assert symbol_of(name) == symbol
