"""The chain, simulated and real, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control_plane.chain.fixtures_outbox import node, outbox
from tests.fixtures_chain import BOTH, Chain, anvil, either_chain

__all__ = ["anvil", "chain", "node", "outbox"]


@pytest.fixture(params=BOTH)
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    return either_chain(request.param, request, tmp_path)
