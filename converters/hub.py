"""The one part of a conversion that may use the network: fetch a model's allowed files at a pinned revision.

In: a hub id, a 40-hex revision, a folder. Out: the files in that folder. This module must never open what it fetched.

It runs as a process of its own (`python -m converters.hub`), so the process that loads the model has never been online.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from converters.child import OFFLINE, PACKAGE_PLACE, QUIET
from converters.errors import ConversionFailed, ModelRefused
from converters.weights_folder import NAMES

FETCHED = (*NAMES, "model-*-of-*.safetensors", "LICENSE*")
"""Many repositories hold pickles beside the safetensors; what is not on this list is never fetched."""
_SECONDS = 6 * 3600


def fetch(identifier: str, revision: str, folder: Path) -> None:
    """Fetch a model's allowed files into `folder`. Again: files that are there and whole are not fetched a second time.

    Raises ModelRefused when the hub has no such model or revision, or asks for a login; ConversionFailed when it cannot be reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    # The token and cache of whoever runs this are not for a stranger's model: the fetch is anonymous, and below our folder.
    environment |= {**QUIET, "HF_HOME": str(folder / ".cache"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"PYTHONPATH": PACKAGE_PLACE, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "converters.hub", identifier, revision, str(folder)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ConversionFailed(f"{identifier}@{revision}: expected to be fetched within {_SECONDS} s, and was not") from None
    if done.returncode == 0:
        return
    message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    if done.returncode == ModelRefused.exit_code:
        raise ModelRefused(message)
    raise ConversionFailed(f"{identifier}@{revision}: could not be fetched: {message}")


def _main(identifier: str, revision: str, folder: str) -> int:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        snapshot_download(identifier, revision=revision, local_dir=folder, allow_patterns=list(FETCHED), token=False)
    except GatedRepoError:
        print(f"{identifier}: expected an open model, found one that needs a login; give a local folder instead", file=sys.stderr)
        return ModelRefused.exit_code
    except (RepositoryNotFoundError, RevisionNotFoundError):
        print(f"{identifier}@{revision}: expected a public model at this revision, found none", file=sys.stderr)
        return ModelRefused.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:4]))
