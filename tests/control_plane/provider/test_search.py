"""Search finds what Elasticsearch would, in the part of its language that clients speak, and refuses the rest by name."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from flask import Flask, jsonify

from control_plane.errors import BadInput
from control_plane.provider.search import MOST_BYTES, MOST_CLAUSES, search
from control_plane.provider.texts import Texts


def asset(number: int, **metadata: Any) -> dict[str, Any]:
    return {
        "id": f"did:op:{number:064x}",
        "metadata": {"name": f"Asset {number}", "type": "dataset", "tags": [], "description": "", **metadata},
        "services": [{"type": "access", "timeout": 3600 * number}],
        "nft": {"state": 0, "owner": f"0x{number:040x}"},
        "stats": {"orders": number},
    }


DOCUMENTS = [
    asset(1, name="Branin points", description="The function of Branin", tags=["maths", "test"]),
    asset(2, name="Words of a sea", description="Texts about the sea, one a line", tags=["text"]),
    asset(3, name="Trainer", type="algorithm", description="Trains on text"),
    asset(4, name="Sea charts", description="Charts; of coasts", isFree=True),
]
ASSETS = [Texts(each) for each in DOCUMENTS]


def found(query: Any, **more: Any) -> list[int]:
    answer = search(ASSETS, {"query": query, **more})
    assert answer["hits"]["total"]["value"] >= len(answer["hits"]["hits"])
    return [int(hit["_source"]["id"][-2:], 16) for hit in answer["hits"]["hits"]]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Branin", [1]),
        ("branin", [1]),
        ("Brani", []),
        ("Brani*", [1]),
        ("b?anin", [1]),
        ("sea", [2, 4]),
        ("sea charts", [2, 4]),
        ("sea AND charts", [4]),
        ("+sea -charts", [2]),
        ("sea NOT text", [4]),
        ('"of a sea"', [2]),
        ('"sea of a"', []),
        ("metadata.type:algorithm", [3]),
        ("metadata.type:algorithm OR metadata.tags:maths", [1, 3]),
        ("(branin OR trainer) AND metadata.type:algorithm", [3]),
        (r"did\:op\:" + f"{2:064x}", [2]),
        ("did:op:none", []),
        ("_exists_:metadata.isFree", [4]),
        ("*", [1, 2, 3, 4]),
        ("", [1, 2, 3, 4]),
        ("nothing", []),
    ],
)
def test_a_query_string_finds_whole_words(text: str, numbers: list[int]) -> None:
    assert found({"query_string": {"query": text}}) == numbers


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"match_all": {}}, [1, 2, 3, 4]),
        ({"match": {"metadata.name": "sea branin"}}, [1, 2, 4]),
        ({"match": {"metadata.name": {"query": "sea"}}}, [2, 4]),
        ({"match_phrase": {"metadata.description": "the sea"}}, [2]),
        ({"multi_match": {"query": "text", "fields": ["metadata.name", "metadata.tags^2"]}}, [2]),
        ({"term": {"metadata.type.keyword": "algorithm"}}, [3]),
        ({"term": {"metadata.isFree": True}}, [4]),
        ({"term": {"metadata.name": {"value": "Sea charts"}}}, [4]),
        ({"terms": {"nft.state": [0, 5]}}, [1, 2, 3, 4]),
        ({"terms": {"metadata.tags": ["maths", "text"]}}, [1, 2]),
        ({"range": {"stats.orders": {"gt": 1, "lte": 3}}}, [2, 3]),
        ({"range": {"metadata.name": {"gt": 1}}}, []),
        ({"exists": {"field": "metadata.isFree"}}, [4]),
        ({"ids": {"values": [DOCUMENTS[0]["id"]]}}, [1]),
        ({"bool": {"must": [{"term": {"metadata.type": "dataset"}}], "must_not": {"match": {"metadata.name": "sea"}}}}, [1]),
        ({"bool": {"should": [{"match": {"metadata.name": "trainer"}}, {"match": {"metadata.name": "branin"}}]}}, [1, 3]),
        ({"bool": {"filter": {"range": {"services.timeout": {"gte": 7200}}}}}, [2, 3, 4]),
        ({"query_string": {"query": "sea text", "default_operator": "AND"}}, [2]),
        ({"simple_query_string": {"query": "sea text", "default_operator": "and", "fields": ["metadata.description"]}}, []),
        ({"match": {"metadata.name": {"query": "sea charts", "operator": "or"}}}, [2, 4]),
        ({"match": {"metadata.name": {"query": "sea charts", "operator": "AND", "boost": 2}}}, [4]),
        ({"multi_match": {"query": "a sea", "fields": ["metadata.name"], "operator": "and"}}, [2]),
        ({"multi_match": {"query": "sea a", "fields": ["metadata.name"], "type": "phrase"}}, []),
        ({"multi_match": {"query": "a sea", "fields": ["metadata.name"], "type": "phrase"}}, [2]),
        ({"terms": {"metadata.tags": ["maths"], "boost": 2.0}}, [1]),
        ({"range": {"stats.orders": {"gt": 3, "boost": 1}}}, [4]),
        ({"term": {"metadata.type": {"value": "ALGORITHM", "case_insensitive": True}}}, [3]),
        ({"match_all": {"boost": 1.0}}, [1, 2, 3, 4]),
        ({"query_string": {"query": "text", "fields": ["metadata.tags"]}}, [2]),
    ],
)
def test_a_clause_means_what_elasticsearch_means(query: Any, numbers: list[int]) -> None:
    assert found(query) == numbers


def test_hits_are_sorted_cut_and_counted() -> None:
    assert found({"match_all": {}}, sort={"stats.orders": "desc"}) == [4, 3, 2, 1]
    assert found({"match_all": {}}, sort=[{"metadata.type": {"order": "asc"}}, {"stats.orders": {"order": "desc"}}]) == [3, 4, 2, 1]
    answer = search(ASSETS, {"query": {"match_all": {}}, "from": 1, "size": 2})
    assert answer["hits"]["total"]["value"] == 4
    assert [hit["_source"]["stats"]["orders"] for hit in answer["hits"]["hits"]] == [2, 3]
    assert search(ASSETS, {})["hits"]["total"]["value"] == 4


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"aggs": {}}, "aggs"),
        ({"_source": ["id"]}, "_source"),
        ({"track_total_hits": False}, "track_total_hits"),
        ({"sort": {"id": {"order": "desc", "missing": "_last"}}}, "missing"),
        ({"sort": {"id": "down"}}, "order"),
        ({"sort": {"id": 1}}, "order"),
        ({"query": {"fuzzy": {"id": "x"}}}, "fuzzy"),
        ({"query": {"match_all": {"_name": "x"}}}, "_name"),
        ({"query": {"match": {"metadata.name": {"query": "sea", "fuzziness": "AUTO"}}}}, "fuzziness"),
        ({"query": {"match": {"metadata.name": {"query": "sea", "operator": "xor"}}}}, "operator"),
        ({"query": {"match_phrase": {"metadata.name": {"query": "sea", "slop": 3}}}}, "slop"),
        ({"query": {"match": {"metadata.name": {"operator": "and"}}}}, "match"),
        ({"query": {"multi_match": {"query": "sea", "type": "cross_fields"}}}, "type"),
        ({"query": {"multi_match": {"query": "sea", "tie_breaker": 0.3}}}, "tie_breaker"),
        ({"query": {"query_string": {"query": "sea", "fuzziness": 2}}}, "fuzziness"),
        ({"query": {"query_string": {"query": "sea", "default_operator": "XOR"}}}, "default_operator"),
        ({"query": {"simple_query_string": {"query": "sea", "flags": "OR"}}}, "flags"),
        ({"query": {"term": {"metadata.type": {"value": "x", "case_insensitive": False}}}}, "case_insensitive"),
        ({"query": {"term": {"metadata.type": {"wanted": "x"}}}}, "wanted"),
        ({"query": {"terms": {"id": ["x"] * (MOST_CLAUSES + 1)}}}, "terms"),
        ({"query": {"range": {"stats.orders": {"gt": 1, "format": "epoch"}}}}, "format"),
        ({"query": {"exists": {"field": "id", "boost": "much"}}}, "boost"),
        ({"query": {"ids": {"values": [], "type": "x"}}}, "type"),
        ({"query": {"bool": {"must": [], "adjust_pure_negative": True}}}, "adjust_pure_negative"),
        ({"query": {"bool": {"must": [{"match": {"id": {"query": "x", "lenient": True}}}]}}}, "lenient"),
    ],
)
def test_an_option_that_is_not_known_is_refused_by_its_name_and_not_passed_over(body: Any, named: str) -> None:
    with pytest.raises(BadInput) as refused:
        search(ASSETS, body)
    assert (refused.value.status, refused.value.code) == (400, "query_unknown")
    assert re.search(rf"\b{named}\b", str(refused.value)), str(refused.value)


def test_an_option_whose_name_is_no_name_is_not_echoed() -> None:
    with pytest.raises(BadInput, match="a name") as refused:
        search(ASSETS, {"<script>": 1})
    assert "script" not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        {"query": {"script": {"source": "1"}}},
        {"query": {"match_all": {}, "term": {}}},
        {"query": {"bool": {"perhaps": []}}},
        {"query": {"bool": []}},
        {"query": {"term": {"id": None}}},
        {"query": {"terms": {"id": "x"}}},
        {"query": {"range": {"id": {"near": 1}}}},
        {"query": {"query_string": {"query": "(sea"}}},
        {"query": {"query_string": {"query": "sea)"}}},
        {"query": {"query_string": {"query": '"sea'}}},
        {"query": {"query_string": {"query": "(" * 100 + "sea" + ")" * 100}}},
        {"query": {"query_string": {"query": "a " * 1000}}},
        {"query": {"query_string": {"query": 7}}},
        {"query": "sea"},
        {"size": -1},
        {"size": True},
        {"from": 10**9},
        {"query": {"bool": {"should": [{"match_all": {}}] * MOST_CLAUSES}}},
    ],
)
def test_what_is_not_known_here_is_refused(body: Any) -> None:
    with pytest.raises(BadInput):
        search(ASSETS, body)


def test_a_long_hostile_text_is_answered_at_once() -> None:
    long = [Texts({"id": "1", "metadata": {"description": "e" * 10_000}})]
    began = time.process_time()
    search(long, {"query": {"query_string": {"query": "*e*e*e*e*e*e*e*e*e*e~"}}})
    search(long, {"query": {"query_string": {"query": "*e?e" * 500 + "~"}}})
    for text in ("\\" * 4000, "(a OR " * 30 + "a" + ")" * 30, "*a" * 1000, '"' * 3000, "a:" * 2000, "-" * 4000):
        try:
            search(ASSETS, {"query": {"query_string": {"query": text}}})
        except BadInput:
            continue
    assert time.process_time() - began < 20  # what tries every way takes minutes


def test_a_wildcard_is_any_letters_and_a_bracket_is_a_bracket() -> None:
    found = [Texts({"id": "1", "name": "sea[1]"}), Texts({"id": "2", "name": "seal"})]

    def hits(text: str) -> list[str]:
        return [hit["_id"] for hit in search(found, {"query": {"query_string": {"query": text}}})["hits"]["hits"]]

    assert (hits("sea?1?"), hits("sea[1*"), hits("s*l"), hits("[a-z]*")) == (["1"], ["1"], ["2"], [])


@pytest.mark.parametrize(
    "body",
    [
        {"sort": ["name"] * 17},
        {"sort": {f"f{number}": "asc" for number in range(17)}},
        {"query": {"query_string": {"query": "a", "fields": ["f"] * 17}}},
    ],
)
def test_more_fields_than_are_looked_at_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        search(ASSETS, body)


def fat(number: int, value: Any = 0) -> Texts:
    """As many values as a document may have."""
    return Texts({"id": f"{number}", "x": [value] * 20_000})


def clauses(number: int) -> dict[str, Any]:
    return {"query": {"bool": {"should": [{"query_string": {"query": f"w{each}"}} for each in range(number)]}}}


def test_a_search_that_takes_too_long_over_all_documents_is_refused_within_a_bounded_time() -> None:
    """Anybody may ask, and while Python counts nothing else of the worker goes on."""
    many = [fat(each) for each in range(20)]
    assert search(many, clauses(5))["hits"]["total"]["value"] == 0
    began = time.process_time()
    with pytest.raises(BadInput) as refused:
        search(many, clauses(100))
    assert (refused.value.status, refused.value.code) == (400, "query_too_costly")
    assert time.process_time() - began < 4  # 40,000,000 values would take 7 s; this takes 0.9


@pytest.mark.parametrize(
    "clause",
    [
        {"query_string": {"query": "sea*"}},
        {"query_string": {"query": "one two"}},
        {"match": {"x": "one two three"}},
        {"match_phrase": {"x": "one two"}},
        {"term": {"x": "one"}},
        {"terms": {"x": ["one", "two"]}},
        {"range": {"x": {"gt": 7}}},
        {"exists": {"field": "x.y"}},
        {"multi_match": {"query": "one", "fields": ["x", "y"]}},
    ],
)
def test_each_kind_of_clause_counts_what_it_looks_at(clause: dict[str, Any]) -> None:
    asset = Texts({"id": "1", "x": [0, "seven seas", {"y": ""}] * 20})
    body = {"query": {"bool": {"should": [clause] * 20}}}
    assert search([asset], body)["hits"]["total"]["value"] in (0, 1)
    with pytest.raises(BadInput) as refused:
        search([asset] * 20, body, steps=1000)
    assert refused.value.code == "query_too_costly"


def test_letters_cost_as_values_do() -> None:
    long, steps = Texts({"id": "1", "text": "sea " * 25_000}), 100_000
    for text, most in (("whale", 60), ("w*", 1)):
        body = {"query": {"query_string": {"query": text}}}
        assert search([long] * most, body, steps=steps)["hits"]["total"]["value"] == 0
        with pytest.raises(BadInput, match="fewer clauses"):
            search([long] * (most + most // 4 + 1), body, steps=steps)


def test_whole_numbers_greater_than_any_float_are_sorted_as_they_are() -> None:
    numbers = [10**400, 3, 2.5, 10**400 + 1, -(10**400), "text"]
    found = [Texts({"id": f"{each}", "n": value}) for each, value in enumerate(numbers)]

    def ids(order: str) -> str:
        return "".join(hit["_id"] for hit in search(found, {"sort": {"n": order}})["hits"]["hits"])

    assert (ids("asc"), ids("desc")) == ("421035", "530124")
    assert search(found, {"query": {"range": {"n": {"gt": 1.5, "lte": 10**400}}}})["hits"]["total"]["value"] == 3


def test_hits_that_are_too_long_for_one_answer_are_asked_for_in_parts() -> None:
    long = [Texts({"id": f"{each}", "text": "e" * (MOST_BYTES // 10)}) for each in range(1, 12)]
    with pytest.raises(BadInput) as refused:
        search(long, {"size": 11})
    assert (refused.value.field, refused.value.code) == ("size", "answer_too_large")
    assert len(search(long, {"size": 5, "from": 5})["hits"]["hits"]) == 5


@pytest.mark.parametrize(
    "document", [{"id": "1", "e" * 1000: 1}, {"id": "1", "text": "\U0001f433" * 1000}, {"id": "1", "list": [[], {}, None] * 500}]
)
def test_a_document_is_as_long_as_what_is_shown_of_it(document: dict[str, Any]) -> None:
    """Names of fields, letters that JSON writes as twelve bytes, and what holds no value."""
    with Flask(__name__).app_context():
        shown = len(jsonify(document).data)
    assert shown <= Texts(document).size <= 1.5 * shown


def test_a_field_is_found_inside_others_and_by_whole_names_alone() -> None:
    asset = [Texts({"id": "1", "a": {"b": [{"c": "sea"}, ["coast"]], "bc": "other"}, "a.b": 1})]

    def hits(field: str, word: str) -> int:
        return int(search(asset, {"query": {"match": {field: word}}})["hits"]["total"]["value"])

    assert [hits(each, "sea") for each in ("a", "a.b", "a.b.c", "a.b.c.keyword", "a.bc", "a.b.d", "b")] == [1, 1, 1, 1, 0, 0, 0]
    assert [hits(each, "coast") for each in ("a.b", "a.b.c")] == [1, 0]


def test_words_of_any_letters_are_found_whole() -> None:
    asset = [Texts({"id": "1", "name": "Москва \U0001f40b 海 straße", "odd": "\ud800 lone"})]
    for text, is_hit in (("москва", 1), ("моск", 0), ("海", 1), ("STRASSE", 0), ("straße", 1), ("lone", 1), ("мос*", 1)):
        assert search(asset, {"query": {"query_string": {"query": text}}})["hits"]["total"]["value"] == is_hit, text
