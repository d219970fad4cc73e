"""`balances`, `revenue`: who has what, and who earned what.

In: a wallet, a market, a chain node. Out: sums that the chain shows. This module must never add up what was not read there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from control_plane.chain.networks import network as network_of
from control_plane.chain.ocean import open_reader
from control_plane.chain.revenue import Earned
from control_plane.chain.revenue import revenue as read_revenue
from control_plane.chain.rpc import Rpc
from control_plane.did import Address, Did, parse_address, parse_did
from control_plane.settings import read_settings
from deploy import exits
from deploy.commands.trade import tokens, url_option
from deploy.market import Market
from deploy.wallets import chosen_wallet, wallet_options

_SAYS = {
    "publish": "publish fees",
    "provider": "provider fees",
    "consume": "consume fees",
    "order": "datatokens of orders",
    "sale": "datatokens sold",
    "swap": "swap fees",
    "community": "Ocean's community",
}


@click.command(cls=exits.Command)
@wallet_options
@click.option("--address", help="Somebody else's; default: the wallet's.")
@url_option
def balances(account: str | None, keystore: Path | None, address: str | None, url: str | None, is_json: bool) -> None:
    """Show the OCEAN of a wallet, and the datatokens that it holds of this market's assets.

    \b
    Example:
      posthuman balances --as bob
    """
    settings = read_settings()
    holder = chosen_wallet(settings, account, keystore).address if address is None else parse_address(address, "--address")
    reader = open_reader(settings.rpc_url, settings.chain_id, settings.confirmations)
    ocean = reader.balance(reader.network.ocean, holder)
    held = [
        {"did": model["id"], "name": model["name"], "datatoken": model["datatoken"], "amount": str(amount)}
        for model in Market(url or settings.public_url).models()
        if (amount := reader.balance(parse_address(model["datatoken"], "datatoken"), holder)) > 0
    ]
    lines = [f"{tokens(ocean)} OCEAN", *(f"{tokens(int(each['amount']))} of {each['name']}, {each['did']}" for each in held)]
    record = {"address": holder, "ocean": str(ocean), "datatokens": held}
    exits.show(record, lines, is_json)


@click.command(cls=exits.Command)
@url_option
@click.option("--did", help="Only of this asset; also of a dataset or an algorithm.")
def revenue(url: str | None, did: str | None, is_json: bool) -> None:
    """Show what everybody earned with this market's assets, from the events on chain: publish, provider, consume and swap fees,
    what buyers paid for datatokens, and what Ocean's community takes.

    \b
    Example:
      posthuman revenue
    """
    settings = read_settings()
    network = network_of(settings.chain_id, settings.confirmations)
    market = Market(url or settings.public_url)
    assets = [each for each in sold_models(market) if did in (None, each.did)]
    if did is not None and not assets:
        assets = sold_asset(market, parse_did(did, "--did"))
    earned = read_revenue(Rpc(settings.rpc_url, settings.chain_id), network, [each.datatoken for each in assets])
    names = {str(each.datatoken): each.name for each in assets} | {str(network.ocean): "OCEAN"}
    sums, roles = sums_of(earned), roles_of(earned, assets, market.operator(settings.chain_id))
    record = {
        "earned": [
            {"to": to, "kind": kind, "token": token, "amount": str(amount)} for (to, kind, token), amount in sorted(sums.items())
        ],
        "roles": roles,
    }
    exits.show(record, revenue_lines(sums, names, roles) or ["nothing was sold yet"], is_json)


@dataclass(frozen=True)
class Sold:
    """One datatoken of an asset."""

    did: str
    name: str
    datatoken: Address
    owner: str


def sold_models(market: Market) -> list[Sold]:
    return [
        Sold(each["id"], each["name"], parse_address(each["datatoken"], "datatoken"), each["owned_by"]) for each in market.models()
    ]


def sold_asset(market: Market, did: Did) -> list[Sold]:
    """The datatokens of a dataset, an algorithm, or a model that was withdrawn. Raises MarketRefused for one that is not known."""
    found = market.document(did)
    name, owner = str((found.get("metadata") or {}).get("name") or found["nft"]["name"]), str(found["nft"]["owner"])
    addresses = dict.fromkeys(parse_address(each["address"], "datatoken") for each in found["datatokens"])  # listed once a service
    return [Sold(did, name, each, owner) for each in addresses]


def roles_of(earned: Sequence[Earned], assets: Sequence[Sold], operator: str) -> dict[str, list[str]]:
    """Who each receiver is, as far as market and chain say: the marketplace owner, an asset's owner, Ocean's community."""
    roles: dict[str, list[str]] = {}
    for to in sorted({str(each.to) for each in earned}):
        owned = [f"owner of {each.name}" for each in assets if each.owner == to]
        is_community = any(each.to == to and each.kind == "community" for each in earned)
        said = [*["this market's operator"] * (to == operator), *owned, *["Ocean's community"] * is_community]
        roles[to] = list(dict.fromkeys(said))
    return roles


def sums_of(earned: tuple[Earned, ...]) -> dict[tuple[Address, str, Address], int]:
    """Token wei by receiver, kind and token."""
    sums: dict[tuple[Address, str, Address], int] = defaultdict(int)
    for each in earned:
        sums[each.to, each.kind, each.token] += each.amount
    return dict(sums)


def revenue_lines(
    sums: dict[tuple[Address, str, Address], int], names: Mapping[str, str], roles: Mapping[str, list[str]]
) -> list[str]:
    lines: list[str] = []
    for to in sorted({to for to, _, _ in sums}):
        lines.append(": ".join([to, *([", ".join(roles[to])] if roles.get(to) else [])]))
        for (_, kind, token), amount in sorted((key, amount) for key, amount in sums.items() if key[0] == to):
            lines.append(f"  {_SAYS[kind]:<22} {tokens(amount)} {names.get(token, token)}")
    return lines
