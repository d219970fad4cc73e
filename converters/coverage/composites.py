"""Configurations that a class cannot make without being told its parts.

In: a model type. Out: a tiny configuration of it. This module must never build a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def config_of(model_type: str) -> Any:
    """The tiny configuration of a type that is made of other types; None for every other type."""
    return _MADE[model_type]() if model_type in _MADE else None


def _tiny(model_type: str, **overrides: Any) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from converters.coverage.shrinking import merged, shrunk

    config_class = CONFIG_MAPPING[model_type]
    return config_class(**merged(shrunk(config_class()), overrides))


def _text_pair() -> Any:
    import transformers

    decoder = _tiny("bert", is_decoder=True, add_cross_attention=True)
    return _started(transformers.EncoderDecoderConfig.from_encoder_decoder_configs(_tiny("bert"), decoder))


def _speech_pair() -> Any:
    import transformers

    decoder = _tiny("bert", is_decoder=True, add_cross_attention=True)
    return _started(transformers.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(_tiny("wav2vec2"), decoder))


def _image_pair() -> Any:
    import transformers

    decoder = _tiny("gpt2", add_cross_attention=True)
    return _started(transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(_tiny("vit"), decoder))


def _nougat() -> Any:
    import transformers

    decoder = _tiny("mbart", is_decoder=True, add_cross_attention=True)
    encoder = _tiny("donut-swin")
    return _started(transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))


def _started(config: Any) -> Any:
    from converters.coverage import vocabulary

    config.decoder_start_token_id = vocabulary.END
    config.pad_token_id = vocabulary.PAD
    config.eos_token_id = vocabulary.END
    return config


def _two_towers() -> Any:
    import transformers

    return transformers.VisionTextDualEncoderConfig.from_vision_text_configs(_tiny("vit"), _tiny("bert"), projection_dim=32)


def _retrieval() -> Any:
    import transformers

    return transformers.RagConfig(question_encoder=_tiny("dpr").to_dict(), generator=_tiny("bart").to_dict())


def _music(class_name: str, decoder_class: str) -> Any:
    import transformers

    from converters.coverage.shrinking import shrunk

    decoder = getattr(transformers, decoder_class)
    small = decoder(**{**shrunk(decoder()), "num_codebooks": 4})
    return getattr(transformers, class_name)(
        text_encoder=_tiny("t5").to_dict(), audio_encoder=_tiny("encodec").to_dict(), decoder=small.to_dict()
    )


_MADE: Mapping[str, Callable[[], Any]] = {
    "encoder-decoder": _text_pair,
    "speech-encoder-decoder": _speech_pair,
    "vision-encoder-decoder": _image_pair,
    "nougat": _nougat,
    "vision-text-dual-encoder": _two_towers,
    "rag": _retrieval,
    "musicgen": lambda: _music("MusicgenConfig", "MusicgenDecoderConfig"),
    "musicgen_melody": lambda: _music("MusicgenMelodyConfig", "MusicgenMelodyDecoderConfig"),
}
