"""`demo`: the whole story, once through.

In: nothing, or a model. Out: a verdict. This module must never end with 0 unless every check held.
"""

from __future__ import annotations

import io
import sys

import click

from control_plane.settings import read_settings
from deploy import exits


@click.command(cls=exits.Command)
@click.option("--model", help="A folder or hub id of a text generation model, in place of the tiny one that is trained here.")
@click.option("--revision", help="Commit of a hub id, 40 hex digits.")
@click.option("--licence", help="Of a named model whose own files state none, such as apache-2.0.")
@click.option("--down", "is_ending", is_flag=True, help="Stop the stack afterwards.")
def demo(model: str | None, revision: str | None, licence: str | None, is_ending: bool, is_json: bool) -> None:
    """Start the stack, publish a model, sell it, call it, verify the receipt, and see frauds refused.

    \b
    Example:
      posthuman demo --model ./my-gpt2
    """
    from deploy.demo.narration import Narrator
    from deploy.demo.story import tell  # loads the stock clients; other commands need not wait for them

    narrator = Narrator(io.StringIO() if is_json else sys.stdout)
    holds = tell(read_settings().home, narrator, model, revision, licence, is_ending)
    record = {
        "verified": holds,
        "checks": [
            {"chapter": claim.chapter, "check": claim.text, "holds": claim.holds, "evidence": claim.evidence}
            for claim in narrator.claims
        ],
    }
    exits.show(record, [], is_json)
    raise SystemExit(exits.DONE if holds else exits.FAILED)
