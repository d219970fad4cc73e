"""An encoder-decoder model in two halves that can be traced: what is computed once for an input, and what is computed at each step.

In: a PyTorch model of transformers. Out: `Parts` of it, and `Encode` and `Decode` over them. This module must never know
one type from another where the classes of transformers offer the same methods.

The keys and values of the cross attention depend on the input alone, so they belong to the first half. The second half then has no
weights for them, begins with an empty cache like any later step, and needs no second graph for the first one.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from converters.errors import ModelRefused

HIDDEN = "encoder_hidden_states"
MASK = "encoder_attention_mask"
_FAULTS: Mapping[str, str] = {
    "fsmt": "transformers 4.57 places every token of FSMT but the first where the first stands",
    "prophetnet": "transformers 4.57 gives other scores for a text of ProphetNet than for its beginning",
    "xlm-prophetnet": "transformers 4.57 gives other scores for a text of XLM-ProphetNet than for its beginning",
}
"""Types whose `generate` does not do what the model was trained for. Measured: logits off by 0.1 to 6 on random models."""
_SHORTENED = "_get_feature_vector_attention_mask"


class Parts:
    """A model as encoder and decoder, by the methods that transformers' encoder-decoder classes share."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.decoder_config = model.config.get_text_config(decoder=True)
        self.encoder_input = str(model.main_input_name)
        if self.encoder_input == "inputs":  # a composite class does not say what its encoder takes
            self.encoder_input = str(model.get_encoder().main_input_name)
        # Moonshine's decoder takes the mask of the samples and looks at one in so many, its three convolutions' strides.
        self._samples_per_frame = 64 * 3 * 2 if isinstance(model, transformers.MoonshinePreTrainedModel) else 0
        # Mixtures of experts compute a loss of their routers unless told not to, from what the encoder alone kept.
        asks = "output_router_logits" in inspect.signature(type(model).forward).parameters
        self._asked = {"output_router_logits": False} if asks else {}

    @property
    def vocabulary(self) -> int:
        """Valid tokens of the text that is read or written, whichever has fewer."""
        embeddings: list[Any] = [part.get_input_embeddings() for part in (self.model, self.model.get_decoder())]
        return min(int(found.num_embeddings) for found in embeddings if hasattr(found, "num_embeddings"))

    def encode(self, given: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states and the mask that the decoder sees: shorter than the input's where the encoder shortens its sequence."""
        encoder = self.model.get_encoder()
        masked = {} if mask is None else {"attention_mask": mask}
        hidden = encoder(**{self.encoder_input: given}, **masked, return_dict=True)[0]
        owner = self._mask_owner()
        if mask is not None and owner is not None:
            mask = getattr(owner, _SHORTENED)(hidden.shape[1], mask)
        if mask is not None and self._samples_per_frame:
            mask = mask[:, :: self._samples_per_frame][:, : hidden.shape[1]]
        return hidden, mask

    def step(
        self, tokens: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor | None, cache: EncoderDecoderCache | None
    ) -> torch.Tensor:
        """Logits of every token; `cache` is filled. mask: as `encode` gave it."""
        if mask is not None and self._samples_per_frame:
            mask = mask[:, :, None].expand(-1, -1, self._samples_per_frame).reshape(mask.shape[0], -1)
        given = {"encoder_outputs": BaseModelOutput(last_hidden_state=hidden), "decoder_input_ids": tokens}
        masked = {} if mask is None else {"attention_mask": mask}
        cached = {"use_cache": cache is not None} | ({} if cache is None else {"past_key_values": cache})
        with self._mask_as_it_is():
            return self.model(**given, **masked, **cached, **self._asked, return_dict=True).logits

    def _mask_owner(self) -> Any:
        """Whoever turns a mask over samples or frames into one over the encoder's output."""
        encoder = self.model.get_encoder()
        owners = (getattr(encoder, "prenet", None), self.model, encoder)
        return next((owner for owner in owners if hasattr(owner, _SHORTENED)), None)

    @contextlib.contextmanager
    def _mask_as_it_is(self) -> Iterator[None]:
        """Keep the model's `forward` from shortening the mask that `encode` has shortened."""
        owners = [module for module in self.model.modules() if hasattr(module, _SHORTENED)]
        try:
            for owner in owners:
                setattr(owner, _SHORTENED, lambda _length, mask, *_rest, **_named: mask)
            yield
        finally:
            for owner in owners:
                delattr(owner, _SHORTENED)


class CaptionParts(Parts):
    """BLIP: an image encoder and a decoder under other names, joined by a `generate` of its own."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.decoder_config = model.config.text_config
        self.encoder_input = "pixel_values"

    @property
    def vocabulary(self) -> int:
        return int(self.decoder_config.vocab_size)

    def encode(self, given: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.model.vision_model(pixel_values=given, return_dict=True)[0], None

    def step(
        self, tokens: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor | None, cache: EncoderDecoderCache | None
    ) -> torch.Tensor:
        cached = {"use_cache": cache is not None} | ({} if cache is None else {"past_key_values": cache})
        return self.model.text_decoder(input_ids=tokens, encoder_hidden_states=hidden, **cached, return_dict=True).logits


def parts_of(model: Any) -> Parts:
    """Raises ModelRefused for a model that is not an encoder with a decoder."""
    if isinstance(model, transformers.BlipForConditionalGeneration):
        return CaptionParts(model)
    if not model.config.is_encoder_decoder:
        raise ModelRefused(
            f"config.json: expected an encoder with a decoder, found {type(model).__name__}, which is a decoder alone"
        )
    if (fault := _FAULTS.get(str(model.config.model_type))) is not None:
        raise ModelRefused(f"config.json: expected a model that makes its texts with a cache as it reads them at once; {fault}")
    return Parts(model)


def empty_cache() -> EncoderDecoderCache:
    # Without the configuration no layer cuts itself to a sliding window; the mask keeps to the window all the same.
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


class Encode(torch.nn.Module):
    """(input[, mask]) -> hidden states[, mask], then key and value of each layer's cross attention."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.model, self._parts = parts.model, parts

    def forward(self, given: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        hidden, seen = self._parts.encode(given, mask)
        shown = (hidden,) if seen is None else (hidden, seen.to(torch.int64))
        cache = empty_cache()
        # Any token will do: what the decoder makes of it does not reach the cross attention's keys and is left out of the graph.
        with _batch_of_its_own():
            self._parts.step(torch.zeros((hidden.shape[0], 1), dtype=torch.int64), hidden, seen, cache)
        crossed = cache.cross_attention_cache.layers
        return (*shown, *(tensor for layer in crossed for tensor in (layer.keys, layer.values)))


@contextlib.contextmanager
def _batch_of_its_own() -> Iterator[None]:
    """Let every tensor that is reshaped take its batch size from itself, while the first half is traced.

    Attention shapes its keys with the batch size of its queries. In a trace that is a number computed from the queries, which would
    keep the whole decoder, weights and all, in the encoder's graph.
    """
    before = {name: getattr(torch.Tensor, name) for name in ("view", "reshape")}

    def replaced(name: str) -> Callable[..., torch.Tensor]:
        def reshape(self: torch.Tensor, *wanted: Any) -> torch.Tensor:
            sizes = tuple(wanted[0]) if len(wanted) == 1 and isinstance(wanted[0], list | tuple) else wanted
            if len(sizes) > 1 and not isinstance(sizes[0], torch.dtype) and int(sizes[0]) == self.shape[0]:
                sizes = (self.shape[0], *sizes[1:])
            return before[name](self, *sizes)

        return reshape

    try:
        for name in before:
            setattr(torch.Tensor, name, replaced(name))
        yield
    finally:
        for name, method in before.items():
            setattr(torch.Tensor, name, method)


class Decode(torch.nn.Module):
    """(tokens[, mask], past key and value of each layer, cross key and value of each layer) -> logits, present keys and values."""

    def __init__(self, parts: Parts, width: int, layers: int, *, has_mask: bool) -> None:
        """width: of the encoder's hidden states."""
        super().__init__()
        self.model, self._parts = parts.model, parts
        self._width, self._layers, self._has_mask = width, layers, has_mask

    def forward(self, tokens: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mask, tensors = (rest[0], rest[1:]) if self._has_mask else (None, rest)
        past, cross = tensors[: 2 * self._layers], tensors[2 * self._layers :]
        cache = EncoderDecoderCache(_cache_of(past), _cache_of(cross))
        # Only its shape is looked at: keys and values of the cross attention are in the cache.
        hidden = torch.zeros((cross[0].shape[0], cross[0].shape[2], self._width))
        logits = self._parts.step(tokens, hidden, mask, cache)
        present = cache.self_attention_cache.layers
        return (logits, *(tensor for layer in present for tensor in (layer.keys, layer.values)))


def _cache_of(tensors: Sequence[torch.Tensor]) -> DynamicCache:
    cache = DynamicCache()
    for layer in range(len(tensors) // 2):
        cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
    return cache
