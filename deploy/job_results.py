"""What a job that asked a model brings back: answers, or a statement that the operator has signed.

In: a finished job as the market shows it, what was asked. Out: typed values. This module must never trust a market: what does not
belong to what was asked is refused, and a statement is only as good as its check against the chain (`verify_evaluation`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from control_plane.errors import BadInput, IntegrityBroken
from control_plane.receipts.evaluation import SignedEvaluation, texts_digest

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


def statement_of(job: Mapping[str, Any], texts: Sequence[bytes] | None) -> SignedEvaluation:
    """The operator's statement, when it is about this job: its model, its parameters, its loss.

    texts: what was sent to be evaluated; None: passages that the operator has drawn. Raises IntegrityBroken otherwise. Whether the
    signature is the operator's, only the chain can say.
    """
    try:
        result, asked = job["result"], job["parameters"]
        signed = SignedEvaluation.from_json(json.loads(result["statement"]))
        said = signed.evaluation
        is_sampled = texts is None
        held = (
            (said.did, job["did"]),
            (said.evaluator, job["owner"]),
            (said.model_digest, job["model_digest"]),
            (said.tokens, result["tokens"]),
            (said.samples, result["samples"]),
            (said.max_tokens, asked["max_tokens"]),
            (said.is_sampled, is_sampled),
            (said.sample_seed, asked["seed"] if is_sampled else 0),
            (said.samples, asked["samples"] if is_sampled else len(texts or ())),
            (said.dataset_digest, said.dataset_digest if texts is None else texts_digest(texts)),
        )
        if any(found != expected for found, expected in held) or abs(said.loss - result["loss"]) > _SHOWN_LOSS:
            raise ValueError("about something else")
    except (KeyError, TypeError, ValueError, RecursionError, BadInput):
        _strange(job, "a signed statement of what was evaluated")
    return signed


def _strange(job: Mapping[str, Any], expected: str) -> NoReturn:
    raise IntegrityBroken(f"job {job.get('job_id')}: expected {expected}, the market gave something else", code="result_differs")
