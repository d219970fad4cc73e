"""The chain forgets its newest blocks while an asset is derived, as a killed local node does: what was sent is sent again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from control_plane.errors import OutcomeUnknown, Unavailable
from tests.fixtures_chain import anvil, real_chain
from tests.fixtures_publish import open_stand
from tests.half_failures.test_derive_writes import a_job, check_one_asset, run
from tests.half_failures.test_publish_writes import created_nfts
from tests.simulators.rpc_proxy import running_proxy

__all__ = ["anvil"]


def ask(node: str, method: str, *parameters: Any) -> Any:
    session = requests.Session()
    session.trust_env = False
    answer = session.post(node, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}, timeout=20).json()
    assert "error" not in answer, answer
    return answer["result"]


@pytest.mark.live
@pytest.mark.parametrize("kept", ["nothing", "record_metadata", "give_up"])
def test_blocks_that_the_chain_forgot_are_sent_again_and_make_one_asset(anvil: str, tmp_path: Path, kept: str) -> None:
    """kept: the step before which the blocks end that the node still knows."""
    with running_proxy(anvil) as proxy:
        stand = open_stand(real_chain(proxy.url, tmp_path / "outbox"), tmp_path)
        job, since = a_job(stand), stand.chain.ledger.head().number
        if kept != "nothing":
            stand.ledger.break_call(kept, "before")
            with pytest.raises((Unavailable, OutcomeUnknown)):
                run(stand, job)
        snapshot, before = ask(anvil, "evm_snapshot"), len(proxy.sent)
        stand.store.break_call("__call__", "before")
        with pytest.raises((Unavailable, OutcomeUnknown)):
            run(stand, job)
        sent = proxy.sent[before:]
        assert ask(anvil, "evm_revert", snapshot)
        run(stand, job)
        check_one_asset(stand, job)
        assert created_nfts(anvil, stand.chain.wallets["bob"].address, since) == 1
        assert proxy.sent[before:] == sent * 2  # the same bytes
