"""Our Triton backends import each other from their own folder; so do their tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "model_repository" / "backends"))
