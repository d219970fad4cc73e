"""Sounds from strangers: decoded, brought to the model's rate, and heard as transformers hears them."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import transformers

from converters.offline import go_offline
from converters.pipeline import convert
from opening.entry import open_entry
from opening.files import read_file
from opening.refusal import Refused
from opening.resample import resample
from opening.sound import MAX_SECONDS, read_sounds
from predict.tasks import task_of
from tests.converters.tiny_sounds import FAMILIES, tiny_listener
from tests.fixtures_triton import Converted
from tests.model_repository.replaying import replayed
from tests.sounds import wave_file

RATE = 16_000


def tone(frequency: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype(np.float32) / 2


def file_of(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, samples, rate, format=kind, subtype=subtype)
    return written.getvalue()


# Decoding


@pytest.mark.parametrize(("kind", "most"), [("WAV", 4e-5), ("FLAC", 4e-5), ("OGG", 0.1), ("MP3", 0.1)])
def test_each_format_gives_its_samples(kind: str, most: float) -> None:
    sound = tone(440, RATE)
    (found,) = read_sounds([file_of(sound, kind=kind)], RATE)
    assert found.dtype == np.float32
    assert np.abs(found[2000:12000] - sound[2000:12000]).max() < most


def test_several_channels_are_heard_as_their_mean() -> None:
    left, right = tone(440, RATE), tone(700, RATE)
    (found,) = read_sounds([file_of(np.stack([left, right], axis=1), subtype="FLOAT")], RATE)
    assert np.abs(found - (left + right) / 2).max() < 1e-6


def test_a_sound_of_another_rate_is_brought_to_the_models() -> None:
    (found,) = read_sounds([file_of(tone(440, 44_100), 44_100, subtype="FLOAT")], RATE)
    assert len(found) == RATE
    assert np.abs(found[2000:14000] - tone(440, RATE)[2000:14000]).max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 44_101, 192_000])
def test_resampling_keeps_every_tone_that_both_rates_hold(rate: int) -> None:
    for frequency in (100.0, 0.2 * min(rate, RATE), 0.42 * min(rate, RATE)):
        found, expected = resample(tone(frequency, rate), rate, RATE), tone(frequency, RATE)
        assert len(found) == RATE
        assert np.abs(found[2000:14000] - expected[2000:14000]).max() < 1e-4, frequency


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_resampling_lets_no_tone_through_that_the_new_rate_cannot_hold(rate: int) -> None:
    for frequency in (8_500.0, 12_000.0, 19_000.0):
        assert np.abs(resample(tone(frequency, rate), rate, RATE)[2000:14000]).max() < 1e-4, frequency


def test_resampling_does_not_depend_on_how_it_is_cut() -> None:
    sound = np.random.default_rng(0).normal(size=90_000).astype(np.float32)
    whole = resample(sound, 44_100, RATE)
    assert np.array_equal(resample(sound[:60_000], 44_100, RATE)[:20_000], whole[:20_000])


def test_a_short_sound_at_an_odd_rate_takes_neither_a_gigabyte_nor_seconds() -> None:
    tracemalloc.start()
    try:
        assert len(resample(tone(440.0, 191_999, 0.1), 191_999, RATE)) == RATE // 10
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def damaged(kind: str) -> bytes:
    whole = bytearray(file_of(np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32), kind=kind))
    whole[len(whole) // 2 :] = bytes(len(whole) - len(whole) // 2)
    return bytes(whole)


def float_wav(value: float) -> bytes:
    return file_of(np.full(800, value, np.float32), subtype="FLOAT")


def wav_that_says(frames: int) -> bytes:
    """A header that promises more than there is."""
    whole = bytearray(file_of(tone(440, RATE)))
    place = whole.index(b"data") + 4
    whole[place : place + 4] = (2 * frames).to_bytes(4, "little")
    return bytes(whole)


REFUSED: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "nothing at all": (list, "1 to 32"),
    "an empty file": (lambda: [b""], "not empty"),
    "too many": (lambda: [file_of(tone(440, RATE, 0.01))] * 33, "1 to 32"),
    "a text": (lambda: [b"not a sound at all"], "WAV, FLAC, OGG, MP3"),
    "an image": (lambda: [b"\x89PNG\r\n\x1a\n" + bytes(64)], "WAV, FLAC, OGG, MP3"),
    "another format": (lambda: [file_of(tone(440, RATE), kind="AIFF")], "WAV, FLAC, OGG, MP3"),
    "one that ends inside its header": (lambda: [file_of(tone(440, RATE))[:20]], "WAV, FLAC, OGG, MP3"),
    "one that ends early": (lambda: [damaged("FLAC")], "whole sound file"),
    "too long": (lambda: [file_of(np.zeros(int(8_000 * (MAX_SECONDS + 1)), np.float32), 8_000)], "60 seconds"),
    "too slow": (lambda: [file_of(tone(10, 500), 500)], "1000 to 192000"),
    "too fast": (lambda: [file_of(tone(440, 400_000, 0.01), 400_000)], "1000 to 192000"),
    "too many channels": (lambda: [file_of(np.zeros((800, 9), np.float32))], "1 to 8 channels"),
    "no samples": (lambda: [file_of(np.zeros(0, np.float32))], "with samples"),
    "no number": (lambda: [float_wav(float("nan"))], "numbers"),
    "endless": (lambda: [float_wav(float("inf"))], "numbers"),
    "a data URL without base64": (lambda: [b"data:audio/wav,RIFF"], "data URL"),
    "a data URL with broken base64": (lambda: [b"data:audio/wav;base64,###"], "data URL"),
}


@pytest.mark.parametrize(("raws", "expected"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_no_sound_for_us_is_refused_by_its_field(raws: Callable[[], list[bytes]], expected: str) -> None:
    with pytest.raises(Refused) as refused:
        read_sounds(raws(), RATE)
    assert refused.value.field == "audio"
    assert expected in refused.value.expected


@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF", "W64", "SVX", "NIST"])
def test_no_other_formats_parser_sees_a_strangers_file(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = file_of(tone(440, RATE), kind=kind)
    monkeypatch.setattr("soundfile.SoundFile", lambda *_: pytest.fail("the library was asked"))
    with pytest.raises(Refused, match="something else"):
        read_sounds([file], RATE)


def test_a_header_that_promises_more_than_there_is_gives_what_there_is() -> None:
    (found,) = read_sounds([wav_that_says(10**9)], RATE)
    assert len(found) == RATE


def test_a_file_reads_the_same_from_its_data_url() -> None:
    raw = file_of(tone(440, RATE, 0.01))
    encoded = base64.b64encode(raw)
    assert read_file(b"data:audio/wav;base64," + encoded, "audio") == raw
    assert read_file(raw, "audio") == raw


# Whole entries


def entry_of(folder: Path, family: str, head: str) -> Converted:
    go_offline()
    model = tiny_listener(folder / "model", family, head)
    return Converted(model, convert(str(model), folder / "out").folder)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return entry_of(tmp_path_factory.mktemp("recogniser"), "wav2vec2", "ForCTC")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return entry_of(tmp_path_factory.mktemp("classifier"), "audio-spectrogram-transformer", "ForAudioClassification")


def bytes_tensor(*files: bytes) -> np.ndarray:
    return np.array(files, object)


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(RATE * seconds)).astype(np.float32)


def test_probes_of_a_recogniser_and_of_a_classifier_are_answered_as_pytorch_does(
    recogniser: Converted, classifier: Converted
) -> None:
    for converted in (recogniser, classifier):
        told = replayed(converted.entry)
        assert len(told) == 3
        assert all(difference.is_within for _, differences in told for difference in differences)
    assert {difference.output for _, differences in replayed(recogniser.entry) for difference in differences} == {
        "text",
        "frame_scores",
    }


def test_a_text_is_what_transformers_pipeline_says(recogniser: Converted) -> None:
    pipeline = transformers.pipeline("automatic-speech-recognition", str(recogniser.model))
    task = task_of(open_entry(recogniser.entry))
    sounds = [noise(seconds, seed) for seed, seconds in enumerate((0.3, 0.7, 1.3))]
    given = task.answer({"audio": bytes_tensor(*(file_of(sound, subtype="FLOAT") for sound in sounds))}, {"result"})
    expected = [pipeline({"raw": sound, "sampling_rate": RATE}) for sound in sounds]
    assert [json.loads(result) for result in given["result"]] == expected
    assert all(len(each["text"]) > 3 for each in expected)


def test_labels_are_what_transformers_pipeline_says(classifier: Converted) -> None:
    pipeline = transformers.pipeline("audio-classification", str(classifier.model))
    task = task_of(open_entry(classifier.entry))
    sounds = [noise(seconds, seed) for seed, seconds in enumerate((0.1, 0.3, 0.6))]
    given = task.answer({"audio": bytes_tensor(*(file_of(sound, subtype="FLOAT") for sound in sounds))}, {"result"})
    for sound, result in zip(sounds, given["result"], strict=True):
        expected, found = pipeline({"raw": sound, "sampling_rate": RATE}), json.loads(result)
        assert [each["label"] for each in found] == [each["label"] for each in expected]
        assert [each["score"] for each in found] == pytest.approx([each["score"] for each in expected], abs=1e-5)


def test_a_sound_is_heard_alone_whoever_is_beside_it(recogniser: Converted) -> None:
    task = task_of(open_entry(recogniser.entry))
    files = [file_of(noise(seconds, seed), subtype="FLOAT") for seed, seconds in enumerate((0.3, 1.3, 0.05))]
    together = task.answer({"audio": bytes_tensor(*files)}, {"text", "frame_scores"})
    for index, file in enumerate(files):
        alone = task.answer({"audio": bytes_tensor(file)}, {"text", "frame_scores"})
        assert alone["text"][0] == together["text"][index]
        length = alone["frame_scores"].shape[1]
        assert np.array_equal(alone["frame_scores"][0], together["frame_scores"][index, :length])
        assert not together["frame_scores"][index, length:].any()


def test_a_sound_that_the_model_cannot_hear_is_refused_with_its_limit(recogniser: Converted, classifier: Converted) -> None:
    shortest = json.loads((recogniser.entry / "entry.json").read_text())["details"]["shortest"]
    task = task_of(open_entry(recogniser.entry))
    assert len(task.answer({"audio": bytes_tensor(file_of(noise(1, 0)[:shortest]))}, {"text"})["text"]) == 1
    with pytest.raises(Refused) as short:
        task.answer({"audio": bytes_tensor(file_of(noise(1, 0)[: shortest - 1]))}, {"text"})
    assert (short.value.field, short.value.expected) == ("audio", f"at least {shortest / RATE:.3f} seconds")
    with pytest.raises(Refused) as long:
        task_of(open_entry(classifier.entry)).answer({"audio": bytes_tensor(file_of(noise(1, 0)))}, {"scores"})
    assert (long.value.field, long.value.found) == ("audio", "more in item 0")


def test_parameters_are_those_of_the_inference_api(recogniser: Converted, classifier: Converted) -> None:
    file = file_of(noise(0.3, 0))
    classify, recognise = task_of(open_entry(classifier.entry)), task_of(open_entry(recogniser.entry))

    def ask(task: object, **parameters: object) -> object:
        asked = {"audio": bytes_tensor(file), "parameters": bytes_tensor(json.dumps(parameters).encode())}
        return json.loads(task.answer(asked, {"result"})["result"][0])  # type: ignore[attr-defined]  # either task

    assert len(ask(classify, top_k=2)) == 2  # type: ignore[arg-type]  # a list for this task
    assert ask(classify, function_to_apply="sigmoid") != ask(classify)
    for task, parameters in ((classify, {"topk": 2}), (recognise, {"return_timestamps": "word"}), (classify, {"top_k": 0})):
        with pytest.raises(Refused) as refused:
            ask(task, **parameters)
        assert refused.value.field == f"parameters.{next(iter(parameters))}"


HEADS = [
    (family, head)
    for family, (prefix, _, _) in FAMILIES.items()
    for head in ("ForCTC", "ForSequenceClassification", "ForAudioClassification")
    if hasattr(transformers, prefix + head) and family != "wav2vec2-bert"
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "head"), HEADS, ids=[" ".join(each) for each in HEADS])
def test_every_family_that_listens_answers_its_probes_as_pytorch_does(tmp_path: Path, family: str, head: str) -> None:
    for _, differences in replayed(entry_of(tmp_path, family, head).entry):
        assert all(difference.is_within for difference in differences), differences


def test_a_wave_file_of_the_standard_library_is_read_exactly() -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 1000).astype("<i2")
    (found,) = read_sounds([wave_file(samples, RATE)], RATE)
    assert np.array_equal(found, samples.astype(np.float32) / 32768)
