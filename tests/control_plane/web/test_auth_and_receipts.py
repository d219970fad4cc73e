"""Sessions end when they are told to, receipts are their owner's, and the public log is files."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.flows.offer import Offer
from control_plane.receipts.checkpoint import open_checkpoint
from control_plane.receipts.proof import Proof
from tests.control_plane.serving.test_eip4361 import high_twin
from tests.fixtures_market import Market, receipt_of


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.get_json()["error"]["code"]


def test_the_message_that_the_market_composes_signs_in(market: Market) -> None:
    order, bob = market.order("bob", market.gpt), market.wallet("bob")
    record = {"address": bob.address, "did": market.gpt.did, "order": order, "valid_for_s": 600}
    composed = market.client.post("/v1/auth/message", json=record)
    text = composed.get_json()["message"]
    answer = market.hand_in(text, market.sign("bob", text))
    found = answer.get_json()
    assert (found["did"], found["order"], found["expires_at"]) == (market.gpt.did, order, int(market.clock()) + 600)
    assert found["calls_limit"] == market.services.settings.session_calls
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_host_header_chooses_nothing(market: Market) -> None:
    order = market.order("bob", market.gpt)
    text = market.message("bob", market.gpt.did, order).replace("market.example", "evil.example")
    record = {"message": text, "signature": market.sign("bob", text)}
    answer = market.client.post("/v1/auth/token", json=record, headers={"Host": "evil.example"})
    assert code_of(answer) == (401, "wrong_domain")


def test_a_replayed_message_and_the_twin_of_its_signature_are_refused(market: Market) -> None:
    text = market.message("bob", market.gpt.did, market.order("bob", market.gpt))
    signature = market.sign("bob", text)
    twin = "0x" + high_twin(bytes.fromhex(signature[2:])).hex()
    assert code_of(market.hand_in(text, twin)) == (401, "signature_high_s")
    assert market.hand_in(text, signature).status_code == 200
    assert code_of(market.hand_in(text, signature)) == (401, "nonce_used")
    assert code_of(market.hand_in(text, twin)) == (401, "signature_high_s")


@pytest.mark.parametrize("signature", [None, "", "0x", "0x00", 5, [], "0x" + "00" * 65, "0x" + "zz" * 65, "0x" + "ff" * 65])
def test_a_forged_signature_is_never_a_server_error(market: Market, signature: object) -> None:
    text = market.message("bob", market.gpt.did, market.order("bob", market.gpt))
    assert market.hand_in(text, signature).status_code in (400, 401)


def test_mallory_has_no_order(market: Market) -> None:
    order = market.order("bob", market.gpt)
    text = market.message("mallory", market.gpt.did, order)
    assert code_of(market.hand_in(text, market.sign("mallory", text))) == (403, "order_not_yours")
    assert code_of(market.hand_in(text, market.sign("bob", text))) == (401, "signature_foreign")
    never = market.message("mallory", market.gpt.did, type(order)("0x" + "9" * 64))
    answer = market.hand_in(never, market.sign("mallory", never))
    assert code_of(answer) == (403, "order_not_found")
    assert answer.headers["Retry-After"]


def test_a_revoked_token_opens_nothing_any_more_in_any_worker(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    other = market.new_worker()
    assert market.client.delete("/v1/auth/token", headers=market.bearer(token)).get_json() == {"revoked": True}
    assert code_of(market.complete(token)) == (401, "session_revoked")
    record = {"model": market.gpt.did, "prompt": "x"}
    assert code_of(other.post("/v1/completions", json=record, headers=market.bearer(token))) == (401, "session_revoked")
    assert code_of(market.client.get("/v1/receipts", headers=market.bearer(token))) == (401, "session_revoked")


def test_a_token_of_another_did_and_an_expired_one_are_told_so(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    assert code_of(market.complete(token, did=market.other_gpt.did)) == (403, "token_of_another_did")
    market.clock.now += 4000
    assert code_of(market.complete(token)) == (401, "session_expired")


def test_a_session_opened_by_one_worker_is_known_to_another(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    record = {"model": market.gpt.did, "prompt": "x"}
    answer = market.new_worker().post("/v1/completions", json=record, headers=market.bearer(token))
    assert answer.status_code == 200
    assert receipt_of(answer).signed.receipt.sequence == 0
    assert receipt_of(market.complete(token)).signed.receipt.sequence == 1


def test_an_offer_reads_back_as_the_flow_made_it(market: Market) -> None:
    consumer = market.wallet("bob").address
    answer = market.client.get(f"/v1/offers/{market.gpt.did}?consumer={consumer}&valid_for_s=60")
    offer = Offer.from_json(answer.get_json())
    assert offer.provider_fee.valid_until == int(market.clock()) + 60
    assert offer.provider_fee.provider == market.services.operator.address
    assert (offer.did, offer.datatoken) == (market.gpt.did, market.gpt.datatoken)


def test_an_order_s_receipts_are_listed_for_its_holder_alone(market: Market) -> None:
    bob, carol = market.sign_in("bob", market.gpt), market.sign_in("carol", market.gpt)
    made = [receipt_of(market.complete(bob)) for _ in range(3)]
    listed = market.client.get("/v1/receipts", headers=market.bearer(bob)).get_json()["receipts"]
    assert [line["id"] for line in listed] == [issued.id for issued in made]
    assert listed[0]["salt"] == "0x" + made[0].salt.hex()
    later = market.client.get("/v1/receipts?from=1&limit=1", headers=market.bearer(bob)).get_json()["receipts"]
    assert [line["id"] for line in later] == [made[1].id]
    order = made[0].signed.receipt.order
    assert code_of(market.client.get(f"/v1/receipts?order={order}", headers=market.bearer(carol))) == (
        403,
        "token_of_another_order",
    )
    one = f"/v1/receipts/{made[0].id}"
    assert market.client.get(one, headers=market.bearer(bob)).get_json()["id"] == made[0].id
    assert code_of(market.client.get(one, headers=market.bearer(carol))) == (403, "receipt_foreign")
    assert code_of(market.client.get(one))[0] == 401
    call = market.complete(bob).headers["X-Posthuman-Call"]
    assert code_of(market.client.get(f"/v1/receipts?call={call}", headers=market.bearer(carol)))[0] == 403
    assert code_of(market.client.get("/v1/receipts?call=none", headers=market.bearer(carol)))[0] == 404


@pytest.mark.parametrize("query", ["from=-1", "from=x", "limit=0", "limit=5000", "order=0x1", "page=2"])
def test_a_bad_question_for_receipts_is_a_400(market: Market, query: str) -> None:
    token = market.sign_in("bob", market.gpt)
    assert market.client.get(f"/v1/receipts?{query}", headers=market.bearer(token)).status_code == 400


def test_a_proof_waits_for_the_checkpoint_and_then_verifies(market: Market) -> None:
    issued = receipt_of(market.complete(market.sign_in("bob", market.gpt)))
    path = f"/v1/receipts/{issued.id}/proof"
    early = market.client.get(path)
    assert code_of(early) == (503, "not_logged")
    assert early.headers["Retry-After"]
    market.log.integrate()
    answer = market.client.get(path)
    proof = Proof.from_text(answer.text)
    public = market.log._signer.public_key
    assert proof.verify(bytes.fromhex(issued.id[2:]), market.log.origin, public).size == 1
    assert market.client.get(f"/v1/receipts/0x{'0' * 64}/proof").status_code == 404
    assert market.client.get("/v1/receipts/x/proof").status_code == 400


def test_the_log_is_served_as_files_and_nothing_else_is(market: Market) -> None:
    assert market.client.get("/log/checkpoint").status_code == 404
    token = market.sign_in("bob", market.gpt)
    for _ in range(3):
        market.complete(token)
    market.log.integrate()
    checkpoint = market.client.get("/log/checkpoint")
    assert open_checkpoint(checkpoint.text, market.log.origin, market.log._signer.public_key).size == 3
    assert "immutable" not in checkpoint.headers["Cache-Control"]
    tile = market.client.get("/log/tile/0/000.p/3")
    assert len(tile.data) == 96
    assert "immutable" not in tile.headers["Cache-Control"]
    folder = market.services.settings.log_folder
    (folder / "tile" / "0" / "x000").mkdir()
    (folder / "tile" / "0" / "001").write_bytes(bytes(8192))
    assert "immutable" in market.client.get("/log/tile/0/001").headers["Cache-Control"]
    (folder / "secret").write_text("secret")
    for path in (
        "secret",
        "../posthuman.db",
        "..%2fposthuman.db",
        "%2e%2e/posthuman.db",
        "tile",
        "tile/0",
        "tile/0/x000",
        "tile/64/000",
        "tile/0/000.p/256",
    ):
        assert market.client.get(f"/log/{path}").status_code == 404, path


def test_a_lost_receipt_can_be_handed_back_once_and_again(market: Market) -> None:
    issued = receipt_of(market.complete(market.sign_in("bob", market.gpt)))
    for _ in range(2):
        answer = market.client.post("/v1/receipts", json=issued.to_json())
        assert (answer.status_code, answer.get_json()["id"]) == (200, issued.id)
    forged = issued.to_json()
    forged["signed"]["receipt"]["units_out"] += 1
    assert market.client.post("/v1/receipts", json=forged).status_code == 400
    assert market.client.post("/v1/receipts", json={"signed": {}}).status_code == 400
