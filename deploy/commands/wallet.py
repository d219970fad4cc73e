"""`wallet`: an encrypted keystore file.

In: a path and a passphrase. Out: a new key, encrypted. This module must never print a private key.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from control_plane.chain.wallet import LocalWallet, save_keystore
from deploy import exits
from deploy.wallets import passphrase


@click.group(cls=exits.Group, epilog=exits.TABLE)
def wallet() -> None:
    """Wallets in encrypted files.

    \b
    Example:
      posthuman wallet new alice.json
      posthuman buy did:op:... --keystore alice.json
    """


@wallet.command(cls=exits.Command)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def new(file: Path, is_json: bool) -> None:
    """Make a new key and write it, encrypted, to FILE, which must not exist.

    The passphrase is asked for, or taken from POSTHUMAN_PASSPHRASE.

    \b
    Example:
      posthuman wallet new alice.json
    """
    made = LocalWallet(secrets.token_bytes(32))
    save_keystore(file, made, passphrase(confirm=True))
    exits.show({"address": made.address, "file": str(file)}, [f"{made.address} in {file}"], is_json)
