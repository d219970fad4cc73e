"""Texts that the story of the trainings reads: WikiText-2 where a folder of it is named, else our own documentation.

In: nothing, or a folder. Out: a folder with a text to train on and one that no training reads. This module must never let a
passage stand in both.
"""

from __future__ import annotations

import re
from pathlib import Path

from control_plane.errors import BadInput

TRAIN, TEST = "train.txt", "test.txt"
_REPOSITORY = Path(__file__).resolve().parents[2]
_TESTED_EVERY = 5
_LEAST_LETTERS = 200
"""As long as a passage must be that an evaluation may draw (`c2d_adapter/algorithms/evaluate.py`)."""
_NAMES = {TRAIN: ("train.clean.txt", TRAIN, "valid.clean.txt", "valid.txt"), TEST: ("test.clean.txt", TEST)}


def held_out_text(folder: Path) -> Path:
    """The file that no training reads. Raises BadInput when the folder lacks it, or a text to train on."""
    found = {}
    for part, names in _NAMES.items():
        files = [folder / name for name in names if (folder / name).is_file()]
        if not files:
            raise BadInput(str(folder), f"one of {', '.join(names)}", "none of them")
        found[part] = files[0]
    return found[TEST]


def write_own_texts(folder: Path) -> Path:
    """Our README, decisions and pages, a paragraph a line; each fifth long paragraph is held out. Again: writes the same."""
    pages = [_REPOSITORY / "README.md", _REPOSITORY / "DECISIONS.md", *sorted((_REPOSITORY / "docs").glob("*.md"))]
    paragraphs = [
        " ".join(paragraph.split())
        for page in pages
        if page.is_file()
        for paragraph in re.split(r"\n\s*\n", page.read_text(encoding="utf-8"))
        if "|" not in paragraph and "```" not in paragraph
    ]
    long = [paragraph for paragraph in dict.fromkeys(paragraphs) if len(paragraph) >= _LEAST_LETTERS]
    if len(long) < 2 * _TESTED_EVERY:
        raise BadInput(str(_REPOSITORY), "the project's pages to learn from; name a folder with texts", f"{len(long)} paragraphs")
    folder.mkdir(parents=True, exist_ok=True)
    held = long[::_TESTED_EVERY]
    (folder / TEST).write_text("\n".join(held) + "\n", encoding="utf-8")
    (folder / TRAIN).write_text("\n".join(each for each in long if each not in held) + "\n", encoding="utf-8")
    return folder
