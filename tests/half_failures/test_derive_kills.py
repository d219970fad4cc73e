"""A process that derives an asset, killed in every step: whoever repeats it finds one asset and one minting."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control_plane.flows.derivation import Derivation
from control_plane.flows.derive import Trained, derive
from tests.fixtures_chain import anvil, real_chain
from tests.fixtures_derive import published, trained
from tests.fixtures_publish import open_stand
from tests.half_failures.test_derive_writes import check_one_asset
from tests.half_failures.test_publish_writes import created_nfts

__all__ = ["anvil"]

REPOSITORY = Path(__file__).parents[2]
BEFORE = ["weights", "convert", "install"]
CHAIN = [*["asset"] * 6, *["metadata"] * 2, *["rights"] * 4]
"""Steps of six, one and three transactions."""
AFTER = ["store", "compare", "load", "parity", "on sale"]
LONGEST_S = 0.06
"""How long after a step's beginning the process is killed, at most: a transaction takes about half as long here."""


def run_once(folder: Path, url: str) -> None:
    """What the process does: say each step as it begins."""
    shutil.rmtree(folder / "entry")  # what `open_stand` makes anew
    stand = open_stand(real_chain(url, folder / "outbox"), folder)
    record = json.loads((folder / "job.json").read_text())
    job = Trained(Derivation.from_json(record["derivation"]), Path(record["weights"]))

    def tell(name: str, detail: object) -> None:
        if detail is None:
            print(name, flush=True)

    derive(stand.market, stand.chain.wallets["operator"], job, tell)


def kill_in(step: str, after_s: float, folder: Path, url: str) -> None:
    """Start it, and kill it so long after the step began; it may have ended by then."""
    code = f"import pathlib, tests.half_failures.test_derive_kills as kills; kills.run_once(pathlib.Path({str(folder)!r}), {url!r})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.rstrip("\n") == step:
                time.sleep(after_s)
                child.kill()
                return
        raise AssertionError(f"it never began {step}: ended with {child.wait()}")


@pytest.mark.live
@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_a_process_that_is_killed_in_every_step_leaves_one_asset(anvil: str, tmp_path: Path, seed: int) -> None:
    stand = open_stand(real_chain(anvil, tmp_path / "outbox"), tmp_path)
    job = trained(stand, published(stand), stand.chain.wallets["bob"].address)
    (tmp_path / "job.json").write_text(json.dumps({"derivation": job.derivation.to_json(), "weights": str(job.weights)}))
    chances, since = random.Random(seed), stand.chain.ledger.head().number  # noqa: S311  # no secret: the same kills each time
    for step in (*BEFORE, *CHAIN, *AFTER):
        kill_in(step, chances.uniform(0, LONGEST_S), tmp_path, anvil)
    derive(stand.market, stand.chain.wallets["operator"], job)
    check_one_asset(stand, job)
    assert created_nfts(anvil, stand.chain.wallets["bob"].address, since) == 1
