"""`evaluations`: what others found of a model and let everybody see, each statement checked against the chain.

In: a DID, the market's URL, a node's URL. Out: the figures with who asked for them and the verdict. This module must never read the
state folder's database or keys: a stranger gets the same answer.
"""

from __future__ import annotations

import click

from control_plane.chain.ocean import open_reader
from control_plane.did import parse_address, parse_did
from control_plane.receipts.evaluation import SignedEvaluation, statement_hash
from control_plane.receipts.verification import Verification
from control_plane.receipts.verify_evaluation import verify_evaluation
from control_plane.settings import read_settings
from deploy import exits
from deploy.commands.trade import url_option
from deploy.job_results import published_statement
from deploy.market import EVALUATIONS_AT_ONCE, Market
from deploy.progress import Steps


@click.command(cls=exits.Command)
@click.argument("did")
@url_option
@click.option("--evaluator", help="An address: all that it has published. Default: the newest ten of each evaluator.")
@click.option("--before", help="The id of an evaluation: only those published before it.")
@click.option("--rpc", help="URL of a node of the chain; choose one you trust. Default: the market's settings.")
def evaluations(did: str, url: str | None, evaluator: str | None, before: str | None, rpc: str | None, is_json: bool) -> None:
    """List the published evaluations of DID, newest first and at most a hundred, and check each signed statement against the chain.

    Exit code 1 unless every one verifies. What nobody wanted published is not there: the list is what was shown, not all that was
    found.

    \b
    Example:
      posthuman evaluations did:op:...
    """
    settings, asked = read_settings(), parse_did(did)
    by = None if evaluator is None else parse_address(evaluator, "--evaluator")
    shown = Market(url or settings.public_url).evaluations(asked, by, before)
    signed = [published_statement(each, asked) for each in shown]
    reader = open_reader(rpc or settings.rpc_url, settings.chain_id, settings.confirmations)
    with Steps(is_quiet=is_json).step("checking against the chain"):
        found = [verify_evaluation(reader, each.to_json()) for each in signed]
    records = [{**each, "verification": checked.to_json()} for each, checked in zip(shown, found, strict=True)]
    lines = [_line(each, checked) for each, checked in zip(signed, found, strict=True)]
    if len(shown) >= EVALUATIONS_AT_ONCE:
        lines.append(f"older ones: --before {shown[-1]['id']}")
    exits.show({"evaluations": records}, lines or ["no evaluation was published yet"], is_json)
    if not all(checked.is_verified for checked in found):
        raise SystemExit(exits.FAILED)


def _line(signed: SignedEvaluation, checked: Verification) -> str:
    if not checked.is_verified:
        names = ", ".join(check.name for check in (checked.failed or checked.missing))
        return f"NOT verified ({names}): {statement_hash(signed)}"
    said = signed.evaluation
    how = f"{said.samples} passages by seed {said.sample_seed}" if said.is_sampled else f"{said.samples} texts"
    of = f"over {said.tokens} tokens of {how}, texts {said.dataset_digest[:14]}, model {said.model_digest[:14]}"
    return f"verified  {said.loss:8.4f} nats a token {of}, by {said.evaluator}"
