"""A published model and what a training job would leave of it: weights that are changed a little, and how they came to be."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from control_plane.did import Address, Bytes32, Did, TokenWei
from control_plane.flows.derivation import Derivation
from control_plane.flows.derive import Trained
from control_plane.flows.entries import weights_folder
from control_plane.flows.publish import publish
from control_plane.serving.listing import Listing
from converters.weights_folder import weights_digest
from tests.fixtures_publish import Stand, make_model

ALGORITHM = Did("did:op:" + "a1" * 32)
DATASET = "wikitext-2"


def published(stand: Stand, name: str = "GPT") -> Listing:
    """Alice's model, published from a folder, so that it can be trained."""
    model = make_model(stand.folder / f"model {name}", name.encode())
    request = stand.request(model=str(model), name=name, rate=TokenWei(3 * 10**18))
    return publish(stand.market, stand.chain.wallets["alice"], request).listing


def trained(stand: Stand, parent: Listing, trainer: Address, job: str = "one") -> Trained:
    """The parent's weights, each byte of them moved by a job."""
    assert parent.weights_digest is not None
    job_id = hashlib.sha256(job.encode()).hexdigest()[:32]
    folder = Path(shutil.copytree(weights_folder(stand.market.weights, parent.weights_digest), stand.folder / "jobs" / job_id))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b" and " + job.encode())
    return Trained(derivation_of(parent, trainer, job_id, Bytes32(weights_digest(folder))), folder)


def derivation_of(parent: Listing, trainer: Address, job_id: str, weights: Bytes32) -> Derivation:
    assert parent.weights_digest is not None
    return Derivation(
        job=job_id,
        trainer=trainer,
        chain_id=parent.chain_id,
        parent_nft=parent.nft,
        parent_digest=parent.model_digest,
        parent_weights=parent.weights_digest,
        dataset=DATASET,
        algorithm=ALGORITHM,
        parameters={"steps": 500, "learning_rate": 0.0005},
        weights_digest=weights,
    )


def other_weights(job: Trained) -> Trained:
    """The same job, that says it came to other weights."""
    return replace(job, derivation=replace(job.derivation, weights_digest=Bytes32("0x" + "00" * 32)))
