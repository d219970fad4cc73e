"""What a job that asked a model brings back: answers and their receipt, or a statement that the operator has signed.

In: a finished job as the market shows it, what was asked. Out: typed values. This module must never trust a market: what does not
belong to what was asked is refused, and a statement is only as good as its check against the chain (`verify_evaluation`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from control_plane.did import Address, Did
from control_plane.errors import BadInput, IntegrityBroken
from control_plane.jobs.job import canonical_json
from control_plane.jobs.parameters import Evaluate, Limits, parse_parameters
from control_plane.jobs.states import Kind
from control_plane.receipts.evaluation import SignedEvaluation, texts_digest
from control_plane.receipts.receipt import Issued, request_hash, response_hash
from deploy.buyer import KeptCall
from deploy.job_trading import Wanted

_ANY_MODEL = Limits(context_length=1 << 40)
"""A buyer does not know how much the model reads; the market has refused what is too much for it."""
_SHOWN_LOSS = 6e-5
"""A job's result has its loss in four decimals, the statement in six."""


@dataclass(frozen=True)
class Answer:
    """finish_reason: `stop` or `length`. tokens: computed."""

    text: str
    finish_reason: str
    tokens: int


def answers_of(job: Mapping[str, Any], prompts: int) -> list[Answer]:
    """In the order of the prompts. Raises IntegrityBroken for a result that is not one of so many prompts."""
    try:
        found = [Answer(each["text"], each["finish_reason"], each["tokens"]) for each in json.loads(job["result"]["answers"])]
        if len(found) != prompts or not all(isinstance(each.text, str) and type(each.tokens) is int for each in found):
            raise ValueError("other answers")
    except (KeyError, TypeError, ValueError, RecursionError):
        _strange(job, f"answers to {prompts} prompts")
    return found


def call_of(job: Mapping[str, Any], owner: Address, asked: Mapping[str, Any] | None = None) -> KeptCall | None:
    """A batch of prompts as a call that is kept: its receipt, and the bytes that it speaks of. None for a job that has no receipt.

    asked: parameters that were given: then there must be a receipt, and of these. Raises IntegrityBroken for one that is not of
    this job, this owner, these parameters and this result. What the receipt is worth, the log and the chain say (`verify`).
    """
    if job.get("receipt") is None and asked is None:
        return None
    try:
        issued, parameters = Issued.from_json(job["receipt"]), job["parameters"]
        request, response = canonical_json(parameters).encode(), canonical_json(job["result"]).encode()
        said = issued.signed.receipt
        held = (
            (said.did, job["did"]),
            (said.model_digest, job["model_digest"]),
            (said.consumer, owner),
            (said.order, job["original_order"] or job["payment"]),
            (said.request_hash, request_hash(issued.salt, request)),
            (said.response_hash, response_hash(issued.salt, response)),
            *((parameters[name], value) for name, value in (asked or {}).items()),
        )
        if any(found != expected for found, expected in held):
            raise ValueError("about something else")
    except (KeyError, TypeError, ValueError, RecursionError, BadInput):
        _strange(job, "a receipt of what was asked and answered")
    return KeptCall(said.did, "/v1/jobs", request, response, job["receipt"], (said.finished_at - said.started_at) / 1000)


def texts_of(wanted: Wanted) -> list[bytes] | None:
    """What an evaluation was given to read, in UTF-8; None: passages that the operator draws."""
    given = wanted.parameters.get("texts")
    return None if given is None else [str(text).encode() for text in given]


def statement_of(job: Mapping[str, Any], wanted: Wanted, owner: Address) -> SignedEvaluation:
    """The operator's statement, when it is about what was wanted: this model, these texts or this drawing, asked for by `owner`.

    job: what the market brings back; nothing that was asked is taken from it. Without `max_tokens` a model that reads less than
    usual may have read less. Raises IntegrityBroken otherwise. Whether the signature is the operator's, and the digest the model's,
    only the chain can say.
    """
    try:
        result, texts = job["result"], texts_of(wanted)
        signed = SignedEvaluation.from_json(json.loads(result["statement"]))
        said, asked = signed.evaluation, parse_parameters(Kind.EVALUATE, wanted.parameters, _ANY_MODEL)
        assert isinstance(asked, Evaluate)  # noqa: S101  # of this kind
        is_named = wanted.parameters.get("max_tokens") is not None
        held = (
            (said.did, wanted.did),
            (said.evaluator, owner),
            (said.model_digest, job["model_digest"]),
            (said.tokens, result["tokens"]),
            (said.max_tokens, asked.max_tokens if is_named else min(said.max_tokens, asked.max_tokens)),
            (said.is_sampled, texts is None),
            (said.sample_seed, asked.seed if texts is None else 0),
            (said.samples, asked.samples if texts is None else len(texts)),
            (said.dataset_digest, said.dataset_digest if texts is None else texts_digest(texts)),
        )
        if any(found != expected for found, expected in held) or abs(said.loss - result["loss"]) > _SHOWN_LOSS:
            raise ValueError("about something else")
    except (KeyError, TypeError, ValueError, RecursionError, BadInput):
        _strange(job, "a signed statement of what was asked to be evaluated")
    return signed


def published_statement(record: object, did: Did | None = None) -> SignedEvaluation:
    """The statement in a published evaluation as the market shows it. did: of the asset that it must be of.

    Raises IntegrityBroken for a record that is none, or of another asset. What the statement is worth, only the chain can say.
    """
    try:
        if not isinstance(record, Mapping) or not isinstance(record["id"], str):
            raise ValueError("no record")
        signed = SignedEvaluation.from_json(record["statement"])
        if did not in (None, signed.evaluation.did):
            raise ValueError("of another asset")
    except (KeyError, ValueError, BadInput) as error:
        found = f"{did or 'job'}: expected a published evaluation, the market shows something else"
        raise IntegrityBroken(found, code="result_differs") from error
    return signed


def _strange(job: Mapping[str, Any], expected: str) -> NoReturn:
    raise IntegrityBroken(f"job {job.get('job_id')}: expected {expected}, the market gave something else", code="result_differs")
