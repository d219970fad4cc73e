"""`balances`, `revenue`: who has what, and who earned what.

In: a wallet, a market, a chain node. Out: sums that the chain shows. This module must never add up what was not read there.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import click

from control_plane.chain.networks import network as network_of
from control_plane.chain.ocean import open_reader
from control_plane.chain.revenue import Earned
from control_plane.chain.revenue import revenue as read_revenue
from control_plane.chain.rpc import Rpc
from control_plane.did import Address, parse_address
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
@click.option("--did", help="Only of this asset.")
def revenue(url: str | None, did: str | None, is_json: bool) -> None:
    """Show what everybody earned with this market's assets, from the events on chain: publish, provider, consume and swap fees,
    what buyers paid for datatokens, and what Ocean's community takes.

    \b
    Example:
      posthuman revenue
    """
    settings = read_settings()
    network = network_of(settings.chain_id, settings.confirmations)
    models = [model for model in Market(url or settings.public_url).models() if did in (None, model["id"])]
    datatokens = [parse_address(model["datatoken"], "datatoken") for model in models]
    earned = read_revenue(Rpc(settings.rpc_url, settings.chain_id), network, datatokens)
    names = {model["datatoken"]: model["name"] for model in models} | {network.ocean: "OCEAN"}
    sums = sums_of(earned)
    record = {
        "earned": [
            {"to": to, "kind": kind, "token": token, "amount": str(amount)} for (to, kind, token), amount in sorted(sums.items())
        ]
    }
    exits.show(record, revenue_lines(sums, names) or ["nothing was sold yet"], is_json)


def sums_of(earned: tuple[Earned, ...]) -> dict[tuple[Address, str, Address], int]:
    """Token wei by receiver, kind and token."""
    sums: dict[tuple[Address, str, Address], int] = defaultdict(int)
    for each in earned:
        sums[each.to, each.kind, each.token] += each.amount
    return dict(sums)


def revenue_lines(sums: dict[tuple[Address, str, Address], int], names: dict[str, str]) -> list[str]:
    lines: list[str] = []
    for to in sorted({to for to, _, _ in sums}):
        lines.append(to)
        for (_, kind, token), amount in sorted((key, amount) for key, amount in sums.items() if key[0] == to):
            lines.append(f"  {_SAYS[kind]:<22} {tokens(amount)} {names.get(token, token)}")
    return lines
