"""The stock `ocean.py` 3.1.2 as the client, on the real contracts: what it publishes is found, ordered and downloaded.

The market's application runs behind a socket, over a real chain; the log keeper's step is called until a client has what it waits
for. `ocean.py` runs in this process, with the correction that Python 3.11 needs (`chain/ocean_fix.py`) and nothing else.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

import control_plane.chain.ocean_fix
from control_plane.chain.ledger import Network
from control_plane.chain.networks import LOCAL
from control_plane.chain.ocean import OceanLedger
from control_plane.chain.outbox import Outbox
from control_plane.chain.rpc import Rpc
from control_plane.database import open_database
from control_plane.errors import PosthumanError
from control_plane.flows.index_assets import index_assets
from control_plane.flows.services import Services
from control_plane.migrations.migrate import migrate
from control_plane.settings import read_settings
from control_plane.web import create_app
from control_plane.wiring import open_provider
from deploy.local.chain import deploy_ocean, local_accounts
from deploy.local.ports import HOST, free_port
from tests.fixtures_chain import running_anvil
from tests.fixtures_market import services_over
from tests.fixtures_web import Http11
from tests.simulators.inference import SimulatedServer

pytestmark = [pytest.mark.live, pytest.mark.slow]

WORDS = b"whale\nsea\nship\n"
PROGRAM = b"print('words')\n"


class Shelf(BaseHTTPRequestHandler):
    """Where publishers keep their files."""

    def do_GET(self) -> None:  # the library's name
        body = PROGRAM if self.path.endswith(".py") else WORDS
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        return None


class Stock:
    """The market over a real chain, and `ocean.py` objects of its users."""

    def __init__(self, services: Services, url: str, shelf: str, rpc: Rpc, config: dict[str, Any]) -> None:
        from ocean_lib.ocean.ocean import Ocean

        self.services, self.url, self.shelf, self.rpc, self.config = services, url, shelf, rpc, config
        self.ocean = Ocean(config)

    def account(self, name: str) -> Any:
        return Account.from_key(local_accounts()[name]._key.secret)

    def publish(self, what: str = "words.txt", name: str = "Words", owner: str = "alice") -> tuple[Any, Any, Any]:
        """NFT, datatoken and the document as it came back from the market."""
        make = self.ocean.assets.create_algo_asset if what.endswith(".py") else self.ocean.assets.create_url_asset
        found: tuple[Any, Any, Any] = make(name, f"http://{self.shelf}/{what}", {"from": self.account(owner)})
        assert found[2] is not None, "the document did not come back within a minute"
        return found

    def order(self, ddo: Any, datatoken: Any, name: str, owner: str = "alice") -> str:
        """The transaction of an order, paid with a datatoken that the owner minted."""
        buyer = self.account(name)
        datatoken.mint(buyer.address, 10**18, {"from": self.account(owner)})
        ordered = self.ocean.assets.pay_for_access_service(ddo, {"from": buyer})
        return str(ordered.hex())

    def download(self, ddo: Any, name: str, order: str, folder: Path) -> bytes:
        where = self.ocean.assets.download_asset(ddo, self.account(name), str(folder), order)
        return b"".join(path.read_bytes() for path in sorted(Path(where).iterdir()))

    def refused(self, ddo: Any, name: str, order: str, folder: Path) -> str:
        from ocean_lib.exceptions import DataProviderException

        with pytest.raises(DataProviderException) as caught:
            self.download(ddo, name, order, folder)
        return str(caught.value)

    def wait_for(self, is_so: Any) -> None:
        until = time.monotonic() + 20
        while not is_so():
            assert time.monotonic() < until, "the market did not see it within 20 s"
            time.sleep(0.1)


def address_file(folder: Path, network: Network) -> Path:
    """Ocean's contracts, as `ocean.py` reads where they are."""
    path = folder / "address.json"
    known = {
        "chainId": network.chain_id,
        "Ocean": network.ocean,
        "Router": network.router,
        "FixedPrice": network.fixed_rate,
        "Dispenser": network.dispenser,
        "ERC721Factory": network.factory,
        "startBlock": 0,
    }
    path.write_text(json.dumps({"development": known}))
    return path


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A chain of these tests' own: they move its clock."""
    with running_anvil(tmp_path_factory.mktemp("anvil")) as url:
        deploy_ocean(url)
        yield url


@pytest.fixture(scope="module")
def stock(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    folder = tmp_path_factory.mktemp("ocean")
    shelf = ThreadingHTTPServer((HOST, 0), Shelf)
    place, port = f"{HOST}:{shelf.server_port}", free_port()
    url = f"http://{HOST}:{port}"
    environ = {"POSTHUMAN_HOME": str(folder / "home"), "POSTHUMAN_PUBLIC_URL": url, "POSTHUMAN_INTERNAL_FILES": place}
    settings = read_settings(environ)
    settings.models.mkdir(parents=True)
    engine = open_database(settings.database_url)
    migrate(engine)
    rpc = Rpc(node, LOCAL.chain_id)
    ledger = OceanLedger(rpc, LOCAL, Outbox(folder / "outbox", rpc, wait_s=10.0, poll_s=0.01))
    clock = lambda: float(rpc.head().timestamp)  # noqa: E731  # the chain's, which tests move on
    simulated: Any = ledger
    services = services_over(engine, settings, simulated, SimulatedServer(settings.models), clock)  # type: ignore[arg-type]
    operator = local_accounts()["operator"]
    services = replace(services, operator=operator, provider=open_provider(settings, engine, operator, clock))
    from werkzeug.serving import make_server

    server = make_server(HOST, port, create_app(services, io.StringIO()), threaded=True, request_handler=Http11)
    stopped = threading.Event()

    def keep() -> None:
        provider = services.provider
        while not stopped.wait(0.2):
            with suppress(PosthumanError):
                index_assets(provider.assets, ledger, provider.key, settings.public_url, clock)

    threads = [
        threading.Thread(target=shelf.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True),
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True),
        threading.Thread(target=keep, daemon=True),
    ]
    for thread in threads:
        thread.start()
    level = logging.getLogger().level
    from ocean_lib.example_config import get_web3  # configures the root logger when it is imported

    logging.getLogger().setLevel(level)
    config = {
        "METADATA_CACHE_URI": url,
        "PROVIDER_URL": url,
        "DOWNLOADS_PATH": str(folder / "downloads"),
        "web3_instance": get_web3(node),
        "NETWORK_NAME": "development",
        "CHAIN_ID": LOCAL.chain_id,
        "ADDRESS_FILE": str(address_file(folder, LOCAL)),
    }
    yield Stock(services, url, place, rpc, config)
    stopped.set()
    server.shutdown()
    shelf.shutdown()
    for thread in threads:
        thread.join()
    server.server_close()
    shelf.server_close()
    engine.dispose()


@pytest.fixture(scope="module")
def published(stock: Stock) -> tuple[Any, Any, Any]:
    return stock.publish()


def test_the_correction_for_python_is_needed_still() -> None:
    assert control_plane.chain.ocean_fix.is_needed()


def test_what_is_published_comes_back_with_what_the_market_added(stock: Stock, published: tuple[Any, Any, Any]) -> None:
    nft, datatoken, ddo = published
    assert ddo.did == nft.calculate_did()
    assert ddo.nft["owner"] == stock.account("alice").address
    assert ddo.datatokens[0]["address"] == datatoken.address
    assert stock.ocean.assets.resolve(ddo.did).metadata["name"] == "Words"


def test_a_did_is_published_once(stock: Stock, published: tuple[Any, Any, Any]) -> None:
    assert stock.ocean.assets._aquarius.ddo_exists(published[2].did)
    assert not stock.ocean.assets._aquarius.ddo_exists("did:op:" + "0" * 64)


def test_a_search_finds_datasets_and_algorithms(stock: Stock) -> None:
    _, _, whales = stock.publish(name="Whalers")
    _, _, trainer = stock.publish("train.py", name="Harpooner")
    assert trainer.metadata["type"] == "algorithm"
    assert [each.did for each in stock.ocean.assets.search("Whalers")] == [whales.did]
    assert [each.did for each in stock.ocean.assets.search(f'"{trainer.did}"')] == [trainer.did]
    query = {"query": {"bool": {"must": [{"match": {"metadata.type": "algorithm"}}, {"match": {"metadata.name": "harpooner"}}]}}}
    assert [each.did for each in stock.ocean.assets.query(query)] == [trainer.did]


def test_a_paid_dataset_is_downloaded_again_and_again(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    _, datatoken, ddo = published
    order = stock.order(ddo, datatoken, "bob")
    assert stock.download(ddo, "bob", order, tmp_path / "first") == WORDS
    assert stock.download(ddo, "bob", order, tmp_path / "second") == WORDS
    stock.wait_for(lambda: stock.ocean.assets.resolve(ddo.did).stats["orders"] >= 1)


def test_an_algorithm_is_downloaded_as_a_dataset_is(stock: Stock, tmp_path: Path) -> None:
    _, datatoken, ddo = stock.publish("count.py", name="Counter")
    assert stock.download(ddo, "bob", stock.order(ddo, datatoken, "bob"), tmp_path) == PROGRAM


def test_an_order_is_used_again_on_chain(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    from ocean_lib.data_provider.data_service_provider import DataServiceProvider

    _, datatoken, ddo = published
    order, bob = stock.order(ddo, datatoken, "bob"), stock.account("bob")
    fees = DataServiceProvider.initialize(ddo.did, ddo.services[0], bob.address).json()["providerFee"]
    again = datatoken.reuse_order(order, fees, {"from": bob}).transactionHash.hex()
    assert stock.download(ddo, "bob", again, tmp_path) == WORDS
    assert "expected the consumer" in stock.refused(ddo, "mallory", again, tmp_path / "none")


def test_a_foreign_order_is_refused_with_its_reason(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    _, datatoken, ddo = published
    order = stock.order(ddo, datatoken, "bob")
    assert "expected the consumer" in stock.refused(ddo, "mallory", order, tmp_path)
    _, other_datatoken, other = stock.publish(name="Other")
    foreign = stock.order(other, other_datatoken, "bob")
    assert "expected OrderStarted from the datatoken" in stock.refused(ddo, "bob", foreign, tmp_path)
    assert "expected a mined transaction" in stock.refused(ddo, "bob", "0x" + "1" * 64, tmp_path)


def test_an_order_of_another_service_is_refused(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    from ocean_lib.data_provider.data_service_provider import DataServiceProvider

    _, datatoken, ddo = published
    bob = stock.account("bob")
    datatoken.mint(bob.address, 10**18, {"from": stock.account("alice")})
    fees = DataServiceProvider.initialize(ddo.did, ddo.services[0], bob.address).json()["providerFee"]
    order = datatoken.start_order(consumer=bob.address, service_index=1, provider_fees=fees, tx_dict={"from": bob})
    assert "expected service 0, found 1" in stock.refused(ddo, "bob", order.transactionHash.hex(), tmp_path)


def test_signatures_and_nonces_are_checked(stock: Stock, published: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import requests
    from ocean_lib.data_provider.data_service_provider import DataServiceProvider

    _, datatoken, ddo = published
    order, bob = stock.order(ddo, datatoken, "bob"), stock.account("bob")
    nonce, signature = DataServiceProvider.sign_message(bob, ddo.did, stock.url)
    told = {"documentId": ddo.did, "serviceId": ddo.services[0].id, "consumerAddress": bob.address, "transferTxId": order}
    told |= {"fileIndex": "0", "nonce": str(nonce), "signature": signature}

    def ask(**changes: str) -> requests.Response:
        return requests.get(f"{stock.url}/api/services/download", params=told | changes, timeout=10)

    _, foreign = DataServiceProvider.sign_message(stock.account("mallory"), ddo.did, stock.url)
    assert ask(signature=foreign).json()["errors"] == {"signature": ["Invalid signature provided."]}
    assert ask().content == WORDS
    assert ask().json()["code"] == "nonce_used"
    large, signed = str(2**53), "0x" + "1" * 130
    assert ask(nonce=large, signature=signed).json()["code"] == "nonce_too_large"
    assert DataServiceProvider.sign_message(bob, ddo.did, stock.url)[0] == nonce + 1


def test_a_revoked_asset_is_neither_downloaded_nor_ordered(stock: Stock, tmp_path: Path) -> None:
    from ocean_lib.agreements.consumable import AssetNotConsumable

    nft, datatoken, ddo = stock.publish(name="Revoked")
    order = stock.order(ddo, datatoken, "bob")
    nft.setMetaDataState(3, {"from": stock.account("alice")})
    assert "its state is 3" in stock.refused(ddo, "bob", order, tmp_path)  # the chain is asked, not the index
    stock.wait_for(lambda: stock.ocean.assets.resolve(ddo.did).nft["state"] == 3)
    seen = stock.ocean.assets.resolve(ddo.did)
    assert seen.metadata is None
    assert seen.services == []
    with pytest.raises((AssetNotConsumable, IndexError)):
        stock.ocean.assets.pay_for_access_service(seen, {"from": stock.account("bob")})


def test_an_updated_document_comes_back_with_its_transaction(stock: Stock) -> None:
    _, _, ddo = stock.publish(name="Before")
    ddo.metadata["description"] = "told anew"
    for left in ("nft", "datatokens", "event", "stats"):
        setattr(ddo, left, None)
    updated = stock.ocean.assets.update(ddo, {"from": stock.account("alice")})
    assert updated.metadata["description"] == "told anew"


def test_an_expired_order_is_refused(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    """The last one: the chain's clock is not turned back."""
    _, datatoken, ddo = published
    order = stock.order(ddo, datatoken, "bob")
    stock.rpc.ask("evm_increaseTime", [hex(ddo.services[0].timeout + 1)])
    stock.rpc.ask("anvil_mine", ["0x1"])
    assert "one that is still good" in stock.refused(ddo, "bob", order, tmp_path)
