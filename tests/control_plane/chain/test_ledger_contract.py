"""What every ledger promises, checked on the simulator and on the real contracts."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

import pytest

from control_plane.chain.fees import sign_provider_fee
from control_plane.chain.ledger import (
    LOG_LABEL,
    MODEL_LABEL,
    OPERATOR_LABEL,
    Created,
    ProviderFee,
    Sent,
    data_key,
)
from control_plane.did import ZERO_ADDRESS, Address, Bytes32, TokenWei, TransactionHash, UnixSeconds, did_of
from control_plane.errors import BadInput, Conflict, NotFound, Refused
from tests.fixtures_chain import ONE, Chain

DIGEST = bytes(range(32))
FEE = 10**16


def key() -> str:
    return uuid.uuid4().hex


def publish(chain: Chain, rate: int = ONE, name: str | None = None) -> Created:
    return chain.ledger.create_asset(chain.wallets["alice"], name or key(), "A model", "MODEL", chain.terms(rate))


def fee_for(chain: Chain, datatoken: Address, amount: int = FEE, service: int = 0, signer: str = "operator") -> ProviderFee:
    until = UnixSeconds(int(chain.now()) + 3600)
    return sign_provider_fee(chain.wallets[signer], datatoken, service, chain.ocean, TokenWei(amount), until, time.time)


def bought(chain: Chain, asset: Created, buyer: str = "bob") -> None:
    chain.ledger.buy_datatoken(chain.wallets[buyer], key(), asset.datatoken, asset.exchange, TokenWei(2 * ONE))


def ordered(chain: Chain, asset: Created, name: str | None = None) -> Sent:
    bob = chain.wallets["bob"]
    return chain.ledger.start_order(bob, name or key(), asset.datatoken, bob.address, 0, fee_for(chain, asset.datatoken))


def test_an_asset_is_made_of_an_nft_a_datatoken_and_an_exchange(chain: Chain) -> None:
    made = publish(chain)
    facts = chain.ledger.asset(made.nft)
    assert facts.did == did_of(made.nft, 8996)
    assert (facts.nft, facts.datatoken, facts.owner) == (made.nft, made.datatoken, chain.wallets["alice"].address)
    assert facts.is_from_factory
    assert (facts.model_digest, facts.log, facts.state, facts.has_metadata) == (None, None, 0, False)
    assert made.exchange is not None


def test_the_same_key_never_makes_a_second_asset(chain: Chain) -> None:
    name = key()
    assert publish(chain, name=name) == publish(chain, name=name)
    assert chain.ledger.is_begun(name)


def test_a_key_that_was_not_used_is_not_begun(chain: Chain) -> None:
    assert not chain.ledger.is_begun(key())


def test_a_key_does_not_stand_for_two_things(chain: Chain) -> None:
    made, name, alice = publish(chain), key(), chain.wallets["alice"]
    chain.ledger.record_data(alice, name, made.nft, data_key(MODEL_LABEL), DIGEST)
    with pytest.raises(Conflict):
        chain.ledger.record_data(alice, name, made.nft, data_key(MODEL_LABEL), bytes(32))


def test_the_marketplace_owners_share_stands_in_the_sale(chain: Chain) -> None:
    made = publish(chain)
    sale = chain.ledger.sale(made.datatoken, made.exchange)
    assert (sale.rate, sale.base_token, sale.exchange_datatoken, sale.is_active) == (ONE, chain.ocean, made.datatoken, True)
    assert (sale.publish_fee, sale.publish_fee_token) == (5 * 10**16, chain.ocean)
    assert sale.publish_fee_to == chain.wallets["operator"].address
    assert sale.price == ONE + 10**16 + 10**15  # 1 % to the marketplace owner, 0.1 % to Ocean's community


def test_a_free_asset_has_a_dispenser(chain: Chain) -> None:
    made = publish(chain, rate=0)
    assert made.exchange is None
    sale = chain.ledger.sale(made.datatoken, None)
    assert (sale.rate, sale.price, sale.base_token, sale.is_active) == (0, 0, None, True)
    bob = chain.wallets["bob"]
    assert chain.ledger.buy_datatoken(bob, key(), made.datatoken, None, TokenWei(0)).paid == 0
    assert chain.ledger.balance(made.datatoken, bob.address) == ONE


def test_a_dispenser_gives_one_datatoken_at_a_time(chain: Chain) -> None:
    made = publish(chain, rate=0)
    bought(chain, made)
    with pytest.raises(Refused):
        bought(chain, made)


def test_addresses_that_hold_nothing_are_not_found(chain: Chain) -> None:
    nobody = chain.wallets["mallory"].address
    with pytest.raises(NotFound):
        chain.ledger.asset(nobody)
    with pytest.raises(NotFound):
        chain.ledger.sale(nobody, None)
    with pytest.raises(NotFound):
        chain.ledger.sale(publish(chain).datatoken, Bytes32("0x" + "11" * 32))


def test_a_did_is_checked_against_its_nft(chain: Chain) -> None:
    made, other = publish(chain), publish(chain)
    assert chain.ledger.find_asset(did_of(made.nft, 8996), made.nft).nft == made.nft
    with pytest.raises(BadInput):
        chain.ledger.find_asset(did_of(other.nft, 8996), made.nft)


def test_the_history_of_a_value_keeps_what_was_overwritten(chain: Chain) -> None:
    made, alice = publish(chain), chain.wallets["alice"]
    first = chain.ledger.record_data(alice, key(), made.nft, data_key(LOG_LABEL), b"one")
    second = chain.ledger.record_data(alice, key(), made.nft, data_key(LOG_LABEL), b"two")
    chain.ledger.record_data(alice, key(), made.nft, data_key(MODEL_LABEL), DIGEST)
    history = chain.ledger.data_history(made.nft, data_key(LOG_LABEL))
    assert [(each.value, each.transaction, each.block) for each in history] == [
        (b"one", first.transaction, first.block),
        (b"two", second.transaction, second.block),
    ]
    assert history[0].written_at == chain.ledger.block(first.block).timestamp
    assert history[1].confirmations == chain.ledger.head().number - second.block + 1
    assert chain.ledger.data_history(made.nft, data_key(LOG_LABEL), second.block) == history[1:]
    assert chain.ledger.data_history(made.nft, data_key("another label")) == ()


def test_a_stranger_cannot_write_on_an_nft(chain: Chain) -> None:
    made, mallory = publish(chain), chain.wallets["mallory"]
    with pytest.raises(Refused, match="NOT STORE UPDATER"):
        chain.ledger.record_data(mallory, key(), made.nft, data_key(MODEL_LABEL), DIGEST)
    assert chain.ledger.asset(made.nft).model_digest is None


def test_a_refused_write_used_no_key(chain: Chain) -> None:
    made, name = publish(chain), key()
    with pytest.raises(Refused):
        chain.ledger.record_data(chain.wallets["mallory"], name, made.nft, data_key(MODEL_LABEL), DIGEST)
    assert not chain.ledger.is_begun(name)


def test_digest_log_and_document_are_read_back(chain: Chain) -> None:
    made, alice = publish(chain), chain.wallets["alice"]
    log = chain.ledger.create_log_nft(chain.wallets["operator"], key(), "log", "LOG").nft
    chain.ledger.record_data(alice, key(), made.nft, data_key(MODEL_LABEL), DIGEST)
    chain.ledger.record_data(alice, key(), made.nft, data_key(OPERATOR_LABEL), bytes.fromhex(log[2:]))
    assert chain.ledger.document(made.nft) is None
    for document in (b"first", b"second"):
        chain.ledger.record_metadata(
            alice, key(), made.nft, document, Bytes32("0x" + "22" * 32), "http://market", chain.wallets["operator"].address
        )
    facts = chain.ledger.asset(made.nft)
    assert (facts.model_digest, facts.log, facts.has_metadata) == ("0x" + DIGEST.hex(), log, True)
    assert chain.ledger.document(made.nft) == b"second"


def test_a_log_nft_has_no_datatoken(chain: Chain) -> None:
    operator, name = chain.wallets["operator"], key()
    made = chain.ledger.create_log_nft(operator, name, "log", "LOG")
    assert chain.ledger.create_log_nft(operator, name, "log", "LOG") == made
    facts = chain.ledger.asset(made.nft)
    assert (facts.owner, facts.datatoken, facts.is_from_factory) == (operator.address, ZERO_ADDRESS, True)


def test_a_purchase_costs_the_price_and_happens_once(chain: Chain) -> None:
    made, bob, name = publish(chain), chain.wallets["bob"], key()
    before = chain.ledger.balance(chain.ocean, bob.address)
    price = chain.ledger.sale(made.datatoken, made.exchange).price
    for most in (price, TokenWei(price + 5)):  # a newer offer is the same purchase
        purchase = chain.ledger.buy_datatoken(bob, name, made.datatoken, made.exchange, most)
        assert purchase.paid == price
    assert chain.ledger.balance(made.datatoken, bob.address) == ONE
    assert before - chain.ledger.balance(chain.ocean, bob.address) == price


def test_nobody_pays_more_than_they_said(chain: Chain) -> None:
    made, bob = publish(chain), chain.wallets["bob"]
    price = chain.ledger.sale(made.datatoken, made.exchange).price
    with pytest.raises(Refused, match="costs"):
        chain.ledger.buy_datatoken(bob, key(), made.datatoken, made.exchange, TokenWei(price - 1))
    assert chain.ledger.balance(made.datatoken, bob.address) == 0


def test_an_exchange_of_another_datatoken_is_refused(chain: Chain) -> None:
    made, other = publish(chain), publish(chain)
    with pytest.raises(BadInput, match="exchange"):
        chain.ledger.buy_datatoken(chain.wallets["bob"], key(), made.datatoken, other.exchange, TokenWei(2 * ONE))


def test_an_order_tells_every_fact_that_decides(chain: Chain) -> None:
    made, bob, operator = publish(chain), chain.wallets["bob"], chain.wallets["operator"]
    bought(chain, made)
    fee = fee_for(chain, made.datatoken)
    before = chain.ledger.balance(chain.ocean, operator.address)
    sent = chain.ledger.start_order(bob, key(), made.datatoken, chain.wallets["carol"].address, 0, fee)
    facts = chain.ledger.order_facts(sent.transaction, made.datatoken)
    assert (facts.found, facts.status, facts.chain_id) == (True, 1, 8996)
    assert (facts.emitter, facts.nft, facts.is_from_factory) == (made.datatoken, made.nft, True)
    assert (facts.consumer, facts.payer) == (chain.wallets["carol"].address, bob.address)
    assert (facts.amount, facts.service_index) == (ONE, 0)
    block = chain.ledger.block(sent.block)
    assert (facts.block, facts.block_hash, facts.ordered_at) == (block.number, block.hash, block.timestamp)
    assert [(each.kind, each.to, each.token, each.amount) for each in facts.fees] == [
        ("publish", operator.address, chain.ocean, 5 * 10**16),
        ("provider", operator.address, chain.ocean, FEE),
    ]
    assert facts.provider_fee == fee
    assert chain.ledger.order_facts(sent.transaction) == facts
    assert chain.ledger.balance(chain.ocean, operator.address) - before == 5 * 10**16 + FEE
    assert chain.ledger.balance(made.datatoken, chain.wallets["alice"].address) == ONE * 97 // 100
    assert chain.ledger.balance(made.datatoken, bob.address) == 0


def test_confirmations_grow_with_the_chain(chain: Chain) -> None:
    made = publish(chain)
    bought(chain, made)
    sent = ordered(chain, made)
    assert chain.ledger.order_facts(sent.transaction, made.datatoken).confirmations == 1
    chain.advance_blocks(3)
    assert chain.ledger.order_facts(sent.transaction, made.datatoken).confirmations == 4


def test_an_order_happens_once_also_with_a_newer_fee(chain: Chain) -> None:
    made, bob, name = publish(chain), chain.wallets["bob"], key()
    bought(chain, made)
    first = chain.ledger.start_order(bob, name, made.datatoken, bob.address, 0, fee_for(chain, made.datatoken))
    again = chain.ledger.start_order(bob, name, made.datatoken, bob.address, 0, fee_for(chain, made.datatoken, FEE * 2))
    assert first == again
    with pytest.raises(Conflict):  # another consumer is another order
        chain.ledger.start_order(bob, name, made.datatoken, chain.wallets["carol"].address, 0, fee_for(chain, made.datatoken))


def test_an_order_without_a_datatoken_is_refused(chain: Chain) -> None:
    with pytest.raises(Refused, match="Not enough datatokens"):
        ordered(chain, publish(chain))


@pytest.mark.parametrize(
    "change",
    [
        {"amount": TokenWei(1)},
        {"valid_until": UnixSeconds(2_000_000_000)},
        {"data": b"{}"},
        {"provider": Address("0x000000000000000000000000000000000000bEEF")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_provider_fee_is_refused(chain: Chain, change: dict[str, object]) -> None:
    made, bob = publish(chain), chain.wallets["bob"]
    bought(chain, made)
    changed = replace(fee_for(chain, made.datatoken), **change)  # type: ignore[arg-type]  # one field of four types
    with pytest.raises(Refused, match="Invalid provider fee"):
        chain.ledger.start_order(bob, key(), made.datatoken, bob.address, 0, changed)


def test_a_fee_signed_for_another_datatoken_does_not_count(chain: Chain) -> None:
    made, other, bob = publish(chain), publish(chain), chain.wallets["bob"]
    bought(chain, made)
    sent = chain.ledger.start_order(bob, key(), made.datatoken, bob.address, 0, fee_for(chain, other.datatoken))
    facts = chain.ledger.order_facts(sent.transaction, made.datatoken)
    assert facts.provider_fee is None
    assert [fee.kind for fee in facts.fees] == ["publish", "provider"]


def test_a_fee_that_a_stranger_signed_names_the_stranger(chain: Chain) -> None:
    made, bob, mallory = publish(chain), chain.wallets["bob"], chain.wallets["mallory"]
    bought(chain, made)
    fee = fee_for(chain, made.datatoken, signer="mallory")
    sent = chain.ledger.start_order(bob, key(), made.datatoken, bob.address, 0, fee)
    found = chain.ledger.order_facts(sent.transaction, made.datatoken).provider_fee
    assert found is not None
    assert found.provider == mallory.address


def test_an_order_of_another_datatoken_does_not_count(chain: Chain) -> None:
    made, other = publish(chain), publish(chain)
    bought(chain, made)
    facts = chain.ledger.order_facts(ordered(chain, made).transaction, other.datatoken)
    assert (facts.found, facts.status, facts.emitter, facts.is_from_factory) == (True, 1, None, False)
    assert (facts.consumer, facts.provider_fee) == (None, None)


def test_an_unknown_transaction_is_not_found(chain: Chain) -> None:
    unknown = TransactionHash("0x" + "ab" * 32)
    assert not chain.ledger.order_facts(unknown).found
    assert chain.ledger.order_facts(unknown).status is None


def test_another_transaction_is_no_order(chain: Chain) -> None:
    made = publish(chain)
    facts = chain.ledger.order_facts(made.sent.transaction, made.datatoken)
    assert facts.emitter is None
