"""The tasks of the backend `predict` that read texts: one forward pass, no tokens made.

In: nothing. Out: `Task` rows and what each offers. This module must never import anything heavy.

`Entry.details`, exactly these keys, all of them always present. Paths are relative to the entry's folder.

All of them:

    model                 str    the graph, always "1/model.onnx"
    tokenizer, add_special_tokens, context_length, vocabulary, pad_token_id, padding_side, graph_inputs, graph_outputs
                                 as in `tasks/generation.py`

  Tensors are found by name, never by place. INT64, where listed: `input_ids`; `attention_mask` (1 for tokens, 0 for padding);
  `position_ids` (cumulative sum of the mask minus 1, and 1 where the mask is 0); `token_type_ids` (as the tokenizer gives them).

feature-extraction:

    output                str    the graph output to pool, FP32 [batch, sequence, dimensions]
    pooling               str    "mean" (weighted by the attention mask), "cls" (first token) or "last" (last token that is not
                                 padding)
    normalize             bool   divide by the Euclidean length, at least 1e-12
    dimensions            int

text-classification:

    output                str    FP32 [batch, labels]
    labels                [str]  in the order of the scores
    activation            str    "softmax", "sigmoid" (several labels may hold at once) or "none" (one number, a regression)

zero-shot-classification (a text-classification model trained on entailment; each candidate label becomes a hypothesis):

    output                str    FP32 [batch, labels]
    entailment            int    index of the label that means "follows from"
    contradiction         int    index of its opposite, taken with it when several labels may hold at once
    hypothesis_template   str    "This example is {}."

token-classification:

    output                str    FP32 [batch, sequence, labels]
    labels                [str]

fill-mask:

    output                str    FP32 [batch, sequence, vocabulary]
    mask_token            str    as it stands in a text
    mask_token_id         int

question-answering:

    start_output, end_output  str   FP32 [batch, sequence] each; position 0 is "no answer" and never part of one
    max_answer_tokens     int    longest answer that is looked for

  The tokenizer is given the pair (question, context). Start and end are character offsets into the context, end exclusive.

multiple-choice:

    output                str    FP32 [batch, choices]; the graph's text inputs are [batch, choices, sequence]

`parameters`, by task; every key is optional:

    feature-extraction          normalize (as the entry says)
    text-classification         top_k (5), function_to_apply ("softmax", "sigmoid", "none"; as the entry says)
    zero-shot-classification    hypothesis_template (as the entry says), multi_label (false)
    token-classification        aggregation_strategy ("none", "simple", "first", "average", "max"; "simple"), ignore_labels (["O"])
    fill-mask                   top_k (5, at most 100), targets (words of one token each)
    question-answering          top_k (1), max_answer_len (as the entry says), align_to_words (true),
                                handle_impossible_answer (false)

`result` of one item:

    feature-extraction          [number, ...]
    text-classification         [{"label", "score"}, ...]
    zero-shot-classification    {"sequence", "labels": [...], "scores": [...]}
    token-classification        [{"entity_group", "score", "word", "start", "end"}, ...]; with "none"
                                [{"entity", "score", "index", "word", "start", "end"}, ...]
    fill-mask                   [{"score", "token", "token_str", "sequence"}, ...]; several masks: a list of such lists
    question-answering          {"answer", "score", "start", "end"}; a list of them when top_k is above 1
    multiple-choice             [{"label", "score"}, ...]
"""

from __future__ import annotations

from typing import Any

from converters.tasks.task import PARAMETERS, RESULT, Task
from converters.tensors import Tensor

MAX_ANSWER_TOKENS = 15
"""The default of transformers' question-answering pipeline (`max_answer_len`)."""

HYPOTHESIS = "This example is {}."
"""The default of transformers' zero-shot-classification pipeline (`hypothesis_template`)."""

_TEXT = Tensor("text_input", "BYTES", (-1,))
_LABELS = Tensor("candidate_labels", "BYTES", (-1,))
_PROMPT_TOKENS = Tensor("prompt_tokens", "INT32", (-1,))


def _task(name: str, auto_class: str, architecture: str, *inputs: Tensor, export_task: str = "") -> Task:
    return Task(
        name=name,
        pipeline=name,
        kind="text",
        backend="predict",
        auto_classes=(auto_class,),
        export_task=export_task or name,
        architectures=(architecture,),
        inputs=(*inputs, PARAMETERS),
    )


TASKS = (
    _task("feature-extraction", "AutoModel", "Model", _TEXT),
    _task("text-classification", "AutoModelForSequenceClassification", "ForSequenceClassification", _TEXT),
    _task(
        "zero-shot-classification",
        "AutoModelForSequenceClassification",
        "ForZeroShotClassification",  # no class has this name: the publisher says that a classifier was trained on entailment
        _TEXT,
        _LABELS,
        export_task="text-classification",
    ),
    _task("token-classification", "AutoModelForTokenClassification", "ForTokenClassification", _TEXT),
    _task("fill-mask", "AutoModelForMaskedLM", "ForMaskedLM", _TEXT),
    _task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        "ForQuestionAnswering",
        Tensor("question", "BYTES", (-1,)),
        Tensor("context", "BYTES", (-1,)),
    ),
    _task(
        "multiple-choice",
        "AutoModelForMultipleChoice",
        "ForMultipleChoice",
        Tensor("text_input", "BYTES", (1,)),
        Tensor("choices", "BYTES", (-1,)),
    ),
)


def outputs(name: str, details: dict[str, Any]) -> tuple[Tensor, ...]:
    """What Triton offers for a task of this file; `details` as above."""
    per_task: dict[str, tuple[Tensor, ...]] = {
        "feature-extraction": (Tensor("embedding", "FP32", (-1, int(details.get("dimensions", -1)))),),
        "text-classification": (
            Tensor("scores", "FP32", (-1, len(details.get("labels", ())) or -1)),
            Tensor("label", "BYTES", (-1,)),
        ),
        "zero-shot-classification": (Tensor("scores", "FP32", (-1, -1)),),  # items, candidate labels in their order
        "token-classification": (
            Tensor("scores", "FP32", (-1, -1, len(details.get("labels", ())) or -1)),  # items, longest item's tokens, labels
            Tensor("start", "INT32", (-1, -1)),  # character offsets of each token; 0 and 0 for special tokens and padding
            Tensor("end", "INT32", (-1, -1)),
        ),
        "fill-mask": (  # one row a mask, items in order; `item` says whose
            Tensor("item", "INT32", (-1,)),
            Tensor("scores", "FP32", (-1, -1)),
            Tensor("token_ids", "INT32", (-1, -1)),
        ),
        "question-answering": (
            Tensor("answer", "BYTES", (-1,)),
            Tensor("score", "FP32", (-1,)),
            Tensor("start", "INT32", (-1,)),
            Tensor("end", "INT32", (-1,)),
        ),
        "multiple-choice": (Tensor("scores", "FP32", (-1,)),),  # one a choice
    }
    return (*per_task[name], _PROMPT_TOKENS, RESULT)
