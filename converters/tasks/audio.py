"""The tasks of the backend `predict` that listen.

In: nothing. Out: `Task` rows and what each offers. This module must never import anything heavy.

Sounds arrive as files in a BYTES tensor (WAV, FLAC, OGG, MP3), one element each; they are made mono at the model's rate. Each is
a forward pass of its own: padding would change what several models hear.

`Entry.details`, exactly these keys, all of them always present. Paths are relative to the entry's folder.

All of them:

    model                 str    the graph, always "1/model.onnx"
    processor             str    always "1/preprocessor_config.json": how transformers makes tensors of a sound
    sampling_rate         int    samples a second
    shortest              int    samples below which the model has nothing to say
    longest               int    samples beyond which the processor would cut; 0 where it never does
    graph_inputs, graph_outputs  as in `tasks/generation.py`

audio-classification: output, labels as in text-classification; activation always "softmax", as transformers' pipeline has it.

automatic-speech-recognition (connectionist temporal classification; a model that generates text is `speech-to-text`):

    output                str    FP32 [batch, frames, vocabulary]
    tokenizer             str    "1/tokenizer.json"; names token ids, nothing is encoded
    blank_token_id        int
    word_delimiter        str    the token that stands between words
    unknown               str    the text of an id that has no token
    lowercase             bool   the text is given in lower case
    clean_up              bool   no spaces before marks and short forms in the text
"""

from __future__ import annotations

from typing import Any

from converters.tasks.task import PARAMETERS, RESULT, Task
from converters.tensors import Tensor

_AUDIO = Tensor("audio", "BYTES", (-1,))

TASKS = (
    Task(
        name="audio-classification",
        pipeline="audio-classification",
        kind="audio",
        backend="predict",
        auto_classes=("AutoModelForAudioClassification",),
        export_task="audio-classification",
        architectures=("ForAudioClassification",),
        inputs=(_AUDIO, PARAMETERS),
    ),
    Task(
        name="automatic-speech-recognition",
        pipeline="automatic-speech-recognition",
        kind="audio",
        backend="predict",
        auto_classes=("AutoModelForCTC",),
        export_task="automatic-speech-recognition",
        architectures=("ForCTC",),
        inputs=(_AUDIO, PARAMETERS),
    ),
)


def outputs(name: str, details: dict[str, Any]) -> tuple[Tensor, ...]:
    """What Triton offers for a task of this file; `details` as above."""
    if name == "audio-classification":
        return (Tensor("scores", "FP32", (-1, len(details.get("labels", ())) or -1)), Tensor("label", "BYTES", (-1,)), RESULT)
    return (
        Tensor("text", "BYTES", (-1,)),
        Tensor("frame_scores", "FP32", (-1, -1)),  # items, frames: the best token's probability, 0 past an item's end
        RESULT,
    )
