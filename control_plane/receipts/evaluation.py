"""An evaluation: what the operator states of a model's loss on texts, as a value with one canonical byte form.

In: what was scored, and its loss. Out: `Evaluation`, `SignedEvaluation`, the digest of texts. This module must never do I/O, or
hold a text.

A statement stands for itself: it is in no log, so its time and its evaluator are the operator's word. What a stranger can check is
who said it, and of which model; whether the loss is true, by asking the same model the same texts: anybody with an order can
(`posthuman evaluate`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from control_plane.did import Address, Bytes32, Did, UnixMillis, parse_address, parse_bytes32, parse_did
from control_plane.errors import BadInput
from control_plane.receipts.signed import keys_of, read_signed, signed_record

VERSION = 1
TEXTS_PREFIX = b"posthuman/texts/v1\0"
MICRO = 1_000_000
_NUMBERS = ("sample_seed", "samples", "max_tokens", "tokens", "loss_micronats", "evaluated_at")


@dataclass(frozen=True)
class Evaluation:
    """One model on some texts, as EIP-712 signs it; field order is the type's.

    nft: the asset's, of which `did` is the DID. evaluator: who asked for it, and paid. dataset_digest: `texts_digest` of the texts.
    is_sampled: `samples` passages were drawn of them by `sample_seed`; otherwise each of them was scored, and the seed is 0.
    max_tokens: taken of one passage at most, its first among them. tokens: that have a probability, over all. loss_micronats: mean
    over them, 10**-6 nats.
    evaluated_at: milliseconds since 1970, UTC.
    """

    did: Did
    nft: Address
    evaluator: Address
    model_digest: Bytes32
    dataset_digest: Bytes32
    is_sampled: bool
    sample_seed: int
    samples: int
    max_tokens: int
    tokens: int
    loss_micronats: int
    evaluated_at: UnixMillis

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.loss_micronats / MICRO

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, record: object) -> Evaluation:
        """Raises BadInput for a missing, unknown or ill-typed field."""
        names = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping) or set(record) != names:
            raise BadInput("evaluation", f"exactly the fields {sorted(names)}", keys_of(record))
        for name in _NUMBERS:
            value = record[name]
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
                raise BadInput(f"evaluation.{name}", "a whole number below 2**64", value)
        if not isinstance(record["is_sampled"], bool):
            raise BadInput("evaluation.is_sampled", "true or false", record["is_sampled"])
        if not record["is_sampled"] and record["sample_seed"]:
            raise BadInput("evaluation.sample_seed", "0 where nothing is drawn", record["sample_seed"])
        if not record["samples"] or not record["tokens"]:
            raise BadInput("evaluation", "at least one sample, of at least one token", "none")
        return cls(
            did=parse_did(record["did"], "evaluation.did"),
            nft=parse_address(record["nft"], "evaluation.nft"),
            evaluator=parse_address(record["evaluator"], "evaluation.evaluator"),
            model_digest=parse_bytes32(record["model_digest"], "evaluation.model_digest"),
            dataset_digest=parse_bytes32(record["dataset_digest"], "evaluation.dataset_digest"),
            is_sampled=record["is_sampled"],
            sample_seed=record["sample_seed"],
            samples=record["samples"],
            max_tokens=record["max_tokens"],
            tokens=record["tokens"],
            loss_micronats=record["loss_micronats"],
            evaluated_at=UnixMillis(record["evaluated_at"]),
        )


@dataclass(frozen=True)
class SignedEvaluation:
    """An evaluation, the log's EIP-712 domain, and the operator's signature by its receipt key (as of a receipt)."""

    evaluation: Evaluation
    chain_id: int
    log: Address
    signature: bytes

    def to_json(self) -> dict[str, Any]:
        return signed_record(VERSION, "evaluation", self.evaluation.to_json(), self.chain_id, self.log, self.signature)

    @classmethod
    def from_json(cls, record: object) -> SignedEvaluation:
        """Raises BadInput as `read_signed` does, and for an evaluation that is none."""
        said, chain_id, log, signature = read_signed(record, VERSION, "evaluation")
        return cls(Evaluation.from_json(said), chain_id, log, signature)


def statement_bytes(signed: SignedEvaluation) -> bytes:
    """The one canonical byte form: JSON with sorted keys and no spaces."""
    return json.dumps(signed.to_json(), sort_keys=True, separators=(",", ":")).encode("ascii")


def statement_hash(signed: SignedEvaluation) -> Bytes32:
    """Name of a statement: SHA-256 of its bytes."""
    return Bytes32("0x" + hashlib.sha256(statement_bytes(signed)).hexdigest())


def texts_digest(texts: Sequence[bytes]) -> Bytes32:
    """SHA-256 over the canonical list of each text's length and SHA-256, in order: the bytes of files as they are, or of texts in
    UTF-8. It is of public texts what the model digest is of a model; of a secret one that can be guessed it is none.
    """
    listed = [[len(text), hashlib.sha256(text).hexdigest()] for text in texts]
    return Bytes32("0x" + hashlib.sha256(TEXTS_PREFIX + json.dumps(listed, separators=(",", ":")).encode("ascii")).hexdigest())


def micronats(loss: float) -> int:
    """A loss as statements have it. Raises BadInput for one that is no number or negative: the model is broken."""
    if not math.isfinite(loss) or loss < 0 or round(loss * MICRO) >= 2**64:
        raise BadInput("loss", "a finite number of nats from 0", loss)
    return round(loss * MICRO)
