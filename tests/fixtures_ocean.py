"""A market over a real chain of its own, and the stock `ocean.py` 3.1.2 as its users' client.

The application runs behind a socket; the log keeper's step is called several times a second. `ocean.py` runs in this process,
with the correction that Python 3.11 needs (`chain/ocean_fix.py`) and nothing else.
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

from control_plane.chain.ddo import Description, build_ddo, clear_hash, seal
from control_plane.chain.ledger import MODEL_LABEL, Network, Terms, data_key
from control_plane.chain.networks import LOCAL
from control_plane.chain.ocean import OceanLedger
from control_plane.chain.outbox import Outbox
from control_plane.chain.rpc import Rpc
from control_plane.database import open_database
from control_plane.did import Bytes32, TokenWei, UnixSeconds, did_of
from control_plane.errors import PosthumanError
from control_plane.flows.algorithms import publish_algorithms
from control_plane.flows.index_assets import index_assets
from control_plane.flows.services import Services
from control_plane.jobs.algorithms import known
from control_plane.migrations.migrate import migrate
from control_plane.serving.listing import Listing
from control_plane.settings import read_settings
from control_plane.web import create_app
from control_plane.wiring import open_provider
from deploy.local.chain import deploy_ocean, local_accounts
from deploy.local.ports import HOST, free_port
from tests.fixtures_chain import running_anvil
from tests.fixtures_market import ONE, make_entry, services_over
from tests.fixtures_web import Http11
from tests.simulators.inference import SimulatedServer

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

    def download(self, ddo: Any, name: str, order: str | bytes, folder: Path) -> bytes:
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
    nfts = publish_algorithms(ledger, operator, operator.public_key, url, folder / "algorithms", clock)
    algorithms = known({kind.value: nft for kind, nft in nfts.items()}, LOCAL.chain_id)
    services = replace(services, algorithms=algorithms)
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
def model(stock: Stock) -> Listing:
    """Alice's model, which sells calls and jobs."""
    services, alice, operator = stock.services, local_accounts()["alice"], local_accounts()["operator"]
    settings, ledger = services.settings, services.ledger
    entry_name, digest = make_entry(settings.models, "text-generation", "gpt")
    made = ledger.create_asset(alice, "model", "gpt", "GPT", Terms(TokenWei(ONE), LOCAL.ocean, TokenWei(0), operator.address))
    ledger.record_data(alice, "digest", made.nft, data_key(MODEL_LABEL), bytes.fromhex(digest[2:]))
    about = Description("gpt", "A model that writes", "Alice", "apache-2.0", UnixSeconds(1_700_000_000), {"model_digest": digest})
    trusted = tuple(services.algorithms.values())
    document = build_ddo(made.nft, made.datatoken, LOCAL.chain_id, about, stock.url, operator.public_key, 3600, trusted)
    sealed = seal(document, operator.public_key)
    ledger.record_metadata(alice, "document", made.nft, sealed, clear_hash(document), stock.url, operator.address)
    listing = Listing(
        did=did_of(made.nft, LOCAL.chain_id),
        name="gpt",
        task="text-generation",
        entry_name=entry_name,
        model_digest=Bytes32(digest),
        chain_id=LOCAL.chain_id,
        nft=made.nft,
        datatoken=made.datatoken,
        exchange=made.exchange,
        publisher=alice.address,
        service_index=0,
        timeout_s=3600,
        rate=TokenWei(ONE),
        base_token=LOCAL.ocean,
        publish_fee=TokenWei(0),
        swap_fee=0,
        published_at=services.clock(),
    )
    services.catalogue.load_verified(listing, services.server, ledger)
    services.catalogue.put_on_sale(listing)
    stock.wait_for(lambda: stock.ocean.assets.resolve(listing.did) is not None)
    return listing
