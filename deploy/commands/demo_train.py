"""`demo-train`: the story of three models, each trained from the one before, on a market of its own.

In: nothing, or a model and texts. Out: a verdict. This module must never end with 0 unless every check held.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import click

from control_plane.settings import read_settings
from deploy import exits
from deploy.demo.held_out import held_out_text, write_own_texts

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(cls=exits.Command, name="demo-train")
@click.option("--model", help="A folder or hub id of a text generation model, in place of the tiny one that is trained here.")
@click.option("--licence", help="Of a named model whose own files state none, such as apache-2.0.")
@click.option("--texts", type=_FOLDER, help="A folder of WikiText-2 (train or valid, and test), in place of our own pages.")
@click.option("--steps", type=click.IntRange(10, 100_000), default=500, show_default=True, help="Of each training.")
@click.option("--keep", "is_kept", is_flag=True, help="Leave the stack running afterwards.")
def demo_train(model: str | None, licence: str | None, texts: Path | None, steps: int, is_kept: bool, is_json: bool) -> None:
    """Publish a model, train it, train what comes of it, sell it, call it, evaluate all three, and read the line from the chain.

    The market is one of its own, below the state folder; the usual one is not touched.

    \b
    Example:
      posthuman demo-train --model ./my-gpt2 --texts ./wikitext-2 --steps 500
    """
    home = read_settings().home / "demo-train"
    folder = write_own_texts(home / "texts") if texts is None else texts.resolve()
    held_out_text(folder)
    # what the stack and all its parts are told; this process is one of them
    os.environ.update(POSTHUMAN_HOME=str(home), POSTHUMAN_WIKITEXT=str(folder))

    from deploy.demo.narration import Narrator
    from deploy.demo.trainings import tell

    narrator = Narrator(io.StringIO() if is_json else sys.stdout)
    if texts is None:
        narrator.say("No folder of WikiText-2 was named (--texts): what the market calls wikitext-2 is our own documentation here.")
    holds = tell(home, narrator, model, folder, steps, licence, not is_kept)
    record = {
        "verified": holds,
        "checks": [
            {"chapter": claim.chapter, "check": claim.text, "holds": claim.holds, "evidence": claim.evidence}
            for claim in narrator.claims
        ],
    }
    exits.show(record, [], is_json)
    raise SystemExit(exits.DONE if holds else exits.FAILED)
