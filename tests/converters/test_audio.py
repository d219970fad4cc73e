"""Models that listen: what is read of their files, and what is refused before anything is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from converters.coverage.vocabulary import LETTERS
from converters.errors import ConversionFailed, ModelRefused
from converters.kinds.audio import Audio, longest, shortest
from converters.kinds.ctc import load_letters, write_letters
from converters.locate import Located
from converters.parity.sounds import heard, melody, wav
from converters.pipeline import convert
from converters.source import Source, stage
from converters.tasks import TASKS, task_of
from tests.converters.tiny_sounds import FAMILIES, tiny_listener

TASK = TASKS["automatic-speech-recognition"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_listener(tmp_path_factory.mktemp("model") / "wav2vec2", "wav2vec2", "ForCTC")


def staged(model: Path, folder: Path, **changed: Any) -> Source:
    """The model with some of its JSON files changed, or left out where None is given."""
    source = stage(Located(model, "tiny", None), folder / "staged")
    files = dict(source.files)
    for name, content in changed.items():
        path = source.folder / f"{name}.json"
        if content is None:
            path.unlink()
            files.pop(path.name)
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
    documents = {name: json.loads((source.folder / name).read_text()) for name in files if name.endswith(".json")}
    given = {name: getattr(source, name) for name in Source.__dataclass_fields__}
    return Source(**{**given, "files": files, "documents": documents})


def test_letters_are_written_so_that_each_token_id_has_its_name(model: Path, tmp_path: Path) -> None:
    import tokenizers

    letters = load_letters(staged(model, tmp_path))
    write_letters(letters, tmp_path / "tokenizer.json")
    named = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [named.id_to_token(place) for place in range(len(LETTERS))] == list(LETTERS)
    facts = {"blank_token_id": 0, "word_delimiter": "|", "unknown": "<unk>", "lowercase": False, "clean_up": False}
    assert letters.facts() == facts
    assert letters.decode([5, 5, 0, 5, 4, 4, 6, 0]) == "EE T"


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no letters": ({"vocab": None}, "no vocab.json"),
    "another tokenizer": ({"tokenizer_config": {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}}, "Wav2Vec2CTCTokenizer"),
    "another space": (
        {"tokenizer_config": {"tokenizer_class": "Wav2Vec2CTCTokenizer", "replace_word_delimiter_char": "_"}},
        "a space between words",
    ),
    "two letters for one id": ({"vocab": {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 5}}, "one letter"),
    "no processor": ({"preprocessor_config": None}, "preprocessor_config.json"),
    "a processor of another kind": (
        {"preprocessor_config": {"feature_extractor_type": "ClapFeatureExtractor"}},
        "ClapFeatureExtractor",
    ),
}


@pytest.mark.parametrize(("changed", "said"), BROKEN.values(), ids=list(BROKEN))
def test_a_model_that_the_backend_could_not_hear_with_is_refused(
    model: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(ModelRefused, match=said):
        Audio(staged(model, tmp_path, **changed), TASK, tmp_path)


def test_the_shortest_and_the_longest_sound_are_the_models_own() -> None:
    config = transformers.Wav2Vec2Config(**FAMILIES["wav2vec2"][1])
    heard_by = transformers.Wav2Vec2ForCTC(config)
    fewest = shortest(heard_by, transformers.Wav2Vec2FeatureExtractor())
    lengths = heard_by._get_feat_extract_output_lengths
    assert (int(lengths(fewest - 1)), int(lengths(fewest))) == (0, 1)
    assert longest(transformers.Wav2Vec2FeatureExtractor()) == 0
    assert longest(transformers.WhisperFeatureExtractor()) == 30 * 16_000


def test_a_spectrogram_model_takes_just_what_its_frames_hold() -> None:
    extractor = transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=16)
    most = longest(extractor)
    noise = np.random.default_rng(0).normal(0, 0.1, most + 160).astype(np.float32)

    def frames(samples: int) -> Any:
        return extractor(noise[:samples], sampling_rate=16_000)["input_values"][0]

    assert np.array_equal(frames(most + 1)[:64], frames(most)[:64]), "one sample more is one that is cut"
    assert not np.array_equal(frames(most - 159)[63], frames(most - 160)[63]), "the last frame is heard at the limit"


@pytest.mark.slow
def test_a_model_that_says_the_same_of_every_sound_is_refused(tmp_path: Path) -> None:
    """It would agree with any graph and any extractor."""
    folder = tiny_listener(tmp_path / "model", "wav2vec2", "ForSequenceClassification")
    model = transformers.Wav2Vec2ForSequenceClassification.from_pretrained(folder)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.normal_(model.classifier.bias)
    model.save_pretrained(folder)
    with pytest.raises(ConversionFailed, match="alike for different sounds"):
        convert(str(folder), tmp_path / "out")


@pytest.mark.parametrize(
    ("architecture", "reads", "task"),
    [
        ("Wav2Vec2ForCTC", "sounds", "automatic-speech-recognition"),
        ("Wav2Vec2ForSequenceClassification", "sounds", "audio-classification"),
        ("ASTForAudioClassification", "sounds", "audio-classification"),
        ("BertForSequenceClassification", "texts", "text-classification"),
    ],
)
def test_a_classifier_that_listens_is_known_by_its_processor(architecture: str, reads: str, task: str) -> None:
    assert task_of((architecture,), reads).name == task


def test_a_wave_file_holds_what_is_heard() -> None:
    sound = melody(800, 16_000, 1, channels=2)
    file = wav(sound, 16_000)
    assert np.array_equal(np.frombuffer(file[44:], "<i2").reshape(-1, 2), sound)
    assert heard(sound).shape == (800,)
    assert 0.05 < np.abs(heard(sound)).max() <= 1
