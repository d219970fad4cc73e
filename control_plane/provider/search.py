"""Search over the index, in the part of Elasticsearch's language that Ocean's clients speak.

In: the texts of assets as Aquarius shows them, a request's body. Out: hits. This module must never pass over what it does not
know: a clause or an option of another kind is refused by its name.

Known: `match_all`, `query_string`, `simple_query_string`, `match`, `match_phrase`, `multi_match`, `term`, `terms`, `range`,
`exists`, `ids`, `bool`; `from`, `size`, `sort`, `track_total_hits`. Texts match by whole words in any case, as its standard
analyser has them. All hits score alike, so a `boost` changes nothing. A search that would take longer than a second or so over all
assets is refused, and so are hits that are too much for one answer: anybody may ask, and a worker answers calls besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from control_plane.errors import BadInput
from control_plane.fields import Kind, safe_name
from control_plane.provider.query_string import parse_query_string, wildcard
from control_plane.provider.texts import Budget, Texts, Value, spaced, words_of

Test = Callable[[Texts], bool]

MOST_HITS = 1000
MOST_SKIPPED = 10_000
MOST_CLAUSES = 256
MOST_FIELDS = 16
MOST_STEPS = 5_000_000
"""Of one search, see `Budget`: about a second here."""
MOST_BYTES = 32 << 20
"""Of all hits of one answer. A document has a megabyte at most, and most have a few thousand bytes."""
_DEFAULT_HITS = 10
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "match_all": (),
    "query_string": ("query", "fields", "default_field", "default_operator"),
    "simple_query_string": ("query", "fields", "default_operator"),
    "multi_match": ("query", "fields", "operator", "type"),
    "match": ("query", "operator"),
    "match_phrase": ("query",),
    "term": ("value", "case_insensitive"),
    "range": ("gt", "gte", "lt", "lte"),
    "exists": ("field",),
    "ids": ("values",),
    "bool": ("must", "filter", "should", "must_not", "minimum_should_match"),
}
"""Of each clause; of one that names a field first, those inside. `boost` besides, which is a number."""


def search(assets: Sequence[Texts], body: Mapping[str, Any], steps: int = MOST_STEPS) -> dict[str, Any]:
    """The hits as Elasticsearch answers them. Raises BadInput naming what it does not know; with code query_too_costly where
    finding them takes more than `steps`, and naming `size` where they are too much for one answer."""
    _only(body, ("query", "from", "size", "sort", "track_total_hits"), "the request")
    if body.get("track_total_hits", True) is not True:
        raise BadInput("track_total_hits", "true: all hits are counted", "something else", code="query_unknown")
    skipped, size = _whole(body, "from", 0, MOST_SKIPPED), _whole(body, "size", _DEFAULT_HITS, MOST_HITS)
    budget = Budget(steps)
    is_hit = _Clauses(budget).test_of(body.get("query") or {"match_all": {}})
    found = [asset for asset in assets if is_hit(asset)]
    for field, is_descending in reversed(_sorting(body.get("sort"))):
        budget.spend(len(found))
        found.sort(key=lambda asset, field=field: _sortable(asset, field), reverse=is_descending)  # type: ignore[misc]
    shown = found[skipped : skipped + size]
    if sum(each.size for each in shown) > MOST_BYTES:
        raise BadInput("size", f"fewer hits: these {len(shown)} are longer than one answer may be", "more", code="answer_too_large")
    documents = [each.document for each in shown]
    hits = [{"_index": "aquarius", "_id": each["id"], "_score": 1.0, "_source": each} for each in documents]
    return {
        "took": 0,
        "timed_out": False,
        "hits": {"total": {"value": len(found), "relation": "eq"}, "max_score": 1.0 if found else None, "hits": hits},
    }


class _Clauses:
    """Turns clauses into tests; counts them, since a stranger writes them."""

    def __init__(self, budget: Budget) -> None:
        self._count, self._budget = 0, budget

    def test_of(self, clause: object) -> Test:
        self._counted()
        if not isinstance(clause, Mapping) or len(clause) != 1:
            raise _unknown("an object with the name of one clause")
        ((kind, inside),) = clause.items()
        if kind not in _OPTIONS and kind != "terms":
            raise _not_known(str(kind), "clause", sorted({*_OPTIONS, "terms"}))
        if kind in ("match", "match_phrase", "term", "terms", "range"):
            return self._of_field(kind, inside)
        options = _options_of(kind, inside)
        budget = self._budget
        if kind == "match_all":
            return lambda _: True
        if kind in ("query_string", "simple_query_string"):
            return self._query_string(options)
        if kind == "bool":
            return self._bool(options)
        if kind == "multi_match":
            text, is_and = _text_of(options, "query"), _is_and(options, "operator")
            way = _one_of(options, "type", ("best_fields", "most_fields", "phrase"))
            fields: list[str | None] = [*_fields_of(options)] or [None]
            return _any([_match(budget, field, text, is_phrase=way == "phrase", is_and=is_and) for field in fields])
        if kind == "exists":
            field = _text_of(options, "field")
            return _any_value(budget, field, lambda value: value.value not in (None, ""))
        wanted = {each for each in _list_of(options, "values") if isinstance(each, str)}
        return lambda asset: asset.document["id"] in wanted

    def _of_field(self, kind: str, inside: object) -> Test:
        if not isinstance(inside, Mapping):
            raise _unknown(f"one field in {kind}")
        if kind == "terms":
            named = {field: wanted for field, wanted in inside.items() if not _is_boost(field, wanted)}
        else:
            named = dict(inside)
        if len(named) != 1:
            raise _unknown(f"one field in {kind}")
        ((field, wanted),) = named.items()
        if kind == "terms":
            if not isinstance(wanted, list) or len(wanted) > MOST_CLAUSES:
                raise _unknown(f"a list of at most {MOST_CLAUSES} terms")
            return _any([_term(self._budget, field, each) for each in wanted])
        if kind == "range":
            return _range(self._budget, field, _options_of(kind, wanted))
        name = "value" if kind == "term" else "query"
        options = _options_of(kind, wanted if isinstance(wanted, Mapping) else {name: wanted})
        if not isinstance(options.get(name), str | int | float):
            raise _unknown(f"a text or a number in {kind}")
        if kind == "term":
            if options.get("case_insensitive", True) is not True:
                raise BadInput("case_insensitive", "true: case tells no terms apart here", "something else", code="query_unknown")
            return _term(self._budget, field, options[name])
        is_and, text = _is_and(options, "operator"), str(options[name])
        return _match(self._budget, field, text, is_phrase=kind == "match_phrase", is_and=is_and)

    def _bool(self, inside: Mapping[str, Any]) -> Test:
        parts: dict[str, list[Test]] = {}
        for name in ("must", "filter", "should", "must_not"):
            if name in inside:
                clauses = inside[name]
                parts[name] = [self.test_of(each) for each in (clauses if isinstance(clauses, list) else [clauses])]
        needed = parts.get("must", []) + parts.get("filter", [])
        wished, unwanted = parts.get("should", []), parts.get("must_not", [])
        least = inside.get("minimum_should_match", 0 if needed or not wished else 1)
        if type(least) is not int or least < 0:
            raise _unknown("a whole number in minimum_should_match")

        def is_hit(asset: Texts) -> bool:
            if not all(each(asset) for each in needed) or any(each(asset) for each in unwanted):
                return False
            return least == 0 or sum(each(asset) for each in wished) >= least

        return is_hit

    def _query_string(self, inside: Mapping[str, Any]) -> Test:
        fields, is_and = _fields_of(inside), _is_and(inside, "default_operator")

        def leaf(field: str | None, text: str, is_phrase: bool) -> Test:
            self._counted()
            chosen: list[str | None] = [field] if field is not None else [*fields] or [None]
            if field == "_exists_":
                return _any_value(self._budget, text, lambda _: True)
            return _any([_match(self._budget, each, text, is_phrase=is_phrase) for each in chosen])

        return parse_query_string(_text_of(inside, "query"), leaf, is_and=is_and)

    def _counted(self) -> None:
        self._count += 1
        if self._count > MOST_CLAUSES:
            raise BadInput("query", f"at most {MOST_CLAUSES} clauses", "more")


def _any_value(budget: Budget, field: str | None, is_it: Callable[[Value], bool], times: int = 1, is_by_word: bool = False) -> Test:
    """Whether one of the field's values is. times: how often its words are looked through. is_by_word: whether one by one."""

    def is_hit(asset: Texts) -> bool:
        spent, found = 1, False
        for value in asset.under(field):
            spent += len(value.words) // 2 + 1 if is_by_word else times * value.steps
            if is_it(value):
                found = True
                break
        budget.spend(spent)
        return found

    return is_hit


def _match(budget: Budget, field: str | None, text: str, is_phrase: bool, is_and: bool = False) -> Test:
    """is_and: whether a value must have all of the words, and not one of them."""
    if "*" in text or "?" in text:
        pattern = wildcard(text)

        def fits(value: Value) -> bool:
            return any(
                pattern.fullmatch(each)
                for each in (str(value.value).lower(), *value.words.decode("utf-8", "surrogatepass").split())
            )

        return _any_value(budget, field, fits, is_by_word=True)
    words = words_of(text)
    if not words:
        return lambda _: False
    is_row = is_phrase or ":" in text
    parts = [spaced(words)] if is_row else [spaced([each]) for each in dict.fromkeys(words)]
    is_all = is_row or is_and
    if len(parts) == 1:
        return _any_value(budget, field, lambda value: parts[0] in value.words)
    return _any_value(budget, field, lambda value: (all if is_all else any)(each in value.words for each in parts), len(parts))


def _term(budget: Budget, field: str, wanted: object) -> Test:
    """Exactly this value, as for Elasticsearch's keyword fields; a single word of a text counts too."""
    text = _keyword(wanted)
    word = spaced([text]) if text and " " not in text else None
    return _any_value(budget, field, lambda value: (word is not None and word in value.words) or text == _keyword(value.value))


def _keyword(value: object) -> str:
    return ("true" if value is True else "false" if value is False else str(value)).lower()


def _range(budget: Budget, field: str, options: Mapping[str, Any]) -> Test:
    bounds = {name: bound for name, bound in options.items() if name != "boost"}
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "gt": lambda value, bound: value > bound,
        "gte": lambda value, bound: value >= bound,
        "lt": lambda value, bound: value < bound,
        "lte": lambda value, bound: value <= bound,
    }

    def is_within(value: Value) -> bool:
        try:
            return all(tests[name](value.value, bound) for name, bound in bounds.items())
        except TypeError:  # a number compared with a text
            return False

    return _any_value(budget, field, is_within)


def _any(tests: Sequence[Test]) -> Test:
    return lambda asset: any(each(asset) for each in tests)


def _sorting(asked: object) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    given = asked if isinstance(asked, list) else [] if asked is None else [asked]
    for each in given:
        if isinstance(each, str):
            found.append((each, False))
        elif isinstance(each, Mapping):
            for field, how in each.items():
                options = how if isinstance(how, Mapping) else {"order": how}
                _only(options, ("order",), "sort")
                found.append((str(field), _one_of(options, "order", ("asc", "desc")) == "desc"))
        else:
            raise _unknown("fields in sort")
    if len(found) > MOST_FIELDS:
        raise BadInput("sort", f"at most {MOST_FIELDS} fields", "more")
    return [each for each in found if each[0] != "_score"]


def _sortable(asset: Texts, field: str) -> tuple[int, int | float, str]:
    """Numbers before texts before nothing. A whole number stays one: a document's may be greater than any float."""
    for each in asset.under(field):
        if isinstance(each.value, int | float):
            return 0, each.value, ""
        return 1, 0, str(each.value)
    return 2, 0, ""


def _whole(body: Mapping[str, Any], name: str, default: int, high: int) -> int:
    value = body.get(name, default)
    if type(value) is not int or not 0 <= value <= high:
        raise BadInput(name, f"a whole number from 0 to {high}", "something else")
    return value


def _only(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raises BadInput for an option that is not known, by its name."""
    for name in given:
        if name not in known:
            raise _not_known(str(name), f"option of {where}", known)


def _not_known(name: str, what: str, known: Sequence[str]) -> BadInput:
    """The name is the field: of what was found Ocean's shape of an error tells nothing."""
    expected = f"no such {what}; known {'are ' + ', '.join(known) if known else 'is none'}"
    return BadInput(safe_name(name, "a name"), expected, Kind("one"), code="query_unknown")


def _options_of(kind: str, inside: object) -> Mapping[str, Any]:
    if not isinstance(inside, Mapping):
        raise _unknown(f"an object in {kind}")
    _only({name: value for name, value in inside.items() if not _is_boost(name, value)}, _OPTIONS[kind], kind)
    return inside


def _is_boost(name: str, value: object) -> bool:
    return name == "boost" and isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(options: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """The option in lower case; the first of the known ones where it is left out."""
    value = options.get(name, known[0])
    if not isinstance(value, str) or value.lower() not in known:
        raise BadInput(name, f"one of {', '.join(known)}", "something else", code="query_unknown")
    return value.lower()


def _is_and(options: Mapping[str, Any], name: str) -> bool:
    return _one_of(options, name, ("or", "and")) == "and"


def _text_of(inside: Mapping[str, Any], name: str) -> str:
    found = inside.get(name)
    if not isinstance(found, str) or len(found) > 4096:
        raise _unknown(f"a text in {name}")
    return found


def _list_of(inside: Mapping[str, Any], name: str) -> list[Any]:
    found = inside.get(name)
    if not isinstance(found, list):
        raise _unknown(f"a list in {name}")
    return found


def _fields_of(inside: Mapping[str, Any]) -> list[str]:
    found = inside.get("fields", inside.get("default_field", []))
    given = found if isinstance(found, list) else [found]
    if len(given) > MOST_FIELDS:
        raise BadInput("query", f"at most {MOST_FIELDS} fields in one clause", "more")
    return [str(each).partition("^")[0] for each in given]


def _unknown(expected: str) -> BadInput:
    return BadInput("query", expected, "something else", code="query_unknown")
