"""An outbox on a simulated node, for the tests of sending and of replacing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from control_plane.chain.outbox import Outbox
from control_plane.chain.transaction import Action
from control_plane.chain.wallet import LocalWallet
from control_plane.did import Address
from tests.simulators.node import SimulatedNode

WALLET = LocalWallet(bytes(31) + b"\x07")


OTHER = LocalWallet(bytes(31) + b"\x08")


TO = Address("0x000000000000000000000000000000000000bEEF")


WRITE = Action(TO, b"write")


@pytest.fixture
def node() -> SimulatedNode:
    return SimulatedNode()


@pytest.fixture
def outbox(node: SimulatedNode, tmp_path: Path) -> Callable[..., Outbox]:
    time = [0.0]

    def make(confirmations: int = 1, wait_s: float = 1.0, mine_after_s: float | None = None) -> Outbox:
        """mine_after_s: the node makes a block this often."""
        block_at = [time[0] + (mine_after_s or 0.0)]

        def sleep(seconds: float) -> None:
            time[0] += seconds
            if mine_after_s is not None and time[0] >= block_at[0]:
                block_at[0] = time[0] + mine_after_s
                node.mine()

        now = lambda: time[0]  # noqa: E731  # both clocks of a test are one
        return Outbox(tmp_path, node, confirmations, wait_s, 0.1, now, sleep, replace_after_s=5.0, now=now)  # type: ignore[arg-type]  # the node's simulator

    return make
