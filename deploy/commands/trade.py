"""`buy`, `call`, `receipts`: what a buyer does.

In: a DID and a wallet. Out: an order, an answer with its receipt, a list. This module must never need more of the market than its
URL and a chain node.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from control_plane.chain.ocean import open_ledger
from control_plane.did import TokenWei, parse_did, parse_transaction_hash
from control_plane.errors import BadInput
from control_plane.receipts.receipt import Issued
from control_plane.settings import read_settings
from deploy import exits
from deploy.buyer import BuyerFiles
from deploy.market import CHAT, COMPLETIONS, Answered, Market
from deploy.progress import Steps
from deploy.trading import Bought, answer_of
from deploy.trading import buy as buy_and_order
from deploy.trading import call as call_model
from deploy.wallets import chosen_wallet, wallet_options

url_option = click.option("--url", help="The market's URL; default: POSTHUMAN_PUBLIC_URL, or the embedded stack's.")


@click.command(cls=exits.Command)
@click.argument("did")
@wallet_options
@url_option
@click.option("--valid-for", "valid_for_s", type=click.IntRange(1), help="Seconds the order is wanted for; default: the market's.")
@click.option(
    "--max-price",
    help="OCEAN that all of it may cost: price, swap fee, publish fee and provider fee; default: twice the price plus 1.",
)
def buy(
    did: str,
    account: str | None,
    keystore: Path | None,
    url: str | None,
    valid_for_s: int | None,
    max_price: str | None,
    is_json: bool,
) -> None:
    """Buy one datatoken of DID on the exchange and order with it.

    An offer that costs more than --max-price is refused before anything is paid. Without it the price is the one on chain, and
    all fees together may come to that price plus 1 OCEAN.

    Interrupted, or ended with code 5: run it again, it goes on with the same purchase.

    \b
    Example:
      posthuman buy did:op:... --as bob --max-price 2
    """
    most = None if max_price is None else token_wei(max_price, "--max-price")
    settings = read_settings()
    wallet = chosen_wallet(settings, account, keystore)
    files = BuyerFiles(settings.home, wallet.address)
    market = Market(url or settings.public_url)
    ledger = open_ledger(settings.rpc_url, settings.chain_id, files.folder / "outbox", settings.confirmations)
    with Steps(is_quiet=is_json).step("buying and ordering"):
        bought = buy_and_order(market, ledger, wallet, files, parse_did(did), valid_for_s, most)
    exits.show(bought_record(bought), bought_lines(bought), is_json)


def bought_record(bought: Bought) -> dict[str, Any]:
    return {
        "did": bought.offer.did,
        "datatoken": bought.offer.datatoken,
        "purchase": {"transaction": bought.purchase.sent.transaction, "paid": str(bought.purchase.paid)},
        "order": bought.sent.transaction,
        "block": bought.sent.block,
        "valid_until": bought.valid_until,
        "fees": [{"kind": fee.kind, "to": fee.to, "token": fee.token, "amount": str(fee.amount)} for fee in bought.fees],
        "total": str(bought.total),
    }


def bought_lines(bought: Bought) -> list[str]:
    until = datetime.fromtimestamp(bought.valid_until, UTC)
    return [
        f"bought one datatoken {bought.offer.datatoken} for {tokens(bought.purchase.paid)} OCEAN "
        f"(transaction {bought.purchase.sent.transaction})",
        *(f"paid {fee.kind} fee of {tokens(fee.amount)} OCEAN to {fee.to}" for fee in bought.fees),
        f"paid {tokens(bought.total)} OCEAN in all",
        f"order {bought.sent.transaction} in block {bought.sent.block}, good until {until:%Y-%m-%d %H:%M:%S} UTC",
    ]


def token_wei(text: str, field: str = "--price") -> TokenWei:
    """OCEAN as people write it, in wei; exactly, or BadInput."""
    try:
        if not re.fullmatch(r"[0-9]+(\.[0-9]{1,18})?", text):
            raise InvalidOperation
        return TokenWei(int(Decimal(text).scaleb(18)))
    except InvalidOperation as error:
        raise BadInput(field, "a decimal number of OCEAN with at most 18 digits after the point", text) from error


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
@click.option("--top-p", type=float, help="Only the likeliest that reach this probability together.")
@click.option("--top-k", type=int, help="Only so many of the likeliest.")
@click.option("--min-p", type=float, help="Only those at least so many times as likely as the likeliest.")
@click.option("--repetition-penalty", type=float, help="Above 1: less of what prompt and answer said before.")
@click.option("--frequency-penalty", type=float, help="Above 0: less of what the answer says often.")
@click.option("--presence-penalty", type=float, help="Above 0: less of what the answer said before.")
@click.option("--seed", type=int)
@click.option("--stop", multiple=True, help="Text to stop at; can be given several times.")
@click.option("--order", help="The order to use; default: the newest one of this wallet.")
@click.option("--stream", is_flag=True, help="Print pieces as they come.")
@click.option("--chat", is_flag=True, help="Talk: PROMPT is a user's message, written out by the model's own chat template.")
@click.option("--system", help="What the model is told before the conversation; with --chat.")
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
    chat: bool,
    system: str | None,
    is_json: bool,
    **sampling: float | None,
) -> None:
    """Complete PROMPT with the model DID, or answer it with --chat. Signs in with the newest order when there is no session yet.

    \b
    Example:
      posthuman call did:op:... "The market stands" --as bob
      posthuman call did:op:... "What does the market sell?" --chat --as bob
    """
    if system is not None and not chat:
        raise click.UsageError("--system: expected together with --chat")
    settings = read_settings()
    wallet = chosen_wallet(settings, account, keystore)
    files = BuyerFiles(settings.home, wallet.address)
    told = [] if system is None else [{"role": "system", "content": system}]
    body: dict[str, Any] = {
        "model": parse_did(did),
        **({"messages": [*told, {"role": "user", "content": prompt}]} if chat else {"prompt": prompt}),
        "max_tokens": max_tokens,
        "temperature": temperature,
        **{name: value for name, value in {"seed": seed, **sampling}.items() if value is not None},
        **({"stop": list(stop)} if stop else {}),
    }
    pieces: list[str] = []

    def on_text(text: str) -> None:
        pieces.append(text)
        if not is_json:
            click.echo(text, nl=False)

    chosen = None if order is None else parse_transaction_hash(order)
    with Steps(is_quiet=is_json or stream).step("asking the model"):
        answered, path = call_model(
            Market(url or settings.public_url),
            wallet,
            files,
            parse_did(did),
            settings.chain_id,
            body,
            on_text if stream else None,
            chosen,
            CHAT if chat else COMPLETIONS,
        )
    if stream and not is_json:
        click.echo()
    text = "".join(pieces) if stream else answer_of(answered)
    lines = [] if stream else [text]
    record = {
        "text": text,
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
    wanted = None if did is None else parse_did(did, "--did")
    for path in BuyerFiles(settings.home, wallet.address).calls():
        issued = kept_receipt(path)
        if wanted in (None, issued.signed.receipt.did):
            rows.append({"file": str(path), "id": issued.id, **issued.signed.receipt.to_json()})
    missing = missing_sequences(rows)
    lines = [
        f"{datetime.fromtimestamp(row['finished_at'] / 1000, UTC):%Y-%m-%d %H:%M:%S}  {row['id'][:18]}  order {row['order'][:12]} "
        f"number {row['sequence']:<4} {row['units_in']:>5} in {row['units_out']:>5} out  {row['file']}"
        for row in rows
    ]
    lines += [f"order {order}: no receipt number {', '.join(map(str, numbers))} here" for order, numbers in missing.items()]
    exits.show({"receipts": rows, "missing": missing}, lines or ["no receipts yet"], is_json)


def kept_receipt(path: Path) -> Issued:
    """The receipt of a kept call. Raises BadInput naming the file when it is damaged."""
    try:
        return Issued.from_json(json.loads(path.read_text(encoding="utf-8"))["receipt"])
    except BadInput as error:
        raise BadInput(f"{path}: {error.field}", error.expected, error.found) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(str(path), "a call as `posthuman call` keeps it", error) from error


def missing_sequences(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Per order, the receipt numbers below the highest that this wallet does not have: a charge it cannot account for."""
    numbers: dict[str, set[int]] = {}
    for row in rows:
        numbers.setdefault(row["order"], set()).add(row["sequence"])
    return {order: gaps for order, found in numbers.items() if (gaps := sorted(set(range(max(found) + 1)) - found))}
