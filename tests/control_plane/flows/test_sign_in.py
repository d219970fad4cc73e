"""Signing in: who has a good order gets a session, once a nonce; everyone else a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from control_plane.chain.fees import sign_fee
from control_plane.did import Bytes32, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import BadInput, Forbidden, NotFound, PosthumanError, Unauthenticated, Unavailable
from control_plane.flows.sign_in import CLOCK_SKEW_S, compose_message, sign_in
from control_plane.jobs.environments import FREE
from control_plane.serving.eip4361 import SignInMessage
from tests.fixtures_jobs import index
from tests.fixtures_market import ONE, Market, market, open_market

__all__ = ["market"]


def composed(market: Market, name: str = "bob", order: TransactionHash | None = None, valid_for_s: int = 3600) -> SignInMessage:
    order = order or market.order(name, market.gpt)
    nonce = market.services.sessions.issue_nonce().nonce
    return compose_message(market.services, market.wallet(name).address, market.gpt.did, order, nonce, valid_for_s)


def handed_in(market: Market, message: SignInMessage, name: str = "bob") -> str:
    return sign_in(market.services, message.text(), market.sign(name, message.text())).token


def refused(market: Market, message: SignInMessage, name: str = "bob") -> PosthumanError:
    with pytest.raises(PosthumanError) as caught:
        handed_in(market, message, name)
    return caught.value


def test_who_ordered_gets_a_session_bound_to_wallet_did_and_order(market: Market) -> None:
    message = composed(market)
    token = handed_in(market, message)
    session = market.services.sessions.find(token)
    assert session is not None
    facts = market.ledger.order_facts(message.order, market.gpt.datatoken)
    assert (session.wallet, session.did, session.order) == (market.wallet("bob").address, market.gpt.did, message.order)
    assert (session.order_block, session.order_block_hash) == (facts.block, facts.block_hash)
    assert session.calls_limit == market.services.settings.session_calls


def test_a_signed_message_is_good_once(market: Market) -> None:
    message = composed(market)
    handed_in(market, message)
    error = refused(market, message)
    assert (type(error), error.status, error.code) == (Unauthenticated, 401, "nonce_used")


def test_a_nonce_of_ours_is_needed(market: Market) -> None:
    assert refused(market, replace(composed(market), nonce="f" * 32)).code == "nonce_unknown"
    message = composed(market)
    market.clock.now += 601
    assert refused(market, message).code == "nonce_expired"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"domain": "evil.example"}, "wrong_domain"),
        ({"uri": "https://evil.example"}, "wrong_uri"),
        ({"chain_id": 1}, "wrong_chain"),
        ({"version": "2"}, "wrong_version"),
    ],
)
def test_a_message_for_another_site_or_chain_is_a_401_that_names_the_field(
    market: Market, change: dict[str, object], code: str
) -> None:
    error = refused(market, replace(composed(market), **change))  # type: ignore[arg-type]  # a table of changes
    assert isinstance(error, BadInput)
    assert (error.status, error.code) == (401, code)
    assert error.field == f"message.{next(iter(change))}"


def test_a_message_is_good_from_its_start_to_its_end(market: Market) -> None:
    now = int(market.clock())
    skew = CLOCK_SKEW_S
    assert refused(market, replace(composed(market), expires_at=UnixSeconds(now))).code == "message_expired"
    assert refused(market, replace(composed(market), issued_at=UnixSeconds(now + skew + 1))).code == "message_from_the_future"
    assert refused(market, replace(composed(market), not_before=UnixSeconds(now + skew + 1))).code == "message_from_the_future"
    handed_in(market, replace(composed(market), issued_at=UnixSeconds(now + skew), not_before=UnixSeconds(now + skew)))


def test_a_signature_by_another_key_is_refused_by_name(market: Market) -> None:
    error = refused(market, composed(market), name="mallory")
    assert (error.status, error.code) == (401, "signature_foreign")


def test_mallory_cannot_use_bobs_order(market: Market) -> None:
    order = market.order("bob", market.gpt)
    error = refused(market, composed(market, "mallory", order), name="mallory")
    assert (type(error), error.code) == (Forbidden, "order_not_yours")


def test_an_order_may_be_paid_for_somebody_else(market: Market) -> None:
    order = market.order("bob", market.gpt, consumer="carol")
    handed_in(market, composed(market, "carol", order), "carol")
    assert refused(market, composed(market, "bob", order)).code == "order_not_yours"


Spoil = Callable[[Market, TransactionHash], None]


def spoiled(**change: object) -> Spoil:
    def spoil(market: Market, order: TransactionHash) -> None:
        facts = market.ledger.order_facts(order, market.gpt.datatoken)
        market.ledger.add_order(replace(facts, **change))  # type: ignore[arg-type]  # a table of changes

    return spoil


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda market, order: market.ledger.forget(order), "order_not_found"),
        (spoiled(status=0), "order_reverted"),
        (spoiled(emitter=None), "order_foreign"),
        (spoiled(nft="0x" + "1" * 40), "order_wrong_nft"),
        (spoiled(is_from_factory=False), "order_not_ocean"),
        (spoiled(service_index=1), "order_wrong_service"),
        (spoiled(amount=TokenWei(1)), "order_unpaid"),
        (spoiled(provider_fee=None), "order_without_provider_fee"),
    ],
)
def test_a_bad_order_is_a_403_with_its_reason_and_leaves_the_nonce(market: Market, spoil: Spoil, code: str) -> None:
    index(market, market.gpt, sells_jobs=False)
    message = composed(market)
    good = market.ledger.order_facts(message.order, market.gpt.datatoken)
    spoil(market, message.order)
    error = refused(market, message)
    assert (error.status, error.code) == (403, code)
    market.ledger.add_order(good)
    handed_in(market, message)


def test_an_order_of_another_model_is_foreign(market: Market) -> None:
    order = market.order("bob", market.other_gpt)
    assert refused(market, composed(market, order=order)).code == "order_foreign"


@pytest.mark.parametrize("environment", [None, FREE])
def test_a_fee_that_was_signed_for_something_else_opens_no_calls_whatever_it_names(market: Market, environment: str | None) -> None:
    """Whoever owns a model's NFT chooses what its document calls its services, and may ask for a fee before the model is sold."""
    gpt, ledger, bob = market.gpt, market.ledger, market.wallet("bob")
    ends_at = UnixSeconds(int(market.clock()) + 600)
    fee = sign_fee(market.services.operator, gpt.datatoken, "0", gpt.base_token, TokenWei(0), ends_at, market.clock, environment)
    ledger.mint(gpt.base_token, bob.address, 10 * ONE)
    ledger.buy_datatoken(bob, "buy", gpt.datatoken, gpt.exchange, TokenWei(5 * ONE))
    order = ledger.start_order(bob, "order", gpt.datatoken, bob.address, 0, fee).transaction
    error = refused(market, composed(market, order=order))
    assert (type(error), error.code) == (Forbidden, "order_not_for_calls")


def test_an_expired_order_opens_no_session_and_a_session_ends_with_its_order(market: Market) -> None:
    order = market.order("bob", market.gpt, valid_for_s=60)
    session = market.services.sessions.find(handed_in(market, composed(market, order=order)))
    assert session is not None
    assert session.expires_at == market.clock() + 60
    market.clock.now += 61
    assert refused(market, composed(market, order=order)).code == "order_expired"


def test_a_session_never_outlives_what_the_wallet_signed(market: Market) -> None:
    session = market.services.sessions.find(handed_in(market, composed(market, valid_for_s=30)))
    assert session is not None
    assert session.expires_at == market.clock() + 30


def test_an_order_needs_its_confirmations_and_the_same_signature_works_when_it_has_them(market: Market) -> None:
    network = replace(market.services.network, confirmations=5)
    services = replace(market.services, network=network)
    message = composed(market)
    text, signature = message.text(), market.sign("bob", message.text())
    with pytest.raises(Forbidden) as caught:
        sign_in(services, text, signature)
    assert caught.value.code == "order_not_final"
    assert "1 of 5 confirmations" in caught.value.message
    assert caught.value.retry_after_s is not None
    market.ledger.advance_blocks(4)
    sign_in(services, text, signature)


def test_without_a_chain_node_signing_in_waits_and_the_nonce_stays_good(market: Market) -> None:
    message = composed(market)
    market.ledger.is_down = True
    error = refused(market, message)
    assert (type(error), error.status) == (Unavailable, 503)
    assert error.retry_after_s is not None
    market.ledger.is_down = False
    handed_in(market, message)


def test_an_unknown_model_is_not_found(market: Market) -> None:
    message = replace(composed(market), did="did:op:" + "0" * 64)  # type: ignore[arg-type]  # a well-formed DID
    assert isinstance(refused(market, message), NotFound)


def test_the_calls_of_an_order_are_not_renewed_by_signing_in_again(tmp_path: object) -> None:
    market = open_market(tmp_path / "home", POSTHUMAN_SESSION_CALLS="2")  # type: ignore[operator]  # pytest's Path
    order = market.order("bob", market.gpt)
    token = handed_in(market, composed(market, order=order))
    assert market.complete(token).status_code == 200
    again, third = (handed_in(market, composed(market, order=order)) for _ in range(2))
    assert market.complete(again).status_code == 200
    for exhausted in (token, again, third):
        answer = market.complete(exhausted)
        assert answer.status_code == 403
        assert "the 2 calls of this order are used up" in answer.text
    assert refused(market, composed(market, order=order)).code == "quota_exhausted"
    market.engine.dispose()


def test_a_digest_of_the_order_is_remembered_as_the_block_it_was_in(market: Market) -> None:
    message = composed(market)
    session = market.services.sessions.find(handed_in(market, message))
    assert session is not None
    assert session.order_block_hash == Bytes32(market.ledger.block(session.order_block).hash)
