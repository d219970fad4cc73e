"""`evaluate`: the loss of a model on texts of one's own, with a receipt for each call.

In: a DID, texts and a wallet with an order, or one that pays for a job. Out: loss and perplexity, with their receipts or as the
operator's signed statement. This module must never need more of the market than its URL, and a chain node where a job is paid for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from c2d_adapter.algorithms.evaluate import Found
from control_plane.did import parse_did, parse_transaction_hash
from control_plane.jobs.parameters import WIKITEXT
from control_plane.receipts.evaluation import texts_digest
from control_plane.settings import read_settings
from deploy import exits
from deploy.buyer import BuyerFiles
from deploy.commands.evaluate_job import evaluate_by_job, parameters_of
from deploy.commands.job_buyer import USUAL_ASKING_S, Buyer, duration, payment_options
from deploy.commands.trade import url_option
from deploy.evaluating import Evaluated, draw, read_text
from deploy.evaluating import evaluate as evaluate_model
from deploy.job_trading import Wanted
from deploy.market import Market
from deploy.progress import Steps
from deploy.wallets import chosen_wallet, wallet_options

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SAMPLES, SEED, TOKENS = 10, 0, 256
"""As an operator's evaluation has them (`control_plane/jobs/parameters.py`)."""


@click.command(cls=exits.Command)
@click.argument("did")
@wallet_options
@url_option
@click.option("--text", "texts", multiple=True, help="A text to score; can be given several times.")
@click.option("--file", "files", multiple=True, type=_FILE, help="A file with one text; can be given several times.")
@click.option(
    "--dataset",
    help=f"A file from which passages are drawn: its lines of 200 characters or more; {WIKITEXT}, the market's own, with --as-job.",
)
@click.option("--samples", type=click.IntRange(1, 1000), help=f"Passages of the dataset.  [default: {SAMPLES}]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help=f"Which passages.  [default: {SEED}]")
@click.option(
    "--max-tokens",
    type=click.IntRange(2),
    help=f"Of each text its first tokens.  [default: {TOKENS} of a passage; texts whole, and refused when too long]",
)
@click.option("--order", help="The order to use; default: the newest one of this wallet. With --as-job: see `train`.")
@click.option(
    "--as-job", is_flag=True, help="Pay for a job: the operator evaluates, signs what was found, and the statement is checked."
)
@click.option("--publish", "is_published", is_flag=True, help="With --as-job: let everybody see what is found, and that you asked.")
@payment_options(usual_minutes=USUAL_ASKING_S // 60)
def evaluate(
    did: str,
    account: str | None,
    keystore: Path | None,
    url: str | None,
    texts: tuple[str, ...],
    files: tuple[Path, ...],
    dataset: str | None,
    samples: int | None,
    seed: int | None,
    max_tokens: int | None,
    order: str | None,
    as_job: bool,
    is_published: bool,
    environment: str,
    minutes: int | None,
    max_price: str | None,
    is_json: bool,
) -> None:
    """Find the mean loss and perplexity of DID on texts: how well it foretells them. Each text is one call of the order.

    With the operator's seed, samples and dataset it is the operator's own figure that comes out, if that is true.

    \b
    Example:
      posthuman evaluate did:op:... --text "The market stands by the harbour." --as elena
      posthuman evaluate did:op:... --dataset wikitext-2-test.txt --samples 10 --seed 0 --as elena
      posthuman evaluate did:op:... --dataset wikitext-2 --as-job --as elena
    """
    if bool(texts or files) == (dataset is not None):
        raise click.UsageError("give --text or --file, or else --dataset")
    if dataset is None and (samples is not None or seed is not None):
        raise click.UsageError("--samples and --seed: expected together with --dataset")
    if not all(text.strip() for text in texts):
        raise click.UsageError("--text: expected a text that is not empty")
    chosen_order = None if order is None else parse_transaction_hash(order, "--order")
    if as_job:
        parameters = parameters_of(texts, files, dataset, samples, seed, max_tokens, is_published)
        buyer = Buyer(account, keystore, url)
        paid_s = duration(buyer.market.environments(), environment, minutes, USUAL_ASKING_S)
        wanted = Wanted("evaluate", parse_did(did), parameters, environment, paid_s, chosen_order)
        evaluate_by_job(buyer, wanted, max_price, is_json)
        return
    if minutes is not None or max_price is not None or is_published:
        raise click.UsageError("--minutes, --max-price and --publish: expected together with --as-job")
    settings = read_settings()
    wallet = chosen_wallet(settings, account, keystore)
    kept = BuyerFiles(settings.home, wallet.address)
    if dataset is None:
        chosen = [*texts, *map(read_text, files)]
        digest = texts_digest([*(text.encode() for text in texts), *(path.read_bytes() for path in files)])
        taken = max_tokens or 0
    else:
        path = dataset_file(dataset)
        chosen = draw([read_text(path)], samples or SAMPLES, SEED if seed is None else seed)
        digest = texts_digest([path.read_bytes()])
        taken = max_tokens or TOKENS
    with Steps(is_quiet=is_json).step(f"scoring {len(chosen)} texts") as under_way:

        def told(number: int, found: Found) -> None:
            under_way(f"{number} of {len(chosen)}, {found.loss:.4f} nats a token so far")

        done = evaluate_model(
            Market(url or settings.public_url),
            wallet,
            kept,
            parse_did(did),
            settings.chain_id,
            chosen,
            taken,
            chosen_order,
            told,
        )
    exits.show(evaluated_record(did, digest, done), evaluated_lines(digest, done), is_json)


def dataset_file(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    of_the_market = f"; the market's own {WIKITEXT} is read by a job alone: --as-job" if name == WIKITEXT else ""
    raise click.UsageError(f"--dataset: there is no file {name!r}{of_the_market}")


def evaluated_record(did: str, digest: str, done: Evaluated) -> dict[str, Any]:
    return {
        "did": did,
        "loss": done.found.loss,
        "perplexity": done.found.perplexity,
        "tokens": done.found.tokens,
        "texts_digest": digest,
        "model_digests": model_digests(done),
        "samples": [
            {
                "loss": sample.loss / sample.tokens if sample.tokens else None,
                "tokens": sample.tokens,
                "characters": sample.characters,
                "receipt": paid.issued.id,
                "file": str(paid.file),
            }
            for sample, paid in zip(done.found.samples, done.calls, strict=True)
        ],
    }


def model_digests(done: Evaluated) -> list[str]:
    """More than one where the model was replaced in between."""
    return list(dict.fromkeys(paid.issued.signed.receipt.model_digest for paid in done.calls))


def evaluated_lines(digest: str, done: Evaluated) -> list[str]:
    found = done.found
    lines = [
        f"{sample.loss / sample.tokens if sample.tokens else 0:8.4f} nats over {sample.tokens:>4} tokens  "
        f"receipt {paid.issued.id}  {paid.file}"
        for sample, paid in zip(found.samples, done.calls, strict=True)
    ]
    return [
        *lines,
        "",
        f"loss {found.loss:.4f} nats a token, perplexity {found.perplexity:.2f}, over {found.tokens} tokens",
        f"texts {digest}",
        *(f"model digest {each}" for each in model_digests(done)),
    ]
