"""Where a decoder's graph attends to its past, and proof that it does so in the plain causal way.

In: a graph with past keys and values. Out: `Attention`, one a layer, or CannotShare. This module must never believe a pattern of
nodes: what a layer multiplies and masks is read off values that ran through it, up to the last place of the context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from converters.export.observe import Look, Size, feeds, run_part
from converters.export.view import View

_MOVES = frozenset({"Transpose", "Expand", "Reshape", "Unsqueeze", "Cast", "Identity", "Mul", "Div"})
"""What may stand between a layer's keys and the product with its queries. `Mul` and `Div` come to one number, or are refused."""
_AFTER_SOFTMAX = {"Where": 2, "Cast": 0, "Identity": 0}
"""Operator -> the input that the softmax comes in by; `Where` puts zeros for a row that sees nothing, which no served row is."""
_OFF = 100.0
"""So much below the row's best, a score weighs exactly 0 in float32."""
_FAR_SCORES = 1 << 26
"""Scores in memory at once."""
_LARGE = 1000.0
"""A score far larger than a model's own: what bends scores softly, as a cap does, shows there."""


class CannotShare(Exception):
    """The graph is served as it is, with a cache that grows; the message says what stood in the way."""


@dataclass(frozen=True)
class Attention:
    """One layer. query, new_key, new_value: tensors [batch, heads, new, head size]; the keys and values without the past.

    scores: the product's tensor; masked: what goes into the softmax; result: [batch, heads, new, head size].
    scale: what the product of a query and a key is multiplied with, whatever parts it comes in. query_heads: of them.
    window: last places that a token sees, itself among them; 0: all.
    """

    query: str
    new_key: str
    new_value: str
    scaled_key: str
    scores: str
    masked: str
    result: str
    scale: float = 0.0
    query_heads: int = 0
    window: int = 0


def attention_of(view: View, layers: Sequence[Mapping[str, str]]) -> list[Attention]:
    """The attention of each layer as its nodes suggest it; nothing is believed before it is `measured`.

    Raises CannotShare for a layer that is not made like one.
    """
    return [_layer(view, layer) for layer in layers]


def watched(found: Sequence[Attention]) -> list[str]:
    """The tensors that `measured` wants to see."""
    return [name for one in found for name in (one.query, one.scaled_key, one.scores, one.masked)]


def measured(found: Sequence[Attention], looks: Sequence[Look], layers: Sequence[Mapping[str, str]]) -> list[Attention]:
    """The layers with what was seen of them.

    Raises CannotShare for one that does anything else than softmax(scale * query * key, causal) * value.
    """
    for look in looks:
        found = [_measured(one, look, look.seen[layer["present_key"]]) for one, layer in zip(found, layers, strict=True)]
    return list(found)


def _layer(view: View, layer: Mapping[str, str]) -> Attention:
    key, value = layer["present_key"], layer["present_value"]
    new_key, new_value = (_joined(view, layer[f"present_{kind}"], layer[f"past_{kind}"]) for kind in ("key", "value"))
    scores, result = _product(view, key), _product(view, value)
    name = result.input[0]
    while (node := view.makers.get(name)) is not None and node.op_type in _AFTER_SOFTMAX:
        name = node.input[_AFTER_SOFTMAX[node.op_type]]
    if node is None or node.op_type != "Softmax":
        raise CannotShare(f"{result.name}: expected values weighted by a softmax, found {node.op_type if node else name}")
    return Attention(
        query=scores.input[0],
        new_key=new_key,
        new_value=new_value,
        scaled_key=scores.input[1],
        scores=scores.output[0],
        masked=node.input[0],
        result=result.output[0],
    )


def _joined(view: View, present: str, past: str) -> str:
    """What is put after the past."""
    node = view.makers[present]
    while node.op_type in ("Cast", "Identity") and node.input[0] in view.makers:
        node = view.makers[node.input[0]]
    if node.op_type != "Concat" or len(node.input) != 2 or _source(view, node.input[0]) != past:
        raise CannotShare(f"{present}: expected {past} with new ones after it, found {node.op_type} of {list(node.input)}")
    return str(node.input[1])


def _source(view: View, name: str) -> str:
    while (node := view.makers.get(name)) is not None and node.op_type in ("Cast", "Identity"):
        name = node.input[0]
    return name


def _product(view: View, present: str) -> Any:
    """The one MatMul whose second factor is `present`, moved and repeated."""
    waiting, found = [present], []
    while waiting:
        name = waiting.pop()
        for node in view.readers.get(name, ()):
            if node.op_type == "MatMul" and node.input[1] == name:
                found.append(node)
            elif node.op_type in _MOVES:
                waiting += [made for made in node.output if node.input[0] == name]
            elif node.op_type != "Shape":
                raise CannotShare(f"{present}: expected nothing but attention to read it, found {node.op_type}")
    if len(found) != 1:
        raise CannotShare(f"{present}: expected one product with it, found {len(found)}")
    return found[0]


def _measured(one: Attention, look: Look, keys: Any) -> Attention:
    """The layer with its scale and window. keys: [batch, key heads, past + new, head size]."""
    size = look.size
    query, scaled, scores, masked = (
        look.seen[name].astype(numpy.float64) for name in (one.query, one.scaled_key, one.scores, one.masked)
    )
    if query.ndim != 4 or scaled.ndim != 4 or query.shape[1] % keys.shape[1]:
        raise CannotShare(f"{one.query}: expected [batch, heads, new, size], found {query.shape} for keys of {keys.shape}")
    heads = query.shape[1]
    plain = numpy.repeat(keys.astype(numpy.float64), heads // keys.shape[1], axis=1).swapaxes(-1, -2)
    if plain.shape != scaled.shape:
        raise CannotShare(f"{one.scaled_key}: expected keys of {plain.shape}, found {scaled.shape}")
    if masked.shape != scores.shape:
        raise CannotShare(f"{one.masked}: expected scores of {scores.shape}, found {masked.shape}")
    of_key = _factor(plain, scaled, f"{one.scaled_key}: expected the keys times a number")
    window = _window(one, masked, size)
    places = numpy.broadcast_to(_causal(size, window), scores.shape)
    after = _factor(scores[places], masked[places], f"{one.masked}: expected the scores of the places it sees times a number")
    return dataclasses.replace(one, scale=of_key * after, query_heads=heads, window=max(window, one.window))


def _window(one: Attention, masked: Any, size: Size) -> int:
    """How many of the last places a new token sees; 0 where all. Raises CannotShare for any other mask."""
    weighs = masked > masked.max(axis=-1, keepdims=True) - _OFF
    seen = int(weighs[0, 0, -1].sum())
    window = seen if seen < size.past + size.new else 0
    if not (weighs == _causal(size, window)).all():
        raise CannotShare(f"{one.masked}: expected weight on all earlier places, or on so many of the last, found another mask")
    return window


def _factor(plain: Any, scaled: Any, expected: str) -> float:
    weight = float((plain * plain).sum())
    if weight == 0:
        raise CannotShare(f"{expected}, found nothing but zeros to tell it from")
    factor = float((plain * scaled).sum()) / weight
    if not numpy.allclose(scaled, factor * plain, rtol=1e-3, atol=1e-4 * max(1.0, float(numpy.abs(scaled).max()))):
        raise CannotShare(f"{expected}, found up to {numpy.abs(scaled - factor * plain).max():.3g} more")
    return factor


def _causal(size: Size, window: int) -> Any:
    """bool [new, past + new]: does the new token see the place?"""
    places: Any = numpy.tril(numpy.ones((size.new, size.past + size.new), bool), size.past)
    return numpy.triu(places, size.past - window + 1) if window else places


def seen_from_afar(
    path: Path, model: Any, found: Sequence[Attention], layers: Sequence[Mapping[str, str]], context: int, vocabulary: int
) -> list[Attention]:
    """The layers with the masks at the end of the context: a window, or a slope over distance, shows there. The scores are zeros.

    path: the graph's file. model: the same without its weights. Raises CannotShare for a mask that is not causal, or differs there,
    and for large scores that are more than multiplied.
    """
    new = min(3, context)
    size = Size(1, new, context - new)
    given = feeds(model.graph, size, vocabulary, numpy.random.default_rng(0))
    most = max(1, _FAR_SCORES // (found[0].query_heads * new * context))
    scaled: list[Attention] = []
    for begin in range(0, len(found), most):
        part, inner = found[begin : begin + most], {}
        for one, layer in zip(part, layers[begin:], strict=False):
            past = given[layer["past_key"]]
            # A mask may take its length from the keys.
            inner[layer["present_key"]] = numpy.zeros((1, past.shape[1], context, past.shape[3]), past.dtype)
            inner[one.scores] = numpy.zeros((1, one.query_heads, new, context), past.dtype)
        for one, masked in zip(part, run_part(path, model, [one.masked for one in part], {**given, **inner}), strict=True):
            window = _window(one, masked, size)
            if numpy.abs(masked[numpy.broadcast_to(_causal(size, window), masked.shape)]).max() > 0:
                raise CannotShare(f"{one.masked}: expected every place it sees alike up to {context} tokens, found that it is not")
            if one.window not in (0, window):
                raise CannotShare(f"{one.masked}: expected the last {one.window} places seen, found {window} at {context} tokens")
            scaled.append(dataclasses.replace(one, window=window))
    _refuse_bent(path, model, scaled, layers, Size(1, new, min(context, 16) - new), vocabulary)
    return scaled


def _refuse_bent(
    path: Path, model: Any, found: Sequence[Attention], layers: Sequence[Mapping[str, str]], size: Size, vocabulary: int
) -> None:
    """Raises CannotShare for a layer whose large scores do not come to its softmax as so many times themselves."""
    chances = numpy.random.default_rng(0)
    given = feeds(model.graph, size, vocabulary, chances)
    whole, inner = size.past + size.new, {}
    for one, layer in zip(found, layers, strict=True):
        past = given[layer["past_key"]]
        inner[layer["present_key"]] = numpy.zeros((1, past.shape[1], whole, past.shape[3]), past.dtype)
        inner[one.scores] = chances.uniform(-_LARGE, _LARGE, (1, one.query_heads, size.new, whole)).astype(past.dtype)
    for one, masked in zip(found, run_part(path, model, [one.masked for one in found], {**given, **inner}), strict=True):
        places = numpy.broadcast_to(_causal(size, one.window), masked.shape)
        plain, made = (array.astype(numpy.float64)[places] for array in (inner[one.scores], masked))
        _factor(plain, made, f"{one.masked}: expected large scores times a number")
