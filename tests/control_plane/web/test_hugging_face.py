"""`/models/<did>`: the stock `InferenceClient`, task by task."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from control_plane.receipts.receipt import response_hash
from control_plane.receipts.store import Issued
from tests.control_plane.web.asking_hugging_face import FILE, SENTENCES, Shared, client_of, post, shared
from tests.fixtures_market import Market, receipt_of
from tests.fixtures_web import url
from tests.simulators.answers import VOCABULARY

__all__ = ["shared", "url"]

Ask = Callable[[InferenceClient], Any]
CALLS: dict[str, tuple[str, Ask, Callable[[Any], bool]]] = {
    "text-generation": (
        "text-generation",
        lambda client: client.text_generation("hello", max_new_tokens=3),
        lambda text: len(text.split()) == 3,
    ),
    "summarization": (
        "text2text-generation",
        lambda client: client.summarization("hello", generate_parameters={"max_new_tokens": 3}),
        lambda found: len(found.summary_text.split()) == 3,
    ),
    "translation": ("text2text-generation", lambda client: client.translation("hello"), lambda found: found.translation_text),
    "fill-mask": (
        "fill-mask",
        lambda client: client.fill_mask("the [MASK]", top_k=2),
        lambda found: len(found) == 2 and found[0].token_str in VOCABULARY,
    ),
    "text-classification": (
        "text-classification",
        lambda client: client.text_classification("hello", top_k=3),
        lambda found: len(found) == 3 and found[0].label in VOCABULARY,
    ),
    "token-classification": (
        "token-classification",
        lambda client: client.token_classification("hello", aggregation_strategy="simple"),
        lambda found: found[0].word == "he",
    ),
    "zero-shot-classification": (
        "zero-shot-classification",
        lambda client: client.zero_shot_classification("hello", ["a", "b"], multi_label=True),
        lambda found: [(each.label, each.score) for each in found] == [("a", 0.5), ("b", 0.25)],
    ),
    "question-answering": (
        "question-answering",
        lambda client: client.question_answering("who?", "Ada did."),
        lambda found: (found.answer, found.start, found.end) == ("Ada", 0, 3),
    ),
    "feature-extraction": (
        "feature-extraction",
        lambda client: client.feature_extraction(SENTENCES, normalize=True),
        lambda found: found.shape == (2, 8),
    ),
    "feature-extraction of one": (
        "feature-extraction",
        lambda client: client.feature_extraction("the model"),
        lambda found: found.shape == (8,),
    ),
    "sentence-similarity": (
        "feature-extraction",
        lambda client: client.sentence_similarity("the model", SENTENCES),
        lambda found: found[0] == pytest.approx(1.0) and -1 <= found[1] < 1,
    ),
    "image-classification": (
        "image-classification",
        lambda client: client.image_classification(FILE),
        lambda found: found[0].label in VOCABULARY,
    ),
    "image-classification with parameters": (
        "image-classification",
        lambda client: client.image_classification(FILE, top_k=2),
        lambda found: len(found) == 2,
    ),
    "object-detection": (
        "object-detection",
        lambda client: client.object_detection(FILE, threshold=0.5),
        lambda found: found[0].box.xmax == 2,
    ),
    "image-segmentation": (
        "image-segmentation",
        lambda client: client.image_segmentation(FILE),
        lambda found: found[0].mask.size == (1, 1),
    ),
    "image-to-text": (
        "image-to-text",
        lambda client: client.image_to_text(FILE),
        lambda found: found.generated_text,
    ),
    "zero-shot-image-classification": (
        "zero-shot-image-classification",
        lambda client: client.zero_shot_image_classification(FILE, ["a", "b"], hypothesis_template="a photo of {}"),
        lambda found: [each.label for each in found] == ["a", "b"],
    ),
    "audio-classification": (
        "audio-classification",
        lambda client: client.audio_classification(FILE, function_to_apply="sigmoid"),
        lambda found: found[0].score == 0.75,
    ),
    "automatic-speech-recognition": (
        "automatic-speech-recognition",
        lambda client: client.automatic_speech_recognition(FILE),
        lambda found: found.text in VOCABULARY,
    ),
    "automatic-speech-recognition by generation": (
        "speech-to-text",
        lambda client: client.automatic_speech_recognition(FILE, extra_body={"generation_parameters": {"max_new_tokens": 2}}),
        lambda found: len(found.text.split()) == 2,
    ),
}


@pytest.mark.parametrize(("task", "ask", "is_right"), CALLS.values(), ids=list(CALLS))
def test_the_stock_client_reads_what_it_asked_for(shared: Shared, task: str, ask: Ask, is_right: Callable[[Any], bool]) -> None:
    found = ask(InferenceClient(model=f"{shared.url}/models/{shared.listings[task].did}", token=shared.tokens[task]))
    assert is_right(found), found


def test_an_answer_has_the_receipt_of_its_bytes(market: Market) -> None:
    for listing in (market.gpt, market.embedder):
        answer = post(market, listing, {"inputs": "the model"})
        issued = receipt_of(answer)
        assert answer.status_code == 200
        assert issued.signed.receipt.did == listing.did
        assert issued.signed.receipt.response_hash == response_hash(issued.salt, answer.data)


def test_details_say_how_a_text_ended(market: Market, url: str) -> None:
    client = client_of(market, url, market.gpt)
    made = client.text_generation("hello", max_new_tokens=3, details=True, seed=4, temperature=0.5)
    assert (made.details.finish_reason, made.details.generated_tokens, made.details.seed) == ("length", 3, 4)
    assert "".join(token.text for token in made.details.tokens) == made.generated_text
    assert [token.logprob for token in made.details.tokens] == [-(token.id + 1) / 8 for token in made.details.tokens]
    stop = made.generated_text.split()[1]
    stopped = client.text_generation("hello", max_new_tokens=3, details=True, seed=4, temperature=0.5, stop=[stop])
    assert stopped.details.finish_reason == "stop_sequence"
    assert stop not in stopped.generated_text


def test_a_stream_joined_is_the_whole_answer_and_its_last_event_holds_the_receipt(market: Market, url: str) -> None:
    client = client_of(market, url, market.gpt)
    whole = client.text_generation("hello", max_new_tokens=4)
    assert "".join(client.text_generation("hello", max_new_tokens=4, stream=True)) == whole
    pieces = list(client.text_generation("hello", max_new_tokens=4, stream=True, details=True))
    assert pieces[-2].generated_text == whole
    assert (pieces[-2].details.finish_reason, pieces[-2].details.generated_tokens, pieces[-2].details.input_length) == (
        "length",
        4,
        1,
    )
    assert [piece.index for piece in pieces[:-1]] == [1, 2, 3, 4]
    assert [piece.token.logprob for piece in pieces[:-1]] == [-(piece.token.id + 1) / 8 for piece in pieces[:-1]]
    assert (pieces[-1].token.text, pieces[-1].token.special) == ("", True)
    assert Issued.from_json(pieces[-1].receipt).signed.receipt.units_out == 4


def test_the_whole_text_stands_behind_its_prompt_where_that_is_asked(market: Market, url: str) -> None:
    client = client_of(market, url, market.gpt)
    text = client.text_generation("hello", max_new_tokens=2)
    assert client.text_generation("hello", max_new_tokens=2, return_full_text=True) == "hello" + text
    pieces = list(client.text_generation("hello", max_new_tokens=2, return_full_text=True, stream=True, details=True))
    assert pieces[-2].generated_text == "hello" + text


def test_tokens_are_drawn_only_where_something_asks_for_it(market: Market) -> None:
    def texts(**parameters: object) -> set[str]:
        found = [post(market, market.gpt, {"inputs": "hello", "parameters": {"seed": seed, **parameters}}) for seed in range(6)]
        return {answer.get_json()[0]["generated_text"] for answer in found}

    assert len(texts()) == len(texts(do_sample=False)) == 1
    assert len(texts(do_sample=True)) > 1
    assert len(texts(temperature=0.9)) > 1
    assert len(texts(top_k=4)) > 1


def test_a_list_is_answered_by_a_list_item_by_item(market: Market) -> None:
    classifier = market.publish("text-classification", "classifier")
    token = market.sign_in("bob", classifier)
    one = [post(market, classifier, {"inputs": text}, token).get_json() for text in SENTENCES]
    assert post(market, classifier, {"inputs": SENTENCES}, token).get_json() == [each[0] for each in one]
    answerer = market.publish("question-answering", "answerer")
    asked = [{"question": "who?", "context": "Ada did."}, {"question": "who?", "context": "Bob."}]
    assert [each["answer"] for each in post(market, answerer, {"inputs": asked}).get_json()] == ["Ada", "Bob"]


def test_a_file_may_come_as_bytes_in_base64_or_as_a_data_url(market: Market) -> None:
    for task in ("image-classification", "image-to-text"):
        listing = market.publish(task, f"looks for {task}")
        token, encoded = market.sign_in("bob", listing), b64encode(FILE).decode()
        path, bearer = f"/models/{listing.did}", market.bearer(token)
        raw = [
            market.client.post(path, data=FILE, headers=bearer, content_type=kind).data
            for kind in ("image/png", "application/octet-stream", None)
        ]
        written = [post(market, listing, {"inputs": text}, token).data for text in (encoded, f"data:image/png;base64,{encoded}")]
        assert len({*raw, *written}) == 1


def test_what_reaches_the_server_is_the_file_itself_also_under_v2(market: Market) -> None:
    listing = market.publish("speech-to-text", "hears")
    token, encoded = market.sign_in("bob", listing), f"data:audio/wav;base64,{b64encode(FILE).decode()}"
    heard = post(market, listing, {"inputs": encoded, "parameters": {"max_new_tokens": 16}}, token).get_json()["text"]
    generated = market.post(f"/v2/models/{listing.did}/generate", token, json.dumps({"audio": encoded, "temperature": 0}).encode())
    assert generated.get_json()["text_output"] == heard
    tensor = {"name": "audio", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(FILE) + 4}}
    greedy = {"name": "temperature", "datatype": "FP32", "shape": [1], "data": [0.0]}
    header = json.dumps({"inputs": [tensor, greedy]}).encode()
    body = header + len(FILE).to_bytes(4, "little") + FILE
    named = {**market.bearer(token), "Inference-Header-Content-Length": str(len(header))}
    inferred = market.client.post(f"/v2/models/{listing.did}/infer", data=body, headers=named)
    assert inferred.get_json()["outputs"][0]["data"] == [heard]


def test_text_to_text_models_complete_and_others_do_not(market: Market) -> None:
    translator = market.publish("text2text-generation", "translator")
    token = market.sign_in("bob", translator)
    assert market.complete(token, translator.did, max_tokens=3).get_json()["usage"]["completion_tokens"] == 3
    hearing = market.publish("speech-to-text", "hears")
    refused = market.complete(market.sign_in("bob", hearing), hearing.did)
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "wrong_task")


def test_a_buyer_reads_what_the_entry_states(market: Market) -> None:
    record = market.client.get(f"/v1/models/{market.embedder.did}/entry").get_json()
    assert (record["task"], record["precision"]) == ("feature-extraction", "fp32")
    market.services.catalogue.withdraw(market.embedder.did, "for a while")
    assert market.client.get(f"/v1/models/{market.embedder.did}/entry").status_code == 503


def test_the_choices_of_a_text_are_ranked_also_where_the_text_stands_in_a_list(market: Market) -> None:
    listing = market.publish("multiple-choice", "chooses")
    token, asked = market.sign_in("bob", listing), {"text_input": "the market", "choices": ["sells", "a ship", "buys"]}
    alone, listed = (post(market, listing, {"inputs": inputs}, token) for inputs in (asked, [asked]))
    assert (alone.status_code, listed.status_code) == (200, 200), (alone.data, listed.data)
    assert listed.get_json() == [alone.get_json()]
