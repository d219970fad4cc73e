"""Search over the index, in the part of Elasticsearch's language that Ocean's clients speak.

In: assets as Aquarius shows them, a request's body. Out: hits. This module must never run what it does not know: a clause of
another kind is refused by its name.

Known: `match_all`, `query_string`, `simple_query_string`, `match`, `match_phrase`, `multi_match`, `term`, `terms`, `range`,
`exists`, `ids`, `bool`; `from`, `size`, `sort`. Texts match by whole words in any case, as its standard analyser has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from control_plane.errors import BadInput
from control_plane.provider.query_string import parse_query_string, wildcard

Document = Mapping[str, Any]
Test = Callable[[Document], bool]

MOST_HITS = 1000
MOST_SKIPPED = 10_000
MOST_CLAUSES = 256
MOST_FIELDS = 16
_DEFAULT_HITS = 10
_WORD = re.compile(r"\w+", re.UNICODE)


def search(documents: Sequence[Document], body: Mapping[str, Any]) -> dict[str, Any]:
    """The hits as Elasticsearch answers them. Raises BadInput naming what it does not know."""
    skipped, size = _whole(body, "from", 0, MOST_SKIPPED), _whole(body, "size", _DEFAULT_HITS, MOST_HITS)
    is_hit = _Clauses().test_of(body.get("query") or {"match_all": {}})
    found = [document for document in documents if is_hit(document)]
    for field, is_descending in reversed(_sorting(body.get("sort"))):
        found.sort(key=lambda document, field=field: _sortable(document, field), reverse=is_descending)  # type: ignore[misc]
    hits = [{"_index": "aquarius", "_id": each["id"], "_score": 1.0, "_source": each} for each in found[skipped : skipped + size]]
    return {
        "took": 0,
        "timed_out": False,
        "hits": {"total": {"value": len(found), "relation": "eq"}, "max_score": 1.0 if found else None, "hits": hits},
    }


class _Clauses:
    """Turns clauses into tests; counts them, since a stranger writes them."""

    def __init__(self) -> None:
        self._count = 0

    def test_of(self, clause: object) -> Test:
        self._count += 1
        if self._count > MOST_CLAUSES:
            raise BadInput("query", f"at most {MOST_CLAUSES} clauses", "more")
        if not isinstance(clause, Mapping) or len(clause) != 1:
            raise _unknown("an object with the name of one clause")
        ((kind, inside),) = clause.items()
        if kind == "match_all":
            return lambda _: True
        if kind in ("query_string", "simple_query_string"):
            return self._query_string(inside)
        if kind == "bool":
            return self._bool(inside)
        if kind == "multi_match":
            text = _text_of(inside, "query")
            fields: list[str | None] = [*_fields_of(inside)] or [None]
            return _any([_match(field, text, is_phrase=False) for field in fields])
        if kind == "exists":
            field = _text_of(inside, "field")
            return lambda document: any(value not in (None, "") for value in values_at(document, field))
        if kind == "ids":
            wanted = _list_of(inside, "values")
            return lambda document: document["id"] in wanted
        return self._of_field(kind, inside)

    def _of_field(self, kind: str, inside: object) -> Test:
        if kind not in ("match", "match_phrase", "term", "terms", "range"):
            raise _unknown("a clause that is known here")
        if not isinstance(inside, Mapping) or len(inside) != 1:
            raise _unknown(f"one field in {kind}")
        ((field, wanted),) = inside.items()
        if kind == "terms":
            if not isinstance(wanted, list):
                raise _unknown("a list of terms")
            return _any([_term(field, each) for each in wanted[:MOST_CLAUSES]])
        if kind == "range":
            return _range(field, wanted)
        if kind == "term":
            return _term(field, wanted.get("value") if isinstance(wanted, Mapping) else wanted)
        text = wanted.get("query") if isinstance(wanted, Mapping) else wanted
        return _match(field, str(text), is_phrase=kind == "match_phrase")

    def _bool(self, inside: object) -> Test:
        if not isinstance(inside, Mapping):
            raise _unknown("an object in bool")
        parts: dict[str, list[Test]] = {}
        for name, clauses in inside.items():
            if name in ("minimum_should_match", "boost"):
                continue
            if name not in ("must", "filter", "should", "must_not"):
                raise _unknown("must, filter, should or must_not in bool")
            parts[name] = [self.test_of(each) for each in (clauses if isinstance(clauses, list) else [clauses])]
        needed = parts.get("must", []) + parts.get("filter", [])
        wished, unwanted = parts.get("should", []), parts.get("must_not", [])
        least = inside.get("minimum_should_match", 0 if needed or not wished else 1)
        if type(least) is not int or least < 0:
            raise _unknown("a whole number in minimum_should_match")

        def is_hit(document: Document) -> bool:
            if not all(each(document) for each in needed) or any(each(document) for each in unwanted):
                return False
            return least == 0 or sum(each(document) for each in wished) >= least

        return is_hit

    def _query_string(self, inside: object) -> Test:
        fields = _fields_of(inside)
        default = inside.get("default_operator", "OR") if isinstance(inside, Mapping) else "OR"

        def leaf(field: str | None, text: str, is_phrase: bool) -> Test:
            self._count += 1
            if self._count > MOST_CLAUSES:
                raise BadInput("query", f"at most {MOST_CLAUSES} clauses", "more")
            chosen: list[str | None] = [field] if field is not None else [*fields] or [None]
            if field == "_exists_":
                return lambda document: bool(list(values_at(document, text)))
            return _any([_match(each, text, is_phrase=is_phrase) for each in chosen])

        return parse_query_string(_text_of(inside, "query"), leaf, is_and=str(default).upper() == "AND")


def values_at(document: Any, field: str | None) -> Iterator[Any]:
    """Every value under a dotted field, lists walked through; under None: every value of the document."""
    if isinstance(document, list):
        for each in document:
            yield from values_at(each, field)
    elif isinstance(document, Mapping):
        if not field:
            for each in document.values():
                yield from values_at(each, None)
            return
        name, _, rest = field.partition(".")
        if name == "keyword":
            return
        if name in document:
            yield from values_at(document[name], rest or None)
    elif field in (None, "", "keyword"):
        yield document


def words_of(value: object) -> list[str]:
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [word.lower() for word in _WORD.findall(str(value))] if value is not None else []


def _match(field: str | None, text: str, is_phrase: bool) -> Test:
    if field in ("*", ""):
        field = None
    if "*" in text or "?" in text:
        pattern = wildcard(text)
        return lambda document: any(
            pattern.fullmatch(each) for value in values_at(document, field) for each in (*words_of(value), str(value).lower())
        )
    wanted = words_of(text)
    if not wanted:
        return lambda _: False

    def is_hit(document: Document) -> bool:
        for value in values_at(document, field):
            words = words_of(value)
            if is_phrase or ":" in text:
                if any(words[at : at + len(wanted)] == wanted for at in range(len(words) - len(wanted) + 1)):
                    return True
            elif any(each in words for each in wanted):
                return True
        return False

    return is_hit


def _term(field: str, wanted: object) -> Test:
    """Exactly this value, as for Elasticsearch's keyword fields; a single word of a text counts too."""
    text = "true" if wanted is True else "false" if wanted is False else str(wanted)

    def is_hit(document: Document) -> bool:
        return any(
            text.lower() == ("true" if value is True else "false" if value is False else str(value)).lower()
            or text.lower() in words_of(value)
            for value in values_at(document, field)
        )

    return is_hit


def _range(field: str, bounds: object) -> Test:
    if not isinstance(bounds, Mapping) or not set(bounds) <= {"gt", "gte", "lt", "lte"}:
        raise _unknown("gt, gte, lt, lte in range")
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "gt": lambda value, bound: value > bound,
        "gte": lambda value, bound: value >= bound,
        "lt": lambda value, bound: value < bound,
        "lte": lambda value, bound: value <= bound,
    }

    def is_within(value: Any) -> bool:
        try:
            return all(tests[name](value, bound) for name, bound in bounds.items())
        except TypeError:  # a number compared with a text
            return False

    return lambda document: any(is_within(value) for value in values_at(document, field))


def _any(tests: Sequence[Test]) -> Test:
    return lambda document: any(each(document) for each in tests)


def _sorting(asked: object) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    given = asked if isinstance(asked, list) else [] if asked is None else [asked]
    for each in given:
        if isinstance(each, str):
            found.append((each, False))
        elif isinstance(each, Mapping):
            for field, how in each.items():
                order = how.get("order") if isinstance(how, Mapping) else how
                found.append((str(field), str(order).lower() == "desc"))
        else:
            raise _unknown("fields in sort")
    if len(found) > MOST_FIELDS:
        raise BadInput("sort", f"at most {MOST_FIELDS} fields", "more")
    return [each for each in found if each[0] != "_score"]


def _sortable(document: Document, field: str) -> tuple[int, float, str]:
    """Numbers before texts before nothing."""
    for value in values_at(document, field):
        if isinstance(value, int | float):
            return 0, float(value), ""
        return 1, 0.0, str(value)
    return 2, 0.0, ""


def _whole(body: Mapping[str, Any], name: str, default: int, high: int) -> int:
    value = body.get(name, default)
    if type(value) is not int or not 0 <= value <= high:
        raise BadInput(name, f"a whole number from 0 to {high}", "something else")
    return value


def _text_of(inside: object, name: str) -> str:
    found = inside.get(name) if isinstance(inside, Mapping) else None
    if not isinstance(found, str) or len(found) > 4096:
        raise _unknown(f"a text in {name}")
    return found


def _list_of(inside: object, name: str) -> list[Any]:
    found = inside.get(name) if isinstance(inside, Mapping) else None
    if not isinstance(found, list):
        raise _unknown(f"a list in {name}")
    return found


def _fields_of(inside: object) -> list[str]:
    found = inside.get("fields", inside.get("default_field", [])) if isinstance(inside, Mapping) else []
    given = found if isinstance(found, list) else [found]
    if len(given) > MOST_FIELDS:
        raise BadInput("query", f"at most {MOST_FIELDS} fields in one clause", "more")
    return [str(each).partition("^")[0] for each in given]


def _unknown(expected: str) -> BadInput:
    return BadInput("query", expected, "something else", code="query_unknown")
