"""Tiny models that listen, with random weights, one folder each, as a publisher would have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.coverage.vocabulary import LETTERS

_SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": len(LETTERS),
    "pad_token_id": 0,
    # With the default of 0.02 all logits of a random model are alike, and every letter hangs on rounding.
    "initializer_range": 0.3,
}
_WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 20,
    "num_mel_bins": 16,
    "max_source_positions": 1500,  # the exporter's own sounds have 30 seconds
    "init_std": 0.2,
}
_BY_SAMPLES = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 16000,
    "do_normalize": True,
}

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", _SMALL, _BY_SAMPLES),
    "wav2vec2-layer-norm": (
        "Wav2Vec2",
        {**_SMALL, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
        {**_BY_SAMPLES, "return_attention_mask": True},
    ),
    "hubert": ("Hubert", _SMALL, _BY_SAMPLES),
    "wavlm": ("WavLM", {**_SMALL, "num_buckets": 16, "max_bucket_distance": 32}, _BY_SAMPLES),
    "data2vec-audio": ("Data2VecAudio", {**_SMALL, "conv_pos_kernel_size": 5}, _BY_SAMPLES),
    "unispeech": ("UniSpeech", {**_SMALL, "num_ctc_classes": len(LETTERS)}, _BY_SAMPLES),
    "unispeech-sat": ("UniSpeechSat", _SMALL, _BY_SAMPLES),
    "sew": ("SEW", {**_SMALL, "squeeze_factor": 2}, _BY_SAMPLES),
    "sew-d": ("SEWD", {**_SMALL, "squeeze_factor": 2, "max_position_embeddings": 64, "position_buckets": 16}, _BY_SAMPLES),
    "wav2vec2-conformer": ("Wav2Vec2Conformer", {**_SMALL, "conv_depthwise_kernel_size": 3}, _BY_SAMPLES),
    "wav2vec2-bert": (
        "Wav2Vec2Bert",
        {
            **_SMALL,
            "feature_projection_input_dim": 32,
            "conv_depthwise_kernel_size": 3,
            "use_intermediate_ffn_before_adapter": False,
        },
        {"feature_extractor_type": "SeamlessM4TFeatureExtractor", "feature_size": 16, "num_mel_bins": 16, "stride": 2},
    ),
    "audio-spectrogram-transformer": (
        "AST",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 20,
            "max_length": 64,
            "num_mel_bins": 16,
            "initializer_range": 0.2,
        },
        {"feature_extractor_type": "ASTFeatureExtractor", "max_length": 64, "num_mel_bins": 16, "sampling_rate": 16000},
    ),
    "whisper": (
        "Whisper",
        _WHISPER,
        {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 16, "chunk_length": 30, "sampling_rate": 16000},
    ),
}
"""Name -> transformers' class prefix, the configuration's arguments, and `preprocessor_config.json`."""


def tiny_listener(folder: Path, family: str, head: str, *, seed: int = 0, **overrides: Any) -> Path:
    """Save a model, its feature extractor, letters and a README into `folder`. head: `ForCTC` or the like."""
    import torch
    import transformers

    prefix, arguments, extractor = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{prefix}Config")(**{**arguments, "num_labels": 4, **overrides})
    model = getattr(transformers, prefix + head)(config).eval()
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor), encoding="utf-8")
    if head == "ForCTC":
        (folder / "vocab.json").write_text(json.dumps({letter: place for place, letter in enumerate(LETTERS)}), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Wav2Vec2CTCTokenizer"}), encoding="utf-8")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Tiny\n", encoding="utf-8")
    return folder
