"""A tiny configuration of any type: its own defaults, made small attribute by attribute.

In: a configuration as its class makes it. Out: the arguments that make it tiny. This module must never know what a type computes:
what the attribute's name does not tell stands in `overrides`.

Only what changes is passed to the class, so that what it derives (lists of one item a layer) is derived from the small numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from converters.coverage import vocabulary
from converters.coverage.overrides import OVERRIDES, UNTOUCHED

HIDDEN, HEADS, KEY_HEADS, LAYERS, INNER, POSITIONS, IMAGE, PATCH, EXPERTS = 32, 4, 2, 2, 64, 128, 64, 16, 4

_EXACT: Mapping[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "emb_dim", "dim", "projection_dim", "d_embed"), HIDDEN),
    **dict.fromkeys(("embedding_size", "decoder_hidden_size", "encoder_hidden_size", "word_embed_proj_dim"), HIDDEN),
    **dict.fromkeys(("encoder_dim", "decoder_dim", "output_hidden_size", "pooler_hidden_size", "pooler_output_size"), HIDDEN),
    **dict.fromkeys(("classifier_proj_size", "input_embedding_size", "hidden_dim", "cross_attention_hidden_size"), HIDDEN),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_num_attention_heads", "decoder_num_attention_heads"), HEADS),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "encoder_num_hidden_layers", "depth"), LAYERS),
    **dict.fromkeys(("decoder_num_hidden_layers", "num_block_layers", "max_window_layers"), LAYERS),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "d_inner"), INNER),
    **dict.fromkeys(("ffn_hidden_size", "decoder_intermediate_size", "mlp_dim", "dim_feedforward"), INNER),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), INNER // 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"), POSITIONS),
    **dict.fromkeys(("max_target_positions", "max_2d_position_embeddings", "max_text_positions"), POSITIONS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("sliding_window", "attention_window_size"), 32),
    "head_dim": HIDDEN // HEADS,
    "d_kv": HIDDEN // HEADS,
    "d_head": HIDDEN // HEADS,
    "out_hidden_size": HIDDEN,
    "num_queries": 20,
    "two_stage_num_proposals": 20,
}
_IDS: Mapping[str, int] = {
    "pad_token_id": vocabulary.PAD,
    "bos_token_id": vocabulary.END,
    "eos_token_id": vocabulary.END,
    "sep_token_id": vocabulary.SEPARATOR,
    "mask_token_id": vocabulary.MASK,
    "cls_token_id": vocabulary.FIRST,
    "unk_token_id": vocabulary.UNKNOWN,
}
_ALWAYS = ("pad_token_id", "bos_token_id", "eos_token_id")
_ANY_ID = re.compile(r".*(?:_token_id|_token_index)$")


def shrunk(config: Any) -> dict[str, Any]:
    """The arguments that make a tiny configuration of `config`'s class; sub-configurations as dictionaries."""
    small: dict[str, Any] = {}
    model_type = str(config.model_type)
    for name, value in vars(config).items():
        if name in UNTOUCHED:
            continue
        if name == "_out_features":
            if value and len(value) > 1:  # of a backbone: which of its stages its owner reads
                small["out_features"] = list(value)
        elif hasattr(value, "to_dict") and hasattr(value, "model_type"):
            small[name] = {**shrunk(value), **({"model_type": value.model_type} if value.model_type else {})}
        elif (changed := _smaller(name, value, config)) is not None:
            small[name] = changed
    small.update(_special_ids(config))
    return merged(small, OVERRIDES.get(model_type, {}))


def merged(small: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over `small`, dictionaries key by key; a key given as `...` is left to the class."""
    whole = dict(small)
    for name, value in given.items():
        if value is ...:
            whole.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(whole.get(name), dict):
            whole[name] = merged(whole[name], value)
        else:
            whole[name] = value
    return whole


def _smaller(name: str, value: Any, config: Any) -> Any:
    """The small value of an attribute, None to leave it."""
    if isinstance(value, bool) or not isinstance(value, (int, list, tuple)):
        return None
    if name == "image_size":
        return IMAGE if isinstance(value, int) else type(value)([IMAGE] * len(value))
    if name in ("conv_dim", "tdnn_dim") and not isinstance(value, int):
        return [HIDDEN // 2] * len(value)
    if not isinstance(value, int):
        return None
    if name == "vocab_size":
        return vocabulary.SIZE
    if name == "patch_size":
        return PATCH if value > 8 else None
    if name == "num_key_value_heads":
        heads = getattr(config, "num_attention_heads", value)
        return HEADS if value == heads else min(value, KEY_HEADS)
    small = _EXACT.get(name)
    return small if small is not None and value > small else None


def _special_ids(config: Any) -> dict[str, int]:
    """Ids of special tokens within the small vocabulary, alike for everything that shares it."""
    named = {name: value for name, value in vars(config).items() if _ANY_ID.fullmatch(name)}
    has_words = any(name.endswith("vocab_size") and isinstance(value, int) for name, value in vars(config).items())
    others = sorted(name for name, value in named.items() if name not in _IDS and isinstance(value, int))
    meant = {named.get("pad_token_id"): vocabulary.PAD, named.get("eos_token_id"): vocabulary.END}
    ids: dict[str, int] = {}
    for name, value in named.items():
        if name in _IDS:
            if isinstance(value, int) or (has_words and name in _ALWAYS):
                ids[name] = _IDS[name]
        elif isinstance(value, int):
            ids[name] = meant.get(value, vocabulary.FREE + others.index(name))
    return ids
