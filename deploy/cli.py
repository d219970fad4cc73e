"""The `posthuman` command: each subcommand calls a flow.

In: a command line. Out: lines or one JSON object, and an exit code. This module must never do any work itself.
"""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path

import click

from deploy import exits

# web3 6 imports pkg_resources; its warning is for web3's authors. Gone when web3 7 is possible beside ocean-lib's pins.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

_COMMANDS = {
    "up": "stack",
    "down": "stack",
    "status": "stack",
    "logs": "stack",
    "publish": "sell",
    "models": "sell",
    "restore": "sell",
    "buy": "trade",
    "call": "trade",
    "evaluate": "evaluate",
    "evaluations": "evaluations",
    "infer": "infer",
    "receipts": "trade",
    "verify": "verify",
    "lineage": "lineage",
    "train": "jobs",
    "jobs": "jobs",
    "job": "jobs",
    "balances": "money",
    "revenue": "money",
    "wallet": "wallet",
    "demo": "demo",
    "demo-train": "demo_train",
}
"""Subcommand and its module. Loaded when asked for: `status` should not wait for web3."""


class _Lazy(exits.Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"deploy.commands.{_COMMANDS[name]}")
        command = getattr(module, name.replace("-", "_"))
        assert isinstance(command, click.Command)  # noqa: S101  # the table above names commands
        return command


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]}, epilog=exits.TABLE)
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="The state folder; default: POSTHUMAN_HOME, or .posthuman in the checkout.",
)
@click.version_option(package_name="posthuman")
def main(home: Path | None) -> None:
    """Posthuman: publish, sell, call and verify AI models.

    \b
    Example:
      posthuman up
      posthuman publish ./my-gpt2 --as alice --price 1.5
      posthuman buy did:op:... --as bob
      posthuman call did:op:... "The market stands" --as bob
    """
    if home is not None:
        os.environ["POSTHUMAN_HOME"] = str(home.resolve())


if __name__ == "__main__":
    main()
