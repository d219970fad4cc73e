"""Where a model's files are: a local folder, or what was fetched of a hub id at a pinned revision.

In: what the publisher named. Out: `Located`. This module must never open a file of a model, or import what could.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from converters import hub
from converters.errors import ModelRefused

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[^@]+))?")
_REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Located:
    """Where a model's files are, before any of them was opened. `identifier` holds no path of this machine."""

    folder: Path
    identifier: str
    revision: str | None


def locate(model: str, revision: str | None, cache: Path) -> Located:
    """Find a local folder, or fetch a hub model into `cache`; a folder of that name wins, unless a revision is given.

    Raises ModelRefused for a hub id without a full commit, or something that is neither; ConversionFailed when the hub is away.
    """
    folder, match = Path(model), _HUB_ID.fullmatch(model)
    pinned = revision or (match["revision"] if match else None)
    if model and folder.is_dir() and pinned is None:
        return Located(folder, folder.resolve().name, None)
    if match is None:
        raise ModelRefused(f"model: expected a folder, or a hub id as org/name@revision; found {model!r}")
    if revision and match["revision"] and revision != match["revision"]:
        raise ModelRefused(f"model: expected one revision, found {match['revision']!r} and {revision!r}")
    if pinned is None or not _REVISION.fullmatch(pinned):
        raise ModelRefused(
            f"model: {match['id']!r} is no folder here, and a hub model must be pinned to a commit: give"
            f" {match['id']}@<40 hex digits> or --revision (the hub shows it under 'Files' > 'History'); found {pinned!r}"
        )
    fetched = cache / "hub" / match["id"].replace("/", "--") / pinned
    hub.fetch(match["id"], pinned, fetched)
    return Located(fetched, match["id"], pinned)
