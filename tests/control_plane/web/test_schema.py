"""`/openapi.json` is true: `schemathesis` asks every operation what it allows and what it forbids, and reads the answers by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from control_plane.web.openapi import operations
from tests.fixtures_market import CONTEXT_LENGTH, Market, open_market

EXAMPLES = {GenerationMode.POSITIVE: ((True, 8), (False, 3)), GenerationMode.NEGATIVE: ((True, 6),)}
"""How many requests, of a model on sale (True) and of one that nobody knows."""
OPERATIONS = [(each.method, each.path) for each in operations(max_new_tokens=CONTEXT_LENGTH // 2)]

DECIDED_ELSEWHERE = {
    ("post", "/v1/embeddings"): "whether a text has a token is the model's tokenizer's to say",
    ("post", "/v1/auth/message"): "an address has a checksum",
    ("post", "/v1/auth/token"): "a message must be one that the market made, and signed",
    ("get", "/v1/offers/{did}"): "an address has a checksum",
    ("get", "/v1/models/{did}/evaluations"): "an address has a checksum",
    ("post", "/v1/offers/{did}/jobs"): "a job's parameters are its kind's, within the model's limits",
    ("post", "/v1/jobs"): "a token of an order that pays for jobs, once a job",
    ("get", "/v1/jobs"): "a token of an order that pays for jobs",
    ("post", "/v1/receipts"): "a receipt must be signed",
    ("get", "/api/services/nonce"): "an address has a checksum",
    ("get", "/api/services/createAuthToken"): "a request must be signed",
    ("delete", "/api/services/deleteAuthToken"): "a request must be signed",
    ("post", "/api/services/encrypt"): "the chain must be this market's",
    ("post", "/api/services/decrypt"): "a request must be signed",
    ("post", "/api/services/fileinfo"): "an asset must be one that is indexed",
    ("get", "/api/services/computeEnvironments"): "the chain must be this market's",
    ("post", "/api/services/initializeCompute"): "an asset must be one that is indexed",
    **{(method, "/api/services/compute"): "a request must be signed" for method in ("post", "get", "put", "delete")},
    ("get", "/api/services/computeResult"): "a request must be signed",
    ("get", "/api/services/initialize"): "an asset must be one that is indexed",
    ("get", "/api/services/download"): "a request must be signed",
    ("post", "/api/aquarius/assets/query"): "which clauses are known",
    ("post", "/api/aquarius/assets/ddo/validate"): "what a document must hold",
    ("get", "/api/aquarius/state/ddo"): "one of three, and an address has a checksum",
    ("post", "/models/{did}"): "what a model takes is its task's to say",
    ("post", "/v2/models/{did}/infer"): "tensors must be the model's, and fit their shapes",
    ("post", "/v2/models/{did}/generate"): "a text or a conversation, each parameter once",
    ("post", "/v2/models/{did}/generate_stream"): "a text or a conversation, each parameter once",
}
"""What JSON Schema cannot say of a request: there, one that fits the schema may be refused all the same."""
ANSWERED = (
    *("/v1/models", "/v1/models/{did}", "/v1/models/{did}/entry", "/v1/completions", "/v1/chat/completions", "/v1/embeddings"),
    *("/models/{did}/v1/chat/completions", "/v2/models/{did}", "/v2/models/{did}/generate", "/v2/models/{did}/generate_stream"),
    *("/v1/receipts", "/v1/auth/nonce", "/", "/v2", "/healthz", "/readyz", "/metrics"),
)
"""Where good answers must be among those that are read."""


class Described:
    """The market, the description that it gives of itself, and a buyer's tokens. seen: statuses by path."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.schema = schemathesis.openapi.from_wsgi("/openapi.json", market.client.application)
        self.tokens = {listing.did: market.sign_in("bob", listing) for listing in (market.gpt, market.embedder)}
        self.seen: Counter[tuple[str, int]] = Counter()

    def ask(self, method: str, path: str, case: Any, is_real: bool) -> None:
        """is_real: the model is one on sale, instead of one that nobody knows."""
        did = (self.market.embedder if path == "/v1/embeddings" else self.market.gpt).did
        is_good = case.meta.generation.mode is GenerationMode.POSITIVE
        if is_good:
            case.body = _whole(case.body)
        if is_good and is_real:
            if "did" in (case.path_parameters or {}):
                case.path_parameters["did"] = did
            if isinstance(case.body, dict) and "model" in case.body:
                if not path.startswith("/models/"):  # there the path names it, and the body may say what Hugging Face's client does
                    case.body["model"] = did
                case.body.pop("best_of", None)  # nothing, or as many as `n`
                if case.body.get("echo"):  # a score, which is asked in one way
                    case.body |= {"max_tokens": 0, "logprobs": 0, "n": 1, "stream": False}
                elif case.body.get("max_tokens") == 0:
                    del case.body["max_tokens"]
            if "/generate" in path:  # one text, each parameter once
                told = {name: value for name, value in case.body.items() if name not in ("messages", "parameters")}
                case.body = {**told, "text_input": told.get("text_input") or "a text"}
        if isinstance(case.body, dict) and None not in (case.body.get("max_tokens"), case.body.get("max_completion_tokens")):
            del case.body["max_completion_tokens"]  # either, not both: see chat.py
        if case.headers and (path.endswith("_stream") or (isinstance(case.body, dict) and case.body.get("stream"))):
            case.headers.pop("Idempotency-Key", None)  # of a stream no answer is kept
        # Ending the session is asked without one: the others want to go on.
        headers = {"Authorization": f"Bearer {self.tokens[did]}"} if case.operation.security and method != "delete" else {}
        answer = case.call(headers=headers)
        self.seen[path, answer.status_code] += 1
        unversioned = path.replace("/versions/{number}", "")
        excluded = [positive_data_acceptance] if (method, unversioned) in DECIDED_ELSEWHERE else []
        case.validate_response(answer, headers=headers, transport_kwargs={"headers": headers}, excluded_checks=excluded)


def _whole(value: Any) -> Any:
    """JSON Schema takes 7.0 for a whole number; our parameters are written without a point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return {name: _whole(each) for name, each in value.items()} if isinstance(value, dict) else value


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    most = str(CONTEXT_LENGTH // 2)
    market = open_market(tmp_path_factory.mktemp("market") / "home", POSTHUMAN_MAX_NEW_TOKENS=most)
    yield Described(market)
    market.engine.dispose()


def ask_all(described: Described, method: str, path: str, mode: GenerationMode, is_real: bool, most: int) -> None:
    """`is_real` is not drawn: what is drawn depends on the modules that this process has loaded (hypothesis 6.170)."""

    @given(case=described.schema[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=most,
        phases=[Phase.generate],  # an answer is read where it fails; smaller ones cost more time than they tell
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        described.ask(method, path, case, is_real)

    ask()


@pytest.mark.parametrize("mode", EXAMPLES, ids=["allowed", "forbidden"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
def test_an_operation_answers_as_it_is_described(described: Described, method: str, path: str, mode: GenerationMode) -> None:
    operation = described.schema[path][method]
    has_input = operation.body or operation.query or operation.path_parameters
    if mode is GenerationMode.NEGATIVE and (not has_input or path == "/log/{path}"):
        return  # nothing that could be wrong

    for is_real, most in EXAMPLES[mode]:
        ask_all(described, method, path, mode, is_real, most if has_input else 1)
    if mode is GenerationMode.POSITIVE and path in ANSWERED and (method, path) not in DECIDED_ELSEWHERE:
        assert described.seen[path, 200] > 0, f"no good answer was read: {dict(described.seen)}"


def test_a_description_that_is_not_true_is_found(described: Described) -> None:
    """The other tests would pass if answers were not read."""
    document = described.market.client.get("/openapi.json").get_json()
    alive = document["paths"]["/healthz"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    alive["required"].append("heartbeat")
    schema = schemathesis.openapi.from_dict(document)
    case = schema["/healthz"]["get"].Case()
    answer = described.schema["/healthz"]["get"].Case().call()
    with pytest.raises(BaseExceptionGroup) as caught:
        case.validate_response(answer)
    assert '"heartbeat" is a required property' in str(caught.value.exceptions[0])
