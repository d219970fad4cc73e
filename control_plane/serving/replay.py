"""Served parity: an entry's own probes, asked again of the inference server.

In: an entry's folder, and a server that has loaded it. Out: the worst difference of each output, or a refusal. This module must
never widen a bound, and never call an entry equal that has nothing to be asked.

What `converters` compared in its own process was a graph; what buyers call is the graph with a backend, a tokenizer or processor,
and a server around it. So the same question is put to the whole, in the form a buyer's call has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.errors import BadInput, Refused
from control_plane.serving import oip
from control_plane.serving.inference import InferenceServer
from converters.entry import Entry, read_entry
from converters.errors import EntryBroken
from converters.probes import Difference, Probe, ProbeTensor, differences, infer_answer, infer_request, read_probes
from converters.tasks.task import FILES


@dataclass(frozen=True)
class ServedParity:
    """The worst that was seen of one output. relative: a part of the expected output's largest value. probes: calls compared."""

    output: str
    worst_absolute: float
    worst_relative: float
    bound: float
    probes: int


def replay(server: InferenceServer, name: str, folder: Path) -> tuple[ServedParity, ...]:
    """Ask the entry `name` its probes and compare: one line an output, in the order of the first probe that has it.

    Raises Refused with code parity_failed naming output, difference and bound; with code no_probes for an entry that has none;
    with code entry_broken. Unavailable when the server does not answer: try again. Again: asks again.
    """
    try:
        entry, probes = read_entry(folder), read_probes(folder)
    except EntryBroken as error:
        raise Refused(f"{name}: {error}", code="entry_broken") from error
    if not probes:
        raise Refused(
            f"{name}: expected probes.json with calls and PyTorch's answers, found none; convert the model again", code="no_probes"
        )
    seen: dict[str, list[Difference]] = {}
    for probe in probes:
        try:
            answer = _answer(server, name, entry, probe)
        except BadInput as error:
            raise Refused(f"{name}: the served entry refuses its own probe: {error.message}", code="parity_failed") from error
        for difference in differences(probe, answer):
            if not difference.is_within:
                raise Refused(f"{name}: {_words(difference)}", code="parity_failed")
            seen.setdefault(difference.output, []).append(difference)
    return tuple(
        ServedParity(
            output,
            _rounded(max(each.absolute for each in found)),
            _rounded(max(each.relative for each in found)),
            min(each.bound for each in found),
            len(found),
        )
        for output, found in seen.items()
    )


def _answer(server: InferenceServer, name: str, entry: Entry, probe: Probe) -> Mapping[str, ProbeTensor]:
    if entry.backend == "generate":
        made = oip.generated_tensors(server.generate(name, _fields(entry, probe)))
        return {each.name: ProbeTensor(each.name, each.dtype, each.shape, oip.pack(each.dtype, each.elements)) for each in made}
    body, length = infer_request(probe)
    answer = server.infer(name, body, length)
    try:
        return infer_answer(answer.body, answer.header_length)
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(
            f"{name}: expected the probe's outputs as binary tensors, found another answer", code="parity_failed"
        ) from error


def _fields(entry: Entry, probe: Probe) -> dict[str, Any]:
    """A generation's fields by tensor name: a bare value where the entry takes exactly one."""
    lengths = {tensor.name: tensor.shape for tensor in entry.inputs}
    fields: dict[str, Any] = {}
    for tensor in probe.inputs:
        raw = oip.RawTensor(tensor.dtype, tensor.shape, tensor.raw)
        elements: tuple[Any, ...] = oip.items(raw) if tensor.dtype == "BYTES" else oip.numbers(raw)
        if tensor.dtype == "BYTES" and tensor.name not in FILES:
            elements = tuple(item.decode("utf-8") for item in elements)
        fields[tensor.name] = elements[0] if lengths.get(tensor.name) == (1,) else list(elements)
    fields.pop("stream", None)
    return fields


def _rounded(difference: float) -> float:
    """To two digits: the rest changes from run to run with the order of additions."""
    return float(f"{difference:.1e}")


def _words(difference: Difference) -> str:
    if math.isinf(difference.relative):
        return (
            f"the served answer is not PyTorch's at output {difference.output!r}: expected an equal one, or of equal dtype and"
            f" shape where numbers may differ by {difference.bound:.1e}; found another"
        )
    return (
        f"the served answer differs from PyTorch's by {difference.relative:.1e} of the largest value at output"
        f" {difference.output!r}; bound is {difference.bound:.1e}"
    )
