"""Tiny encoder-decoder models with random weights, one folder each, as a publisher would have them: they read, see or hear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.converters.tiny_models import write_tokenizer

_ENDS = {"pad_token_id": 1, "eos_token_id": 0, "bos_token_id": 0, "decoder_start_token_id": 2}
_T5 = {
    "vocab_size": 320,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 1,
    "eos_token_id": 0,
}
_STACKS = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
_SPREAD = {"init_std": 0.4, "tie_word_embeddings": False}
"""A model that looks up and scores tokens with one matrix likes the token it has just read, and says it for ever.
BART's classes cannot be without; with weights so wide it says others too."""
_BART = {
    **_STACKS,
    **_ENDS,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
    "init_std": 0.6,
}


def _made(name: str, config: str, arguments: Mapping[str, Any]) -> Any:
    import transformers

    return getattr(transformers, name)(getattr(transformers, config)(**arguments))


def _t5(**more: Any) -> Any:
    return _made(
        "T5ForConditionalGeneration", "T5Config", {**_T5, "decoder_start_token_id": 1, "tie_word_embeddings": False, **more}
    )


def _bart(**more: Any) -> Any:
    return _made("BartForConditionalGeneration", "BartConfig", {**_BART, **more})


def _whisper(**more: Any) -> Any:
    shape = {**_STACKS, **_ENDS, "vocab_size": 320, "num_mel_bins": 80, "max_source_positions": 1500, "max_target_positions": 64}
    return _made("WhisperForConditionalGeneration", "WhisperConfig", {**shape, **_SPREAD, **more})


def _speech(**more: Any) -> Any:
    shape = {**_STACKS, **_ENDS, "vocab_size": 320, "conv_channels": 32, "max_source_positions": 600, "max_target_positions": 64}
    return _made("Speech2TextForConditionalGeneration", "Speech2TextConfig", {**shape, **_SPREAD, **more})


def _sight() -> Any:
    import transformers

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    eyes = transformers.ViTConfig(**size, image_size=32, patch_size=8, initializer_range=0.2)
    decoder = {name: value for name, value in {**_BART, **_SPREAD}.items() if not name.startswith("encoder")}
    mouth = transformers.TrOCRConfig(
        **{**decoder, "is_decoder": True, "add_cross_attention": True, "cross_attention_hidden_size": 32}
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(eyes, mouth)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 0
    return transformers.VisionEncoderDecoderModel(config)


def _processor(name: str) -> Any:
    import transformers

    if name == "sight":
        return transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    return {"whisper": transformers.WhisperFeatureExtractor, "speech": transformers.Speech2TextFeatureExtractor}[name](
        feature_size=80
    )


MODELS: Mapping[str, Callable[..., Any]] = {"t5": _t5, "bart": _bart, "whisper": _whisper, "speech": _speech, "sight": _sight}


def tiny_seq2seq(folder: Path, name: str, *, seed: int = 2, **more: Any) -> Path:
    """Save a model of MODELS, its tokenizer, its processor and a README into `folder`."""
    import torch

    torch.manual_seed(seed)
    model = MODELS[name](**more)
    model.save_pretrained(folder, safe_serialization=True)
    write_tokenizer(folder)
    if name in ("sight", "whisper", "speech"):
        _processor(name).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n", encoding="utf-8")
    return folder
