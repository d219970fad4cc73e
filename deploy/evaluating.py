"""Evaluate a model as one of its buyers: each text is a call of one's own, through the market's public API and nothing else.

In: a market, a wallet with an order, texts. Out: the loss with the receipt of each call. This module must never compute anything
that `c2d_adapter/algorithms/evaluate.py` does not: the operator's figure and a buyer's must be made alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2d_adapter.algorithms.evaluate import Found, TooLong
from c2d_adapter.algorithms.evaluate import draw as draw_passages
from c2d_adapter.algorithms.evaluate import evaluate as evaluate_texts
from c2d_adapter.job_io import JobFailed
from control_plane.chain.ledger import Wallet
from control_plane.did import Did, TransactionHash
from control_plane.errors import BadInput, PosthumanError, Unavailable
from control_plane.receipts.receipt import Issued
from deploy.buyer import BuyerFiles
from deploy.market import Market, MarketRefused
from deploy.trading import call

TRIES = 6
_LONGEST_WAIT_S = 60
_LATER = frozenset({"too_fast", "too_many_calls", "queue_full", "queue_timeout"})
"""Refusals that were not charged and that time mends."""
_BROKEN = "loss_not_finite"


class CannotEvaluate(PosthumanError):
    """These texts have no loss by this model. `code` is one of a job's (`c2d_adapter/job_io.py`)."""

    status = 422


@dataclass(frozen=True)
class Paid:
    """One call. file: where its bytes and its receipt are kept."""

    issued: Issued
    file: Path


@dataclass(frozen=True)
class Evaluated:
    """calls: one a sample, in their order."""

    found: Found
    calls: tuple[Paid, ...]


def draw(texts: Sequence[str], samples: int, seed: int) -> list[str]:
    """The passages that the operator's own evaluation with this seed draws. Raises CannotEvaluate where there are too few."""
    try:
        return draw_passages(texts, samples, seed)
    except JobFailed as failed:
        raise CannotEvaluate(failed.sentence, code=failed.code) from failed


def evaluate(
    market: Market,
    wallet: Wallet,
    files: BuyerFiles,
    did: Did,
    chain_id: int,
    texts: Sequence[str],
    max_tokens: int,
    order: TransactionHash | None = None,
    on_sample: Callable[[int, Found], None] = lambda _number, _found: None,
    sleep: Callable[[float], object] = time.sleep,
) -> Evaluated:
    """One call a text, one after the other, each charged and kept like any other. max_tokens: of each text its first; 0: all.

    Raises MarketRefused, Unavailable and CannotEvaluate; the calls before it were made and are kept. Again: asks and pays again.
    """
    paid: list[Paid] = []

    def score(text: str) -> Sequence[float]:
        body = {"model": did, "prompt": text, "echo": True, "max_tokens": 0, "logprobs": 0}
        for left in reversed(range(TRIES)):
            try:
                answered, file = call(market, wallet, files, did, chain_id, body, order=order)
                break
            except MarketRefused as refused:
                if refused.code == "prompt_too_long":
                    raise TooLong from refused
                if not left or refused.code not in _LATER:
                    raise
                sleep(min(refused.retry_after_s or 1, _LONGEST_WAIT_S))
        paid.append(Paid(Issued.from_json(answered.receipt), file))
        return _logarithms(answered.response)

    try:
        found = evaluate_texts(texts, score, max_tokens, on_sample)
    except JobFailed as failed:
        error = CannotEvaluate(failed.sentence, code=failed.code)
        error.status = 500 if failed.code == _BROKEN else CannotEvaluate.status
        raise error from failed
    return Evaluated(found, tuple(paid))


def read_text(path: Path) -> str:
    """Raises BadInput for a file that is no text in UTF-8, or has none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(str(path), "a text in UTF-8", type(error).__name__) from error
    if not text.strip():
        raise BadInput(str(path), "a text that is not empty", f"{len(text)} characters of white space")
    return text


def _logarithms(response: bytes) -> list[float]:
    """Of the answer's tokens, from the second. Raises Unavailable for an answer of another form: a market is not to be trusted."""
    try:
        record: Any = json.loads(response)
        first, *others = record["choices"][0]["logprobs"]["token_logprobs"]
        if first is not None or any(isinstance(each, bool) or not isinstance(each, int | float) for each in others):
            raise ValueError("something else than numbers")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Unavailable(
            "the market gave an answer without the probabilities of the text's tokens", code="strange_answer"
        ) from error
    return [float(each) for each in others]
