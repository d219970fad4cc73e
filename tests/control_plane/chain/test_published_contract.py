"""What every ledger tells of anybody's assets, checked on the simulator and on the real contracts."""

from __future__ import annotations

import hashlib
import uuid

import pytest

from control_plane.chain.ledger import Created
from control_plane.chain.published import Ordered
from control_plane.did import Bytes32, TransactionHash
from control_plane.errors import NotFound
from tests.control_plane.chain.test_ledger_contract import bought, key, ordered, publish
from tests.fixtures_chain import ONE, Chain


def written(chain: Chain, made: Created, clear: bytes) -> TransactionHash:
    clear_hash = Bytes32("0x" + hashlib.sha256(clear).hexdigest())
    alice, operator = chain.wallets["alice"], chain.wallets["operator"].address
    url = "http://127.0.0.1:8030"
    return chain.ledger.record_metadata(alice, key(), made.nft, b"sealed " + clear, clear_hash, url, operator).transaction


def test_documents_are_told_with_who_wrote_them_and_where(chain: Chain) -> None:
    made, before = publish(chain), chain.ledger.head().number
    first, second = written(chain, made, b"one"), written(chain, made, b"two")
    (told,) = chain.ledger.documents_of(first)
    assert (told.nft, told.flags, told.data, told.clear_hash) == (made.nft, 3, b"sealed one", hashlib.sha256(b"one").digest())
    assert (told.by, told.decryptor_url) == (chain.wallets["alice"].address, "http://127.0.0.1:8030")
    assert told.written_at == chain.ledger.block(told.block).timestamp
    seen = [each for each in chain.ledger.happened(before + 1, chain.ledger.head().number).documents if each.nft == made.nft]
    assert [each.transaction for each in seen] == [first, second]
    assert [each for each in chain.ledger.happened(0, before).documents if each.nft == made.nft] == []


def test_a_transaction_that_wrote_nothing_has_no_document(chain: Chain) -> None:
    assert chain.ledger.documents_of(TransactionHash("0x" + "1" * 64)) == ()
    assert chain.ledger.documents_of(publish(chain).sent.transaction) == ()


def test_an_order_is_told_by_its_emitter(chain: Chain) -> None:
    made = publish(chain)
    bought(chain, made)
    before = chain.ledger.head().number
    order = ordered(chain, made)
    told = chain.ledger.happened(before + 1, chain.ledger.head().number).ordered
    assert [each for each in told if each.emitter == made.datatoken] == [Ordered(made.datatoken, order.block)]


@pytest.mark.parametrize("rate", [2 * ONE, 0])
def test_an_nft_is_told_with_its_datatokens_and_their_price(chain: Chain, rate: int) -> None:
    made = publish(chain, rate=rate)
    facts = chain.ledger.nft_facts(made.nft, [made.datatoken])
    assert (facts.name, facts.symbol, facts.owner) == ("A model", "MODEL", chain.wallets["alice"].address)
    assert (facts.state, facts.is_from_factory) == (0, True)
    (datatoken,) = facts.datatokens
    assert (datatoken.address, datatoken.name, datatoken.price) == (made.datatoken, "A model access", rate)
    assert datatoken.base_token == (chain.ocean if rate else None)
    assert datatoken.base_symbol == ("OCEAN" if rate else "")
    assert datatoken.exchange == made.exchange


def test_one_datatoken_is_told_by_itself_and_only_of_the_nft_that_made_it(chain: Chain) -> None:
    made, other = publish(chain), publish(chain)
    (datatoken,) = chain.ledger.nft_facts(made.nft, [made.datatoken]).datatokens
    assert chain.ledger.datatoken_facts(made.nft, made.datatoken) == datatoken
    assert chain.ledger.datatoken_facts(made.nft, other.datatoken) is None
    assert chain.ledger.datatoken_facts(chain.wallets["mallory"].address, made.datatoken) is None
    asked = ((made.nft, made.datatoken), (made.nft, other.datatoken), (chain.wallets["mallory"].address, made.datatoken))
    assert [chain.ledger.has_made(*each) for each in asked] == [True, False, False]


def test_of_datatokens_only_those_are_told_that_are_asked_for_and_the_nfts_own(chain: Chain) -> None:
    made, other = publish(chain), publish(chain)
    named = [other.datatoken, made.datatoken, chain.wallets["mallory"].address, made.datatoken]
    assert [each.address for each in chain.ledger.nft_facts(made.nft, named).datatokens] == [made.datatoken]
    assert chain.ledger.nft_facts(made.nft, []).datatokens == ()


def test_an_address_that_is_no_nft_of_the_factory_is_not_found(chain: Chain) -> None:
    with pytest.raises(NotFound):
        chain.ledger.nft_facts(chain.wallets["mallory"].address, [])


def test_an_order_of_its_own_is_no_reuse(chain: Chain) -> None:
    made = publish(chain)
    bought(chain, made)
    order = ordered(chain, made).transaction
    assert chain.ledger.reuse_of(order, made.datatoken) is None
    assert chain.ledger.reuses(order, made.datatoken, 0) == ()
    assert chain.ledger.reuse_of(TransactionHash("0x" + uuid.uuid4().hex * 2), made.datatoken) is None


def test_every_signed_fee_of_an_order_is_told(chain: Chain) -> None:
    made = publish(chain)
    bought(chain, made)
    facts = chain.ledger.order_facts(ordered(chain, made).transaction, made.datatoken)
    assert facts.provider_fee is not None
    assert facts.signed_fees == (facts.provider_fee,)
