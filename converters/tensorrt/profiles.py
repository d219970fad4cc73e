"""Optimisation profiles: the shapes TensorRT builds an engine for, from the axes of an entry's graph.

In: `Entry.details`, and the lengths of axes that only the publisher knows. Out: `Profile`s. This module must never guess an axis:
an engine refuses what lies outside its profile, so a wrong guess is a refused call.

A generator with a cache gets two profiles: 0 reads a prompt, from an empty cache; 1 makes one token after what is cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.errors import ConversionFailed
from converters.tasks.generation import LENGTHS

USUAL_TOKENS = 128
"""What a profile is tuned for where calls may be of any length: a prompt of a paragraph."""


@dataclass(frozen=True)
class Span:
    """Least, usual and most of one length; the engine is fastest at the usual one. All counted from 0."""

    least: int
    usual: int
    most: int

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.usual <= self.most:
            raise ConversionFailed(f"profile: expected 0 <= least <= usual <= most, found {self.least}, {self.usual}, {self.most}")

    def __add__(self, other: Span) -> Span:
        return Span(self.least + other.least, self.usual + other.usual, self.most + other.most)


@dataclass(frozen=True)
class Profile:
    """name: "all", "prompt" or "token". shapes: input -> a span for each of its axes."""

    name: str
    shapes: Mapping[str, tuple[Span, ...]]

    def at(self, which: str) -> dict[str, tuple[int, ...]]:
        """The shape of each input at its "least", "usual" or "most"."""
        return {name: tuple(getattr(span, which) for span in spans) for name, spans in self.shapes.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shapes": {
                name: {which: list(self.at(which)[name]) for which in ("least", "usual", "most")} for name in sorted(self.shapes)
            },
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Profile:
        return cls(
            str(record["name"]),
            {
                str(name): tuple(
                    Span(int(least), int(usual), int(most))
                    for least, usual, most in zip(shape["least"], shape["usual"], shape["most"], strict=True)
                )
                for name, shape in record["shapes"].items()
            },
        )


def profiles_of(details: Mapping[str, Any], most_batch: int, lengths: Mapping[str, Span] | None = None) -> tuple[Profile, ...]:
    """The profiles of an entry with one graph.

    most_batch: largest batch. lengths: axes by their name in the graph, such as an image's height; they win over what follows from
    the entry. Raises ConversionFailed naming an axis whose length nothing says, or an entry of several graphs.
    """
    if "encoder" in details:
        raise ConversionFailed("plan: expected an entry of one graph, found an encoder and a decoder")
    if any(tensor["name"] == LENGTHS for tensor in details["graph_inputs"]):
        raise ConversionFailed(
            "plan: expected a cache that grows, found one buffer, which ONNX Runtime's own attention writes and TensorRT cannot;"
            " convert the model with --kv-cache grown"
        )
    batch = Span(1, max(1, most_batch // 2), most_batch)
    known = {"batch_size": batch, "batch": batch, **(lengths or {})}
    context = details.get("context_length")
    if context is None:
        return (_profile("all", details, known),)
    usual = min(USUAL_TOKENS, int(context))
    if not details.get("layers"):
        return (_profile("all", details, {"sequence_length": Span(1, usual, int(context)), **known}),)
    nothing, one = Span(0, 0, 0), Span(1, 1, 1)
    cached = Span(1, min(4 * USUAL_TOKENS, int(context) - 1), int(context) - 1)
    prompt = {"sequence_length": Span(1, usual, int(context)), "past_sequence_length": nothing, **known}
    token = {"sequence_length": one, "past_sequence_length": cached, **known}
    return _profile("prompt", details, prompt), _profile("token", details, token)


def onnxruntime_shapes(profiles: tuple[Profile, ...], which: str) -> str:
    """ONNX Runtime's form, `a:1x1,b:1x8`; an input of several profiles is listed once for each."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for profile in profiles for name, shape in profile.at(which).items())


def _profile(name: str, details: Mapping[str, Any], known: Mapping[str, Span]) -> Profile:
    shapes = {
        str(tensor["name"]): tuple(_span(str(tensor["name"]), axis, known) for axis in tensor["axes"])
        for tensor in details["graph_inputs"]
    }
    return Profile(name, shapes)


def _span(tensor: str, axis: str | int, known: Mapping[str, Span]) -> Span:
    if isinstance(axis, int) and axis > 0:
        return Span(axis, axis, axis)
    parts = [part.strip() for part in str(axis).split("+")]
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise ConversionFailed(
            f"plan: input {tensor!r} has an axis {unknown[0]!r} whose length the entry does not say;"
            f" give --axis {unknown[0]}=LEAST,USUAL,MOST"
        )
    total = known[parts[0]]
    for part in parts[1:]:
        total = total + known[part]
    return total
