"""The tasks we serve: what each offers in Triton, which backend runs it, and what its entry tells that backend.

In: a task's name. Out: its `Task`. This module must never import anything heavy: backends and the control plane read it too.

`Entry.details`, exactly these keys, all of them always present. Every path is relative to the entry's folder.

Both backends:

    model                 str    the graph, always "1/model.onnx"
    tokenizer             str    always "1/tokenizer.json", in the `tokenizers` library's format
    add_special_tokens    bool   pass it to `Tokenizer.encode`: what transformers does with this tokenizer by default
    context_length        int    most tokens one sequence may have: prompt and completion together for `generate`, special tokens
                                 counted. Longer input is refused by the backend, never cut
    vocabulary            int    valid token ids are 0 .. vocabulary - 1 (size of the embedding, not of the tokenizer)
    pad_token_id          int    fills short rows of a batch; a valid id, even where the model has no padding token of its own
    padding_side          str    "left" or "right"
    graph_inputs          list   [{"name": str, "dtype": str, "axes": [str | int, ...]}, ...] of the ONNX graph, in its order;
    graph_outputs         list   dtype in the protocol's names ("INT64", "FP32"); an axis is its length, or its name where it
                                 varies. What the graph does not list (`position_ids`, `token_type_ids`) must not be fed

  Tensors are found by name, never by place. INT64, where listed: `input_ids`; `attention_mask` (1 for tokens, 0 for padding);
  `position_ids` (cumulative sum of the mask minus 1, and 1 where the mask is 0); `token_type_ids` (as the tokenizer gives them).

`generate` (text-generation) also:

    eos_token_ids         [int]  any of them ends a completion and is not part of the text; may be empty
    bos_token_id          int|null
    layers                list   per layer, from the first: {"past_key", "past_value", "present_key", "present_value"}: names of
                                 graph tensors, each FP32 [batch, kv_heads, length, head_size]; length 0 at the first step
    kv_heads, head_size   int
    defaults              dict   {"max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "top_k": 0}: what a call gets that does
                                 not say. temperature 0 = greedy; top_k 0 = off

  `attention_mask` is [batch, past + new]; `input_ids` and `position_ids` are [batch, new]; `logits` is FP32 [batch, new,
  vocabulary].

`predict`, feature-extraction also:

    output                str    the graph output to pool, FP32 [batch, sequence, dimensions]
    pooling               str    "mean" (weighted by the attention mask), "cls" (first token) or "last" (last token that is not
                                 padding)
    normalize             bool   divide by the Euclidean length, at least 1e-12
    dimensions            int

`predict`, text-classification also:

    output                str    FP32 [batch, labels]
    labels                [str]  in the order of the scores
    activation            str    "softmax", "sigmoid" (several labels may hold at once) or "none" (one number, a regression)

`predict`, question-answering also:

    start_output, end_output  str   FP32 [batch, sequence] each; position 0 is "no answer" and never part of one
    max_answer_tokens     int    longest answer that is looked for

  The tokenizer is given the pair (question, context). Start and end are character offsets into the context, end exclusive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from converters.errors import ModelRefused
from converters.tensors import Tensor

GENERATION_DEFAULTS: Mapping[str, int | float] = MappingProxyType({"max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "top_k": 0})
"""OpenAI's defaults for completions, so that the stock client gets what its documentation says."""

MAX_ANSWER_TOKENS = 15
"""The default of transformers' question-answering pipeline (`max_answer_len`)."""


@dataclass(frozen=True)
class Task:
    """One row of the table.

    backend: the Triton backend that runs it, also the name of its folder in `model_repository/backends`.
    auto_class: the transformers class that loads the PyTorch model.
    export_task: optimum's name of the task; with the key-value cache for generation.
    architectures: endings of the class names in a model's `config.json` that mean this task.
    """

    name: str
    backend: str
    auto_class: str
    export_task: str
    architectures: tuple[str, ...]
    inputs: tuple[Tensor, ...]


_TEXT = Tensor("text_input", "BYTES", (-1,))
_PROMPT_TOKENS = Tensor("prompt_tokens", "INT32", (-1,))

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                name="text-generation",
                backend="generate",
                auto_class="AutoModelForCausalLM",
                export_task="text-generation-with-past",
                architectures=("LMHeadModel", "ForCausalLM"),
                inputs=(
                    Tensor("text_input", "BYTES", (1,)),
                    Tensor("stream", "BOOL", (1,), is_optional=True),
                    Tensor("max_tokens", "INT32", (1,), is_optional=True),
                    Tensor("temperature", "FP32", (1,), is_optional=True),
                    Tensor("top_p", "FP32", (1,), is_optional=True),
                    Tensor("top_k", "INT32", (1,), is_optional=True),
                    Tensor("seed", "INT64", (1,), is_optional=True),
                    Tensor("stop", "BYTES", (-1,), is_optional=True),
                ),
            ),
            Task(
                name="feature-extraction",
                backend="predict",
                auto_class="AutoModel",
                export_task="feature-extraction",
                architectures=("Model",),
                inputs=(_TEXT,),
            ),
            Task(
                name="text-classification",
                backend="predict",
                auto_class="AutoModelForSequenceClassification",
                export_task="text-classification",
                architectures=("ForSequenceClassification",),
                inputs=(_TEXT,),
            ),
            Task(
                name="question-answering",
                backend="predict",
                auto_class="AutoModelForQuestionAnswering",
                export_task="question-answering",
                architectures=("ForQuestionAnswering",),
                inputs=(Tensor("question", "BYTES", (-1,)), Tensor("context", "BYTES", (-1,))),
            ),
        )
    }
)


def task_named(name: str) -> Task:
    """Raises ModelRefused for a task we do not serve; the publisher names another."""
    try:
        return TASKS[name]
    except KeyError:
        raise ModelRefused(f"task: expected one of {', '.join(TASKS)}; found {name!r}") from None


def task_of(architectures: tuple[str, ...]) -> Task:
    """The task that a model's `architectures` name; the longest ending wins, so `GPT2LMHeadModel` is not a bare `Model`.

    Raises ModelRefused when none matches; the publisher can name the task.
    """
    endings = [
        (len(ending), task)
        for task in TASKS.values()
        for ending in task.architectures
        if any(architecture.endswith(ending) for architecture in architectures)
    ]
    if not endings:
        raise ModelRefused(
            f"config.json: expected architectures of one of {', '.join(TASKS)}; found {list(architectures)}: name the task yourself"
        )
    return max(endings, key=lambda match: match[0])[1]


def outputs_of(task: Task, *, width: int = -1) -> tuple[Tensor, ...]:
    """What Triton offers for the task. `width` is the embedding's dimensions or the number of labels, where the task has one."""
    if task.name == "text-generation":
        return (
            Tensor("text_output", "BYTES", (1,)),
            Tensor("token_ids", "INT32", (-1,)),
            Tensor("prompt_tokens", "INT32", (1,)),
            Tensor("completion_tokens", "INT32", (1,)),
            Tensor("finish_reason", "BYTES", (1,)),
        )
    if task.name == "feature-extraction":
        return (Tensor("embedding", "FP32", (-1, width)), _PROMPT_TOKENS)
    if task.name == "text-classification":
        return (Tensor("scores", "FP32", (-1, width)), Tensor("label", "BYTES", (-1,)), _PROMPT_TOKENS)
    return (
        Tensor("answer", "BYTES", (-1,)),
        Tensor("score", "FP32", (-1,)),
        Tensor("start", "INT32", (-1,)),
        Tensor("end", "INT32", (-1,)),
        _PROMPT_TOKENS,
    )
