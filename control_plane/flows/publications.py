"""What was chosen for a publication, kept so that an interrupted run goes on with the same choices.

In: a publication's id and choices. Out: a journal file, `publications/<id>.json`. This module must never speak to a node.

A crash leaves either no file (nothing outside was written), or a file with every choice that later writes depend on: the date in
the document, the sealed bytes (sealing is random), the terms. A document is made anew only when the one before is on chain.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from control_plane.did import Address, Bytes32, TokenWei, UnixSeconds
from control_plane.errors import Conflict, IntegrityBroken

VERSION = 1


@dataclass(frozen=True)
class Choices:
    """What a publication decided before its first outside write; see `Terms` and `Listing` for units."""

    publisher: Address
    chain_id: int
    model_digest: Bytes32
    name: str
    description: str
    author: str
    licence: str
    rate: TokenWei
    base_token: Address
    publish_fee: TokenWei
    swap_fee: int
    marketplace_owner: Address
    timeout_s: int
    statement: str | None = None


@dataclass(frozen=True)
class Journal:
    """created: seconds since 1970. document: the sealed DDO of `nft` as hex, and clear_hash its hash, once they were made.

    revision: how often another one was made in its place.
    """

    choices: Choices
    created: UnixSeconds
    nft: Address | None = None
    document: str | None = None
    clear_hash: Bytes32 | None = None
    endpoint: str | None = None
    revision: int = 0


def publication_id(publisher: Address, chain_id: int, model_digest: Bytes32, name: str, statement: str | None = None) -> str:
    """Names one publication: 64 hex digits of SHA-256 over the publisher, the chain, the digest, the name, and for a derived asset
    the statement of its derivation: two jobs that came to the same weights are two assets.
    """
    derived = [] if statement is None else [statement]
    listed = json.dumps([publisher, chain_id, model_digest, name, *derived], separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"posthuman/publication/v1\0" + listed.encode()).hexdigest()


class Journals:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, choices: Choices, created: UnixSeconds, is_begun: bool) -> Journal:
        """The journal of this publication: the one kept, or a new one with these choices.

        is_begun: a transaction may have been sent for it. Raises Conflict when other terms were chosen before and that is so;
        otherwise the new ones replace them.
        """
        kept = self.read(self.id_of(choices))
        if kept is None or (kept.choices != choices and not is_begun):
            kept = Journal(choices, created)
            self.write(kept)
        if kept.choices != choices:
            raise Conflict(f"{choices.name}: this publisher already published this model: {_differences(kept.choices, choices)}")
        return kept

    def id_of(self, choices: Choices) -> str:
        return publication_id(choices.publisher, choices.chain_id, choices.model_digest, choices.name, choices.statement)

    def read(self, publication: str) -> Journal | None:
        path = self._path(publication)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.pop("version") != VERSION:
                raise ValueError("another version")
            return replace(Journal(**record), choices=Choices(**record["choices"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityBroken(f"{path}: expected a publication's journal of version {VERSION}, found {error}") from error

    def write(self, journal: Journal) -> None:
        """Replace the file in one step; it is on disk before this returns."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(self.id_of(journal.choices))
        scratch = path.with_suffix(f".part{os.getpid()}")
        with scratch.open("w", encoding="utf-8") as stream:
            json.dump({"version": VERSION} | asdict(journal), stream, indent=1, ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)

    def _path(self, publication: str) -> Path:
        return self._folder / f"{publication}.json"


def _differences(kept: Choices, asked: Choices) -> str:
    before, now = asdict(kept), asdict(asked)
    changed = [f"{name} is {before[name]!r}, asked now for {now[name]!r}" for name in before if before[name] != now[name]]
    return "; ".join(changed) + ". Publish under another name to sell it on other terms"
