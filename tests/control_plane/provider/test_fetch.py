"""A file is fetched from where the world can reach it, whole, and from nowhere else."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from control_plane.errors import BadInput, TooMany, Unavailable
from control_plane.provider import fetch
from control_plane.provider.fetch import AGENT, Fetcher, RemoteFile, is_public
from tests.listening import listening

MOST = 100_000


class Handler(BaseHTTPRequestHandler):
    """seen: the requests, by path. A path says what is answered."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the library's name
        self.server.seen.append((self.command, self.path, dict(self.headers)))  # type: ignore[attr-defined]
        kind, _, rest = self.path.strip("/").partition("/")
        getattr(self, f"answer_{kind}")(rest)

    do_POST = do_GET  # noqa: N815

    def answer_words(self, rest: str) -> None:
        self.give(b"whale\nsea\n", {"Content-Type": "text/plain"})

    def answer_part(self, rest: str) -> None:
        self.give(b"sea", {"Content-Range": "bytes 6-8/10"}, status=206)

    def answer_gone(self, rest: str) -> None:
        self.give(b"secret of the server", {}, status=404)

    def answer_to(self, rest: str) -> None:
        self.give(b"", {"Location": rest.replace("~", "/")}, status=302)

    def answer_long(self, rest: str) -> None:
        self.give(b"x" * int(rest), {})

    def answer_untold(self, rest: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * int(rest))
        self.close_connection = True

    def answer_short(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True

    def answer_v1(self, rest: str) -> None:
        self.give(b"", {}, status=404)

    def answer_folded(self, rest: str) -> None:
        self.give(b"x", {"Content-Type": "text/plain;\r\n\tname=x"})

    def answer_drip(self, rest: str) -> None:
        """A byte now and then, for as long as somebody reads: of the body, or of the head."""
        if rest == "body":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
        else:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.close_connection = True
        with suppress(OSError):
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)

    def give(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        return None


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with listening(Handler) as made:
        made.seen = []
        yield made


@pytest.fixture
def place(server: Any) -> str:
    server.seen.clear()
    return f"127.0.0.1:{server.server_port}"


def refused(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(BadInput) as caught:
        fetcher.open(RemoteFile(url))
    assert caught.value.code == "file_unavailable"
    assert "127.0.0.1" not in str(caught.value)


def test_a_file_comes_whole_from_a_server_that_the_operator_named(place: str) -> None:
    fetched = Fetcher(frozenset({place}), MOST).open(RemoteFile(f"http://{place}/words"))
    assert (fetched.status, fetched.length, fetched.content_type) == (200, 10, "text/plain")
    assert b"".join(fetched.chunks) == b"whale\nsea\n"


def test_an_address_inside_is_never_connected_to(server: Any, place: str) -> None:
    port = place.partition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0.0.0.0", "[::1]", "127.1"):  # noqa: S104
        refused(Fetcher(frozenset(), MOST), f"http://{host}:{port}/words")
    refused(Fetcher(frozenset({"127.0.0.1:1"}), MOST), f"http://{place}/words")  # another port of the same machine
    assert server.seen == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "255.255.255.255",
        "::",
        "fe80::1%eth0",
        "nothing",
        "ff02::1",
    ],
)
def test_an_address_that_leads_inside_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"])
def test_an_address_of_the_world_is_public(address: str) -> None:
    assert is_public(address)


def test_a_name_with_one_address_inside_is_refused_whole(server: Any, place: str) -> None:
    port = int(place.partition(":")[2])
    refused(Fetcher(frozenset(), MOST, lambda host, at: ["93.184.215.14", "127.0.0.1"]), f"http://words.example:{port}/words")
    assert server.seen == []


def test_a_name_is_asked_for_once_and_the_checked_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers with a public address first and an internal one afterwards gains nothing."""
    answers, connected = [["93.184.215.14"], ["127.0.0.1"]], []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address)
        raise OSError("nobody there")

    monkeypatch.setattr(socket, "create_connection", connect)
    refused(Fetcher(frozenset(), MOST, lambda host, at: answers.pop(0)), "http://words.example/words")
    assert connected == [("93.184.215.14", 80)]
    assert len(answers) == 1


def test_a_redirect_is_followed_by_the_same_rule(server: Any, place: str) -> None:
    fetcher = Fetcher(frozenset({place}), MOST)
    assert b"".join(fetcher.open(RemoteFile(f"http://{place}/to/~words")).chunks) == b"whale\nsea\n"
    before = len(server.seen)
    refused(fetcher, f"http://{place}/to/http:~~localhost:{place.partition(':')[2]}~words")
    refused(fetcher, f"http://{place}/to/file:~~~etc~passwd")
    assert len(server.seen) == before + 2
    loop = f"http://{place}/to/" + "~to~" * 20
    refused(fetcher, loop)


def test_a_publishers_headers_go_to_his_server_and_to_no_other(server: Any, place: str) -> None:
    other = f"localhost:{place.partition(':')[2]}"
    fetcher = Fetcher(frozenset({place, other}), MOST)
    headers = {"Authorization": "Bearer publisher", "Host": "elsewhere.example"}
    fetcher.open(RemoteFile(f"http://{place}/words", headers=headers)).close()
    assert server.seen[-1][2]["Authorization"] == "Bearer publisher"
    assert server.seen[-1][2]["Host"] == place
    fetcher.open(RemoteFile(f"http://{place}/to/http:~~{other}~words", headers=headers)).close()
    assert server.seen[-1][1] == "/words"
    assert "Authorization" not in server.seen[-1][2]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://{}/words",
        "file:///etc/passwd",
        "http://bob:secret@{}/words",
        "http:///words",
        "http://{}0000000/words",
        "http://",
        "x",
    ],
)
def test_what_is_no_plain_web_address_is_refused(place: str, url: str) -> None:
    refused(Fetcher(frozenset({place}), MOST), url.format(place))


def test_what_is_gone_or_too_long_is_refused_without_a_word_of_it(place: str) -> None:
    fetcher = Fetcher(frozenset({place}), MOST)
    refused(fetcher, f"http://{place}/gone")
    refused(fetcher, f"http://{place}/long/{MOST + 1}")
    assert len(b"".join(fetcher.open(RemoteFile(f"http://{place}/long/{MOST}")).chunks)) == MOST


@pytest.mark.parametrize("path", [f"untold/{MOST + 1}", "short"])
def test_a_file_that_breaks_off_is_never_taken_for_whole(place: str, path: str) -> None:
    fetched = Fetcher(frozenset({place}), MOST).open(RemoteFile(f"http://{place}/{path}"))
    with pytest.raises(Unavailable) as caught:
        b"".join(fetched.chunks)
    assert caught.value.code == "file_broke_off"


def test_a_server_that_drips_holds_nobody_for_long(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WHOLE_S", 0.2)
    monkeypatch.setattr(fetch, "HEAD_S", 0.2)
    fetcher, began = Fetcher(frozenset({place}), MOST), time.monotonic()
    with pytest.raises(Unavailable):
        list(fetcher.open(RemoteFile(f"http://{place}/drip/body")).chunks)
    with pytest.raises(BadInput):
        fetcher.open(RemoteFile(f"http://{place}/drip/head"))
    assert time.monotonic() - began < 20


def test_a_range_is_passed_on(server: Any, place: str) -> None:
    fetched = Fetcher(frozenset({place}), MOST).open(RemoteFile(f"http://{place}/part"), "bytes=6-8")
    assert (fetched.status, fetched.content_range, b"".join(fetched.chunks)) == (206, "bytes 6-8/10", b"sea")
    assert server.seen[-1][2]["Range"] == "bytes=6-8"


def test_of_this_market_itself_only_its_algorithms_files_are_fetched(place: str, server: Any) -> None:
    fetcher = Fetcher(frozenset(), MOST, own=place)
    for path in ("/words", "/v1/algorithms/../words", "/api/services/initialize"):
        refused(fetcher, f"http://{place}{path}")
    assert server.seen == []
    refused(fetcher, f"http://{place}/v1/algorithms/train")
    assert len(server.seen) == 1  # it was asked, and has none


@pytest.mark.parametrize("name", ["market.example.", "MARKET.example", "Market.Example."])
def test_another_way_to_write_the_markets_name_is_its_name(name: str, place: str, server: Any) -> None:
    port = place.rpartition(":")[2]
    known = frozenset({f"{name.lower()}:{port}"})
    fetcher = Fetcher(known, MOST, resolve=lambda _host, _port: ["127.0.0.1"], own=f"market.example:{port}")
    refused(fetcher, f"http://{name}:{port}/words")
    assert server.seen == []


def test_a_publisher_does_not_choose_who_asks(server: Any, place: str) -> None:
    headers = {"user-agent": "a browser", "USER-AGENT": "another", "User_Agent": "a third", "User-Agent ": "a fourth", "X-Key": "1"}
    Fetcher(frozenset({place}), MOST).open(RemoteFile(f"http://{place}/words", headers=headers)).close()
    sent = server.seen[-1][2]
    assert [value for name, value in sent.items() if name.lower().startswith("user")] == [AGENT]
    assert sent["X-Key"] == "1"


@pytest.mark.parametrize("name", ["User-Agent", "user-agent", "Accept-Encoding", "Range"])
def test_what_the_market_says_of_itself_is_said_to_whoever_is_redirected_to(server: Any, place: str, name: str) -> None:
    other = f"localhost:{place.partition(':')[2]}"
    file = RemoteFile(f"http://{place}/to/http:~~{other}~words", headers={name: "another", "X-Key": "1"})
    Fetcher(frozenset({place, other}), MOST).open(file, "bytes=0-2").close()
    sent = {name.lower(): value for name, value in server.seen[-1][2].items()}
    assert server.seen[-1][1] == "/words"
    assert (sent["user-agent"], sent["accept-encoding"], sent["range"]) == (AGENT, "identity", "bytes=0-2")
    assert "x-key" not in sent


def test_no_more_are_fetched_at_once_than_may_be(place: str) -> None:
    fetcher = Fetcher(frozenset({place}), MOST, at_once=2)
    first, second = (fetcher.open(RemoteFile(f"http://{place}/words")) for _ in range(2))
    with pytest.raises(TooMany):
        fetcher.open(RemoteFile(f"http://{place}/words"))
    first.close()
    first.close()
    assert b"".join(fetcher.open(RemoteFile(f"http://{place}/words")).chunks) == b"whale\nsea\n"
    assert b"".join(second.chunks) == b"whale\nsea\n"
    for _ in range(5):  # what is refused holds no place
        refused(fetcher, f"http://{place}/gone")
    list(fetcher.open(RemoteFile(f"http://{place}/words")).chunks)


@pytest.mark.parametrize("url", ["http://[", "http://{}/to/http:~~["])
def test_an_address_that_is_none_is_refused_as_any_other(place: str, url: str) -> None:
    refused(Fetcher(frozenset({place}), MOST), url.format(place))


def test_a_folded_header_is_not_passed_on(place: str) -> None:
    fetched = Fetcher(frozenset({place}), MOST).open(RemoteFile(f"http://{place}/folded"))
    assert fetched.content_type == "application/octet-stream"
    fetched.close()
