"""Jobs on real parts: the worker of the stack, Ray, the training program, the converter, the chain, Triton."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from control_plane.database import open_database
from control_plane.did import parse_did
from control_plane.jobs.job import Job
from control_plane.jobs.states import Kind, State
from control_plane.jobs.store import JobStore
from control_plane.wiring import open_catalogue, open_ledger
from deploy.local.chain import local_accounts
from tests.control_plane.jobs.asking import a_job, anyone
from tests.converters.tiny_models import tiny_model
from tests.fixtures_families import Families, families
from tests.fixtures_stack import LiveStack

__all__ = ["families"]

pytestmark = [pytest.mark.live, pytest.mark.slow]

TRAINING = {
    "dataset": "wikitext-2",
    "steps": 30,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "schedule": "linear",
    "warmup_steps": 0,
    "sequence_length": 32,
    "seed": 0,
    "precision": "fp32",
    "method": "full",
    "weight_decay": 0.01,
    "gradient_clip": 1.0,
}
EVALUATION = {"dataset": "wikitext-2", "samples": 3, "seed": 1, "max_tokens": 32}
WITHIN_S = 240.0


@pytest.fixture(scope="module")
def model(stack: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tiny_model(tmp_path_factory.mktemp("models") / "tiny-gpt2", "gpt2", "LMHeadModel")
    terms = ("--as", "alice", "--price", "1", "--name", "Tiny", "--licence", "apache-2.0")
    ran = stack.run("publish", str(folder), *terms, "--json", timeout_s=600)
    assert ran.code == 0, ran.out + ran.err
    return str(ran.json["did"])


def done(stack: LiveStack, did: str, kind: Kind, parameters: dict[str, Any], meanwhile: Callable[[Job], None] | None = None) -> Job:
    """Bob's job, when it is over. Ordering is told elsewhere: here it is put into the queue. meanwhile: called again and again."""
    store = JobStore(open_database(stack.settings.database_url))
    listing = open_catalogue(stack.settings).find(parse_did(did))
    asked = a_job(
        kind,
        did=listing.did,
        model_digest=listing.model_digest,
        owner=local_accounts()["bob"].address,
        parameters=json.dumps(parameters),
        paid_s=600,
    )
    job, until = store.add(asked, anyone), time.monotonic() + WITHIN_S
    while not job.is_over:
        if meanwhile is not None:
            meanwhile(job)
        assert time.monotonic() < until, (job, Path(stack.home / "logs" / "worker.log").read_text()[-4000:])
        time.sleep(0.2)
        job = store.get(job.job_id)
    assert job.state is State.FINISHED, (job.reason, Path(stack.home / "logs" / "worker.log").read_text()[-4000:])
    return job


def test_a_training_on_the_stack_becomes_the_trainers_asset(stack: LiveStack, model: str) -> None:
    job = done(stack, model, Kind.TRAIN, TRAINING)
    assert job.result is not None and job.weights_digest is not None and job.derived_did is not None
    result = json.loads(job.result)
    assert result["steps"] == 30 and result["last_loss"] < result["first_loss"]
    bob = local_accounts()["bob"].address
    derived = open_catalogue(stack.settings).find(job.derived_did)
    assert (derived.publisher, derived.state, derived.weights_digest) == (bob, "on_sale", job.weights_digest)
    ledger = open_ledger(stack.settings)
    assert ledger.find_asset(derived.did, derived.nft).owner == bob
    assert ledger.minted(derived.datatoken, bob) == (200 * 10**18,)
    assert not (stack.home / "jobs" / job.job_id).exists()
    models = {each["id"] for each in stack.run("models", "--json").json["models"]}
    assert {model, job.derived_did} <= models


@pytest.mark.long
@pytest.mark.parametrize(("family", "objective"), [("bert", "masked_tokens"), ("t5", "continuation")])
def test_what_was_trained_of_another_kind_of_language_model_is_served_and_answers(
    stack: LiveStack, families: Families, family: str, objective: str
) -> None:
    parent = families.sold(family)
    job = done(stack, parent.did, Kind.TRAIN, TRAINING)
    assert job.result is not None and job.derived_did is not None
    assert json.loads(job.result)["objective"] == objective
    derived = open_catalogue(stack.settings).find(job.derived_did)
    assert (derived.task, derived.publisher, derived.state) == (parent.task, local_accounts()["bob"].address, "on_sale")
    client = InferenceClient(model=f"{stack.settings.public_url}/models/{derived.did}", token=families.token_for(str(derived.did)))
    if family == "bert":
        assert len(client.fill_mask("the <mask> stands at the end of the street", top_k=3)) == 3
    else:
        body = client.translation("the market stands")
        assert isinstance(body.translation_text, str)


def test_an_evaluation_on_the_stack_is_signed(stack: LiveStack, model: str) -> None:
    job = done(stack, model, Kind.EVALUATE, EVALUATION)
    assert job.result is not None
    statement = json.loads(json.loads(job.result)["statement"])
    assert statement["evaluation"]["did"] == model and statement["log"] == stack.settings.log_nft


@pytest.mark.long
@pytest.mark.parametrize("state", [State.RUNNING, State.STORING, State.DERIVING])
def test_a_killed_worker_of_the_stack_costs_a_training_nothing_but_time(stack: LiveStack, model: str, state: State) -> None:
    """The supervisor starts another one, which goes on: one asset, one minting."""
    killed: list[int] = []

    def kill_once(job: Job) -> None:
        begun = state is not State.RUNNING or (job.progress is not None and job.progress.step > 50)
        if job.state is state and begun and not killed:
            components = stack.run("status", "--json").json["components"]
            killed.append(next(part["pid"] for part in components if part["name"] == "worker"))
            os.kill(killed[0], signal.SIGKILL)

    job = done(stack, model, Kind.TRAIN, {**TRAINING, "steps": 300, "seed": len(state.value)}, kill_once)
    if state is not State.STORING:  # it may be too short to be met
        assert killed and job.attempts == 2
    assert job.derived_did is not None
    derived = open_catalogue(stack.settings).find(job.derived_did)
    assert open_ledger(stack.settings).minted(derived.datatoken, local_accounts()["bob"].address) == (200 * 10**18,)
