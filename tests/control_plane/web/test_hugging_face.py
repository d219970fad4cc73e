"""`/models/<did>`: the stock `InferenceClient`, task by task, and what it must not be told."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, OverloadedError, ValidationError

from control_plane.did import TransactionHash
from control_plane.receipts.receipt import response_hash
from control_plane.receipts.store import Issued
from control_plane.serving.inference import TensorAnswer
from control_plane.serving.listing import Listing
from converters.tasks import TASKS
from tests.fixtures_market import Market, events_of, open_market, receipt_of, record_of
from tests.fixtures_web import _online, serving, url
from tests.simulators.answers import VOCABULARY

__all__ = ["_online", "url"]

FILE = b"\x89PNG not really: the simulator reads no file \xff\x00"
SENTENCES = ["the model", "a receipt"]

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


@dataclass
class Shared:
    """One market for all questions that change nothing: a model of each task, and Bob's token and order for it."""

    market: Market
    url: str
    listings: dict[str, Listing]
    orders: dict[str, TransactionHash]
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    market = open_market(tmp_path_factory.mktemp("market") / "home")
    listings = {task: market.publish(task, f"for {task}") for task in TASKS}
    orders = {task: market.order("bob", listing) for task, listing in listings.items()}
    tokens = {task: market.sign_in("bob", listing, orders[task]) for task, listing in listings.items()}
    with serving(market) as url:
        yield Shared(market, url, listings, orders, tokens)
    market.engine.dispose()


def client_of(market: Market, url: str, listing: Listing) -> InferenceClient:
    return InferenceClient(model=f"{url}/models/{listing.did}", token=market.sign_in("bob", listing))


@pytest.mark.parametrize(("task", "ask", "is_right"), CALLS.values(), ids=list(CALLS))
def test_the_stock_client_reads_what_it_asked_for(shared: Shared, task: str, ask: Ask, is_right: Callable[[Any], bool]) -> None:
    found = ask(InferenceClient(model=f"{shared.url}/models/{shared.listings[task].did}", token=shared.tokens[task]))
    assert is_right(found), found


def post(market: Market, listing: Listing, record: object, token: str | None = None) -> Any:
    return market.post(f"/models/{listing.did}", token or market.sign_in("bob", listing), json.dumps(record).encode())


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
    assert [token.id for token in made.details.tokens if token.logprob is None] == [token.id for token in made.details.tokens]
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


GENERATION: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "inputs"),
    ({"inputs": 5}, "inputs"),
    ({"inputs": ""}, "inputs"),
    ({"inputs": ["a", "b"]}, "inputs"),
    ({"inputs": "a " * 99}, "inputs"),
    ({"inputs": "a", "parameters": []}, "parameters"),
    ({"inputs": "a", "parameters": {"beam": 1}}, "parameters.beam"),
    ({"inputs": "a", "parameters": {"max_new_tokens": 0}}, "parameters.max_new_tokens"),
    ({"inputs": "a", "parameters": {"max_new_tokens": 99}}, "parameters.max_new_tokens"),
    ({"inputs": "a", "parameters": {"temperature": -1}}, "parameters.temperature"),
    ({"inputs": "a", "parameters": {"temperature": 1, "do_sample": False}}, "parameters.temperature"),
    ({"inputs": "a", "parameters": {"top_p": 0}}, "parameters.top_p"),
    ({"inputs": "a", "parameters": {"num_beams": 4}}, "parameters.num_beams"),
    ({"inputs": "a", "parameters": {"watermark": True}}, "parameters.watermark"),
    ({"inputs": "a", "parameters": {"seed": 1, "generate_kwargs": {"seed": 2}}}, "parameters.generate_kwargs"),
    ({"inputs": "a", "stream": "yes"}, "stream"),
    ({"inputs": "a", "beside": 1}, "beside"),
    ({"inputs": "a", "options": {"wait_for_model": True}}, "wait_for_model"),
    ({"inputs": "a", "options": {"unknown": 1}}, "unknown"),
)


@pytest.mark.parametrize(("record", "field"), GENERATION, ids=[f"{field} {index}" for index, (_, field) in enumerate(GENERATION)])
def test_a_generation_that_cannot_be_is_refused_by_the_callers_own_name(shared: Shared, record: dict[str, Any], field: str) -> None:
    assert_refused(shared, "text-generation", record, field)


PREDICTION: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("text-classification", {"inputs": 5}, "inputs"),
    ("text-classification", {"inputs": []}, "inputs"),
    ("text-classification", {"inputs": ["a", ""]}, "inputs"),
    ("text-classification", {"inputs": "a", "stream": True}, "stream"),
    ("text-classification", {"inputs": "a", "parameters": {"unknown": 1}}, "parameters.unknown"),
    ("text-classification", {"inputs": "a", "top_k": 1}, "top_k"),
    ("feature-extraction", {"inputs": "a", "truncate": True}, "parameters.truncate"),
    ("feature-extraction", {"inputs": {"source_sentence": "a", "sentences": []}}, "inputs.sentences"),
    ("feature-extraction", {"inputs": {"source_sentence": 5, "sentences": ["a"]}}, "inputs.source_sentence"),
    ("question-answering", {"inputs": "a"}, "inputs"),
    ("question-answering", {"inputs": {"question": "a"}}, "inputs"),
    ("question-answering", {"inputs": {"question": "a", "context": ""}}, "inputs.context"),
    ("zero-shot-classification", {"inputs": "a"}, "parameters.candidate_labels"),
    ("zero-shot-classification", {"inputs": "a", "parameters": {"candidate_labels": []}}, "parameters.candidate_labels"),
    ("image-classification", {"inputs": "not base64!"}, "inputs"),
    ("image-classification", {"inputs": ""}, "inputs"),
    ("image-classification", {"inputs": "data:image/png;base64,"}, "inputs"),
)


@pytest.mark.parametrize(("task", "record", "field"), PREDICTION, ids=[f"{task} {field}" for task, _, field in PREDICTION])
def test_a_prediction_that_cannot_be_is_refused_by_the_callers_own_name(
    shared: Shared, task: str, record: dict[str, Any], field: str
) -> None:
    assert_refused(shared, task, record, field)


def assert_refused(shared: Shared, task: str, record: dict[str, Any], field: str) -> None:
    used = shared.market.calls_used(shared.orders[task])
    answer = post(shared.market, shared.listings[task], record, shared.tokens[task])
    assert (answer.status_code, answer.get_json()["param"]) == (400, field), answer.get_json()
    assert answer.get_json()["error_type"] == "validation"
    assert shared.market.calls_used(shared.orders[task]) == used


@pytest.mark.parametrize(("task", "kind"), [("text-generation", "image/png"), ("image-classification", "text/plain")])
def test_a_body_that_the_task_does_not_take_is_refused(shared: Shared, task: str, kind: str) -> None:
    path, headers = f"/models/{shared.listings[task].did}", shared.market.bearer(shared.tokens[task])
    answer = shared.market.client.post(path, data=FILE, content_type=kind, headers=headers)
    assert (answer.status_code, answer.get_json()["param"]) == (415, "Content-Type")


def test_the_client_raises_what_its_users_know(market: Market, url: str) -> None:
    client = client_of(market, url, market.gpt)
    with pytest.raises(ValidationError, match=r"parameters\.temperature: expected a number from 0"):
        client.text_generation("hello", temperature=9.0)
    with pytest.raises(BadRequestError, match="inputs"):
        client.fill_mask("")
    stranger = InferenceClient(model=f"{url}/models/{market.gpt.did}", token="nobody")
    with pytest.raises(HfHubHTTPError, match="401"):
        stranger.text_generation("hello")
    market.server.is_down = True
    with pytest.raises(OverloadedError):
        client.text_generation("hello")


def test_a_stream_that_breaks_ends_with_the_error_and_charges_nothing(market: Market, url: str) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    market.server.break_after = 2
    answer = post(market, market.gpt, {"inputs": "hello", "parameters": {"max_new_tokens": 5}, "stream": True}, token)
    events = [record_of(each) for each in events_of(answer.data)]
    assert [event["token"]["id"] is None for event in events[:2]] == [False, False]
    assert events[2]["error_type"] == "overloaded"
    assert len(events) == 3
    assert market.calls_used(order) == 0
    client = InferenceClient(model=f"{url}/models/{market.gpt.did}", token=token)
    with pytest.raises(OverloadedError):
        list(client.text_generation("hello", max_new_tokens=5, stream=True))


def test_an_embedding_that_is_no_number_is_no_answer_and_no_charge(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = market.publish("feature-extraction", "no number")
    order = market.order("bob", embedder)
    token = market.sign_in("bob", embedder, order)
    whole = market.server.infer

    def broken(name: str, body: bytes, header_length: int | None) -> TensorAnswer:
        given = whole(name, body, header_length)
        assert given.header_length is not None
        nothing = struct.pack("<f", float("nan"))
        numbers = nothing * ((len(given.body) - given.header_length) // len(nothing))
        return TensorAnswer(given.body[: given.header_length] + numbers, given.header_length)

    monkeypatch.setattr(market.server, "infer", broken)
    asked = {"inputs": {"source_sentence": "the model", "sentences": SENTENCES}}
    answer = post(market, embedder, asked, token)
    assert (answer.status_code, market.calls_used(order)) == (503, 0), answer.data
    assert b"no number" in answer.data


def test_a_model_without_a_shape_here_says_where_to_ask(market: Market) -> None:
    listing = market.publish("tensors", "raw")
    answer = post(market, listing, {"inputs": "a"})
    assert (answer.status_code, answer.get_json()["code"]) == (400, "wrong_task")
    assert "/v2" in answer.get_json()["error"]


def test_a_buyer_reads_what_the_entry_states(market: Market) -> None:
    record = market.client.get(f"/v1/models/{market.embedder.did}/entry").get_json()
    assert (record["task"], record["precision"]) == ("feature-extraction", "fp32")
    market.services.catalogue.withdraw(market.embedder.did, "for a while")
    assert market.client.get(f"/v1/models/{market.embedder.did}/entry").status_code == 503
