"""`publish`, `models`, `restore`: what a publisher and the market's operator do.

In: a model, a price, a wallet; a DID. Out: an asset on sale, a list, an entry restored. This module must never convert a model in
this process.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from c2d_adapter.market import open_store
from control_plane.did import TokenWei, parse_did
from control_plane.errors import BadInput
from control_plane.flows.publish import Published, Request
from control_plane.serving.replay import ServedParity
from control_plane.settings import read_settings
from control_plane.wiring import build_services
from converters.entry import PRECISIONS
from deploy import exits
from deploy.commands.trade import token_wei, tokens, url_option
from deploy.market import Market
from deploy.progress import Steps
from deploy.selling import publish_model
from deploy.selling import restore as restore_entry
from deploy.wallets import chosen_wallet, wallet_options


@click.command(cls=exits.Command)
@click.argument("model")
@wallet_options
@click.option("--price", help="OCEAN for one datatoken, for instance 1.5.")
@click.option("--free", is_flag=True, help="Give datatokens away instead.")
@click.option("--name", help="How the model is called; default: the folder's or repository's name.")
@click.option("--task", help="When the model's own files do not say it: text-generation, feature-extraction and others.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of the served model; default: fp32.")
@click.option("--timeout", "timeout_s", type=click.IntRange(1), help="Seconds an order lasts; default: the market's.")
@click.option("--revision", help="Commit of a hub id, 40 hex digits.")
@click.option("--licence", help="Such as apache-2.0; needed when the model's own files state none.")
def publish(
    model: str,
    account: str | None,
    keystore: Path | None,
    price: str | None,
    free: bool,
    name: str | None,
    task: str | None,
    precision: str | None,
    timeout_s: int | None,
    revision: str | None,
    licence: str | None,
    is_json: bool,
) -> None:
    """Convert MODEL (a folder, or a hub id with --revision), put it on chain, and sell it.

    Interrupted, or ended with code 4 or 5: run it again, it goes on where it stopped; there is one asset in any case.

    \b
    Example:
      posthuman publish ./my-gpt2 --as alice --price 1.5
    """
    if free == (price is not None):
        raise click.UsageError("give --price OCEAN or --free")
    rate = TokenWei(0) if price is None else token_wei(price)
    if rate == 0 and not free:
        raise BadInput("--price", "a price above 0; --free gives datatokens away", price)
    settings = read_settings()
    wallet = chosen_wallet(settings, account, keystore)
    folder = Path(model)
    request = Request(
        model=str(folder.resolve()) if folder.is_dir() else model,
        name=name or (folder.resolve().name if folder.is_dir() else model.rsplit("/", 1)[-1]),
        rate=rate,
        timeout_s=timeout_s or settings.order_timeout_s,
        revision=revision,
        task=task,
        precision=precision,
        licence=licence,
    )
    done = publish_model(build_services(settings), open_store(settings), wallet, request, Steps(is_quiet=is_json))
    exits.show(published_record(done), published_lines(done), is_json)


def published_record(done: Published) -> dict[str, object]:
    listing = done.listing
    return {
        "did": listing.did,
        "name": listing.name,
        "task": listing.task,
        "nft": listing.nft,
        "datatoken": listing.datatoken,
        "exchange": listing.exchange,
        "model_digest": listing.model_digest,
        "weights_digest": listing.weights_digest,
        "rate": str(listing.rate),
        "transactions": {
            "asset": done.created.sent.transaction,
            "digest": done.digest.transaction,
            "log": done.log.transaction,
            "metadata": done.metadata.transaction,
        },
        "stored": done.stored,
        "parity": [asdict(line) for line in done.parity],
    }


def published_lines(done: Published) -> list[str]:
    listing = done.listing
    price = "free" if listing.exchange is None else f"{tokens(listing.rate)} OCEAN"
    return [
        f"on sale: {listing.did}",
        f"  {listing.name} ({listing.task}), {price} for one datatoken",
        f"  model digest {listing.model_digest}",
        f"  weights digest {listing.weights_digest}"
        if listing.weights_digest
        else "  it cannot be trained: a finished entry was published, without the model that it was made from, or an architecture "
        "that is not trained here",
        f"  data NFT {listing.nft}, datatoken {listing.datatoken}",
        *(_parity_line(line) for line in done.parity),
    ]


def _parity_line(line: ServedParity) -> str:
    found = "is PyTorch's" if line.worst_absolute == 0 else f"is at most {line.worst_relative:.1e} from PyTorch's"
    return f"  {line.output} through Triton {found} in {line.probes} calls (bound {line.bound:.1e})"


@click.command(cls=exits.Command)
@url_option
def models(url: str | None, is_json: bool) -> None:
    """List the models on sale.

    \b
    Example:
      posthuman models
    """
    found = Market(url or read_settings().public_url).models()
    lines = [f"{model['id']}  {model['task']:<20} {model['name']}" for model in found]
    exits.show({"models": found}, lines or ["nothing is on sale yet"], is_json)


@click.command(cls=exits.Command)
@click.argument("did")
def restore(did: str, is_json: bool) -> None:
    """Bring the entry of DID back from object storage, after its files were damaged or changed, and sell it again.

    \b
    Example:
      posthuman restore did:op:...
    """
    settings = read_settings()
    with Steps(is_quiet=is_json).step("restoring and loading"):
        listing = restore_entry(build_services(settings), open_store(settings), parse_did(did))
    record = {"did": listing.did, "model_digest": listing.model_digest, "state": listing.state}
    exits.show(record, [f"{listing.did} is {listing.state} again, digest {listing.model_digest}"], is_json)
