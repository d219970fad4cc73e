"""A process that renders one model's chat template, and can do nothing else: `python -I child.py`.

In: on standard input one line of JSON with `template` and `special_tokens`, then a line for each conversation. Out: for each a line
with `prompt`, or with `refusal`. This module must never import anything of ours, or outlive its parent.

A template is a program of the model's publisher. Jinja's sandbox keeps it from Python; the limits here keep it from taking the
machine: one conversation may take a second of processor time and some memory, then the kernel ends this process, wherever it is.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 1.0
MOST_CHARACTERS = 1 << 20
_MEMORY_BYTES = 256 << 20


class _Generation(Extension):
    """The tag that marks the model's own words for training; here they pass through."""

    tags = {"generation"}  # noqa: RUF012  # jinja's own form

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller: Any) -> str:
        return str(caller())


def environment() -> ImmutableSandboxedEnvironment:
    """What a template of transformers may use: its `apply_chat_template`'s environment, as transformers 4.57 makes it."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # local time, as transformers has it
    return made


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def answer(template: jinja2.Template, source: str, special_tokens: Mapping[str, Any], messages: object) -> dict[str, str]:
    """The prompt, up to where the model is to answer; or why there is none, in words that stand in the template itself."""
    parts, length = [], 0
    try:
        for part in template.generate(messages=messages, tools=None, documents=None, add_generation_prompt=True, **special_tokens):
            length += len(part)
            if length > MOST_CHARACTERS:
                return {"refusal": f"one that makes a prompt of more than {MOST_CHARACTERS} characters"}
            parts.append(part)
    except MemoryError:
        raise
    # A stranger's program: whatever it runs into is what it answers.
    except Exception as error:
        said = str(error)
        # What it says may hold a message's text, which nobody else must see.
        is_its_own = isinstance(error, jinja2.TemplateError) and bool(said) and said in source
        return {"refusal": f"refused: {said}" if is_its_own else f"refused: {type(error).__name__}"}
    return {"prompt": "".join(parts)}


def _limit_for_good() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a conversation
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write but its answers, into a pipe
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))


def _budget() -> None:
    """Processor time from now. No handler: SIGPROF then ends the process, also inside C."""
    signal.setitimer(signal.ITIMER_PROF, CPU_S)


def main() -> None:
    told = json.loads(sys.stdin.readline())
    _limit_for_good()
    _budget()
    template = environment().from_string(told["template"])
    for line in sys.stdin:
        _budget()
        given = answer(template, told["template"], told["special_tokens"], json.loads(line))
        sys.stdout.write(json.dumps(given) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
