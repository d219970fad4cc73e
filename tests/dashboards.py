"""Which metrics our rules, our dashboard and our documentation name.

In: the files of the checkout. Out: names, as Prometheus knows their families. This module must never ask a server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
DASHBOARDS = REPOSITORY / "deploy" / "dashboards"
_NAME = re.compile(r"\b(?:posthuman|nv)_[a-z0-9_]*[a-z0-9](?![a-z0-9_*])")
"""Not `nv_inference_*`, which stands for many."""
_PART_OF_ONE = re.compile(r"_(?:bucket|sum|count)$")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((DASHBOARDS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads((DASHBOARDS / "posthuman.json").read_text())["panels"])


def expressions() -> Iterator[str]:
    yield from (str(rule["expr"]) for rule in rules())
    yield from (str(target["expr"]) for panel in panels() for target in panel.get("targets", ()))


def named(text: str) -> set[str]:
    """Families: a histogram's buckets, sum and count are one."""
    return {_PART_OF_ONE.sub("", name) for name in _NAME.findall(text)}


def documented() -> set[str]:
    page = (REPOSITORY / "docs" / "operating.md").read_text()
    return named("\n".join(line for line in page.splitlines() if line.startswith("| `")))


def exposed(text: str) -> set[str]:
    """What a server exposes; the families of Triton and ours. When a series began (`_created`) is no family."""
    samples = (re.split(r"[{ ]", line)[0] for line in text.splitlines() if line and not line.startswith("#"))
    return named("\n".join(sample for sample in samples if not sample.endswith("_created")))
