"""`buy`, `call`, `receipts`: what a buyer does.

In: a DID and a wallet. Out: an order, an answer with its receipt, a list. This module must never need more of the market than its
URL and a chain node.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from control_plane.chain.ocean import open_ledger
from control_plane.did import parse_did, parse_transaction_hash
from control_plane.settings import read_settings
from deploy import exits
from deploy.buyer import BuyerFiles
from deploy.market import Answered, Market
from deploy.progress import Steps
from deploy.trading import Bought, text_of
from deploy.trading import buy as buy_and_order
from deploy.trading import call as call_model
from deploy.wallets import chosen_wallet, wallet_options

url_option = click.option("--url", help="The market's URL; default: POSTHUMAN_PUBLIC_URL, or the embedded stack's.")


@click.command(cls=exits.Command)
@click.argument("did")
@wallet_options
@url_option
@click.option("--valid-for", "valid_for_s", type=click.IntRange(1), help="Seconds the order is wanted for; default: the market's.")
def buy(did: str, account: str | None, keystore: Path | None, url: str | None, valid_for_s: int | None, is_json: bool) -> None:
    """Buy one datatoken of DID on the exchange and order with it.

    Interrupted, or ended with code 5: run it again, it goes on with the same purchase.

    \b
    Example:
      posthuman buy did:op:... --as bob
    """
    settings = read_settings()
    wallet = chosen_wallet(settings, account, keystore)
    files = BuyerFiles(settings.home, wallet.address)
    market = Market(url or settings.public_url)
    ledger = open_ledger(settings.rpc_url, settings.chain_id, files.folder / "outbox")
    with Steps(is_quiet=is_json).step("buying and ordering"):
        bought = buy_and_order(market, ledger, wallet, files, parse_did(did), valid_for_s)
    exits.show(bought_record(bought), bought_lines(bought), is_json)


def bought_record(bought: Bought) -> dict[str, Any]:
    return {
        "did": bought.offer.did,
        "datatoken": bought.offer.datatoken,
        "purchase": {"transaction": bought.purchase.sent.transaction, "paid": str(bought.purchase.paid)},
        "order": bought.sent.transaction,
        "block": bought.sent.block,
        "valid_until": bought.offer.provider_fee.valid_until,
        "fees": [{"kind": fee.kind, "to": fee.to, "token": fee.token, "amount": str(fee.amount)} for fee in bought.fees],
    }


def bought_lines(bought: Bought) -> list[str]:
    until = datetime.fromtimestamp(bought.offer.provider_fee.valid_until, UTC)
    return [
        f"bought one datatoken {bought.offer.datatoken} for {tokens(bought.purchase.paid)} OCEAN "
        f"(transaction {bought.purchase.sent.transaction})",
        *(f"paid {fee.kind} fee of {tokens(fee.amount)} OCEAN to {fee.to}" for fee in bought.fees),
        f"order {bought.sent.transaction} in block {bought.sent.block}, good until {until:%Y-%m-%d %H:%M:%S} UTC",
    ]


def tokens(wei: int) -> str:
    """Token wei as tokens, without trailing zeros."""
    whole, rest = divmod(int(wei), 10**18)
    return f"{whole}.{rest:018d}".rstrip("0").rstrip(".")


@click.command(cls=exits.Command)
@click.argument("did")
@click.argument("prompt")
@wallet_options
@url_option
@click.option("--max-tokens", type=int, default=32, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=int)
@click.option("--stop", multiple=True, help="Text to stop at; can be given several times.")
@click.option("--order", help="The order to use; default: the newest one of this wallet.")
@click.option("--stream", is_flag=True, help="Print pieces as they come.")
def call(
    did: str,
    prompt: str,
    account: str | None,
    keystore: Path | None,
    url: str | None,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    stop: tuple[str, ...],
    order: str | None,
    stream: bool,
    is_json: bool,
) -> None:
    """Complete PROMPT with the model DID. Signs in with the newest order when there is no session yet.

    \b
    Example:
      posthuman call did:op:... "The market stands" --as bob
    """
    settings = read_settings()
    wallet = chosen_wallet(settings, account, keystore)
    files = BuyerFiles(settings.home, wallet.address)
    body: dict[str, Any] = {
        "model": parse_did(did),
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        **({} if seed is None else {"seed": seed}),
        **({"stop": list(stop)} if stop else {}),
    }
    on_text = (lambda text: click.echo(text, nl=False)) if stream and not is_json else (lambda _text: None) if stream else None
    chosen = None if order is None else parse_transaction_hash(order)
    answered, path = call_model(
        Market(url or settings.public_url), wallet, files, parse_did(did), settings.chain_id, body, on_text, chosen
    )
    if stream and not is_json:
        click.echo()
    lines = [] if stream else [text_of(answered)]
    record = {
        "text": None if stream else text_of(answered),
        "seconds": round(answered.seconds, 4),
        "receipt": answered.receipt["id"],
        "file": str(path),
    }
    exits.show(record, [*lines, *call_lines(answered, path)], is_json)


def call_lines(answered: Answered, path: Path) -> list[str]:
    receipt = answered.receipt["signed"]["receipt"]
    return [
        "",
        f"{answered.seconds * 1000:.1f} ms; {receipt['units_in']} tokens in, {receipt['units_out']} out",
        f"receipt {answered.receipt['id']}: number {receipt['sequence']} of order {receipt['order']}",
        f"model digest {receipt['model_digest']}",
        f"kept in {path}",
    ]


@click.command(cls=exits.Command)
@wallet_options
@click.option("--did", help="Only of this asset.")
def receipts(account: str | None, keystore: Path | None, did: str | None, is_json: bool) -> None:
    """List the receipts this wallet has kept, and whether their sequence has gaps.

    \b
    Example:
      posthuman receipts --as bob
    """
    settings = read_settings()
    wallet = chosen_wallet(settings, account, keystore)
    rows: list[dict[str, Any]] = []
    for path in BuyerFiles(settings.home, wallet.address).calls():
        kept = json.loads(path.read_text(encoding="utf-8"))
        receipt = kept["receipt"]["signed"]["receipt"]
        if did in (None, receipt["did"]):
            rows.append({"file": str(path), "id": kept["receipt"]["id"], **receipt})
    missing = missing_sequences(rows)
    lines = [
        f"{datetime.fromtimestamp(row['finished_at'] / 1000, UTC):%Y-%m-%d %H:%M:%S}  {row['id'][:18]}  order {row['order'][:12]} "
        f"number {row['sequence']:<4} {row['units_in']:>5} in {row['units_out']:>5} out  {row['file']}"
        for row in rows
    ]
    lines += [f"order {order}: no receipt number {', '.join(map(str, numbers))} here" for order, numbers in missing.items()]
    exits.show({"receipts": rows, "missing": missing}, lines or ["no receipts yet"], is_json)


def missing_sequences(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Per order, the receipt numbers below the highest that this wallet does not have: a charge it cannot account for."""
    numbers: dict[str, set[int]] = {}
    for row in rows:
        numbers.setdefault(row["order"], set()).add(row["sequence"])
    return {order: gaps for order, found in numbers.items() if (gaps := sorted(set(range(max(found) + 1)) - found))}
