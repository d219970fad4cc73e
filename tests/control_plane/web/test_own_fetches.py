"""A file that lies at the market's own address is not fetched from it, by whatever name, and begins no other fetch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from werkzeug.serving import make_server

from control_plane.provider.fetch import AGENT, Fetcher
from control_plane.web import create_app
from tests.fixtures_market import Market
from tests.listening import listening
from tests.ocean_assets import document_of, files_of, index, publish, write

ASKED = (
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/api/services/initialize"),
    ("GET", "/api/services/download"),
    ("POST", "/api/services/fileinfo"),
    ("POST", "/api/services/initializeCompute"),
    ("POST", "/v1/offers/did:op:1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/algorithms"),
    ("GET", "/api/services/../../v1/algorithms/train"),
)


@pytest.mark.parametrize(("method", "path"), ASKED)
def test_no_surface_answers_what_the_market_itself_fetches(market: Market, method: str, path: str) -> None:
    answer = market.client.open(path, method=method, headers={"User-Agent": AGENT})
    assert answer.status_code in (400, 403)
    assert "a market that fetches a file" in answer.text
    assert (
        "a market that fetches a file" not in market.client.open(path, method=method, headers={"User-Agent": AGENT + "-cli"}).text
    )


def test_its_algorithms_files_are_answered(market: Market) -> None:
    answer = market.client.get("/v1/algorithms/train", headers={"User-Agent": AGENT})
    assert answer.status_code == market.client.get("/v1/algorithms/train").status_code


class Redirecting(BaseHTTPRequestHandler):
    """Sends whoever asks on to `target`."""

    def do_GET(self) -> None:  # the library's name
        self.send_response(302)
        self.send_header("Location", self.server.target)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        return None


@pytest.fixture
def strangers_server() -> Iterator[Any]:
    with listening(Redirecting) as made:
        yield made


@pytest.fixture
def circle(market: Market, strangers_server: Any) -> Iterator[tuple[Market, str, list[str]]]:
    """The market on a port, its own name being another than the one that its publishers use; and the requests it gets."""
    asked: list[str] = []
    fetcher = Fetcher(frozenset(), 1000, resolve=lambda _host, _port: ["127.0.0.1"], own="market.example:443")
    services = replace(market.services, provider=replace(market.services.provider, files=fetcher))
    app = create_app(services, market.journal)

    def counted(environ: dict[str, Any], start: Any) -> Any:
        asked.append(environ["PATH_INFO"])
        return app(environ, start)

    server = make_server("127.0.0.1", 0, counted, threaded=True)
    fetcher._internal = frozenset({f"alias.example:{server.server_port}", f"mallory.example:{strangers_server.server_port}"})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    market.client = app.test_client()
    yield market, f"alias.example:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_that_asks_the_market_for_itself_begins_one_fetch(circle: tuple[Market, str, list[str]]) -> None:
    market, alias, asked = circle
    mallory = market.wallet("mallory").address
    made = publish(market, publisher="mallory")
    loop = f"http://{alias}/api/services/initialize?documentId={made.did}&serviceId=0&consumerAddress={mallory}"
    write(market, "mallory", made.nft, document_of(market, made.nft, made.datatoken, loop))
    index(market)
    query = {"documentId": made.did, "serviceId": "0", "consumerAddress": mallory}
    answer = market.client.get("/api/services/initialize", query_string=query)
    assert (answer.status_code, answer.get_json()["code"]) == (400, "file_unavailable")
    assert asked == ["/api/services/initialize"]


@pytest.mark.parametrize("name", ["User-Agent", "user-agent", "X-Key"])
def test_a_strangers_server_that_sends_the_market_to_itself_begins_one_fetch(
    circle: tuple[Market, str, list[str]], strangers_server: Any, name: str
) -> None:
    """Whatever headers his file names."""
    market, alias, asked = circle
    mallory = market.wallet("mallory").address
    made = publish(market, publisher="mallory")
    strangers_server.target = f"http://{alias}/api/services/initialize?documentId={made.did}&serviceId=0&consumerAddress={mallory}"
    file = {"type": "url", "url": f"http://mallory.example:{strangers_server.server_port}/f", "headers": {name: "x"}}
    document = document_of(market, made.nft, made.datatoken)
    document["services"][0]["files"] = files_of(market.wallet("operator").public_key, made.nft, made.datatoken, files=[file])
    write(market, "mallory", made.nft, document)
    index(market)
    query = {"documentId": made.did, "serviceId": "0", "consumerAddress": mallory}
    answer = market.client.get("/api/services/initialize", query_string=query)
    assert (answer.status_code, answer.get_json()["code"]) == (400, "file_unavailable")
    assert asked == ["/api/services/initialize"]
