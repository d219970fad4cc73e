"""Whose wallet a command uses.

In: `--as`, `--keystore`, or POSTHUMAN_PRIVATE_KEY. Out: a wallet. This module must never take a private key or a passphrase from
the command line, which every user of the machine can read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from control_plane.chain.networks import LOCAL_CHAIN_ID
from control_plane.chain.wallet import LocalWallet, load_keystore
from control_plane.errors import BadInput
from control_plane.settings import Settings
from deploy.local.chain import ACCOUNTS, local_account


def wallet_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--as` and `--keystore`; hand both to `chosen_wallet`."""
    function = click.option("--as", "account", metavar="NAME", help=f"An account of the local chain: {', '.join(ACCOUNTS)}.")(
        function
    )
    return click.option(
        "--keystore",
        type=click.Path(dir_okay=False, path_type=Path),
        help="An encrypted keystore file; the passphrase is asked for, or taken from POSTHUMAN_PASSPHRASE. "
        "Without both options: the key in POSTHUMAN_PRIVATE_KEY.",
    )(function)


def chosen_wallet(settings: Settings, account: str | None, keystore: Path | None) -> LocalWallet:
    """Raises BadInput when none is named, two are, or a local account is asked for on another chain."""
    if account is not None and keystore is not None:
        raise click.UsageError("give --as or --keystore, not both")
    if account is not None:
        if settings.chain_id != LOCAL_CHAIN_ID:
            raise BadInput("--as", f"no name on chain {settings.chain_id}: the local accounts' keys are public", account)
        if account not in ACCOUNTS:
            raise BadInput("--as", f"one of {', '.join(ACCOUNTS)}", account)
        return local_account(account)
    if keystore is not None:
        return load_keystore(keystore, passphrase(confirm=False))
    key = os.environ.get("POSTHUMAN_PRIVATE_KEY", "")
    if not key:
        raise click.UsageError("which wallet? --as NAME (local chain), --keystore FILE, or POSTHUMAN_PRIVATE_KEY")
    return LocalWallet.from_key(key)


def passphrase(confirm: bool) -> str:
    """From POSTHUMAN_PASSPHRASE, or asked for on the terminal."""
    given = os.environ.get("POSTHUMAN_PASSPHRASE", "")
    if given:
        return given
    return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
