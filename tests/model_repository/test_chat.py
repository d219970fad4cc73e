"""A conversation becomes a prompt: by the model's template as transformers has it, in a process with limits, or by a plain one."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from chat.child import environment
from chat.messages import MOST_MESSAGES, plain, read_messages
from chat.renderer import Renderer
from converters import chat_template as theirs
from generate.aside import Aside
from generate.call import read_call
from generate.listener import TooBusy
from opening.entry import EntryUnusable, OpenEntry
from opening.refusal import Refused
from tests.chat_templates import ENDLESS, GIGABYTES, HONEST, TOO_MUCH

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<x>"]}
HELLO = [{"role": "user", "content": "one two"}]


@pytest.mark.parametrize("name", HONEST)
def test_the_child_renders_what_the_converter_compared_with_transformers(name: str) -> None:
    renderer = Renderer(HONEST[name], TOKENS)
    compared = theirs.environment().from_string(HONEST[name])
    rendered = 0
    for messages in theirs.CONVERSATIONS:
        try:
            expected = theirs.render(compared, messages, TOKENS)
        except jinja2.TemplateError:
            with pytest.raises(Refused, match="refused"):
                renderer.render(messages)
        else:
            assert renderer.render(messages) == expected
            rendered += 1
    assert rendered


def test_both_environments_give_a_template_the_same_names() -> None:
    ours, compared = environment(), theirs.environment()
    for what in ("filters", "globals", "tests", "extensions"):
        names = [{str(name).rsplit(".", 1)[-1] for name in getattr(each, what)} for each in (ours, compared)]
        assert names[0] == names[1]


@pytest.mark.parametrize(
    ("template", "found"),
    [(ENDLESS, "takes more, or runs out"), (GIGABYTES, "takes more, or runs out"), (TOO_MUCH, "more than 1048576 characters")],
    ids=["endless", "gigabytes", "too much"],
)
def test_a_hostile_template_is_refused_and_the_next_conversation_is_answered(template: str, found: str) -> None:
    """It does harm only when it is told to, as one would that the converter's conversations do not set off."""
    renderer = Renderer("{% if messages[0].content == 'harm' %}" + template + "{% endif %}fine", TOKENS)
    with pytest.raises(Refused, match=found):
        renderer.render([{"role": "user", "content": "harm"}])
    assert renderer.render(HELLO) == "fine"


@pytest.mark.parametrize("template", [ENDLESS, GIGABYTES], ids=["endless", "gigabytes"])
def test_limits_hold_while_a_template_is_compiled_too(template: str) -> None:
    """Jinja computes constants ahead."""
    renderer = Renderer(template, TOKENS)
    with pytest.raises(Refused, match="takes more, or runs out"):
        renderer.render(HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].__class__.x }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ ''|attr('__class__') }}{{ x.y }}",
        "{{ '{0.__class__}'.format(1).x.y }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_reach_into_python_or_change_what_was_said(template: str) -> None:
    renderer = Renderer("{% if true %}" + template + "{% endif %}", TOKENS)
    with pytest.raises(Refused, match=r"refused: (Security|Undefined|Type)"):
        renderer.render(HELLO)


def test_a_refusal_says_what_the_template_says_but_never_what_was_asked() -> None:
    renderer = Renderer(
        "{% if messages|length > 1 %}{{ raise_exception('one at a time') }}{% endif %}{{ raise_exception(messages[0].content) }}",
        {},
    )
    with pytest.raises(Refused, match="refused: one at a time"):
        renderer.render([*HELLO, *HELLO])
    with pytest.raises(Refused, match="refused: TemplateError") as caught:
        renderer.render([{"role": "user", "content": "a secret"}])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", "0 bytes"),
        (b"\xff", "byte 0xff"),
        (b"no json", "no JSON"),
        (b"[" * 2_000, "no JSON"),
        (b"{}", "no list"),
        (b"[]", "0"),
        (json.dumps(HELLO * (MOST_MESSAGES + 1)).encode(), str(MOST_MESSAGES + 1)),
        (b'["hello"]', "item 0"),
        (b'[{"role": "user"}]', "item 0"),
        (b'[{"role": "user", "content": 7}]', "item 0"),
        (b'[{"role": "user", "content": "x", "name": "y"}]', "item 0"),
        (b'[{"role": "user", "content": "x"}, {"role": "a b", "content": "x"}]', "item 1"),
    ],
)
def test_what_is_no_conversation_is_refused(raw: bytes, found: str) -> None:
    with pytest.raises(Refused, match=found):
        read_messages(raw)


def test_without_a_template_a_conversation_is_lines_of_who_says_what() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?\nAnd how?"}]
    assert plain(messages) == "system: Be brief.\nuser: Why?\nAnd how?\nassistant:"


def entry(folder: Path, template: str | None, **details: Any) -> OpenEntry:
    """Words are tokens, and `<s>` (1) stands before every text that is not a template's."""
    words = ["<unk>", "<s>", "user", "assistant", ":", "one", "two"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        details["chat_template"] = {"file": "chat_template.jinja", "why": "", "special_tokens": TOKENS}
    known = {
        "add_special_tokens": True,
        "context_length": 32,
        "vocabulary": 50,
        "defaults": {"max_tokens": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
    }
    return OpenEntry("text-generation", {**known, **details}, folder, tokenizer, session=None)


def conversation(**more: bytes) -> dict[str, np.ndarray]:
    given = {"messages": json.dumps(HELLO).encode(), **more}
    return {name: np.array([value], object) for name, value in given.items()}


def test_a_template_writes_its_special_tokens_itself(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}assistant"
    assert read_call(conversation(), entry(tmp_path, template)).prompt == (1, 2, 5, 6, 3)


@pytest.mark.parametrize("details", [{}, {"chat_template": {"file": None, "why": "the tokenizer has none", "special_tokens": {}}}])
def test_the_plain_template_is_tokenised_as_any_text(details: dict[str, Any], tmp_path: Path) -> None:
    """Also of an entry from before there were templates, which says nothing."""
    assert read_call(conversation(), entry(tmp_path, None, **details)).prompt == (1, 2, 4, 5, 6, 3, 4)


def test_a_text_and_a_conversation_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="either text_input or messages"):
        read_call(conversation(text_input=b"one"), entry(tmp_path, None))


def test_a_conversation_longer_than_the_context_is_refused_by_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match='"field": "messages", "expected": "at most 31 tokens'):
        read_call(conversation(), entry(tmp_path, "{% for a in range(32) %}one {% endfor %}"))


def test_an_entry_whose_template_is_gone_does_not_open(tmp_path: Path) -> None:
    broken = entry(tmp_path, "x")
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(EntryUnusable, match=r"chat_template\.jinja"):
        read_call(conversation(), broken)


def test_work_aside_is_done_in_order_and_does_not_hold_up_who_hands_it_in() -> None:
    aside, go_on, done = Aside(most_waiting=4), threading.Event(), list[int]()
    began = time.monotonic()
    aside.add(lambda: go_on.wait(10) and done.append(0))
    for number in (1, 2):
        aside.add(lambda number=number: done.append(number))
    assert time.monotonic() - began < 5 and done == []
    go_on.set()
    aside.close()
    assert done == [0, 1, 2]
    with pytest.raises(TooBusy):
        aside.add(lambda: None)


def test_one_caller_cannot_fill_the_queue() -> None:
    aside, go_on, has_begun = Aside(most_waiting=4), threading.Event(), threading.Event()
    aside.add(lambda: has_begun.set() or go_on.wait(10))
    assert has_begun.wait(10)
    for _ in range(2):
        aside.add(lambda: None, "bob")
    with pytest.raises(TooBusy, match="of your calls are waiting for this model"):
        aside.add(lambda: None, "bob")
    for _ in range(2):
        aside.add(lambda: None, "eve")
    with pytest.raises(TooBusy, match="4 calls are waiting for this model"):
        aside.add(lambda: None, "carol")
    go_on.set()
    aside.close()
