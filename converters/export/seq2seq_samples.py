"""Inputs for the encoder of an encoder-decoder model: random, of any size, with padding in a batch.

In: `Parts` of a model, a batch size, a length. Out: the encoder's input and its mask. This module must never look at a graph.
"""

from __future__ import annotations

from typing import Any

import torch

from converters.errors import ModelRefused
from converters.export.seq2seq_modules import Parts

FRAMES = 8
"""Frames of speech features for each unit of length, so that an encoder that halves its sequence twice keeps some."""
SAMPLES = 640
"""Samples of sound for each unit of length: 40 ms at 16 kHz, more than any encoder's convolutions take at once."""
_SHORTEST_SOUND = 16


def sample(parts: Parts, batch: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The input and its mask, 1 where there is something; None where the encoder takes no mask. The second row is two thirds full.

    length: tokens or patches; times FRAMES or SAMPLES for sound. Images, and speech of a fixed length, have the model's size.
    Raises ModelRefused for an encoder whose input we do not know, or whose size its configuration does not state.
    """
    name, config = parts.encoder_input, encoder_config(parts)
    if name == "input_ids":
        tokens = torch.randint(0, parts.vocabulary, (batch, length), generator=generator)
        pad = _number(parts.model.config, "pad_token_id", 0)
        # Several models find padding by its token, so that may not stand inside.
        tokens[tokens == pad] = (pad + 1) % parts.vocabulary
        mask = _mask(batch, length)
        return torch.where(mask == 1, tokens, pad), mask
    if name == "pixel_values":
        return torch.randn((batch, _number(config, "num_channels", 3), *image_size(parts)), generator=generator), None
    if name == "flattened_patches":
        places = torch.stack([torch.arange(length) % 7 + 1, torch.arange(length) // 7 + 1], dim=-1).float()
        patches = torch.randn((batch, length, _number(config, "patch_embed_hidden_size")), generator=generator)
        mask = _mask(batch, length)
        return torch.cat([places.expand(batch, -1, -1), patches], dim=-1) * mask[..., None], mask.float()
    if name == "input_values":
        samples = max(_SHORTEST_SOUND, length) * SAMPLES
        mask = _mask(batch, samples)
        return torch.randn((batch, samples), generator=generator) * mask, mask
    if name == "input_features" and hasattr(config, "num_mel_bins"):
        size = (batch, int(config.num_mel_bins), 2 * _number(config, "max_source_positions"))
        return torch.randn(size, generator=generator), None
    if name == "input_features" and hasattr(config, "input_feat_per_channel"):
        frames = max(_SHORTEST_SOUND, length) * FRAMES
        mask = _mask(batch, frames)
        features = torch.randn(
            (batch, frames, int(config.input_feat_per_channel) * int(config.input_channels)), generator=generator
        )
        return features * mask[..., None], mask
    raise ModelRefused(f"config.json: expected an encoder of text, images or sound that we can feed, found one that takes {name!r}")


def encoder_config(parts: Parts) -> Any:
    """What says the size of the encoder's input: the part's own configuration where the model has parts."""
    config = parts.model.config
    return next((part for name in ("encoder", "vision_config") if (part := getattr(config, name, None)) is not None), config)


def image_size(parts: Parts) -> tuple[int, int]:
    """Rows and columns of the images that the encoder takes."""
    stated = getattr(encoder_config(parts), "image_size", None)
    if isinstance(stated, int):
        return stated, stated
    if isinstance(stated, list | tuple) and len(stated) == 2:
        return int(stated[0]), int(stated[1])
    raise ModelRefused(f"config.json: expected the encoder's image_size, found {stated!r}")


def _mask(batch: int, length: int) -> torch.Tensor:
    mask = torch.ones((batch, length), dtype=torch.int64)
    if batch > 1:
        mask[1, max(1, length * 2 // 3) :] = 0
    return mask


def _number(config: Any, key: str, absent: int | None = None) -> int:
    found = getattr(config, key, None)
    if isinstance(found, int):
        return found
    if absent is None:
        raise ModelRefused(f"config.json: expected {key} of the encoder, found {found!r}")
    return absent
