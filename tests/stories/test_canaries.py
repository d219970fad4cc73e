"""Nothing that a buyer asked, was answered, or proves himself with stands where the operator or another buyer could read it.

Calls of every surface, good and bad, carry marked texts; then every file of the state folder, every metric and what others are
answered is searched, in the forms of `tests/canaries.py`.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from control_plane.did import TransactionHash, parse_did
from control_plane.flows.keep import request_anchor
from converters.entry import ModelDigest, triton_name
from deploy.local.chain import local_accounts
from deploy.market import Market
from tests.canaries import Canaries, Found
from tests.fixtures_families import Families, families
from tests.fixtures_stack import LiveStack, outside_of
from tests.pictures import file_of, picture

__all__ = ["families"]

pytestmark = [pytest.mark.live, pytest.mark.slow]

MARKER = "Zyx7Canary4Qv"
MEANT = ("keys", "buyer", "demo", "cache/sources")
"""Where secrets belong: the operator's keys; what the command keeps for a buyer on his own machine. No request reaches them."""
STORED_ANSWERS = {("answers", "name"), ("answers", "body")}
"""Columns that hold an `Idempotency-Key` and the answer that its caller is to get again."""
KEYS = ("receipt.key", "nonce.key", "operator.json.passphrase")


class Caller:
    """Somebody with an order of a model; keeps every answer that he gets."""

    def __init__(self, stack: LiveStack, did: str, name: str) -> None:
        bought = stack.run("buy", did, "--as", name, "--json")
        assert bought.code == 0, bought.out + bought.err
        self.did, self.url = did, stack.settings.public_url
        order, chain_id = TransactionHash(bought.json["order"]), stack.settings.chain_id
        self.token = Market(self.url).sign_in(local_accounts()[name], parse_did(did), order, chain_id).token
        self.seen: list[bytes] = []

    def post(self, path: str, body: Any, token: str | None = None, **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json", **named}
        answer = requests.post(self.url + path.format(did=self.did), data=data, headers=named, timeout=60)
        self.seen += [answer.content, repr(answer.headers).encode()]
        return answer

    def leave(self, path: str, body: dict[str, Any]) -> None:
        """Hang up in the middle of a stream."""
        named = {"Authorization": f"Bearer {self.token}"}
        with requests.post(self.url + path.format(did=self.did), json=body, headers=named, stream=True, timeout=60) as answer:
            assert answer.status_code == 200, answer.text
            next(answer.iter_content(chunk_size=None))


def marked(what: str) -> str:
    return f"{what}-{MARKER}"


def ask_generation(caller: Caller) -> str:
    """Every way to ask a model that generates; returns what it answered."""
    asked = {"model": caller.did, "prompt": f"The market {marked('prompt')}", "max_tokens": 24, "temperature": 0}
    told = {"stop": [marked("stop")], "user": marked("user")}
    whole = caller.post("/v1/completions", asked | told, Idempotency_Key=marked("idempotency"), X_Request_Id=f"not one {MARKER}")
    assert whole.status_code == 200, whole.text
    answer = str(whole.json()["choices"][0]["text"])
    assert b"[DONE]" in caller.post("/v1/completions", asked | {"stream": True}).content
    chat = {"model": caller.did, "messages": [{"role": "user", "content": marked("message")}], "max_tokens": 4}
    named = {"User_Agent": marked("agent"), "Cookie": f"c={marked('cookie')}"}
    assert caller.post("/v1/chat/completions", chat, **named).status_code == 200
    assert b"[DONE]" in caller.post("/v1/chat/completions", chat | {"stream": True}, **named).content
    inputs = {"inputs": f"The market {marked('inputs')}", "parameters": {"max_new_tokens": 4, "stop": [marked("stop")]}}
    assert caller.post("/models/{did}", inputs).status_code == 200
    assert caller.post("/models/{did}", inputs | {"stream": True}).status_code == 200
    text = {"text_input": f"The market {marked('text')}", "max_tokens": 4, "temperature": 0}
    assert caller.post("/v2/models/{did}/generate", text).status_code == 200
    assert caller.post("/v2/models/{did}/generate_stream", text).status_code == 200
    tensor = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [marked("tensor")]}
    assert caller.post("/v2/models/{did}/infer", {"id": marked("id"), "inputs": [tensor]}).status_code == 200

    refused: list[tuple[str, Any, int]] = [
        ("/v1/completions", asked | {"temperature": 9}, 400),
        ("/v1/completions", asked | {marked("parameter"): 1}, 400),
        ("/v1/completions", asked | {"prompt": " ".join([marked("long")] * 3000)}, 422),
        ("/v1/completions", asked | {"model": marked("model")}, 400),
        ("/v1/completions", json.dumps(asked).encode()[:-1], 400),
        ("/v1/completions", MARKER.encode() + b"\xff", 400),
        ("/v1/completions?prompt=" + MARKER, asked | {"n": -1}, 400),
        ("/v1/chat/completions", chat | {"messages": [{"role": marked("role"), "content": marked("content")}]}, 400),
        ("/v1/chat/completions", chat | {"messages": [{"role": "user", marked("part"): marked("content")}]}, 400),
        ("/models/{did}", inputs | {marked("member"): 1}, 400),
        ("/models/{did}", {"inputs": [marked("one"), marked("two")]}, 400),
        ("/v2/models/{did}/generate", text | {marked("field"): 1}, 400),
        ("/v2/models/{did}/infer", {"inputs": [tensor | {"name": marked("name")}]}, 400),
        ("/v2/models/{did}/infer", {"inputs": [tensor | {"datatype": marked("datatype")}]}, 400),
        ("/v1/" + MARKER, asked, 404),
        ("/v2/models/" + MARKER + "/infer", asked, 400),
    ]
    for path, body, status in refused:
        found = caller.post(path, body)
        assert found.status_code == status, (path, found.status_code, found.text)
    unknown = "ph_" + (MARKER * 4)[:43]
    assert caller.post("/v1/completions", asked, token=unknown, X_Request_Id=unknown).status_code == 401
    for path in ("/v1/completions", "/v2/models/{did}/generate_stream"):
        caller.leave(path, (asked if path.startswith("/v1") else text) | {"max_tokens": 100, "stream": True})
    return answer


def ask_embeddings(caller: Caller) -> None:
    """Every way to ask a model that answers in one pass."""
    asked = {"model": caller.did, "input": [marked("input"), "another"]}
    assert caller.post("/v1/embeddings", asked).status_code == 200
    assert caller.post("/v1/embeddings", asked | {"dimensions": marked("dimensions")}).status_code == 400
    tensor = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [marked("tensor")]}
    assert caller.post("/v2/models/{did}/infer", {"id": marked("id"), "inputs": [tensor]}).status_code == 200
    for fault in (
        {"name": marked("name")},
        {"datatype": marked("datatype")},
        {"shape": [7]},
        {"data": [" ".join([marked("long")] * 3000)]},
        {"parameters": {"shared_memory_region": marked("region")}},
    ):
        found = caller.post("/v2/models/{did}/infer", {"id": marked("id"), "inputs": [tensor | fault]})
        assert 400 <= found.status_code < 500, (fault, found.status_code, found.text)
    found = caller.post("/v2/models/{did}/infer", {"inputs": [tensor], "outputs": [{"name": marked("output")}]})
    assert found.status_code == 400, found.text
    assert caller.post("/models/{did}", {"inputs": marked("inputs")}).status_code == 200
    assert caller.post("/models/{did}", {"inputs": marked("inputs"), "parameters": {marked("p"): 1}}).status_code == 400


def ask_pictures(caller: Caller) -> None:
    image = file_of(picture(40, 30))
    named = {"Content_Type": "image/png", "Content_Disposition": f'attachment; filename="{marked("file")}.png"'}
    assert caller.post("/models/{did}", image, **named).status_code == 200
    assert caller.post("/models/{did}", MARKER.encode() * 9, **named).status_code == 400
    inside = f"data:image/png;name={MARKER};base64," + base64.b64encode(image[:-40] + MARKER.encode()).decode()
    assert caller.post("/models/{did}", {"inputs": inside}).status_code in (200, 400)


def kill_in_the_middle(stack: LiveStack, caller: Caller, digest: str) -> None:
    """The process that computes the model dies during a stream of a marked prompt, and is started again."""
    triton = next(one for one in stack.run("status", "--json").json["components"] if one["name"] == "triton")
    children = psutil.Process(int(triton["pid"])).children(recursive=True)
    alive = (one for one in children if one.status() != psutil.STATUS_ZOMBIE)
    (stub,) = (one for one in alive if f"/{triton_name(ModelDigest(digest))}/" in " ".join(one.cmdline()) + "/")
    body = {"model": caller.did, "prompt": marked("crash"), "max_tokens": 100, "temperature": 0, "stream": True}
    named = {"Authorization": f"Bearer {caller.token}"}
    with requests.post(f"{caller.url}/v1/completions", json=body, headers=named, stream=True, timeout=60):
        stub.kill()
    until = time.monotonic() + 60
    while caller.post("/v1/completions", body | {"stream": False, "max_tokens": 1}).status_code != 200:
        assert time.monotonic() < until, "not healed"
        time.sleep(0.3)


def in_database(path: Path, canaries: Canaries) -> list[Found]:
    """Every value of every row, but for what is stored on purpose."""
    found = []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = [str(name) for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert {"calls", "receipts", "sessions"} <= set(tables)
        for table in tables:
            rows = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608  # a name out of the database's own list
            columns = [str(column[0]) for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if (table, column) not in STORED_ANSWERS:
                        content = value if isinstance(value, bytes) else str(value).encode()
                        found += canaries.found_in(content, f"{table}.{column}")
    return found


def sinks(stack: LiveStack, others: Caller) -> Iterator[tuple[str, bytes]]:
    """What can be read without opening a file of the state folder."""
    for number, seen in enumerate(others.seen):
        yield f"answer {number} of another buyer", seen
    yield "/metrics", requests.get(f"{stack.settings.public_url}/metrics", timeout=10).content
    port = json.loads((stack.home / "environment.json").read_text())["POSTHUMAN_TRITON_METRICS_PORT"]
    yield "Triton's metrics", requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).content
    yield "posthuman status", stack.run("status", "--json").out.encode()
    for path in outside_of(stack.home).rglob("*"):
        yield str(path), path.read_bytes() if path.is_file() else b""
    for path in ("/log/checkpoint", "/log/anchors.json", "/v1/models", "/readyz"):
        yield path, requests.get(stack.settings.public_url + path, timeout=10).content


def test_no_secret_of_a_buyer_or_of_the_operator_is_in_any_sink(stack: LiveStack, on_sale: str, families: Families) -> None:
    listed = {model["id"]: model for model in Market(stack.settings.public_url).models()}
    generator, embedder = Caller(stack, on_sale, "bob"), Caller(stack, families.sold("mpnet").did, "bob")
    images = Caller(stack, families.sold("vit").did, "bob")
    answer = ask_generation(generator)
    assert len(answer) > 40
    ask_embeddings(embedder)
    ask_pictures(images)
    kill_in_the_middle(stack, generator, listed[on_sale]["model_digest"])
    carol = Caller(stack, on_sale, "carol")
    for temperature in (0, 9):
        carol.post("/v1/completions", {"model": on_sale, "prompt": "The gate", "max_tokens": 4, "temperature": temperature})
    carol.post("/v1/completions", {"model": embedder.did, "prompt": "The gate"})
    request_anchor(stack.home / "run")

    keys = {name: (stack.home / "keys" / name).read_text().strip() for name in KEYS if (stack.home / "keys" / name).exists()}
    assert "receipt.key" in keys
    tokens = {f"{each.did[:12]}'s token": each.token for each in (generator, embedder, images, carol)}
    triton_key = {"Triton's key": stack.settings.triton_key}
    canaries = Canaries(MARKER, {"answer": answer[:60], **tokens, **keys, **triton_key, "S3's secret": stack.settings.s3_secret})

    def is_left_out(path: Path) -> bool:
        return str(path).startswith(MEANT) or str(path) in ("environment.json", "posthuman.db", "posthuman.db-wal")

    until = time.monotonic() + 5
    while (stack.home / "run" / "anchor-now").exists() and time.monotonic() < until:
        time.sleep(0.2)
    found, read = canaries.found_below(stack.home, is_left_out)
    found += in_database(stack.home / "posthuman.db", canaries)
    for where, content in sinks(stack, carol):
        found += canaries.found_in(content, where)
    assert found == []
    logs = {Path(name).name for name in read if name.startswith("logs/")}
    assert {"web.log", "triton.log", "keeper.log", "supervisor.log"} <= logs, logs
    assert any(name.startswith("objects/") for name in read), "the copies in object storage were not searched"
    assert any(name.startswith("outbox/") for name in read)
    assert any(name.startswith("log/tile/") for name in read)

    with (stack.home / "logs" / "web.log").open("a") as log:  # and the search would have found it
        leak = log.tell()
        log.write(json.dumps({"event": "call", "prompt": marked("prompt")}) + "\n")
    try:
        leaked, _ = canaries.found_below(stack.home, is_left_out)
        assert [each.where for each in leaked] == ["logs/web.log"]
    finally:
        os.truncate(stack.home / "logs" / "web.log", leak)
