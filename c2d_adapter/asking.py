"""Jobs that ask the served model, as the operator's own calls: the same Triton model and queue as every buyer's inference.

In: an inference server, an entry's name, a job's folder. Out: a result in the folder, a signed statement in that of an evaluation.
This module must never open a weight; what it computes stands in `c2d_adapter/algorithms`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2d_adapter.algorithms import evaluate as evaluating
from c2d_adapter.algorithms import infer as inferring
from c2d_adapter.algorithms.evaluate import Found, Score, TooLong
from c2d_adapter.algorithms.infer import Answer, Made
from c2d_adapter.engine import Outcome, Progress
from c2d_adapter.job_io import Folder, JobFailed
from control_plane.did import Address, Bytes32, Did, UnixMillis
from control_plane.errors import BadInput, Unavailable
from control_plane.receipts.evaluation import Evaluation, SignedEvaluation, micronats, statement_bytes, texts_digest
from control_plane.receipts.signing import ReceiptSigner
from control_plane.serving.inference import ABANDONED, Generated, InferenceServer, never

CALLER = "jobs"
"""Who asks, for the queue: jobs together take turns with each buyer."""
TRIES = 6
_WAIT_S = 2.0
_BUSY = frozenset({"queue_full", "queue_timeout"})


@dataclass(frozen=True)
class Evaluated:
    """Of which asset a statement speaks, and who asked for it."""

    did: Did
    nft: Address
    evaluator: Address
    model_digest: Bytes32


class Asking:
    """One model, asked patiently: a queue that is full is waited for, since a job is in no hurry."""

    def __init__(
        self,
        server: InferenceServer,
        entry_name: str,
        is_over: Callable[[], bool] = never,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """is_over: asked now and then; when it says so, what is computed is stopped and Unavailable raised."""
        self._server, self._entry_name, self._is_over, self._sleep = server, entry_name, is_over, sleep

    def score(self, text: str) -> Sequence[float]:
        """See `evaluate.Score`. Raises BadInput and Unavailable as the server does."""
        return self._ask({"text_input": text, "score": True}).token_logprobs[1:]

    def answer(self, fields: Mapping[str, Any]) -> Made:
        """See `infer.Answer`."""
        made = self._ask(fields)
        return Made(made.text, made.finish_reason or "", made.prompt_tokens, made.completion_tokens)

    def _ask(self, fields: Mapping[str, Any]) -> Generated:
        for left in reversed(range(TRIES)):
            if self._is_over():  # the server asks only while it computes, and a short text takes no time
                raise Unavailable(f"{self._entry_name}: nobody waits for this answer any more", code=ABANDONED)
            try:
                return self._server.generate(self._entry_name, fields, CALLER, self._is_over)
            except BadInput as error:
                if error.code == "prompt_too_long":
                    raise TooLong from error
                raise
            except Unavailable as error:
                if not left or error.code not in _BUSY:
                    raise
                self._sleep(_WAIT_S)
        raise AssertionError("the last try returns or raises")


@dataclass(frozen=True)
class _Told(Folder):
    """A job's folder whose progress is also told."""

    on_progress: Callable[[Progress], None]

    def write_progress(self, step: int, steps: int, loss: float | None, steps_per_second: float) -> None:
        super().write_progress(step, steps, loss, steps_per_second)
        self.on_progress(json.loads((self.path / "progress.json").read_text()))


def run(
    path: Path,
    kind: str,
    server: InferenceServer,
    entry_name: str,
    of: Evaluated,
    signer: ReceiptSigner,
    timeout_s: float,
    on_progress: Callable[[Progress], None],
    is_stopped: Callable[[], bool],
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
) -> Outcome:
    """Do a job of either kind as `Engine.run` does those that need weights, and return when it ended.

    Again: a job that has its result is finished at once. Raises BadInput for another kind, Unavailable when the server does not
    answer: nothing is decided then.
    """
    folder, until = _Told(path, on_progress), clock() + timeout_s
    if kind not in (evaluating.KIND, inferring.KIND):
        raise BadInput("kind", f"{evaluating.KIND} or {inferring.KIND}", kind)
    if folder.is_done:
        return Outcome("finished", 1)
    asked = Asking(server, entry_name, lambda: is_stopped() or clock() >= until, sleep)
    try:
        if kind == evaluating.KIND:
            evaluate(folder, asked.score, of, signer, clock)
        else:
            infer(folder, asked.answer)
    except JobFailed as failed:
        return _failed(folder, failed)
    except BadInput as error:  # its words may be about a text
        return _failed(folder, JobFailed("internal", f"The model does not take this job's {error.field}."))
    except Unavailable as error:
        if error.code != ABANDONED:
            raise
        return Outcome("stopped" if is_stopped() else "timed_out", 1)
    return Outcome("finished", 1)


def _failed(folder: Folder, failed: JobFailed) -> Outcome:
    folder.write_failure(failed)
    return Outcome("failed", 1, failed.code, failed.sentence)


def evaluate(folder: Folder, score: Score, of: Evaluated, signer: ReceiptSigner, clock: Callable[[], float]) -> SignedEvaluation:
    """Do an evaluation: score, sign, write the result. clock: seconds since 1970, UTC.

    Raises JobFailed for the job's owner; BadInput and Unavailable of the server. Again: another statement of the same loss.
    """
    parameters = folder.parameters(evaluating.KIND)
    found = evaluating.work(folder, score)
    signed = signer.sign_evaluation(statement_of(found, parameters, texts_in(folder, parameters), of, clock()))
    folder.write_result(evaluating.result_of(found, statement_bytes(signed).decode("ascii")))
    return signed


def infer(folder: Folder, answer: Answer) -> None:
    """Answer a batch of prompts. Raises as `evaluate`."""
    inferring.work(folder, answer)


def texts_in(folder: Folder, parameters: Mapping[str, Any]) -> list[bytes]:
    """The exact bytes of what a job evaluates, for its digest: the files as they are, or the texts in UTF-8."""
    if parameters.get("texts") is not None:
        return [str(text).encode("utf-8") for text in parameters["texts"]]
    return [path.read_bytes() for path in folder.text_files()]


def statement_of(found: Found, parameters: Mapping[str, Any], texts: Sequence[bytes], of: Evaluated, now: float) -> Evaluation:
    """now: seconds since 1970, UTC. Raises BadInput for a loss that cannot be stated."""
    is_sampled = parameters.get("texts") is None
    return Evaluation(
        did=of.did,
        nft=of.nft,
        evaluator=of.evaluator,
        model_digest=of.model_digest,
        dataset_digest=texts_digest(texts),
        is_sampled=is_sampled,
        sample_seed=int(parameters["seed"]) if is_sampled else 0,
        samples=len(found.samples),
        max_tokens=int(parameters["max_tokens"]),
        tokens=found.tokens,
        loss_micronats=micronats(max(0.0, found.loss)),
        evaluated_at=UnixMillis(int(now * 1000)),
    )
