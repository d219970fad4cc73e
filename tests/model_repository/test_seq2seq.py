"""Encoder-decoder entries in the backend's own modules, and in the real Triton, against PyTorch's `generate`."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.parity.images import picture, png
from converters.parity.sounds import heard, melody, wav
from converters.probes import read_probes
from generate.call import read_call
from generate.source import source_of
from opening.entry import OpenEntry, open_entry
from opening.refusal import Refused
from tests.converters.seq2seq_models import tiny_seq2seq
from tests.fixtures_triton import Converted, TritonServer, convert_model, triton_server
from tests.model_repository.calls import pieces_of
from tests.model_repository.replaying import array_of

__all__ = ["triton_server"]

pytestmark = pytest.mark.slow

FAMILIES = ("t5", "bart", "whisper", "sight")
RATE = 16_000


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Converted]:
    made: dict[str, Converted] = {}

    def convert(name: str) -> Converted:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = tiny_seq2seq(folder / "model", name)
            made[name] = Converted(model, convert_model(model, folder / "out"))
        return made[name]

    return convert


def asked(name: str, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A call's own field, and what transformers is given for it."""
    import transformers

    if name == "whisper":
        sound = melody(int((0.6, 1.7)[number] * RATE), RATE, 40 + number)
        made = transformers.WhisperFeatureExtractor()(heard(sound), sampling_rate=RATE, return_tensors="pt")
        return {"audio": wav(sound, RATE)}, dict(made)
    if name == "sight":
        image = picture(*((50, 40), (33, 90))[number], 40 + number)
        made = transformers.ViTImageProcessor(size={"height": 32, "width": 32})(images=[image], return_tensors="pt")
        return {"image": png(image)}, dict(made)
    text = ("The log remembers every call, and anyone may check it.", "42")[number]
    return {"text_input": text.encode()}, {"text": text}


def expected(name: str, model_folder: Path, fed: dict[str, Any], count: int, **settings: Any) -> list[int]:
    """transformers' greedy tokens, without the start token; an end token ends them. settings: of its `generate`."""
    import torch
    import transformers

    classes = {"whisper": transformers.AutoModelForSpeechSeq2Seq, "sight": transformers.AutoModelForVision2Seq}
    model = classes.get(name, transformers.AutoModelForSeq2SeqLM).from_pretrained(model_folder).eval()
    if "text" in fed:
        fed = dict(transformers.AutoTokenizer.from_pretrained(model_folder)(fed["text"], return_tensors="pt"))
        fed.pop("token_type_ids", None)
    with torch.inference_mode():
        made = [int(token) for token in model.generate(**fed, do_sample=False, num_beams=1, max_new_tokens=count, **settings)[0]]
    # Whisper's own `generate` leaves out the tokens it began with.
    return made if name == "whisper" else made[1:]


def run(entry: OpenEntry, tensors: dict[str, Any], count: int, **settings: float) -> tuple[str, list[int], str]:
    given = {name: np.array([value], object) for name, value in tensors.items()}
    numbers = {name: np.array([value], np.float32) for name, value in {"temperature": 0.0, **settings}.items()}
    call = read_call({**given, **numbers, "max_tokens": np.array([count], np.int32)}, entry, source_of(entry))
    pieces = pieces_of(entry, call)
    tokens = [token for piece in pieces for token in piece.token_ids]
    return "".join(piece.text for piece in pieces), tokens, pieces[-1].finish_reason


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_gives_the_tokens_that_transformers_gives(converted: Callable[[str], Converted], name: str) -> None:
    entry = open_entry(converted(name).entry)
    distinct: set[int] = set()
    for number in (0, 1):
        field, fed = asked(name, number)
        wanted = expected(name, converted(name).model, fed, 40)
        text, tokens, reason = run(entry, field, 40)
        assert tokens[: len(wanted)] == wanted and len(tokens) >= len(wanted)
        assert text == entry.tokenizer.decode(tokens)
        assert reason == ("stop" if tokens[-1] in entry.detail("eos_token_ids") else "length")
        distinct.update(tokens)
    assert len(distinct) > 3, "a model that repeats itself proves little"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_repetition_penalty_counts_what_transformers_counts(converted: Callable[[str], Converted], name: str) -> None:
    """The decoder's own tokens, with those it begins with; not the text that the encoder reads."""
    entry = open_entry(converted(name).entry)
    field, fed = asked(name, 0)
    wanted = expected(name, converted(name).model, fed, 24, repetition_penalty=1.4)
    _, tokens, _ = run(entry, field, 24, repetition_penalty=1.4)
    assert tokens[: len(wanted)] == wanted
    assert tokens != run(entry, field, 24)[1], "a penalty that changes nothing proves nothing"


@pytest.mark.live
@pytest.mark.parametrize("name", FAMILIES)
def test_triton_gives_the_tokens_that_transformers_gives_streamed_and_not(
    converted: Callable[[str], Converted], triton_server: TritonServer, name: str
) -> None:
    served = triton_server.install(converted(name).entry)
    for number in (0, 1):
        field, fed = asked(name, number)
        wanted = expected(name, converted(name).model, fed, 32)
        sent = {key: value.decode() if key == "text_input" else data_url(value) for key, value in field.items()}
        call = {**sent, "max_tokens": 32, "temperature": 0.0}
        whole = triton_server.client.generate(served, call)
        assert list(whole.token_ids)[: len(wanted)] == wanted
        pieces = list(triton_server.client.generate_stream(served, call))
        assert [token for piece in pieces for token in piece.token_ids] == list(whole.token_ids)
        assert "".join(piece.text for piece in pieces) == whole.text
        assert len(pieces) > 1


def data_url(raw: bytes) -> str:
    return "data:;base64," + base64.b64encode(raw).decode()


@pytest.mark.parametrize("name", [*FAMILIES, "speech"])
def test_the_backend_answers_the_probes_of_an_entry(converted: Callable[[str], Converted], name: str) -> None:
    entry = open_entry(converted(name).entry)
    probes = read_probes(converted(name).entry)
    assert len(probes) == 3
    for probe in probes:
        fields = {tensor.name: array_of(tensor) for tensor in probe.inputs}
        count = int(fields.pop("max_tokens")[0])
        fields.pop("temperature")
        _, tokens, _ = run(entry, {field: value[0] for field, value in fields.items()}, count)
        wanted = {tensor.name: array_of(tensor).tolist() for tensor in probe.outputs}
        assert wanted["token_ids"] == tokens
        assert wanted["completion_tokens"] == [len(tokens)]


def test_a_forced_first_token_and_suppressed_tokens_are_kept_to(converted: Callable[[str], Converted]) -> None:
    entry = open_entry(converted("bart").entry)
    _, free, _ = run(entry, {"text_input": b"The market"}, 8)
    entry.details["forced_first_token"] = 77
    entry.details["suppress_tokens"] = [free[0]]
    entry.details["begin_suppress_tokens"] = [free[1]]
    _, bound, _ = run(entry, {"text_input": b"The market"}, 8)
    assert bound[0] == 77
    assert bound[1] != free[1], "what may not come first may not come second after a forced first"
    assert free[0] not in bound[1:]


def test_a_language_is_chosen_among_those_the_model_has(converted: Callable[[str], Converted]) -> None:
    entry = open_entry(converted("whisper").entry)
    field, _ = asked("whisper", 0)
    _, plain, _ = run(entry, field, 4)
    scores = {}
    for language in (90, 91, 92):
        entry.details["start_tokens"] = [2, language]
        scores[language] = run(entry, field, 4)[1]
    entry.details["start_tokens"] = [2, [90, 91, 92]]
    assert run(entry, field, 4)[1] in scores.values()
    entry.details["start_tokens"] = [2, [91]]
    assert run(entry, field, 4)[1] == scores[91]
    assert plain


def test_what_the_encoder_cannot_read_is_refused(converted: Callable[[str], Converted]) -> None:
    text, sound, image = (open_entry(converted(name).entry) for name in ("bart", "whisper", "sight"))
    with pytest.raises(Refused, match="at most 64 tokens"):
        run(text, {"text_input": b"The market sells what a model says. " * 20}, 4)
    with pytest.raises(Refused, match="text_input"):
        run(text, {}, 4)
    with pytest.raises(Refused, match="a sound file"):
        run(sound, {"audio": png(picture(20, 20, 1))}, 4)
    with pytest.raises(Refused, match="at most 30 seconds"):
        run(sound, {"audio": silence(31)}, 4)
    with pytest.raises(Refused, match="an image file"):
        run(image, {"image": silence(1)}, 4)
    with pytest.raises(Refused, match="max_tokens"):
        run(text, {"text_input": b"The market"}, 64)


def test_a_text_sent_with_an_image_stands_at_the_beginning(converted: Callable[[str], Converted]) -> None:
    import torch
    import transformers

    entry = open_entry(converted("sight").entry)
    field, fed = asked("sight", 0)
    prompt = entry.tokenizer.encode("The market", add_special_tokens=False).ids
    model = transformers.AutoModelForVision2Seq.from_pretrained(converted("sight").model).eval()
    with torch.inference_mode():
        made = model.generate(**fed, decoder_input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=12)[0].tolist()
    assert made[: 1 + len(prompt)] == [2, *prompt]
    assert run(entry, {**field, "text_input": b"The market"}, 12)[1] == made[1 + len(prompt) :]


def silence(seconds: int) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(2 * 8_000 * seconds))
    return written.getvalue()
