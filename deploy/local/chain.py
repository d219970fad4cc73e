"""The local chain: anvil with the real Ocean contracts, always at the same addresses.

In: anvil's binary, a port, a folder. Out: the command that starts it, and contracts on it. This module must never be used for a
chain that holds value: every key here is public.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from control_plane.chain.contracts import call_data, deployment_data
from control_plane.chain.ledger import Network
from control_plane.chain.networks import LOCAL, LOCAL_CHAIN_ID
from control_plane.chain.rpc import NodeRefused, Rpc
from control_plane.chain.transaction import Action, contract_address, sign_transaction
from control_plane.chain.wallet import LocalWallet
from control_plane.did import Address, TransactionHash
from control_plane.errors import Refused, Unavailable

MNEMONIC = "test test test test test test test test test test test junk"
"""Known to everybody, on purpose: the words that Hardhat and Foundry use for development."""

ACCOUNTS = {"operator": 0, "alice": 1, "bob": 2, "carol": 3, "mallory": 4, "derek": 5, "elena": 6, "charlie": 7}
"""Names of the local accounts and their index under the mnemonic. The operator is the marketplace owner."""

DEPLOYER = 9
"""Sends nothing but the plan below: so nonce, address and content of each deployment are fixed."""

NO_POOL_TEMPLATE = Address("0x000000000000000000000000000000000000dEaD")
OCEAN_EACH = 100_000 * 10**18
"""OCEAN wei that each named account starts with."""
GAS_LIMIT = 8_000_000
"""The largest deployment uses 5.4 M (ERC20TemplateEnterprise)."""


def anvil_command(binary: Path, port: int, state_dir: Path) -> list[str]:
    """The command that runs the chain; it listens on 127.0.0.1 alone and mines each transaction at once.

    The chain is kept in `state_dir`: written at exit and every five seconds, so that kill -9 loses at most those.
    """
    return [
        str(binary),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--chain-id", str(LOCAL_CHAIN_ID)),
        *("--mnemonic", MNEMONIC),
        *("--state", str(state_dir / "anvil.json")),
        *("--state-interval", "5"),
        "--quiet",
    ]


@cache
def local_account(name: str) -> LocalWallet:
    """One of the local accounts by name. Raises KeyError for another name."""
    return LocalWallet.from_mnemonic(MNEMONIC, ACCOUNTS[name])


def local_accounts() -> dict[str, LocalWallet]:
    return {name: local_account(name) for name in ACCOUNTS}


@dataclass(frozen=True)
class Plan:
    """The deployer's transactions in order of their nonces, and the addresses that follow from them."""

    network: Network
    actions: tuple[Action, ...]


@cache
def deployment_plan() -> Plan:
    """Ocean's core contracts wired to each other, in the order of `deploy-contracts.js` of ocean-contracts 2.0.3.

    Addresses are known before anything is sent, since a contract's address is its deployer's address and nonce.
    """
    deployer = LocalWallet.from_mnemonic(MNEMONIC, DEPLOYER).address
    actions: list[Action] = []

    def deploy(contract: str, *arguments: object) -> Address:
        actions.append(Action(None, deployment_data(contract, arguments)))
        return contract_address(deployer, len(actions) - 1)

    def write(contract: str, to: Address, function: str, *arguments: object) -> None:
        actions.append(Action(to, call_data(contract, function, arguments)))

    ocean = deploy("OceanToken", deployer)
    collector = deploy("OPFCommunityFeeCollector", deployer, deployer)
    router = deploy("FactoryRouter", deployer, ocean, NO_POOL_TEMPLATE, collector, [])
    fixed_rate = deploy("FixedRateExchange", router)
    template = deploy("ERC20Template")
    enterprise = deploy("ERC20TemplateEnterprise")
    template3 = deploy("ERC20Template3")
    nft_template = deploy("ERC721Template")
    dispenser = deploy("Dispenser", router)
    factory = deploy("ERC721Factory", nft_template, template, router)
    write("ERC721Factory", factory, "addTokenTemplate", enterprise)
    write("ERC721Factory", factory, "addTokenTemplate", template3)
    write("FactoryRouter", router, "addFactory", factory)
    write("FactoryRouter", router, "addFixedRateContract", fixed_rate)
    write("FactoryRouter", router, "addDispenserContract", dispenser)
    for wallet in local_accounts().values():
        write("OceanToken", ocean, "mint", wallet.address, OCEAN_EACH)
    network = Network(
        chain_id=LOCAL_CHAIN_ID,
        name="local",
        factory=factory,
        router=router,
        fixed_rate=fixed_rate,
        dispenser=dispenser,
        ocean=ocean,
        confirmations=1,
    )
    return Plan(network, tuple(actions))


def deploy_ocean(rpc_url: str, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> Network:
    """Put Ocean's contracts on the local chain and OCEAN in the named accounts' hands; about 0.7 s.

    Again: does only what the deployer's nonce says is missing, so also after a crash in the middle, and nothing when all is there.
    Raises Unavailable when the node does not answer or does not mine, Refused when a deployment reverts.
    """
    plan = deployment_plan()
    rpc = Rpc(rpc_url, LOCAL_CHAIN_ID)
    deployer = LocalWallet.from_mnemonic(MNEMONIC, DEPLOYER)
    for nonce, action in enumerate(plan.actions):
        if nonce < rpc.sent_count(deployer.address):
            continue
        signed = sign_transaction(deployer, LOCAL_CHAIN_ID, action, nonce, GAS_LIMIT, rpc.fees())
        try:
            rpc.broadcast(signed.raw)
        except NodeRefused as error:  # one of an interrupted run is still on its way into a block
            raise Unavailable(f"{rpc_url}: deployment {nonce} is not taken: {error.reason}") from error
        _wait(rpc, signed.transaction, clock, sleep)
    if not rpc.code(plan.network.factory):
        raise Refused(f"{rpc_url}: expected Ocean's factory at {plan.network.factory}, found a chain with another history")
    return LOCAL


def _wait(rpc: Rpc, transaction: TransactionHash, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
    until = clock() + 30.0
    while (mined := rpc.receipt(transaction)) is None:
        if clock() > until:
            raise Unavailable(f"deployment {transaction} is in no block after 30 s")
        sleep(0.01)
    if mined.status != 1:
        raise Refused(f"deployment {transaction} reverted")
