"""Which tokens a text begins with and which it may not have: what transformers' `generate` takes from a model's settings.

In: a PyTorch model. Out: keys of an entry's details, or ModelRefused. This module must never leave out a setting that changes
greedy text without saying so.

Not taken: beams, lengths and penalties of repetition. They are not part of the model but of one way to search in it, and a caller's
own settings stand in their place.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers

from converters.errors import ModelRefused

_ANY_LANGUAGE = -1


def token_plan(model: Any, vocabulary: int) -> dict[str, Any]:
    """`start_tokens`, `forced_first_token`, `suppress_tokens`, `begin_suppress_tokens`, `does_prompt_replace_start`.

    vocabulary: of the text that is written.
    """
    settings = model.generation_config
    start = _whisper_start(model) if isinstance(model, transformers.WhisperForConditionalGeneration) else [_start_token(model)]
    for token in (one for item in start for one in (item if isinstance(item, list) else [item])):
        if not isinstance(token, int) or not 0 <= token < vocabulary:
            raise ModelRefused(f"generation settings: expected start tokens below {vocabulary}, found {token!r}")
    # `generate` forces a first token only where one token stands before it.
    forced = settings.forced_bos_token_id if len(start) == 1 else None
    if forced is not None and not (isinstance(forced, int) and 0 <= forced < vocabulary):
        raise ModelRefused(f"generation settings: forced_bos_token_id must be below {vocabulary}, found {forced!r}")
    never = {int(token) for token in settings.suppress_tokens or ()} | _single_bad_words(settings)
    encoder = getattr(model.config, "encoder", None)
    return {
        "start_tokens": start,
        "forced_first_token": forced,
        "suppress_tokens": sorted(token for token in never if 0 <= token < vocabulary),
        "begin_suppress_tokens": sorted(
            int(token) for token in settings.begin_suppress_tokens or () if 0 <= int(token) < vocabulary
        ),
        "does_prompt_replace_start": "donut" in str(getattr(encoder, "model_type", "")),
    }


def plain_settings(model: Any) -> Any:
    """The model's generation settings without what `token_plan` leaves out, for a reference that is asked for the same."""
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        do_sample=False,
        num_beams=1,
        num_beam_groups=1,
        num_return_sequences=1,
        early_stopping=False,
        length_penalty=1.0,
        repetition_penalty=1.0,
        encoder_repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        encoder_no_repeat_ngram_size=0,
        min_length=0,
        min_new_tokens=None,
        max_length=None,
        forced_eos_token_id=None,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
    )
    return settings


def _start_token(model: Any) -> int:
    if isinstance(model, transformers.BlipForConditionalGeneration):
        return int(model.config.text_config.bos_token_id)
    settings = model.generation_config
    start = settings.bos_token_id if settings.decoder_start_token_id is None else settings.decoder_start_token_id
    if not isinstance(start, int):
        raise ModelRefused(f"generation settings: decoder_start_token_id must be a token, found {start!r}")
    return start


def _whisper_start(model: Any) -> list[int | list[int]]:
    """Transformers' own rule, asked with a stand-in for the language, which it detects from the sound when none is set."""
    settings = copy.deepcopy(model.generation_config)
    settings.return_timestamps = False
    detect = model.detect_language
    model.detect_language = lambda **_: torch.tensor([_ANY_LANGUAGE])
    try:
        found = model._retrieve_init_tokens(
            None, batch_size=1, generation_config=settings, config=model.config, num_segment_frames=None, kwargs={}
        )[0].tolist()
    finally:
        model.detect_language = detect
        del model.detect_language  # the class has its own again
    languages = sorted(set(map(int, getattr(settings, "lang_to_id", {}).values())))
    return [languages if token == _ANY_LANGUAGE else int(token) for token in found]


def _single_bad_words(settings: Any) -> set[int]:
    words = settings.bad_words_ids or []
    if any(len(word) != 1 for word in words):
        raise ModelRefused(f"generation settings: bad_words_ids must be single tokens, found {words!r:.120}")
    ends = settings.eos_token_id
    # transformers takes the end token out of the list.
    return {int(word[0]) for word in words} - set(ends if isinstance(ends, list) else [ends])
