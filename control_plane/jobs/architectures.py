"""Architectures that no training of ours can do, whatever their configuration says.

In: the name of a class of transformers, as an entry states it. Out: why it is not trained. This module must never know a model.

It is told before anything is paid, and such a model sells no trainings. A class is here because the training program was tried on a
tiny model of it, and could not (`tests/c2d_adapter/algorithms/test_families.py`, which also fails once it can). What depends on a
model's own configuration or tokenizer the program finds out by itself, and its job gives the payment back.
"""

from __future__ import annotations

from collections.abc import Mapping

_STATES = "which begins each step with what the one before has left, so that it has no gradients"
_NOT_MADE = "of which transformers 4.57 makes no model that can be trained"
_NO_WORDS = "which has no table of words"

UNTRAINABLE: Mapping[str, str] = {
    "MllamaForCausalLM": _NOT_MADE,
    "PerceiverForMaskedLM": _NO_WORDS,
    "RecurrentGemmaForCausalLM": _STATES,
    "ReformerModelWithLMHead": "which learns from texts of one length alone, that of its table of positions",
    "Speech2Text2ForCausalLM": _NOT_MADE,
    "TransfoXLLMHeadModel": _NO_WORDS,
    "xLSTMForCausalLM": _NOT_MADE,
}
"""Class to reason, as it stands in the sentence `expected a model that can be trained, and no <class>, <reason>, found one`."""
