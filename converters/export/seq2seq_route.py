"""The route of encoder-decoder models: one graph for the input, one for each step.

In: a loaded model. Out: its graphs `encoder` and `decoder`. This module must never load weights.

Optimum's exporter makes three graphs of such a model, two decoders that hold the same weights, or one of both with an `If` around
them; it knows 17 types. Here the cross attention's keys and values are outputs of the encoder's graph, so one plain decoder graph
is enough, and transformers' shared classes give both graphs for every type. Most of the patches for tracing are optimum's.

`encoder`: the encoder's own input and, where it takes one, `attention_mask`; gives `encoder_hidden_states`, where the decoder takes
one `encoder_attention_mask`, and `past_key_values.N.encoder.key` and `.value`.
`decoder`: `input_ids` [batch, new], `past_key_values.N.decoder.key` and `.value`, and what the encoder's graph gives under the same
names; gives `logits` [batch, new, vocabulary], `present.N.decoder.key` and `.value`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from converters.errors import ConversionFailed, ModelRefused
from converters.export.graphs import Graph
from converters.export.quiet import quiet, said_in
from converters.export.seq2seq_modules import HIDDEN, MASK, Decode, Encode, Parts, empty_cache, parts_of
from converters.export.seq2seq_samples import sample
from converters.export.seq2seq_tracing import traceable
from converters.export.shared_weights import share
from converters.graph import graph_tensors

ROUTE = "encoder and decoder, traced"
WHY = "an encoder with a decoder: one decoder graph serves every step, with a cache, and no weight is written twice"
_OPSET = 18
_BATCH, _LENGTH, _PAST, _NEW = 3, 19, 5, 2
"""What is traced with: none is 1, no two are equal, and none is a common number of heads or a multiple of a window."""


def export(model: Any, scratch: Path, into: Path) -> dict[str, Graph]:
    """Write `encoder.onnx` and `decoder.onnx` into `into`; large weights that both have lie once, in a file beside them.

    scratch: a new folder on the same file system. Raises ModelRefused for a model we cannot split or feed, ConversionFailed with
    the cause.
    """
    scratch.mkdir(exist_ok=True)
    parts = parts_of(model)
    with quiet() as noise:
        try:
            with torch.inference_mode(), traceable(model):
                _export(parts, scratch)
        except ModelRefused:
            raise
        # Tracing runs arbitrary model code of transformers; any kind of error may come out of it.
        except Exception as error:
            raise ConversionFailed(f"export: {type(error).__name__}: {error}{said_in(noise)}") from error
    share([scratch / "encoder.onnx", scratch / "decoder.onnx"], into)
    paths = {role: into / f"{role}.onnx" for role in ("encoder", "decoder")}
    return {role: Graph(path, *graph_tensors(path)) for role, path in paths.items()}


def _export(parts: Parts, folder: Path) -> None:
    given, mask = sample(parts, _BATCH, _LENGTH, torch.Generator().manual_seed(0))
    fed = (given,) if mask is None else (given, mask)
    encode = Encode(parts).eval()
    hidden, *rest = encode(*fed)
    seen = None if mask is None else rest.pop(0)
    cross, masked = rest, {} if seen is None else {MASK: seen}
    layers = len(cross) // 2
    crossed = _names("past_key_values", "encoder", layers)
    axes = {name: _axes_of(name) for name in (parts.encoder_input, "attention_mask", HIDDEN, MASK, *crossed)}
    _trace(
        encode, fed, folder / "encoder.onnx", (parts.encoder_input, "attention_mask")[: len(fed)], (HIDDEN, *masked, *crossed), axes
    )
    tokens = torch.randint(0, parts.vocabulary, (_BATCH, _PAST + _NEW), generator=torch.Generator().manual_seed(1))
    cache = empty_cache()
    parts.step(tokens[:, :_PAST], hidden, seen, cache)
    past = [tensor for layer in cache.self_attention_cache.layers for tensor in (layer.keys, layer.values)]
    decode = Decode(parts, int(hidden.shape[-1]), layers, has_mask=seen is not None).eval()
    before, after = _names("past_key_values", "decoder", layers), _names("present", "decoder", layers)
    axes = {name: _axes_of(name) for name in ("input_ids", MASK, *before, *crossed, "logits", *after)}
    axes["input_ids"] = axes["logits"] = {0: "batch", 1: "new"}
    names = ("input_ids", *masked, *before, *crossed)
    _trace(decode, (tokens[:, _PAST:], *masked.values(), *past, *cross), folder / "decoder.onnx", names, ("logits", *after), axes)


def _names(kind: str, part: str, layers: int) -> tuple[str, ...]:
    return tuple(f"{kind}.{layer}.{part}.{half}" for layer in range(layers) for half in ("key", "value"))


def _axes_of(name: str) -> dict[int, str]:
    """The axes that vary. Images have one size, and so have the features of a model without a mask."""
    if name.startswith("present"):
        return {0: "batch", 2: "total"}
    if name.startswith("past_key_values"):
        return {0: "batch", 2: "encoded" if ".encoder." in name else "past"}
    if name in (HIDDEN, MASK):
        return {0: "batch", 1: "encoded"}
    return {0: "batch"} if name == "pixel_values" else {0: "batch", 1: "length"}


def _trace(
    module: torch.nn.Module,
    fed: tuple[torch.Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> None:
    varying = {name: dict(axes[name]) for name in (*inputs, *outputs)}
    if inputs == ("input_features",):
        varying["input_features"] = {0: "batch"}  # Whisper's thirty seconds
    torch.onnx.export(
        module,
        fed,
        str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes=varying,
        opset_version=_OPSET,
        dynamo=False,
    )
