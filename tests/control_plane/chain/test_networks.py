"""Chains by their id, and the local one always at the same addresses."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from control_plane.chain import ocean_fix
from control_plane.chain.ledger import MODEL_LABEL, data_key
from control_plane.chain.networks import LOCAL, LOCAL_CHAIN_ID, network
from control_plane.chain.ocean import open_ledger, open_reader
from control_plane.chain.rpc import Rpc
from control_plane.errors import BadInput
from deploy.local.chain import ACCOUNTS, OCEAN_EACH, deploy_ocean, deployment_plan, local_accounts
from tests.fixtures_chain import Chain, running_anvil, wait_for_chain


def test_the_local_addresses_are_those_that_the_deployment_gives() -> None:
    assert deployment_plan().network == LOCAL


@pytest.mark.parametrize(
    ("chain_id", "factory"),
    [
        (137, "0x6fd867E5AEE6D62a24f97939db90C4e67A73A651"),
        (1, "0x1706DF1f2d93558D1d77bEd49ccdB8B88fAfC306"),
        (11155111, "0xEF62FB495266C72a5212A11Dce8baa79Ec0ABeB1"),
    ],
)
def test_public_chains_have_oceans_released_addresses(chain_id: int, factory: str) -> None:
    found = network(chain_id)
    assert (found.chain_id, found.factory) == (chain_id, factory)
    assert found.confirmations >= 12
    assert found.start_block > 0


def test_confirmations_are_the_deployments_choice() -> None:
    assert network(137).confirmations == 64
    assert network(137, 3) == dataclasses.replace(network(137), confirmations=3)
    with pytest.raises(BadInput, match="confirmations"):
        network(137, 0)


def test_a_chain_without_ocean_is_refused() -> None:
    with pytest.raises(BadInput, match="chain_id"):
        network(31337)


@pytest.mark.live
def test_the_contracts_stand_where_the_constants_say(anvil: str) -> None:
    rpc = Rpc(anvil, LOCAL_CHAIN_ID)
    for address in (LOCAL.factory, LOCAL.router, LOCAL.fixed_rate, LOCAL.dispenser, LOCAL.ocean):
        assert rpc.code(address)


@pytest.mark.live
def test_deploying_again_does_nothing_and_finishes_what_was_interrupted(tmp_path: Path) -> None:
    with running_anvil(tmp_path) as url:
        rpc = Rpc(url, LOCAL_CHAIN_ID)

        def clock() -> float:
            if rpc.head().number >= 7:
                raise KeyboardInterrupt
            return 0.0

        with pytest.raises(KeyboardInterrupt):
            deploy_ocean(url, clock, lambda _seconds: None)
        assert 7 <= rpc.head().number <= 9 < len(deployment_plan().actions)
        assert deploy_ocean(url) == LOCAL
        block = rpc.head().number
        assert block == len(deployment_plan().actions)
        assert deploy_ocean(url) == LOCAL
        assert rpc.head().number == block
        reader = open_reader(url, LOCAL_CHAIN_ID)
        for name in ACCOUNTS:
            assert reader.balance(LOCAL.ocean, local_accounts()[name].address) == OCEAN_EACH


@pytest.mark.live
def test_a_restarted_chain_remembers_assets_receipts_and_events(tmp_path: Path) -> None:
    with running_anvil(tmp_path / "chain") as url:
        deploy_ocean(url)
        ledger = open_ledger(url, LOCAL_CHAIN_ID, tmp_path / "outbox")
        alice = local_accounts()["alice"]
        terms = Chain(ledger, local_accounts(), lambda _count: None, lambda: 0.0, lambda: lambda: None).terms()
        made = ledger.create_asset(alice, "asset", "A model", "MODEL", terms)
        ledger.record_data(alice, "digest", made.nft, data_key(MODEL_LABEL), bytes(32))
        head = ledger.head()
    for _ in range(5):  # from the second on, anvil may call another block its first: an asset was made twice by then
        with running_anvil(tmp_path / "chain") as url:
            wait_for_chain(url)
            ledger = open_ledger(url, LOCAL_CHAIN_ID, tmp_path / "outbox")
            assert ledger.create_asset(alice, "asset", "A model", "MODEL", terms) == made
            assert len(ledger.data_history(made.nft, data_key(MODEL_LABEL))) == 1
            assert ledger.head() == head


def test_the_fix_of_ocean_lib_is_for_the_versions_it_was_written_for() -> None:
    """When this fails, ocean-lib or enforce-typing changed: see whether ocean_fix.py is still needed."""
    assert ocean_fix.is_needed()


def test_ocean_lib_works_on_this_python_after_the_fix_and_is_quiet() -> None:
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import control_plane.chain.ocean_fix, logging\n"
        "from typing import Any\n"
        "from enforce_typing import enforce_types\n"
        "import ocean_lib.models.datatoken1\n"
        "@enforce_types\n"
        "def takes(value: Any) -> Any: return value\n"
        "assert takes(3) == 3\n"
        "assert logging.getLogger().handlers == []\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_fault_is_there_without_the_fix() -> None:
    script = (
        "from typing import Any\n"
        "from enforce_typing import enforce_types\n"
        "@enforce_types\n"
        "def takes(value: Any) -> Any: return value\n"
        "takes(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "typing.Any cannot be used with isinstance()" in done.stderr


def test_the_fix_comes_too_late_after_ocean_lib() -> None:
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import ocean_lib.web3_internal.contract_utils\n"
        "import control_plane.chain.ocean_fix\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert "import control_plane.chain.ocean_fix before ocean_lib" in done.stderr
