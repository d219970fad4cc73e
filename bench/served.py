"""What lies between our engine and a buyer: the same generations inside the engine, through Triton, and through the gate.

In: a running market and its model on sale, an engine's process with the same entry. Out: tokens a second by way and number of
clients, and seconds to the first text, alone and under load. This module must never start or install anything.

The three ways take turns in every round, with the same prompts and as many threads. All share the machine's cores.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from bench.generation_models import Shape, text_of
from bench.load import median, percentile
from bench.stack import OnSale, Stack
from bench.streams import Door, over_and_over, together, tokens_a_second
from control_plane.serving.triton_messages import generate_body

CLIENTS = (1, 4, 8, 16)
LOADED = 8
"""Clients of the load, and of the bar for streams that share a step."""
ALONE = 12
"""Calls for the time to the first text of one client."""

Within = Callable[[list[list[int]], int], float]
"""Prompts and tokens -> seconds inside the engine."""


def doors(stack: Stack, model: OnSale) -> tuple[Door, Door]:
    """Triton itself, and the gate."""
    settings, session = stack.settings, stack.buy(model, "bob")

    def asked(prompt: str, tokens: int) -> bytes:
        fields = {"text_input": prompt, "max_tokens": tokens, "temperature": 0.0}
        return generate_body(fields, is_streamed=True, caller="bench")

    def completion(prompt: str, tokens: int) -> bytes:
        fields = {"model": model.did, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        return json.dumps({**fields, "stream_options": {"include_usage": True}}).encode()

    as_json = {"Content-Type": "application/json"}
    straight = f"{settings.triton_url}/v2/models/{model.entry}/generate_stream"
    return (
        Door("Triton", straight, {**as_json, "triton-key": settings.triton_key}, asked),
        Door("gate", f"{settings.public_url}/v1/completions", {**as_json, "Authorization": f"Bearer {session.token}"}, completion),
    )


def compare(
    within: Within, ways: Sequence[Door], shape: Shape, *, rounds: int, prompt: int, clients: Sequence[int] = CLIENTS
) -> dict[str, Any]:
    """prompt: its tokens. The first round warms up."""
    chances, tokens = numpy.random.default_rng(1), shape.tokens
    rates: dict[str, dict[str, list[float]]] = {name: {} for name in ("engine", *(door.name for door in ways))}
    for number in range(rounds + 1):
        for count in clients:
            prompts = shape.prompts(chances, count, prompt)
            found = {"engine": count * tokens / within(prompts, tokens)}
            texts = [text_of(one) for one in prompts]
            found |= {door.name: tokens_a_second(together(door, texts, tokens)) for door in ways}
            if number:
                for name, rate in found.items():
                    rates[name].setdefault(str(count), []).append(rate)
    texts = [text_of(one) for one in shape.prompts(chances, LOADED, prompt)]
    first: dict[str, Any] = {}
    for door in ways:
        alone = [made.first - made.began for _ in range(ALONE) for made in together(door, texts[:1], 2)]
        under_load = [made.first - made.began for made in over_and_over(door, texts, tokens, shape.load_s)]
        first[door.name] = {
            "alone_ms": 1e3 * median(alone),
            "calls": len(under_load),
            "loaded_p50_ms": 1e3 * median(under_load),
            "loaded_p95_ms": 1e3 * percentile(under_load, 0.95),
        }
    return {"tokens_per_second": rates, "first_text": first}


def added_per_token(rates: dict[str, dict[str, list[float]]], way: str, count: str) -> list[float]:
    """By round: how much longer a token takes than inside the engine, as a part of that."""
    return [inside / through - 1 for inside, through in zip(rates["engine"][count], rates[way][count], strict=True)]


def table(found: dict[str, Any]) -> list[str]:
    rates = found["tokens_per_second"]
    counts = list(rates["engine"])
    lines = [f"| way | {' | '.join(f'{count} at once' for count in counts)} |", "|---" * (len(counts) + 1) + "|"]
    for name, by_count in rates.items():
        cells = []
        for count in counts:
            cell = f"{median(by_count[count]):.0f} ({min(by_count[count]):.0f} to {max(by_count[count]):.0f})"
            if name != "engine":
                added = added_per_token(rates, name, count)
                cell += f"; {100 * median(added):+.1f} % ({100 * min(added):+.1f} to {100 * max(added):+.1f})"
            cells.append(cell)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| way | first text: alone, ms | of 8 clients, p50 and p95, ms | p95 / alone | 8 streams / one |",
        "|---|---|---|---|---|",
    ]
    for name, one in found["first_text"].items():
        many = [eight / single for eight, single in zip(rates[name][str(LOADED)], rates[name]["1"], strict=True)]
        lines.append(
            f"| {name} | {one['alone_ms']:.0f} | {one['loaded_p50_ms']:.0f}, {one['loaded_p95_ms']:.0f} of {one['calls']} calls"
            f" | {one['loaded_p95_ms'] / one['alone_ms']:.1f} | {median(many):.1f} ({min(many):.1f} to {max(many):.1f}) |"
        )
    return lines
