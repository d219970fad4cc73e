"""Search finds what Elasticsearch would, in the part of its language that clients speak, and refuses the rest by name."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from control_plane.errors import BadInput
from control_plane.provider.search import MOST_CLAUSES, search


def asset(number: int, **metadata: Any) -> dict[str, Any]:
    return {
        "id": f"did:op:{number:064x}",
        "metadata": {"name": f"Asset {number}", "type": "dataset", "tags": [], "description": "", **metadata},
        "services": [{"type": "access", "timeout": 3600 * number}],
        "nft": {"state": 0, "owner": f"0x{number:040x}"},
        "stats": {"orders": number},
    }


ASSETS = [
    asset(1, name="Branin points", description="The function of Branin", tags=["maths", "test"]),
    asset(2, name="Words of a sea", description="Texts about the sea, one a line", tags=["text"]),
    asset(3, name="Trainer", type="algorithm", description="Trains on text"),
    asset(4, name="Sea charts", description="Charts; of coasts", isFree=True),
]


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
        ({"ids": {"values": [ASSETS[0]["id"]]}}, [1]),
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
    long = [{"id": "1", "metadata": {"description": "e" * 10_000}}]
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
    found = [{"id": "1", "name": "sea[1]"}, {"id": "2", "name": "seal"}]

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
