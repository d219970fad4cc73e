"""Encoder-decoder models: an encoder's graph that runs once, a decoder's graph that runs token by token.

In: a staged source, then its PyTorch model and graphs. Out: details, parity lines and probes of `text2text-generation`,
`speech-to-text` and `image-to-text` entries. This module must never write a value that no backend reads.

`Entry.details` of these tasks, exactly these keys beside those of `tasks/generation.py`, always present:

    encoder               str    the graph of the input, always "1/encoder.onnx"
    encoder_inputs, encoder_outputs  list   as graph_inputs and graph_outputs
    encoder_input         str    what the encoder reads: "input_ids", "pixel_values", "input_features", "input_values"
    processor             str|null  "1/preprocessor_config.json": how transformers makes tensors of an image or a sound
    sampling_rate, shortest, longest  int  samples a second of the sound that the processor takes, and the fewest and most of one
                                 sound; all 0 without sound, longest also where the processor cuts none
    model                 str    the graph of one step, always "1/decoder.onnx"; graph_inputs, graph_outputs are its own
    carried               [str]  outputs of the encoder's graph that the decoder's graph takes under the same names at each step:
                                 keys and values of the cross attention, and `encoder_attention_mask` where it takes one
    layers, kv_heads, head_size  the decoder's own keys and values, as for `text-generation`
    context_length        int    most tokens of the encoder's text; of the decoder's where the encoder reads no text
    decoder_length        int    most tokens of the decoder: start tokens, prompt and completion together
    start_tokens          list   what the decoder begins with. An item is a token, or a list of tokens: the likeliest of them is
                                 taken after the tokens before it (Whisper's language)
    does_prompt_replace_start  bool  a text sent with an image stands in the place of the start tokens (Donut), or after them
    forced_first_token    int|null  the first token made, whatever the scores are
    suppress_tokens       [int]  never made
    begin_suppress_tokens [int]  not made first; after a forced first token, not second

`attention_mask` is what the encoder's graph takes beside its input where it takes one: 1 for each token, sample or frame.
`vocabulary` is the size of the decoder's logits or of the encoder's embedding, the smaller; logits beyond it are never taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.errors import ModelRefused
from converters.export.graphs import Exported, Graph
from converters.export.seq2seq_modules import Parts, parts_of
from converters.kinds.audio import longest, shortest
from converters.kinds.facts import generation_ends, graph_facts, output_of
from converters.kinds.processors import PROCESSOR, load_feature_extractor, load_image_processor, write_processor
from converters.parity.generation_settings import token_plan
from converters.parity.seq2seq import check_seq2seq
from converters.parity.seq2seq_probes import seq2seq_probes
from converters.probes import Probe
from converters.source import Source
from converters.tasks.task import Task
from converters.tokenizer import load_tokenizer, write_tokenizer

_MAX_TOKENS = 256
"""transformers' default for these tasks. Other defaults are greedy: the answer to "translate this" is the likeliest one."""
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_ENCODER_KEYS = ("max_encoder_position_embeddings", *_LENGTH_KEYS)
_DECODER_KEYS = ("max_target_positions", "max_decoder_position_embeddings", "max_text_positions", *_LENGTH_KEYS)
_EXTRACTORS: Mapping[str, int | None] = {
    "WhisperFeatureExtractor": 1,
    "Speech2TextFeatureExtractor": 400,
    "Wav2Vec2FeatureExtractor": None,
    "SpeechT5FeatureExtractor": None,
}
"""Whose limits are known here: the fewest samples, None where the model says; another one could cut a sound and not say so."""
_FRAMES = "_get_feat_extract_output_lengths"
_UNSTATED_LENGTH = 1024
"""Where positions are relative and nothing is stated: twice what T5 and its relatives were trained with."""


class Seq2Seq:
    """See `kinds/kind.py`."""

    def __init__(self, source: Source, task: Task, folder: Path) -> None:
        self._task = task
        self._loaded = load_tokenizer(source.folder)
        self._tokenizer = write_tokenizer(self._loaded, folder / "1" / "tokenizer.json")
        self._processor: Any = None
        if task.name == "image-to-text":
            self._processor = load_image_processor(source)
        if task.name == "speech-to-text":
            self._processor = load_feature_extractor(source)
        if self._processor is not None:
            write_processor(self._processor, folder)

    def adjust(self, model: Any) -> None:
        parts = parts_of(model)
        reads = "text2text-generation" if parts.encoder_input == "input_ids" else "speech-to-text"
        reads = "image-to-text" if parts.encoder_input in ("pixel_values", "flattened_patches") else reads
        if reads != self._task.name:
            raise ModelRefused(f"config.json: expected a model for {self._task.name}, found one for {reads}")
        if parts.encoder_input == "flattened_patches":
            raise ModelRefused("preprocessor_config.json: expected a processor that runs without PyTorch, found Pix2Struct's")
        if self._blocks(model):
            # PyTorch takes full attention for texts so short; longer ones are refused, see `_encoder_length`.
            model.get_encoder().set_attention_type("original_full")

    def describe(self, model: Any, exported: Exported) -> dict[str, Any]:
        parts, encoder, decoder = parts_of(model), exported.graphs["encoder"], exported.graphs["decoder"]
        vocabulary = min(parts.vocabulary, _width(output_of(decoder, "logits", 3), parts))
        decoder_length = _decoder_length(parts)
        plan = token_plan(model, vocabulary)
        pads = (model.config.pad_token_id, parts.decoder_config.pad_token_id, self._tokenizer.pad_token_id, 0)
        return {
            "tokenizer": "1/tokenizer.json",
            "add_special_tokens": True,
            "context_length": self._encoder_length(parts) if parts.encoder_input == "input_ids" else decoder_length,
            "decoder_length": decoder_length,
            "vocabulary": vocabulary,
            "pad_token_id": next(pad for pad in pads if isinstance(pad, int) and 0 <= pad < vocabulary),
            "padding_side": "right",
            **generation_ends(_ending(model), vocabulary),
            "encoder": f"1/{encoder.path.name}",
            "encoder_inputs": encoder.inputs,
            "encoder_outputs": encoder.outputs,
            "encoder_input": parts.encoder_input,
            "processor": None if self._processor is None else PROCESSOR,
            **self._sound(model),
            **graph_facts(decoder),
            **_cache(encoder, decoder),
            **plan,
            "precision": "FP32",
            "defaults": {
                "max_tokens": min(_MAX_TOKENS, decoder_length - len(plan["start_tokens"])),
                "temperature": 0.0,
                "top_p": 1.0,
                "top_k": 0,
            },
        }

    def check(self, model: Any, exported: Exported, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
        return check_seq2seq(model, exported, details, bound)

    def probes(self, model: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
        return seq2seq_probes(model, self._loaded, self._processor, details, bound)

    def _encoder_length(self, parts: Parts) -> int:
        model = parts.model
        stated = _first(getattr(model.config, "encoder", model.config), _ENCODER_KEYS)
        lengths = [] if stated is None else [stated - _window(model.config)]
        if self._tokenizer.length_limit is not None:
            lengths.append(self._tokenizer.length_limit)
        lengths += _table_lengths(model.get_encoder())
        if self._blocks(model):
            # transformers: two global blocks, three that slide and twice the random ones, or full attention.
            lengths.append((5 + 2 * int(model.config.num_random_blocks)) * int(model.config.block_size))
        return min(lengths, default=_UNSTATED_LENGTH)

    def _sound(self, model: Any) -> dict[str, int]:
        if self._task.name != "speech-to-text":
            return {"sampling_rate": 0, "shortest": 0, "longest": 0}
        name = type(self._processor).__name__
        if name not in _EXTRACTORS:
            raise ModelRefused(f"preprocessor_config.json: expected one of {', '.join(_EXTRACTORS)}, found {name}")
        if _EXTRACTORS[name] is None:
            owners = (model, model.get_encoder())
            fewest = shortest(next((owner for owner in owners if hasattr(owner, _FRAMES)), model), self._processor)
        else:
            fewest = int(_EXTRACTORS[name] or 0)
        return {"sampling_rate": int(self._processor.sampling_rate), "shortest": fewest, "longest": longest(self._processor)}

    @staticmethod
    def _blocks(model: Any) -> bool:
        return getattr(model.config, "attention_type", None) == "block_sparse"


def _window(config: Any) -> int:
    """LED's graph fills up with one to so many places, each of which needs a position; 0 for others."""
    stated = getattr(config, "attention_window", 0)
    return stated if isinstance(stated, int) else max(stated)


def _ending(model: Any) -> Any:
    """Whose generation settings say how a text ends."""
    return getattr(model, "text_decoder", model)


def _decoder_length(parts: Parts) -> int:
    stated = _first(parts.decoder_config, _DECODER_KEYS)
    if parts.model.config.model_type.endswith("prophetnet") and stated is not None:
        stated -= int(parts.model.config.pad_token_id) + 2  # it looks up the place after the last one too
    decoder = getattr(parts.model, "text_decoder", None) or parts.model.get_decoder()
    return min([*([] if stated is None else [stated]), *_table_lengths(decoder)], default=_UNSTATED_LENGTH)


def _first(config: Any, keys: tuple[str, ...]) -> int | None:
    found = [getattr(config, key, None) for key in keys]
    return next((int(length) for length in found if isinstance(length, int) and length > 0), None)


def _table_lengths(part: Any) -> list[int]:
    """RoBERTa and its relatives count positions from padding_idx + 1, so 514 positions hold 512 tokens."""
    return [
        module.num_embeddings - module.padding_idx - 1
        for name, module in part.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]


def _width(logits: Mapping[str, Any], parts: Parts) -> int:
    axis = logits["axes"][2]
    return axis if isinstance(axis, int) and axis > 0 else int(parts.decoder_config.vocab_size)


def _cache(encoder: Graph, decoder: Graph) -> dict[str, Any]:
    """`layers`, `kv_heads`, `head_size` and `carried`; raises ModelRefused for graphs that do not fit each other."""
    inputs = {tensor["name"]: tensor for tensor in decoder.inputs}
    outputs = {tensor["name"] for tensor in decoder.outputs}
    layers: list[dict[str, str]] = []
    while f"past_key_values.{len(layers)}.decoder.key" in inputs:
        number = len(layers)
        layers.append(
            {
                f"{kind}_{half}": f"{name}.{number}.decoder.{half}"
                for kind, name in (("past", "past_key_values"), ("present", "present"))
                for half in ("key", "value")
            }
        )
    given = {tensor["name"] for tensor in encoder.outputs}
    own = {name for layer in layers for name in (layer["past_key"], layer["past_value"])}
    carried = sorted(set(inputs) - own - {"input_ids"})
    present = {name for layer in layers for name in (layer["present_key"], layer["present_value"])}
    if (
        not layers
        or not set(carried) <= given
        or not own <= set(inputs)
        or outputs != {"logits"} | present
        or "input_ids" not in inputs
    ):
        raise ModelRefused(
            f"graph: expected a decoder that takes what the encoder gives, found {sorted(inputs)} and {sorted(given)}"
        )
    shapes = {(inputs[name]["axes"][1], inputs[name]["axes"][3]) for name in own}
    if len(shapes) > 1 or any(type(length) is not int or length < 1 for shape in shapes for length in shape):
        raise ModelRefused(f"graph: expected one number of heads and one head size in all layers, found {sorted(map(str, shapes))}")
    heads, size = next(iter(shapes), (0, 0))
    return {"layers": layers, "kv_heads": heads, "head_size": size, "carried": carried}
