"""Whoever sells a datatoken chooses the base token, which can be any contract: none of them stops the index for the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from control_plane.chain import assets
from control_plane.chain.contracts import call_data
from control_plane.chain.ocean import OceanLedger
from control_plane.chain.transaction import Action
from control_plane.database import open_database
from control_plane.did import ZERO_ADDRESS, Address, Did, did_of, parse_address
from control_plane.flows.index_assets import index_assets
from control_plane.migrations.migrate import migrate
from control_plane.provider.asset_index import DOCUMENTS, AssetIndex, Cursor
from tests.control_plane.chain.test_ledger_contract import key
from tests.fixtures_chain import ONE, Chain, anvil, real_chain
from tests.ocean_assets import document_for

__all__ = ["anvil"]

URL = "http://market.example"
SYMBOLS = {
    "an invalid opcode": "fe",
    "endless work": "5b601b56",
    "an unknown opcode": "0c",
    "a jump to nowhere": "600056",
    "too little on its stack": "01",
    "all memory there is": "6001600160ff1b52",
    "data that nothing returned": "602060006000 3e",
    "three million bytes": "622fffff6000f3",
    "text that is no text": "6020600052600360205262fffefd60e81b60405260606000f3",
    "a text of 2**255 letters": "6020600052600160ff1b60205260606000f3",
    "a revert without a reason": "60006000fd",
}


def token(chain: Chain, ledger: OceanLedger, symbol: str) -> Address:
    """A contract of Mallory's."""
    behind = bytes.fromhex(symbol)
    runtime = bytes.fromhex("60003560e01c6395d89b411460195760126000526020 6000f35b".replace(" ", "")) + behind
    assert runtime[0x19] == 0x5B
    deploying = bytes([0x60, len(runtime), 0x80, 0x60, 0x09, 0x3D, 0x39, 0x3D, 0xF3]) + runtime
    mined = ledger._outbox.send(chain.wallets["mallory"], key(), Action(None, deploying))
    return parse_address(ledger._rpc.ask("eth_getTransactionReceipt", [mined.transaction])["contractAddress"])


def publish(chain: Chain, ledger: OceanLedger, who: str, base_token: Address) -> Did:
    """An asset as a client of Ocean's publishes it, sold for any token, with its document in clear."""
    owner, network = chain.wallets[who], ledger.network
    nft = (who, who, 1, "", True, owner.address)
    datatoken = (1, [who, who], [owner.address, owner.address, owner.address, network.ocean], [2**256 - 1, 0], [])
    exchange = (network.fixed_rate, [base_token, owner.address, owner.address, ZERO_ADDRESS], [18, 18, ONE, 0, 1])
    data = call_data("ERC721Factory", "createNftWithErc20WithFixedRate", [nft, datatoken, exchange])
    made, sold, _ = assets.created(network, ledger._outbox.send(owner, key(), Action(network.factory, data)), is_free=False)
    clear = json.dumps(document_for(chain.wallets["operator"].public_key, URL, made, sold, "https://words.example/")).encode()
    written = [0, URL, owner.address, b"\0", clear, hashlib.sha256(clear).digest(), []]
    ledger._outbox.send(owner, key(), Action(made, call_data("ERC721Template", "setMetaData", written)))
    return did_of(made, network.chain_id)


@pytest.mark.live
def test_a_base_token_that_fails_at_its_symbol_stops_nobody(anvil: str, tmp_path: Path) -> None:
    chain = real_chain(anvil, tmp_path / "outbox")
    ledger = chain.ledger
    assert isinstance(ledger, OceanLedger)
    engine = open_database(f"sqlite:///{tmp_path / 'index.db'}")
    try:
        migrate(engine)
        index, head = AssetIndex(engine), ledger.head()
        index.put([], Cursor(head.number, head.hash))
        bad = {name: publish(chain, ledger, "mallory", token(chain, ledger, code)) for name, code in SYMBOLS.items()}
        good = publish(chain, ledger, "carol", ledger.network.ocean)
        told = index_assets(index, ledger, chain.wallets["operator"], URL, chain.now)
        assert told == {"indexed": sorted([*bad.values(), good])}
        found = {asset.did: asset.facts["datatokens"][0] for asset in index.all()}
        for name, did in bad.items():
            assert (name, found[did]["price"], found[did]["base_symbol"]) == (name, str(ONE), "")
        assert found[good]["base_symbol"] == "OCEAN"
        cursor = index.cursor(DOCUMENTS)
        assert cursor is not None
        assert cursor.block == ledger.head().number
    finally:
        engine.dispose()


@pytest.mark.live
def test_what_an_nft_made_beside_its_document_costs_no_question(
    anvil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = real_chain(anvil, tmp_path / "outbox")
    ledger = chain.ledger
    assert isinstance(ledger, OceanLedger)
    made = ledger.create_asset(chain.wallets["mallory"], key(), "Many", "MANY", chain.terms())
    asked: list[str] = []
    ask = ledger._rpc.ask

    def counted(method: str, params: Sequence[Any]) -> Any:
        asked.append(method)
        return ask(method, params)

    def questions() -> int:
        asked.clear()
        assert [each.address for each in ledger.nft_facts(made.nft, [made.datatoken]).datatokens] == [made.datatoken]
        return len(asked)

    monkeypatch.setattr(ledger._rpc, "ask", counted)
    before = questions()
    for number in range(12):
        owner = chain.wallets["mallory"].address
        arguments = [1, [f"m{number}", "M"], [owner, owner, owner, ledger.network.ocean], [2**256 - 1, 0], []]
        action = Action(made.nft, call_data("ERC721Template", "createERC20", arguments))
        ledger._outbox.send(chain.wallets["mallory"], key(), action)
    assert questions() == before
    assert before <= 13
