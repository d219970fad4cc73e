"""A causal model's chat template: taken from its tokenizer, tried in a sandbox, compared with transformers.

In: a tokenizer as transformers loads it. Out: a `ChatTemplate` for the entry. This module must never keep a template that it has
not rendered, or that renders otherwise than transformers does.

A template is a program of its publisher. Here it runs as the rest of a stranger's model does, in a process without network and with
limits; in Triton it runs in a process of its own (`model_repository/backends/chat`). Both give it what transformers gives, no more.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from types import FrameType, MappingProxyType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from converters.errors import ModelRefused

MOST_CHARACTERS = 1 << 20
"""Of a rendered conversation, as the backend has it."""
_CPU_S = 2.0
"""Of all that is tried here; a conversation takes well under a millisecond."""
_AGAIN_S = 1.0
_LONGEST_WHY = 300
_TRIES = 2
"""A template that writes the time may be asked just as it changes."""

_ODD = '  Tell me: {{ 1 }} {% if %} <b>"it\'s"</b> \\n &amp; Ünïcödé 🙂\n\n\ttwo  spaces '
CONVERSATIONS: tuple[tuple[Mapping[str, str], ...], ...] = (
    ({"role": "user", "content": "What does the market sell?"},),
    ({"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "What does the market sell?"}),
    (
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello. What do you look for?"},
        {"role": "user", "content": _ODD},
    ),
    (
        {"role": "system", "content": _ODD},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": _ODD},
        {"role": "user", "content": "Two"},
    ),
    ({"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Why?"}),
)
"""What is tried; a template may refuse some, and must render one."""


@dataclass(frozen=True)
class ChatTemplate:
    """text: None where the entry goes without; then `why` says why. special_tokens: what transformers hands to it by name."""

    text: str | None
    why: str = ""
    special_tokens: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def tells_time(self) -> bool:
        """Does it write the day or the hour into the prompt?"""
        return self.text is not None and "strftime_now" in self.text


def chat_template_of(loaded: Any) -> ChatTemplate:
    """The tokenizer's template, its default one where it has several, if the entry can have it.

    Raises ModelRefused for one that does not end, or writes more than any model reads: a publisher must not sell that.
    """
    try:
        text = loaded.get_chat_template() if loaded.chat_template else None
    except ValueError:  # transformers' own word: several, and none is the default
        return ChatTemplate(None, f"none of the tokenizer's templates is the default: {sorted(loaded.chat_template)}")
    if text is None:
        return ChatTemplate(None, "the tokenizer has none")
    tokens = dict(loaded.special_tokens_map)
    with _limited():
        why = _why_not(loaded, text, tokens)
    return ChatTemplate(None, why) if why else ChatTemplate(text, special_tokens=tokens)


def render(template: jinja2.Template, messages: Sequence[Mapping[str, str]], special_tokens: Mapping[str, Any]) -> str:
    """The prompt, up to where the model is to answer. Raises whatever a stranger's template provokes."""
    parts, length = [], 0
    for part in template.generate(
        messages=[dict(message) for message in messages],
        tools=None,
        documents=None,
        add_generation_prompt=True,
        **special_tokens,
    ):
        length += len(part)
        if length > MOST_CHARACTERS:
            raise ModelRefused(f"chat template: expected at most {MOST_CHARACTERS} characters for a short conversation, found more")
        parts.append(part)
    return "".join(parts)


def environment() -> ImmutableSandboxedEnvironment:
    """What a template of transformers may use: its `apply_chat_template`'s environment, as transformers 4.57 makes it."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # local time, as transformers has it
    return made


class _Generation(Extension):
    """The tag that marks the model's own words for training; here they pass through."""

    tags = {"generation"}  # noqa: RUF012  # jinja's own form

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller: Any) -> str:
        return str(caller())


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _why_not(loaded: Any, text: str, tokens: Mapping[str, Any]) -> str:
    """Why the entry cannot have the template; "" where it can."""
    try:
        template = environment().from_string(text)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        return f"it does not parse: {error}"[:_LONGEST_WHY]
    prompts, refusals = 0, []
    for messages in CONVERSATIONS:
        for _ in range(_TRIES):
            found = _tried(partial(render, template, messages, tokens))
            is_same = found == _tried(partial(_transformers, loaded, messages))
            if is_same:
                break
        if not is_same:
            return f"it renders a conversation of {len(messages)} messages otherwise than transformers does"
        prompts += bool(found.prompt)
        refusals += [found.refusal] if found.refusal else []
    return "" if prompts else f"it renders none of {len(CONVERSATIONS)} conversations: {', '.join(refusals[:1])}"[:_LONGEST_WHY]


@dataclass(frozen=True)
class _Tried:
    prompt: str = ""
    refusal: str = ""


def _tried(ask: Callable[[], str]) -> _Tried:
    try:
        return _Tried(prompt=ask())
    except ModelRefused:
        raise
    except MemoryError as error:
        raise ModelRefused("chat template: expected one that formats text, found one that asks for gigabytes") from error
    # A stranger's program: whatever it runs into is what it answers.
    except Exception as error:
        return _Tried(refusal=f"{type(error).__name__}: {error}")


def _transformers(loaded: Any, messages: Sequence[Mapping[str, str]]) -> str:
    return str(loaded.apply_chat_template([dict(message) for message in messages], tokenize=False, add_generation_prompt=True))


class _EndlessError(BaseException):
    """No Exception: jinja computes constants ahead, and takes every Exception there for "not a constant"."""


@contextmanager
def _limited() -> Iterator[None]:
    """Raises ModelRefused when what is inside takes more processor time than any template needs. For the main thread."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise _EndlessError

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, _CPU_S, _AGAIN_S)
    try:
        yield
    except _EndlessError as error:
        raise ModelRefused(
            f"chat template: expected one that renders a short conversation within {_CPU_S:.0f} s of processor time, found one that"
            " does not end"
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
