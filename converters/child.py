"""How the steps above start a conversion: a child process that sees no key.

In: the parent's environment and what to convert. Out: the child's environment and its command line.
This module must never import a heavy library, start a process or decide anything about a model.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONDONTWRITEBYTECODE",
    # A hub is reached through these; a token for a private hub is a key and is left out.
    "HF_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
"""The only variables of the parent that a conversion may see: a list of what is allowed, so a new secret is left out unasked."""

PACKAGE_PLACE = str(Path(__file__).resolve().parent.parent)

OFFLINE: Mapping[str, str] = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
QUIET: Mapping[str, str] = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def child_environment(environ: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The environment of a conversion: what is in KEPT, and a home below `scratch`, so that nothing is written elsewhere.

    scratch: an existing folder; the libraries' caches and temporary files go there.
    """
    kept = {name: environ[name] for name in KEPT if name in environ}
    home = str(scratch)
    ours = {
        "HOME": home,
        "TMPDIR": home,
        "HF_HOME": str(scratch / "hub"),
        # Two conversions of one model must not differ by the order of a set.
        "PYTHONHASHSEED": "0",
        # Modules come from this package's place and the environment, never from the folder the parent happens to stand in.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": PACKAGE_PLACE,
    }
    return {**kept, **QUIET, **ours}


def conversion_command(
    model: str,
    out: Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    name: str | None = None,
    precision: str | None = None,
    cache: Path | None = None,
    parents: Sequence[str] = (),
    keep_weights: Path | None = None,
) -> list[str]:
    """The command line of `python -m converters` with JSON lines on stdout; see `converters/__main__.py` for the lines."""
    options = {
        "--task": task,
        "--revision": revision,
        "--name": name,
        "--precision": precision,
        "--cache": None if cache is None else str(cache),
        "--keep-weights": None if keep_weights is None else str(keep_weights),
    }
    given = [f"{option}={value}" for option, value in options.items() if value is not None]
    given += [f"--parent={parent}" for parent in parents]
    return [sys.executable, "-m", "converters", f"--out={out}", "--json", *given, "--", model]
