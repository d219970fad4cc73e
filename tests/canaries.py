"""Secrets that must be found nowhere, in every form that a log could give them, and the search.

In: secrets by name, a folder, bytes. Out: where which was found. This module must never decide what may hold a secret.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


def forms(secret: str) -> frozenset[bytes]:
    """As it is, as JSON writes it, as a URL writes it, in hex, and in base64 wherever it begins in what was encoded."""
    raw = secret.encode()
    found = {raw, json.dumps(secret)[1:-1].encode(), quote(secret).encode(), raw.hex().encode()}
    for before in range(3):
        encoded = b64encode(b"\0" * before + raw)
        middle = encoded[4 if before else 0 : len(encoded) // 4 * 4 - 4]  # both ends hang on what stood beside it
        found |= {middle, middle.replace(b"+", b"-").replace(b"/", b"_")}
    return frozenset(form for form in found if len(form) >= 8)


@dataclass(frozen=True)
class Found:
    name: str
    where: str


class Canaries:
    """secrets: by name. Those that share `marker` are looked for by it alone, so that a large folder is read in seconds."""

    def __init__(self, marker: str, secrets: Mapping[str, str]) -> None:
        self._secrets = {name: secret for name, secret in secrets.items() if marker not in secret}
        self._secrets["a marked text"] = marker
        self._forms = {name: forms(secret) for name, secret in self._secrets.items()}
        assert all(self._forms.values()), "a secret too short to be told from chance"

    def found_in(self, content: bytes, where: str) -> Iterator[Found]:
        for name, known in self._forms.items():
            if any(form in content for form in known):
                yield Found(name, where)

    def found_below(self, folder: Path, is_left_out: Callable[[Path], bool]) -> tuple[list[Found], list[str]]:
        """What was found in the folder's files and their names, and which files were read."""
        found, read = list[Found](), list[str]()
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_symlink() or not path.is_file() or is_left_out(inside):
                continue
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # a file that a running component replaced meanwhile
                continue
            read.append(str(inside))
            found += self.found_in(content + str(inside).encode(), str(inside))
        return found, read
