"""The tasks of the backend `generate`: tokens made one after the other.

In: nothing. Out: `Task` rows. This module must never import anything heavy.

`Entry.details` of all of them, exactly these keys, always present. Paths are relative to the entry's folder.

    tokenizer             str    always "1/tokenizer.json", in the `tokenizers` library's format
    add_special_tokens    bool   pass it to `Tokenizer.encode`: what transformers does with this tokenizer by default
    context_length        int    most tokens one sequence may have: prompt and completion together (causal), or the prompt of an
                                 encoder (seq2seq with text). Longer input is refused by the backend, never cut
    vocabulary            int    valid token ids are 0 .. vocabulary - 1 (size of the embedding, not of the tokenizer)
    pad_token_id          int    fills short rows of a batch; a valid id, even where the model has no padding token of its own
    padding_side          str    "left" or "right"
    eos_token_ids         [int]  any of them ends a completion and is not part of the text; may be empty
    bos_token_id          int|null
    defaults              dict   {"max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "top_k": 0}: what a call gets that does
                                 not say. temperature 0 = greedy; top_k 0 = off
    precision             str    dtype of the key-value cache in the graph: "FP32", "FP16" or "BF16"

`text-generation` (kind causal) also:

    model                 str    the graph, always "1/model.onnx"
    graph_inputs          list   [{"name": str, "dtype": str, "axes": [str | int, ...]}, ...] of the ONNX graph, in its order;
    graph_outputs         list   dtype in the protocol's names ("INT64", "FP32"); an axis is its length, or its name where it
                                 varies. What the graph does not list (`position_ids`) must not be fed
    layers                list   per layer, from the first: {"past_key", "past_value", "present_key", "present_value"}: names of
                                 graph tensors, each [batch, kv_heads, length, head_size]; length 0 at the first step of a
                                 cache that grows. Empty for a model without a cache: then every step reads the whole
                                 sequence again
    kv_heads, head_size   int    of the first layer's key; 0 where `layers` is empty. A value, or another layer, may have others:
                                 `graph_inputs` has the shape of each
    chat_template         dict   {"file": "1/chat_template.jinja" or null, "why": why it is null, "special_tokens": what
                                 transformers hands to it beside the messages}; absent in entries from before there were templates

  `attention_mask` is [batch, past + new]; `input_ids` and `position_ids` are [batch, new]; `logits` is [batch, new, vocabulary].
  A graph whose cache is shared takes the three inputs below instead of `attention_mask`: past and present are then the same
  memory, [batch, kv_heads, buffer_length, head_size], each row holds tokens from its first place on, and `logits` is [batch, kept,
  vocabulary].

  A call gives `text_input` or `messages`, exactly one of them; Triton knows no such rule, so both are optional, and the backend
  refuses. Messages are written out by the entry's chat template, else as lines of `role: content`.

`text2text-generation`, `speech-to-text`, `image-to-text` (kind seq2seq): see `converters/kinds/seq2seq.py`'s docstring.

`audio` and `image` hold a file's bytes, or the file as a data URL (RFC 2397, `data:;base64,...`), which is how a file travels in
the JSON of Triton's generate extension; backends read both with `opening/files.py`. Probes hold the file's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from converters.tasks.task import MESSAGES, Task
from converters.tensors import Tensor

LENGTHS, TOTAL, KEPT = "seqlens_k", "total_sequence_length", "logits_to_keep"
"""Inputs of a graph whose cache is shared. LENGTHS: INT32 [batch], tokens that each row holds after the step, less one. TOTAL:
INT32 [1], those of the longest row. KEPT: INT64 [1], logits of so many last tokens are given."""

GENERATION_DEFAULTS: Mapping[str, int | float] = MappingProxyType({"max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "top_k": 0})
"""OpenAI's defaults for completions, so that the stock client gets what its documentation says."""

SAMPLING = (
    Tensor("stream", "BOOL", (1,), is_optional=True),
    Tensor("max_tokens", "INT32", (1,), is_optional=True),
    Tensor("temperature", "FP32", (1,), is_optional=True),
    Tensor("top_p", "FP32", (1,), is_optional=True),
    Tensor("top_k", "INT32", (1,), is_optional=True),
    Tensor("min_p", "FP32", (1,), is_optional=True),
    Tensor("repetition_penalty", "FP32", (1,), is_optional=True),
    Tensor("frequency_penalty", "FP32", (1,), is_optional=True),
    Tensor("presence_penalty", "FP32", (1,), is_optional=True),
    Tensor("logprobs", "BOOL", (1,), is_optional=True),
    Tensor("seed", "INT64", (1,), is_optional=True),
    Tensor("stop", "BYTES", (-1,), is_optional=True),
)
"""What every generating entry takes beside what it reads. They are the backend's own, so an entry that was made before one of them
takes it too: see `tasks.offered_inputs`. What each means exactly stands in `generate/call.py` and `generate/sampling.py`."""

SCORE = "score"
"""BOOL [1], of causal models: choose no token, but tell the logarithm of each of the text's own tokens' probability after those
before it. `token_ids`, `token_logprobs` and `token_texts` are then the text's; the first token, which nothing is before, has 0.
`completion_tokens` is 0, `finish_reason` "length", and what is said of choosing tokens has no effect."""

GENERATED = (
    Tensor("text_output", "BYTES", (1,)),
    Tensor("token_ids", "INT32", (-1,)),
    Tensor("prompt_tokens", "INT32", (1,)),
    Tensor("completion_tokens", "INT32", (1,)),
    Tensor("finish_reason", "BYTES", (1,)),
    Tensor("token_logprobs", "FP32", (-1,)),
    Tensor("token_texts", "BYTES", (-1,)),
)
"""What every generating entry offers, also the backend's own.

token_logprobs: natural logarithm of each chosen token's probability, in the order of `token_ids`, under the softmax of the scores
    as the model gave them: before penalties and temperature, and without top-k, top-p or min-p (vLLM's "raw_logprobs"). Where the
    model's own settings forbid or force tokens (encoder-decoder models), after that. Of chosen tokens only.
token_texts: what each token adds to the text. Joined they are the text, with a stop string where one ended it: a token that ends in
    the middle of a character adds nothing, the one that completes it the whole character; an end token adds nothing.
Both are empty unless `logprobs` or `score` is true."""

_TEXT_TO_TEXT = (
    *("T5ForConditionalGeneration", "T5GemmaForConditionalGeneration", "SwitchTransformersForConditionalGeneration"),
    *("BartForConditionalGeneration", "LEDForConditionalGeneration", "MvpForConditionalGeneration", "MarianMTModel"),
    *("PegasusForConditionalGeneration", "PegasusXForConditionalGeneration", "FSMTForConditionalGeneration"),
    *("M2M100ForConditionalGeneration", "NllbMoeForConditionalGeneration", "ProphetNetForConditionalGeneration"),
    *("BlenderbotForConditionalGeneration", "BlenderbotSmallForConditionalGeneration", "EncoderDecoderModel"),
)
"""Names, not the ending that most of them share: models that see or hear, and decoders alone, have it as well."""

TASKS = (
    Task(
        name="text-generation",
        pipeline="text-generation",
        kind="causal",
        backend="generate",
        auto_classes=("AutoModelForCausalLM",),
        export_task="text-generation-with-past",
        architectures=("LMHeadModel", "ForCausalLM"),
        inputs=(
            Tensor("text_input", "BYTES", (1,), is_optional=True),
            Tensor(MESSAGES, "BYTES", (1,), is_optional=True),
            Tensor(SCORE, "BOOL", (1,), is_optional=True),
            *SAMPLING,
        ),
    ),
    Task(
        name="text2text-generation",
        pipeline="text2text-generation",
        kind="seq2seq",
        backend="generate",
        auto_classes=("AutoModelForSeq2SeqLM",),
        export_task="text2text-generation-with-past",
        architectures=_TEXT_TO_TEXT,
        inputs=(Tensor("text_input", "BYTES", (1,)), *SAMPLING),
    ),
    Task(
        name="speech-to-text",
        pipeline="automatic-speech-recognition",
        kind="seq2seq",
        backend="generate",
        auto_classes=("AutoModelForSpeechSeq2Seq",),
        export_task="automatic-speech-recognition-with-past",
        architectures=(
            "WhisperForConditionalGeneration",
            "Speech2TextForConditionalGeneration",
            "MoonshineForConditionalGeneration",
            "SpeechT5ForSpeechToText",
            "SpeechEncoderDecoderModel",
        ),
        inputs=(Tensor("audio", "BYTES", (1,)), *SAMPLING),
    ),
    Task(
        name="image-to-text",
        pipeline="image-to-text",
        kind="seq2seq",
        backend="generate",
        auto_classes=("AutoModelForVision2Seq",),
        export_task="image-to-text-with-past",
        architectures=("VisionEncoderDecoderModel", "BlipForConditionalGeneration", "Pix2StructForConditionalGeneration"),
        inputs=(Tensor("image", "BYTES", (1,)), Tensor("text_input", "BYTES", (1,), is_optional=True), *SAMPLING),
    ),
)
