"""The market as an Ocean Provider: discovery, nonces, signatures, tokens, encryption."""

from __future__ import annotations

import hashlib
import json
import lzma
from typing import Any

import pytest
from eth_keys import keys

from control_plane.chain.ddo import encrypt
from control_plane.chain.ledger import Terms
from control_plane.did import Address, TokenWei, did_of
from tests.control_plane.web.ocean_client import next_nonce, sign, signed
from tests.fixtures_market import Market

NONCE = "/api/services/nonce"
TOKEN = "/api/services/createAuthToken"
DECRYPT = "/api/services/decrypt"


def made_token(market: Market, name: str, **changes: Any) -> Any:
    address = market.wallet(name).address
    told = {"address": address, "expiration": int(market.clock.now) + 600, **signed(market, name, address), **changes}
    return market.client.get(TOKEN, query_string=told)


def test_the_root_tells_where_the_services_are_as_oceans_clients_expect(market: Market) -> None:
    answer = market.client.get("/")
    told = answer.get_json()
    assert told["providerAddresses"] == {"8996": market.services.operator.address}
    assert told["chainIds"] == [8996]
    assert told["software"] == "Provider"
    assert len(told["serviceEndpoints"]) == 16
    assert told["serviceEndpoints"]["nonce"] == ["GET", "/api/services/nonce"]
    assert told["serviceEndpoints"]["computeStop"] == ["PUT", "/api/services/compute"]
    assert "max-age" in answer.headers["Cache-Control"]


def test_the_root_asks_no_chain_and_no_database(market: Market) -> None:
    market.ledger.is_down = True
    market.engine.dispose()
    assert market.client.get("/").status_code == 200


def test_one_account_has_one_nonce_however_its_address_is_written(market: Market) -> None:
    address = market.wallet("bob").address
    assert made_token(market, "bob").status_code == 200
    for written in (address, address.lower(), "0x" + address[2:].upper()):
        assert market.client.get(NONCE, query_string={"userAddress": written}).get_json() == {"nonce": 2}
    lower = address.lower()
    again = made_token(market, "bob", address=lower, nonce=2, signature=sign(market, "bob", lower, 2))
    assert again.status_code == 400
    assert "nonce: expected a number above 2" in again.get_json()["error"]


def test_a_nonce_is_good_once_in_all_workers(market: Market) -> None:
    address = market.wallet("bob").address
    told = {"address": address, "expiration": int(market.clock.now) + 600, **signed(market, "bob", address)}
    assert market.client.get(TOKEN, query_string=told).status_code == 200
    for worker in (market.client, market.new_worker()):
        again = worker.get(TOKEN, query_string=told)
        assert (again.status_code, again.get_json()["code"]) == (400, "nonce_used")


def test_a_request_that_fails_leaves_its_nonce_good(market: Market) -> None:
    nonce = next_nonce(market, "bob")
    assert made_token(market, "bob", expiration=1).status_code == 400
    assert next_nonce(market, "bob") in (nonce, nonce + 1)


def test_a_nonce_above_what_floats_count_is_refused_and_the_account_goes_on(market: Market) -> None:
    address = market.wallet("bob").address
    large = made_token(market, "bob", **signed(market, "bob", address, 1_764_300_000_000_000_000))
    assert (large.status_code, large.get_json()["code"]) == (400, "nonce_too_large")
    assert made_token(market, "bob").status_code == 200


def test_both_forms_of_a_signature_are_taken(market: Market) -> None:
    """ocean.py ends its signatures with 0 or 1, wallets with 27 or 28."""
    address = market.wallet("bob").address
    for turn, ending in enumerate((0, 27)):
        told = signed(market, "bob", address)
        raw = bytes.fromhex(told["signature"][2:])
        told["signature"] = "0x" + (raw[:64] + bytes([raw[64] % 27 + ending])).hex()
        assert made_token(market, "bob", **told).status_code == 200, turn


@pytest.mark.parametrize("fault", ["another message", "another nonce", "another wallet", "none", "no hex", "short"])
def test_a_signature_that_is_not_this_requests_is_refused(market: Market, fault: str) -> None:
    address = market.wallet("bob").address
    told = signed(market, "bob", address)
    given = {
        "another message": sign(market, "bob", "did:op:1", told["nonce"]),
        "another nonce": sign(market, "bob", address, told["nonce"] + 1),
        "another wallet": sign(market, "mallory", address, told["nonce"]),
        "none": "",
        "no hex": "signature",
        "short": told["signature"][:-2],
    }[fault]
    answer = made_token(market, "bob", nonce=told["nonce"], signature=given)
    expected = "The signature field is required." if fault == "none" else "Invalid signature provided."
    assert answer.status_code == 400
    assert answer.get_json() == {"success": False, "message": "Validation error", "errors": {"signature": [expected]}}


def test_missing_fields_are_told_in_flask_sieves_words(market: Market) -> None:
    answer = market.client.get(NONCE)
    assert answer.status_code == 400
    assert answer.get_json()["errors"] == {"userAddress": ["The userAddress field is required."]}


def test_an_error_never_shows_what_was_sent(market: Market) -> None:
    canary = "canary-5c1e"
    for answer in (
        market.client.get(NONCE, query_string={"userAddress": canary}),
        made_token(market, "bob", signature=canary),
        made_token(market, "bob", nonce=canary),
        market.client.post(DECRYPT, json={"decrypterAddress": canary, "chainId": canary, "nonce": canary, "signature": canary}),
        market.client.post("/api/services/validateContainer", json={"image": canary}),
        market.client.post(f"/api/services/encrypt?chainId={canary}", data=canary),
    ):
        assert answer.status_code == 400
        assert canary not in answer.text
    assert canary not in market.journal.getvalue()


def test_a_token_ends_by_time_and_by_its_owner(market: Market) -> None:
    address = market.wallet("bob").address
    token = made_token(market, "bob").get_json()["token"]
    tokens = market.services.provider.tokens
    tokens.check(token, address)
    stolen = {"address": market.wallet("mallory").address, "token": token}
    refused = market.client.delete("/api/services/deleteAuthToken", json=stolen | signed(market, "mallory", stolen["address"]))
    assert refused.status_code == 400
    tokens.check(token, address)
    told = {"address": address, "token": token, **signed(market, "bob", address)}
    assert market.client.delete("/api/services/deleteAuthToken", json=told).get_json()["success"]
    again = market.client.delete("/api/services/deleteAuthToken", json={**told, **signed(market, "bob", address)})
    assert (again.status_code, again.get_json()["code"]) == (400, "bad_token")
    second = made_token(market, "bob").get_json()["token"]
    market.clock.now += 601
    with pytest.raises(Exception, match="good now"):
        tokens.check(second, address)


def test_what_is_encrypted_only_the_operator_opens(market: Market) -> None:
    clear = b'{"files": []}'
    answer = market.client.post(
        "/api/services/encrypt?chainId=8996", data=clear, headers={"Content-type": "application/octet-stream"}
    )
    assert (answer.status_code, answer.mimetype) == (201, "text/plain")
    assert market.wallet("operator").decrypt(bytes.fromhex(answer.text[2:])) == clear
    with pytest.raises(Exception, match="encrypted to"):
        market.wallet("mallory").decrypt(bytes.fromhex(answer.text[2:]))


@pytest.mark.parametrize(("chain", "clear"), [("", b"x"), ("1", b"x"), ("8996", b""), ("8996", b"x" * (1 << 17))])
def test_encryption_needs_this_chain_and_some_bytes(market: Market, chain: str, clear: bytes) -> None:
    answer = market.client.post("/api/services/encrypt", query_string={"chainId": chain}, data=clear)
    assert answer.status_code in (400, 413)


class Written:
    """Alice's data NFT with a document on it."""

    def __init__(self, market: Market, flags: int = 3) -> None:
        self.market = market
        terms = Terms(TokenWei(0), market.ledger.network.ocean, TokenWei(0), market.services.operator.address)
        self.nft = market.ledger.create_asset(market.wallet("alice"), "dataset", "Words", "WORDS", terms).nft
        self.clear = json.dumps({"id": did_of(self.nft, 8996), "metadata": {"name": "Words"}}).encode()
        self.hash = hashlib.sha256(self.clear).digest()
        packed = lzma.compress(self.clear) if flags & 1 else self.clear
        self.data = encrypt(market.wallet("operator").public_key, packed) if flags & 2 else packed
        self.flags = flags
        self.transaction = market.ledger.write_document(market.wallet("alice"), self.nft, flags, self.data, self.hash)

    def ask(self, by_transaction: bool, **changes: Any) -> Any:
        address = self.market.wallet("bob").address
        told: dict[str, Any] = {"decrypterAddress": address, "chainId": 8996}
        if by_transaction:
            told |= {"transactionId": self.transaction, "dataNftAddress": self.nft}
        else:
            told |= {
                "dataNftAddress": self.nft,
                "encryptedDocument": "0x" + self.data.hex(),
                "flags": self.flags,
                "documentHash": "0x" + self.hash.hex(),
            }
        told |= changes
        message = f"{told.get('transactionId') or told['dataNftAddress']}{address}8996"
        return self.market.client.post(DECRYPT, json=told | signed(self.market, "bob", message))


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
@pytest.mark.parametrize("by_transaction", [True, False])
def test_a_document_is_decrypted_for_who_signs(market: Market, flags: int, by_transaction: bool) -> None:
    written = Written(market, flags)
    answer = written.ask(by_transaction)
    assert (answer.status_code, answer.data) == (201, written.clear), answer.text


@pytest.mark.parametrize("state", [1, 2, 3])
def test_a_withdrawn_assets_document_is_not_decrypted(market: Market, state: int) -> None:
    written = Written(market)
    market.ledger.set_state(written.nft, state)
    assert written.ask(by_transaction=True).status_code == 403


def test_files_of_another_asset_are_not_decrypted_under_a_document_of_ones_own(market: Market) -> None:
    """Mallory sends what Alice's DDO holds under `files`; it is encrypted to the operator as well."""
    written = Written(market)
    files = json.dumps({"files": [{"type": "url", "url": "https://secret.example/words.txt"}]}).encode()
    sealed = encrypt(market.wallet("operator").public_key, files)
    changes = {"encryptedDocument": "0x" + sealed.hex(), "documentHash": "0x" + hashlib.sha256(files).hexdigest(), "flags": 2}
    answer = written.ask(by_transaction=False, **changes)
    assert answer.status_code == 400
    assert "secret.example" not in answer.text


def test_a_contract_that_is_not_oceans_has_no_document(market: Market) -> None:
    written = Written(market)
    foreign = Address(market.wallet("mallory").address)
    answer = written.ask(by_transaction=False, dataNftAddress=foreign)
    assert (answer.status_code, answer.get_json()["code"]) == (400, "nft_foreign")
    unknown = written.ask(by_transaction=True, transactionId="0x" + "1" * 64)
    assert unknown.status_code == 400


def test_a_container_is_named_with_its_checksum(market: Market) -> None:
    good = {"entrypoint": "python $ALGO", "image": "python", "checksum": "sha256:" + "a" * 64}
    path = "/api/services/validateContainer"
    assert market.client.post(path, json=good).get_json() == good
    missing = market.client.post(path, json={**good, "image": ""})
    assert (missing.status_code, missing.get_json()["error"]) == (400, "missing_entrypoint_image_checksum")
    unprefixed = market.client.post(path, json={**good, "checksum": "a" * 64})
    assert (unprefixed.status_code, unprefixed.get_json()["error"]) == (400, "checksum_prefix")


def test_environments_are_listed_as_oceans_clients_choose_from_them(market: Market) -> None:
    """`ocean.py` takes the first whose price is 0 for the free one."""
    told = market.client.get("/api/services/computeEnvironments", query_string={"chainId": 8996}).get_json()
    assert [each["id"] for each in told["8996"]] == [each.id for each in market.services.environments]
    assert any(float(each["priceMin"]) == 0 for each in told["8996"])
    assert {"consumerAddress", "feeToken", "maxJobDuration", "currentJobs", "maxJobs"} <= told["8996"][0].keys()
    assert market.client.get("/api/services/computeEnvironments?chainId=1").status_code == 400


def test_the_public_key_that_documents_are_sealed_to_is_the_address_of_the_root(market: Market) -> None:
    key = market.services.provider.key
    assert keys.PublicKey(key.public_key).to_checksum_address() == market.client.get("/").get_json()["providerAddresses"]["8996"]
