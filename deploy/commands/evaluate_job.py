"""An evaluation as a job: paid for, waited for, and its signed statement checked against the chain before it is shown.

In: a buyer, what is to be evaluated. Out: the loss, the statement in a file, each check. This module must never show a figure
without the verdict on who has signed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from c2d_adapter.algorithms.evaluate import perplexity
from control_plane.jobs.parameters import WIKITEXT
from control_plane.receipts.evaluation import SignedEvaluation
from control_plane.receipts.verification import Verification
from control_plane.receipts.verify_evaluation import verify_evaluation
from deploy import exits
from deploy.commands.job_buyer import Buyer
from deploy.commands.verify import verification_lines
from deploy.evaluating import read_text
from deploy.job_results import statement_of, texts_of
from deploy.job_trading import Wanted
from deploy.progress import Steps


def parameters_of(
    texts: Sequence[str],
    files: Sequence[Path],
    dataset: str | None,
    samples: int | None,
    seed: int | None,
    max_tokens: int | None,
    is_published: bool,
) -> dict[str, Any]:
    """What the market is asked; what is not given is left to its defaults. Raises UsageError for a dataset of one's own."""
    if dataset not in (None, WIKITEXT):
        raise click.UsageError(f"--dataset: a job draws from {WIKITEXT} alone; give texts of your own by --text or --file")
    own = [*texts, *map(read_text, files)] if dataset is None else None
    given = {
        "texts": own,
        "dataset": dataset,
        "samples": samples,
        "seed": seed,
        "max_tokens": max_tokens,
        "publish": is_published or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def evaluate_by_job(buyer: Buyer, wanted: Wanted, max_price: str | None, is_json: bool) -> None:
    """Ends the process with code 1 when the job fails, or when its statement does not verify: it is shown then all the same."""
    told = Steps(is_quiet=is_json)
    queued = buyer.order(wanted, max_price, told)
    job = buyer.finished(queued["job_id"], is_json)
    signed = statement_of(job, wanted, buyer.wallet.address)
    file = buyer.files.keep_evaluation(signed)
    with told.step("checking against the chain"):
        found = verify_evaluation(buyer.ledger, signed.to_json(), texts=texts_of(wanted))
    exits.show(_record(job, signed, found, file), _lines(job, signed, found, file), is_json)
    if not found.is_verified:
        raise SystemExit(exits.FAILED)


def _record(job: dict[str, Any], signed: SignedEvaluation, found: Verification, file: Path) -> dict[str, Any]:
    said = signed.evaluation
    return {
        "did": said.did,
        "loss": said.loss,
        "perplexity": round(perplexity(said.loss), 2),
        "tokens": said.tokens,
        "texts_digest": said.dataset_digest,
        "model_digests": [said.model_digest],
        "statement": signed.to_json(),
        "file": str(file),
        "verification": found.to_json(),
        "job_id": job["job_id"],
        "job": job,
    }


def _lines(job: dict[str, Any], signed: SignedEvaluation, found: Verification, file: Path) -> list[str]:
    said = signed.evaluation
    return [
        *verification_lines(found),
        "",
        f"loss {said.loss:.4f} nats a token, perplexity {perplexity(said.loss):.2f}, over {said.tokens} tokens",
        f"texts {said.dataset_digest}",
        f"model digest {said.model_digest}",
        f"job {job['job_id']}, statement {file}",
    ]
