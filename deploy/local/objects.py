"""The embedded S3 server: rclone on a folder.

In: a folder, a port, keys. Out: the command and environment that start it. This module must never start it itself.
"""

from __future__ import annotations

import secrets
import string
from pathlib import Path

from deploy.local.ports import HOST, is_open

_LETTERS = string.ascii_uppercase + string.digits


def new_keys() -> tuple[str, str]:
    """A key id of 20 letters and a secret of 40: S3 clients refuse short ones."""
    return "PH" + "".join(secrets.choice(_LETTERS) for _ in range(18)), secrets.token_urlsafe(30)


def command(rclone: Path, folder: Path, port: int, cache: Path) -> tuple[str, ...]:
    """rclone reads no configuration file, and keeps uploads in `cache` until they are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    return (
        str(rclone),
        "serve",
        "s3",
        str(folder),
        "--config=",
        f"--addr={HOST}:{port}",
        f"--cache-dir={cache}",
        "--log-level=NOTICE",
    )


def environment(key_id: str, secret: str) -> dict[str, str]:
    """The keys go by the environment: a command line can be read by every user of the machine.

    The variable is a CSV list, and the pair holds a comma, so the pair is quoted.
    """
    return {"RCLONE_AUTH_KEY": f'"{key_id},{secret}"'}


def is_ready(port: int) -> bool:
    return is_open(port)
