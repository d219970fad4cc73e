"""A file that lies at the market's own address is not fetched from it, by whatever name, and begins no other fetch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from werkzeug.serving import make_server

from control_plane.provider.fetch import AGENT, Fetcher
from control_plane.web import create_app
from tests.fixtures_market import Market
from tests.ocean_assets import document_of, index, publish, write

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


@pytest.fixture
def circle(market: Market) -> Iterator[tuple[Market, str, list[str]]]:
    """The market on a port, its own name being another than the one that its publishers use; and the requests it gets."""
    asked: list[str] = []
    fetcher = Fetcher(frozenset(), 1000, resolve=lambda _host, _port: ["127.0.0.1"], own="market.example:443")
    services = replace(market.services, provider=replace(market.services.provider, files=fetcher))
    app = create_app(services, market.journal)

    def counted(environ: dict[str, Any], start: Any) -> Any:
        asked.append(environ["PATH_INFO"])
        return app(environ, start)

    server = make_server("127.0.0.1", 0, counted, threaded=True)
    fetcher._internal = frozenset({f"alias.example:{server.server_port}"})
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
