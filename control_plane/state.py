"""The state folder's one shared file: what the supervisor chose (ports, keys of local servers), for every process that follows.

In: the state folder. Out: `POSTHUMAN_*` settings. This module must never choose a value itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from control_plane.errors import BadInput

ENVIRONMENT_FILE = "environment.json"


def read_environment_file(home: Path) -> dict[str, str]:
    """What the supervisor wrote, or nothing when it never ran here. Raises BadInput when the file is damaged."""
    path = home / ENVIRONMENT_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(str(path), "a JSON object of strings", error) from error
    if not isinstance(record, dict) or not all(isinstance(value, str) for value in record.values()):
        raise BadInput(str(path), "a JSON object of strings", record)
    return record


def write_environment_file(home: Path, values: Mapping[str, str]) -> None:
    """Replace the file in one step, readable by its owner alone: it holds the local servers' keys.

    Closes the whole state folder to other users too: salts, wallets and the weights that are sold lie in it.
    """
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    scratch = home / (ENVIRONMENT_FILE + ".part")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(dict(values), stream, indent=2, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(home / ENVIRONMENT_FILE)
