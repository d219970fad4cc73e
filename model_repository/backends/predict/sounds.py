"""Tasks that listen: what a sound is, and what is said in it.

In: sound files. Out: one array per output tensor, first axis = sounds. This module must never know of Triton.

Each sound is a forward pass of its own, as in transformers' pipelines: several models normalise over a whole batch's padding, so a
sound's neighbours would change what is heard in it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np

from opening.entry import OpenEntry
from opening.listening import Listener
from predict.labels import Labels
from predict.parameters import Parameters
from predict.scores import softmax
from predict.task import RESULT, Arrays, Task, items_of, results_of


class AudioClassification:
    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._listener = entry, Listener(entry)
        self._labels = Labels(entry)

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        asked = self._labels.asked(tensors)
        heard = self._listener.hear(items_of(tensors, "audio"))
        logits = np.concatenate([self._entry.session.run([self._labels.output], feeds)[0] for feeds in heard])
        return self._labels.answer(logits, asked, wanted)


class SpeechRecognition:
    """Connectionist temporal classification: a token a frame, repetitions as one, then the blank left out.

    Source: Graves et al., 2006; the letters are put together as transformers' `Wav2Vec2CTCTokenizer` does.
    """

    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._listener = entry, Listener(entry)
        self._output, self._delimiter, unknown = (entry.detail(key) for key in ("output", "word_delimiter", "unknown"))
        self._is_lower, self._is_tidy = bool(entry.detail("lowercase")), bool(entry.detail("clean_up"))
        blank, tokenizer = int(entry.detail("blank_token_id")), entry.tokenizer
        self._blank = str(tokenizer.id_to_token(blank) or unknown)
        self._unknown = str(unknown)

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        Parameters(tensors, ())
        heard = self._listener.hear(items_of(tensors, "audio"))
        spoken: list[str] = []
        sure: list[np.ndarray] = []
        for feeds in heard:
            (logits,) = self._entry.session.run([self._output], feeds)
            spoken.append(self._text(logits[0].argmax(axis=-1)))
            sure.append(softmax(logits[0]).max(axis=-1))
        scores: np.ndarray = np.zeros((len(sure), max(map(len, sure))), np.float32)
        for row, each in enumerate(sure):
            scores[row, : len(each)] = each
        answer: Arrays = {"text": np.array([text.encode() for text in spoken], object), "frame_scores": scores}
        if RESULT in wanted:
            answer[RESULT] = results_of({"text": text} for text in spoken)
        return answer

    def _text(self, token_ids: Sequence[int] | np.ndarray) -> str:
        tokens = [self._entry.tokenizer.id_to_token(int(token)) or self._unknown for token in token_ids]
        letters = [token for token, _ in itertools.groupby(tokens) if token != self._blank]
        text = "".join(" " if letter == self._delimiter else letter for letter in letters).strip()
        text = text.lower() if self._is_lower else text
        return tidy(text) if self._is_tidy else text


_TIDIED = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)


def tidy(text: str) -> str:
    """No space before marks and short forms: `clean_up_tokenization` of transformers, for the tokenizers that ask for it."""
    for spaced, closed in _TIDIED:
        text = text.replace(spaced, closed)
    return text


TASKS: Mapping[str, Callable[[OpenEntry], Task]] = MappingProxyType(
    {"audio-classification": AudioClassification, "automatic-speech-recognition": SpeechRecognition}
)
