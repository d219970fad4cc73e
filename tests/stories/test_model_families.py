"""One model of each of many families, from a folder to a model on sale by one command and nothing written by hand; then asked by
the stock `huggingface_hub.InferenceClient`, which is told a model's URL and a token, and nothing else.

What the client reads is compared with transformers' own pipelines where they answer the same question; the shapes of all of them
are held to the simulator's in `tests/control_plane/web/test_hugging_face.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from huggingface_hub.errors import ValidationError
from PIL import Image

from control_plane.receipts.store import Issued
from converters.tasks import TASKS
from tests.fixtures_families import FAMILIES, Families, families
from tests.fixtures_market import receipt_of
from tests.pictures import file_of, picture
from tests.sounds import wave_file

__all__ = ["families"]

pytestmark = [pytest.mark.live, pytest.mark.slow]

TEXT = "The market sells what a model says."
OTHERS = ["A buyer pays, calls, and keeps the receipt.", "Numbers like 1, 23 and 456 appear."]
RATE = 16_000
PICTURE = file_of(picture(70, 50))


def pipeline(task: str, folder: Path, **options: Any) -> Any:
    import transformers

    return transformers.pipeline(task, str(folder), device="cpu", **options)


def sound() -> tuple[bytes, np.ndarray]:
    samples = np.random.default_rng(0).integers(-9000, 9000, RATE // 2).astype("<i2")
    return wave_file(samples, RATE), samples.astype(np.float32) / 32768


def scored(answers: Any, *keys: str) -> list[tuple[Any, ...]]:
    """What was said, with scores to 4 digits."""
    return [(*(each[key] for key in keys), round(each["score"], 4)) for each in answers]


def test_text_generation_whole_and_streamed(families: Families) -> None:
    client = families.client("gpt2")
    generate = pipeline("text-generation", families.sold("gpt2").folder)
    expected = generate(TEXT, max_new_tokens=12, do_sample=False, return_full_text=False)[0]["generated_text"]
    whole = client.text_generation(TEXT, max_new_tokens=12, details=True)
    assert whole.generated_text == expected
    assert whole.details.generated_tokens == len(whole.details.tokens) <= 12
    assert client.text_generation(TEXT, max_new_tokens=12, return_full_text=True) == TEXT + expected
    pieces = list(client.text_generation(TEXT, max_new_tokens=12, stream=True, details=True))
    assert pieces[-2].generated_text == "".join(piece.token.text for piece in pieces) == expected
    assert Issued.from_json(pieces[-1].receipt).signed.receipt.units_out == whole.details.generated_tokens
    assert client.text_generation(TEXT, max_new_tokens=8, seed=3, temperature=1.5) == client.text_generation(
        TEXT, max_new_tokens=8, seed=3, temperature=1.5
    )
    with pytest.raises(ValidationError, match=r"parameters\.temperature"):
        client.text_generation(TEXT, temperature=-1)


def test_summarization_and_translation(families: Families) -> None:
    client, folder = families.client("t5"), families.sold("t5").folder
    (expected,) = pipeline("text2text-generation", folder)(TEXT, max_new_tokens=10, do_sample=False, num_beams=1)
    limits = {"generate_parameters": {"max_new_tokens": 10}}
    assert client.summarization(TEXT, **limits).summary_text.strip() == expected["generated_text"].strip()
    assert client.translation(TEXT, **limits).translation_text.strip() == expected["generated_text"].strip()


def test_fill_mask(families: Families) -> None:
    client, fill = families.client("bert"), pipeline("fill-mask", families.sold("bert").folder)
    asked = f"The {fill.tokenizer.mask_token} sells what a model says."
    keys = ("token", "token_str", "sequence")
    assert scored(client.fill_mask(asked, top_k=3), *keys) == scored(fill(asked, top_k=3), *keys)


def test_text_classification(families: Families) -> None:
    client, classify = families.client("distilbert"), pipeline("text-classification", families.sold("distilbert").folder)
    classify.tokenizer.model_input_names = ["input_ids", "attention_mask"]  # the model knows no kinds of tokens
    assert scored(client.text_classification(TEXT, top_k=2), "label") == scored(classify(TEXT, top_k=2), "label")


def test_token_classification(families: Families) -> None:
    client, tag = families.client("roberta"), pipeline("token-classification", families.sold("roberta").folder)
    found = client.token_classification(TEXT, aggregation_strategy="simple")
    expected = tag(TEXT, aggregation_strategy="simple")
    keys = ("entity_group", "start", "end")
    assert scored(found, *keys) == scored(expected, *keys)


def test_question_answering(families: Families) -> None:
    client = families.client("electra")
    found = client.question_answering("Who pays?", OTHERS[0])
    assert OTHERS[0][found.start : found.end] == found.answer
    assert 0 < found.score <= 1


def test_zero_shot_classification(families: Families) -> None:
    client = families.client("deberta-v2")
    found = client.zero_shot_classification(TEXT, ["trade", "music", "rain"], multi_label=True)
    assert {each.label for each in found} == {"trade", "music", "rain"}
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_feature_extraction_and_sentence_similarity(families: Families) -> None:
    client = families.client("mpnet")
    rows = client.feature_extraction([TEXT, *OTHERS])
    assert np.allclose(client.feature_extraction(TEXT), rows[0], atol=1e-5)
    lengths = np.linalg.norm(rows, axis=1)
    expected = rows[1:] @ rows[0] / (lengths[1:] * lengths[0])
    assert np.allclose(client.sentence_similarity(TEXT, OTHERS), expected, atol=1e-5)


def test_image_classification(families: Families, tmp_path: Path) -> None:
    client, classify = families.client("vit"), pipeline("image-classification", families.sold("vit").folder, use_fast=False)
    image = tmp_path / "image.png"
    image.write_bytes(PICTURE)
    expected = scored(classify(Image.open(image), top_k=2), "label")
    assert scored(client.image_classification(image, top_k=2), "label") == expected
    assert scored(client.image_classification(PICTURE), "label")[:2] == expected


def test_object_detection(families: Families) -> None:
    found = families.client("yolos").object_detection(PICTURE, threshold=0.0)
    assert found
    assert all(each.box.xmin <= each.box.xmax and each.box.ymin <= each.box.ymax for each in found)


def test_image_segmentation(families: Families) -> None:
    found = families.client("segformer").image_segmentation(PICTURE)
    assert found
    assert {each.mask.size for each in found} == {(70, 50)}


def test_zero_shot_image_classification(families: Families) -> None:
    found = families.client("clip").zero_shot_image_classification(PICTURE, ["a market", "a ship"])
    assert {each.label for each in found} == {"a market", "a ship"}
    assert sum(each.score for each in found) == pytest.approx(1, abs=1e-4)


def test_image_to_text(families: Families) -> None:
    assert isinstance(families.client("vision-encoder-decoder").image_to_text(PICTURE).generated_text, str)


def test_speech_recognition_frame_by_frame(families: Families, tmp_path: Path) -> None:
    client, folder = families.client("wav2vec2"), families.sold("wav2vec2").folder
    file, samples = sound()
    expected = pipeline("automatic-speech-recognition", folder)({"raw": samples, "sampling_rate": RATE})["text"]
    path = tmp_path / "sound.wav"
    path.write_bytes(file)
    assert client.automatic_speech_recognition(path).text == client.automatic_speech_recognition(file).text == expected


def test_speech_recognition_by_generation(families: Families) -> None:
    client = families.client("whisper")
    limits = {"generation_parameters": {"max_new_tokens": 6}}
    assert isinstance(client.automatic_speech_recognition(sound()[0], extra_body=limits).text, str)


def test_audio_classification(families: Families) -> None:
    client, classify = families.client("hubert"), pipeline("audio-classification", families.sold("hubert").folder)
    file, samples = sound()
    expected = scored(classify({"raw": samples, "sampling_rate": RATE}, top_k=2), "label")
    assert scored(client.audio_classification(file, top_k=2), "label") == expected


def test_a_call_has_a_receipt_that_the_buyer_can_check(families: Families) -> None:
    sold, settings = families.sold("distilbert"), families.stack.settings
    headers = {"Authorization": f"Bearer {families.token('distilbert')}", "Content-Type": "application/json"}
    body = json.dumps({"inputs": TEXT}).encode()
    answer = requests.post(f"{settings.public_url}/models/{sold.did}", data=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    issued = receipt_of(answer)
    assert issued.signed.receipt.did == sold.did
    assert issued.signed.receipt.model_digest == sold.record["model_digest"]


def test_a_small_model_answers_its_first_call_and_each_stage_of_its_way_was_shown(families: Families, tmp_path: Path) -> None:
    """How long the way takes is measured by `bench/publish.py`."""
    from converters.coverage.shapes import build

    model = build("gpt2", tmp_path / "model", "text-generation", seed=7).folder
    ran = families.stack.run("publish", str(model), "--as", "alice", "--free", "--name", "stages", timeout_s=120)
    assert ran.code == 0, ran.out + ran.err
    did = ran.out.split()[2]
    called = families.stack.run("buy", did, "--as", "bob", "--json")
    assert called.code == 0, called.out + called.err
    called = families.stack.run("call", did, TEXT, "--as", "bob", "--max-tokens", "4", "--json")
    assert called.code == 0, called.out + called.err
    for stage in ("fetch", "scan", "load", "export", "parity", "Triton loads it", "ask Triton, compare with PyTorch"):
        assert stage in ran.err


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_published_and_shown_to_give_pytorchs_answers(families: Families, model_type: str) -> None:
    sold, public_url = families.sold(model_type), families.stack.settings.public_url
    listed = requests.get(f"{public_url}/v1/models/{sold.did}", timeout=10).json()
    assert (listed["state"], listed["task"]) == ("on_sale", sold.task)
    assert listed["parity"] == sold.record["parity"]
    assert all(line["worst_relative"] <= line["bound"] and line["probes"] >= 1 for line in listed["parity"])
    assert max(line["probes"] for line in listed["parity"]) >= 3
    entry = requests.get(f"{public_url}/v1/models/{sold.did}/entry", timeout=10).json()
    assert entry["parity"]
    assert entry["export"]["why"]
    assert entry["source"]["licence"]


def test_the_families_are_more_than_ten_and_of_every_kind() -> None:
    kinds = {TASKS[task].kind for task in FAMILIES.values()}
    assert len(FAMILIES) >= 10
    assert kinds >= {"causal", "seq2seq", "text", "image", "audio"}
