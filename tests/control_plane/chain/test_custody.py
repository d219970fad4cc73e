"""Assets made for somebody else, on the simulator and on the real contracts."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.chain.custody import mint_action, record_action
from control_plane.chain.histories import recorded
from control_plane.chain.ledger import MODEL_LABEL, OPERATOR_LABEL, PARENT_LABEL, Created, Rights, data_key
from control_plane.chain.lineage import Custody, Parent, custody_key
from control_plane.chain.networks import LOCAL_CHAIN_ID
from control_plane.chain.outbox import Outbox
from control_plane.chain.rpc import Rpc
from control_plane.did import Address, Bytes32, TokenWei
from control_plane.errors import BadInput, OutcomeUnknown, Refused, Unavailable
from tests.control_plane.chain.test_ledger_contract import bought, fee_for, key, ordered, publish
from tests.fixtures_chain import ONE, Chain, real_chain, simulated_chain

AMOUNT = TokenWei(200 * ONE)
DIGEST = Bytes32("0x" + "ab" * 32)
LOG = Address("0x" + "10" * 20)
STEPS = ["nft", "datatoken", "price", "mint", "minter", "record"]
LEAVING = ["may_mint", "may_describe", "may_deploy"]
ALL_OF_OWNER = Rights(is_owner=True, is_manager=True, may_deploy=True, may_describe=True, may_store=True, may_mint=True)


def custody_of(parent: Created) -> Custody:
    return Custody(DIGEST, LOG, Parent(parent.nft, Bytes32("0x" + "cd" * 32), Bytes32("0x" + "ef" * 32)))


def make(chain: Chain, name: str, parent: Created, owner: str = "bob") -> Created:
    record = custody_of(parent).value()
    trainer, terms = chain.wallets[owner].address, chain.terms(2 * ONE)
    return chain.ledger.create_asset_for(chain.wallets["operator"], name, trainer, "Bob's model", "BOBS", terms, AMOUNT, record)


def leave(chain: Chain, name: str, made: Created) -> int:
    return len(chain.ledger.give_up(chain.wallets["operator"], f"{name}/rights", made.nft, made.datatoken))


def check_made(chain: Chain, made: Created, parent: Created) -> None:
    """One asset that Bob owns, 200 datatokens minted in one piece, and nothing left to the platform."""
    bob, operator = chain.wallets["bob"].address, chain.wallets["operator"].address
    facts = chain.ledger.asset(made.nft)
    assert (facts.owner, facts.datatoken, facts.is_from_factory) == (bob, made.datatoken, True)
    assert (facts.model_digest, facts.log, facts.parent) == (DIGEST, LOG, custody_of(parent).parent)
    assert chain.ledger.minted(made.datatoken, bob) == (AMOUNT,)
    assert chain.ledger.balance(made.datatoken, bob) == AMOUNT
    assert chain.ledger.rights(made.nft, made.datatoken, bob) == ALL_OF_OWNER
    assert chain.ledger.rights(made.nft, made.datatoken, operator) == Rights()


def test_an_asset_that_is_made_for_somebody_is_his_and_nobody_elses(chain: Chain) -> None:
    parent, name = publish(chain), key()
    made = make(chain, name, parent)
    operator = chain.wallets["operator"]
    held = chain.ledger.rights(made.nft, made.datatoken, operator.address)
    assert held == Rights(may_deploy=True, may_describe=True, may_mint=True)
    chain.ledger.record_metadata(
        operator, key(), made.nft, b"document", Bytes32("0x" + "22" * 32), "http://market", operator.address
    )
    assert leave(chain, name, made) == 3
    check_made(chain, made, parent)
    assert chain.ledger.document(made.nft) == b"document"


def test_made_again_it_is_the_same_asset_and_no_datatoken_more(chain: Chain) -> None:
    parent, name = publish(chain), key()
    first = make(chain, name, parent)
    assert make(chain, name, parent) == first
    assert [leave(chain, name, first), leave(chain, name, first)] == [3, 3]
    assert make(chain, name, parent) == first
    check_made(chain, first, parent)


def test_the_platform_that_left_can_write_and_mint_nothing(chain: Chain) -> None:
    parent, name = publish(chain), key()
    made = make(chain, name, parent)
    leave(chain, name, made)
    operator = chain.wallets["operator"]
    with pytest.raises(Refused, match="NOT METADATA_ROLE"):
        chain.ledger.record_metadata(operator, key(), made.nft, b"x", Bytes32("0x" + "22" * 32), "http://market", operator.address)
    with pytest.raises(Refused, match="NOT STORE UPDATER"):
        chain.ledger.record_data(operator, key(), made.nft, data_key(MODEL_LABEL), bytes(32))


def test_a_platform_has_no_right_to_record_under_a_label_even_before_it_leaves(chain: Chain) -> None:
    made = make(chain, key(), publish(chain))
    with pytest.raises(Refused, match="NOT STORE UPDATER"):
        chain.ledger.record_data(chain.wallets["operator"], key(), made.nft, data_key(MODEL_LABEL), bytes(32))


def test_its_price_is_the_owners_and_its_orders_pay_the_owner(chain: Chain) -> None:
    name = key()
    made = make(chain, name, publish(chain))
    leave(chain, name, made)
    bob, carol, operator = chain.wallets["bob"], chain.wallets["carol"], chain.wallets["operator"]
    sale = chain.ledger.sale(made.datatoken, made.exchange)
    assert (sale.rate, sale.base_token, sale.exchange_owner, sale.collector) == (2 * ONE, chain.ocean, bob.address, bob.address)
    assert (sale.publish_fee, sale.publish_fee_to, sale.is_active) == (5 * 10**16, operator.address, True)
    chain.ledger.buy_datatoken(carol, key(), made.datatoken, made.exchange, TokenWei(3 * ONE))
    fee = fee_for(chain, made.datatoken)
    chain.ledger.start_order(carol, key(), made.datatoken, carol.address, 0, fee)
    assert chain.ledger.balance(made.datatoken, bob.address) == AMOUNT + ONE * 97 // 100
    assert chain.ledger.balance(made.datatoken, operator.address) == 0
    assert chain.ledger.minted(made.datatoken, bob.address) == (AMOUNT,)


def test_the_owner_orders_with_a_datatoken_that_was_minted_to_him(chain: Chain) -> None:
    made = make(chain, key(), publish(chain))
    sent = ordered(chain, made)
    assert chain.ledger.order_facts(sent.transaction).nft == made.nft


def test_what_the_owner_records_under_a_label_counts_from_then_on(chain: Chain) -> None:
    parent, bob, other = publish(chain), chain.wallets["bob"], bytes(range(32))
    made = make(chain, key(), parent)
    chain.ledger.record_data(bob, key(), made.nft, data_key(MODEL_LABEL), other)
    facts = chain.ledger.asset(made.nft)
    assert (facts.model_digest, facts.log, facts.parent) == ("0x" + other.hex(), LOG, custody_of(parent).parent)
    history = recorded(chain.ledger, made.nft, made.datatoken, MODEL_LABEL)
    assert [record.value for record in history] == [bytes.fromhex(DIGEST[2:]), other]
    assert [record.value for record in recorded(chain.ledger, made.nft, made.datatoken, OPERATOR_LABEL)] == [bytes.fromhex(LOG[2:])]
    (line,) = recorded(chain.ledger, made.nft, made.datatoken, PARENT_LABEL)
    assert Parent.from_value(line.value) == custody_of(parent).parent
    assert line.nft == made.nft


def test_an_asset_that_somebody_published_has_no_parent(chain: Chain) -> None:
    made = publish(chain)
    assert chain.ledger.asset(made.nft).parent is None
    assert recorded(chain.ledger, made.nft, made.datatoken, PARENT_LABEL) == ()
    assert chain.ledger.rights(made.nft, made.datatoken, chain.wallets["alice"].address) == ALL_OF_OWNER
    assert chain.ledger.rights(made.nft, made.datatoken, chain.wallets["operator"].address) == Rights()
    bought(chain, made)
    assert chain.ledger.minted(made.datatoken, chain.wallets["bob"].address) == (ONE,)


def test_a_free_asset_is_not_made_for_somebody_else(chain: Chain) -> None:
    record = custody_of(publish(chain)).value()
    with pytest.raises(BadInput, match="rate"):
        chain.ledger.create_asset_for(
            chain.wallets["operator"], key(), chain.wallets["bob"].address, "x", "X", chain.terms(0), AMOUNT, record
        )


def test_an_operator_who_makes_an_asset_for_himself_keeps_it(chain: Chain) -> None:
    name, operator = key(), chain.wallets["operator"].address
    made = make(chain, name, publish(chain), "operator")
    assert leave(chain, name, made) == 0
    assert chain.ledger.rights(made.nft, made.datatoken, operator) == ALL_OF_OWNER
    assert chain.ledger.minted(made.datatoken, operator) == (AMOUNT,)


def test_a_right_that_the_owner_took_away_first_is_let_be(chain: Chain) -> None:
    """Here by the platform's own other hand: what counts is that the contract would refuse to remove it twice."""
    parent = publish(chain)
    made = make(chain, key(), parent)
    assert leave(chain, "one " + key(), made) == 3
    assert leave(chain, "another " + key(), made) == 0
    check_made(chain, made, parent)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [f"create_asset_for {step}" for step in STEPS] + [f"give_up {right}" for right in LEAVING])
def test_interrupted_at_any_transaction_and_repeated_it_is_one_asset(step: str, when: str) -> None:
    ledger, chain = simulated_chain()
    parent = publish(chain)
    ledger.fail_next(step, when)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        leave(chain, "m2", make(chain, "m2", parent))
    made = make(chain, "m2", parent)
    assert leave(chain, "m2", made) == 3
    check_made(chain, made, parent)
    assert [method for method, _ in ledger.writes].count(step) == 1


@pytest.mark.live
def test_the_real_contracts_refuse_what_the_platform_gave_up(anvil: str, tmp_path: Path) -> None:
    chain, rpc = real_chain(anvil, tmp_path / "outbox"), Rpc(anvil, LOCAL_CHAIN_ID)
    name, operator = key(), chain.wallets["operator"]
    made = make(chain, name, publish(chain))
    leave(chain, name, made)
    outbox = Outbox(tmp_path / "other", rpc, poll_s=0.01)
    with pytest.raises(Refused, match="NOT MINTER"):
        outbox.send(operator, "mint", mint_action(made.datatoken, operator.address, AMOUNT))
    with pytest.raises(Refused, match="DEPLOYER"):
        outbox.send(operator, "record", record_action(made.datatoken, b"x"))


def test_a_custody_record_is_read_back_and_other_bytes_are_none() -> None:
    _, chain = simulated_chain()
    custody = custody_of(publish(chain))
    value = custody.value()
    assert len(value) == 168
    assert Custody.from_value(value) == custody
    for other in (b"", value[:-1], value + b"\0", bytes(168), b"ocean" * 40):
        assert Custody.from_value(other) is None
    assert Parent.from_value(custody.parent.value()) == custody.parent
    assert Parent.from_value(bytes(83)) is None


def test_the_place_of_a_datatokens_value_stays_what_it_is() -> None:
    # keccak256 of the 20 bytes of the address, as abi.encodePacked has it
    assert (
        custody_key(Address("0x000000000000000000000000000000000000dEaD"))
        == "0xfe87802413d7ef2c0aca6eaaa9d44d0c79ccf07d8808832e4f05d1441a4f7af8"
    )
