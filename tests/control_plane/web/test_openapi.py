"""The description says what the application does, no more and no less."""

from __future__ import annotations

import re

from tests.fixtures_market import Market


def test_every_path_of_the_application_is_described_and_no_other(market: Market) -> None:
    app = market.client.application
    rules = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or ())
        if method not in ("HEAD", "OPTIONS")
    }
    described = {(method, path) for path, item in market.client.get("/openapi.json").get_json()["paths"].items() for method in item}
    assert described == rules


def test_every_parameter_of_a_path_is_described(market: Market) -> None:
    for path, item in market.client.get("/openapi.json").get_json()["paths"].items():
        for operation in item.values():
            named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_a_request_schema_is_the_table_that_requests_are_parsed_by(market: Market) -> None:
    paths = market.client.get("/openapi.json").get_json()["paths"]
    schema = paths["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["model", "prompt"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["max_tokens"]["maximum"] == market.services.settings.max_new_tokens
    assert paths["/v1/completions"]["post"]["security"] == [{"session": []}]


def test_every_whole_call_may_carry_a_key_and_says_how_long_to_wait(market: Market) -> None:
    for path, item in market.client.get("/openapi.json").get_json()["paths"].items():
        for operation in item.values():
            answers = operation["responses"]
            takes_key = any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"])
            assert takes_key == ("X-Posthuman-Receipt" in answers.get("200", {}).get("headers", {})), path
            assert not takes_key or {"409", "422", "429", "503"} <= answers.keys()
            for code in {"429", "503"} & answers.keys():
                assert "Retry-After" in answers[code]["headers"]
