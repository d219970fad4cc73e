"""Requests that are wrong before their fields are read: bodies, content types, paths, models, sessions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.control_plane.web.asking import UNKNOWN_DID, checked
from tests.fixtures_market import PROMPT_CANARY

GENERATING = ("/v2/models/{did}/generate", "/v2/models/{did}/generate_stream")


POSTS = ("/v1/completions", "/v1/embeddings", "/v1/auth/token", "/v1/auth/message", "/v1/receipts", *GENERATING)


BODIES: tuple[tuple[str, bytes, str], ...] = (
    ("nothing", b"", "body"),
    ("not JSON", b"model=gpt", "body"),
    ("half of it", b'{"model": ', "body"),
    ("two of them", b"{}{}", "body"),
    ("a list", b"[]", "body"),
    ("a text", b'"x"', "body"),
    ("null", b"null", "body"),
    ("NaN", b'{"temperature": NaN}', "body"),
    ("Infinity", b'{"temperature": Infinity}', "body"),
    ("minus Infinity", b'{"temperature": -Infinity}', "body"),
    ("a key twice", b'{"model": "a", "model": "b"}', "body"),
    ("other than UTF-8", b'{"model": "\xff"}', "body"),
    ("UTF-16", '{"model": "x"}'.encode("utf-16"), "body"),
    ("very deep", b'{"a":' * 20000 + b"1" + b"}" * 20000, "body"),
    ("a deep list", b"[" * 50000, "body"),
    ("a number of ten thousand digits", b'{"max_tokens": ' + b"9" * 10000 + b"}", "body"),
)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(("_what", "body", "param"), BODIES, ids=[case[0] for case in BODIES])
def test_a_body_that_is_no_json_object_is_a_400(opened: Any, path: str, _what: str, body: bytes, param: str) -> None:
    market, tokens, orders = opened
    answer = market.client.post(
        path.format(did=market.gpt.did), data=body, content_type="application/json", headers=market.bearer(tokens["gpt"])
    )
    checked(market, orders, answer, 413 if len(body) > 100_000 else 400, param)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type_is_a_415(opened: Any, path: str, kind: str) -> None:
    market, tokens, orders = opened
    answer = market.client.post(
        path.format(did=market.gpt.did), data=b"{}", content_type=kind, headers=market.bearer(tokens["gpt"])
    )
    checked(market, orders, answer, 415, "Content-Type")


@pytest.mark.parametrize("path", [*POSTS, "/v2/models/{did}/infer"])
def test_a_hundred_megabytes_are_a_413_without_being_read(opened: Any, path: str) -> None:
    market, tokens, orders = opened

    class Unread:
        def read(self, *_arguments: Any) -> bytes:
            raise AssertionError("the body was read")

        readline = readlines = __iter__ = read

    answer = market.client.open(
        path.format(did=market.gpt.did),
        method="POST",
        content_type="application/json",
        headers=market.bearer(tokens["gpt"]),
        environ_overrides={"wsgi.input": Unread(), "CONTENT_LENGTH": "100000000"},
    )
    checked(market, orders, answer, 413, "body")


def test_a_body_without_a_length_is_counted_while_it_is_read(opened: Any) -> None:
    market, tokens, orders = opened

    class Endless:
        given = 0

        def read(self, size: int = -1) -> bytes:
            assert size >= 0, "read without a bound"
            self.given += size
            assert self.given < 10_000_000, "read on past the limit"
            return b" " * size

        def readinto(self, into: Any) -> int:
            into[:] = self.read(len(into))
            return len(into)

    answer = market.client.open(
        "/v1/completions",
        method="POST",
        content_type="application/json",
        headers={**market.bearer(tokens["gpt"]), "Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input": Endless(), "wsgi.input_terminated": True},
    )
    checked(market, orders, answer, 413, "body")


def test_a_compressed_body_is_a_415(opened: Any) -> None:
    market, tokens, orders = opened
    headers = {**market.bearer(tokens["gpt"]), "Content-Encoding": "gzip"}
    answer = market.client.post("/v1/completions", data=b"{}", content_type="application/json", headers=headers)
    checked(market, orders, answer, 415, "Content-Encoding")


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    "path", ["/v1", "/v1/nothing", "/v1/audio/speech", "/v2/models", "/v2/repository/index", "/log/", "/../etc/passwd"]
)
def test_a_path_that_does_not_exist_is_a_404_in_json(opened: Any, method: str, path: str) -> None:
    market, _tokens, orders = opened
    error = checked(market, orders, getattr(market.client, method)(path), 404, None)
    assert error["code"] == "no_such_path"


@pytest.mark.parametrize(
    ("method", "path"), [("get", "/v1/completions"), ("put", "/v1/auth/token"), ("post", "/v1/models"), ("delete", "/healthz")]
)
def test_a_wrong_method_is_a_405_that_says_which_are_right(opened: Any, method: str, path: str) -> None:
    market, _tokens, orders = opened
    answer = getattr(market.client, method)(path)
    checked(market, orders, answer, 405, None)
    assert answer.headers["Allow"]


DIDS = (
    "gpt-4",
    "did:op:",
    "did:op:" + "g" * 64,
    "did:op:" + "A" * 64,
    "did:op:" + "0" * 63,
    "did:web:x",
    "%00",
    "did:op:" + "0" * 64 + "%0a",
)


@pytest.mark.parametrize("did", DIDS)
@pytest.mark.parametrize("path", ["/v1/models/{}", "/v2/models/{}", "/v2/models/{}/ready", "/v1/offers/{}?consumer=0x" + "1" * 40])
def test_a_malformed_did_in_a_path_is_a_400(opened: Any, did: str, path: str) -> None:
    market, _tokens, orders = opened
    checked(market, orders, market.client.get(path.format(did)), 400, "model")


@pytest.mark.parametrize("path", ["/v1/models/{}", "/v2/models/{}", "/v2/models/{}/ready", "/v1/offers/{}?consumer=0x" + "1" * 40])
def test_an_unpublished_did_in_a_path_is_a_404(opened: Any, path: str) -> None:
    market, _tokens, orders = opened
    error = checked(market, orders, market.client.get(path.format(UNKNOWN_DID)), 404, "model")
    assert error["code"] == "model_unknown"
    assert "published here" in error["expected"]
    assert UNKNOWN_DID in error["found"]
    assert UNKNOWN_DID in error["message"]


@pytest.mark.parametrize(
    ("path", "record"),
    [
        ("/v1/completions", {"model": UNKNOWN_DID, "prompt": "x"}),
        ("/v1/embeddings", {"model": UNKNOWN_DID, "input": "x"}),
        (f"/v2/models/{UNKNOWN_DID}/generate", {"text_input": "x"}),
        (f"/v2/models/{UNKNOWN_DID}/infer", {"inputs": []}),
    ],
)
def test_a_call_of_an_unpublished_did_is_a_404(opened: Any, path: str, record: dict[str, Any]) -> None:
    market, tokens, orders = opened
    checked(market, orders, market.client.post(path, json=record, headers=market.bearer(tokens["gpt"])), 404, "model")


def test_another_version_is_a_named_404(opened: Any) -> None:
    market, tokens, orders = opened
    for path in ("infer", "generate", "generate_stream"):
        answer = market.client.post(f"/v2/models/{market.gpt.did}/versions/2/{path}", json={}, headers=market.bearer(tokens["gpt"]))
        checked(market, orders, answer, 404, "version")
    checked(market, orders, market.client.get(f"/v2/models/{market.gpt.did}/versions/2"), 404, "version")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "consumer"),
        ("consumer=bob", "consumer"),
        ("consumer=0x" + "1" * 39, "consumer"),
        ("consumer=0xE353d250c5984eb6f15e3684a30cda6a6b89a3dc", "consumer"),
        ("consumer=0x" + "1" * 40 + "&valid_for_s=0", "valid_for_s"),
        ("consumer=0x" + "1" * 40 + "&valid_for_s=-5", "valid_for_s"),
        ("consumer=0x" + "1" * 40 + "&valid_for_s=1e3", "valid_for_s"),
        ("consumer=0x" + "1" * 40 + "&valid_for_s=" + "9" * 60, "valid_for_s"),
        ("consumer=0x" + "1" * 40 + "&valid_for_s=%D9%A3", "valid_for_s"),
        ("consumer=0x" + "1" * 40 + "&discount=1", "query"),
    ],
)
def test_a_bad_question_for_an_offer_is_a_named_400(opened: Any, query: str, param: str) -> None:
    market, _tokens, orders = opened
    checked(market, orders, market.client.get(f"/v1/offers/{market.gpt.did}?{query}"), 400, param)


def test_a_model_for_another_task_is_refused_by_name(opened: Any) -> None:
    market, tokens, orders = opened
    record = {"model": market.embedder.did, "prompt": "x"}
    answer = market.client.post("/v1/completions", json=record, headers=market.bearer(tokens["embedder"]))
    assert checked(market, orders, answer, 400, "model")["code"] == "wrong_task"
    record = {"model": market.gpt.did, "input": "x"}
    answer = market.client.post("/v1/embeddings", json=record, headers=market.bearer(tokens["gpt"]))
    assert checked(market, orders, answer, 400, "model")["code"] == "wrong_task"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic eDp5", "ph_" + "a" * 43, "Bearer ph_" + "a" * 43, "Bearer x y"]
)
@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/embeddings", "/v2/models/{did}/infer", "/v2/models/{did}/generate", "/v1/auth/token"]
)
def test_a_call_without_a_session_is_a_401(opened: Any, header: str | None, path: str) -> None:
    market, _tokens, orders = opened
    method = market.client.delete if path == "/v1/auth/token" else market.client.post
    headers = {} if header is None else {"Authorization": header}
    answer = method(path.format(did=market.gpt.did), json={"model": market.gpt.did, "prompt": PROMPT_CANARY}, headers=headers)
    error = checked(market, orders, answer, 401, None)
    assert error["code"] in ("no_token", "session_unknown")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("record", "status", "param"),
    [
        ({}, 400, "message"),
        ({"message": "x"}, 400, "signature"),
        ({"message": "x", "signature": "0x"}, 400, "message"),
        ({"message": 5, "signature": "0x"}, 400, "message"),
        ({"message": "x", "signature": "0x", "nonce": 1}, 400, "nonce"),
    ],
)
def test_a_bad_sign_in_request_is_a_named_400(opened: Any, record: dict[str, Any], status: int, param: str) -> None:
    market, _tokens, orders = opened
    checked(market, orders, market.client.post("/v1/auth/token", json=record), status, param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"address": "0x12"}, "address"),
        ({"address": "0xE353d250c5984eb6f15e3684a30cda6a6b89a3dc"}, "address"),
        ({"did": "x"}, "did"),
        ({"order": "0x12"}, "order"),
        ({"valid_for_s": 0}, "valid_for_s"),
    ],
)
def test_a_bad_question_for_a_message_is_a_named_400(opened: Any, change: dict[str, Any], param: str) -> None:
    market, _tokens, orders = opened
    record = {"address": "0x" + "1" * 40, "did": UNKNOWN_DID, "order": "0x" + "2" * 64, **change}
    checked(market, orders, market.client.post("/v1/auth/message", json=record), 400, param)
