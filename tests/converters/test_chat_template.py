"""A model's chat template comes into its entry as transformers renders it, or stays out with the reason."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from converters.chat_template import CONVERSATIONS, chat_template_of, environment, render
from converters.errors import ModelRefused
from converters.locate import Located
from converters.source import stage
from converters.tokenizer import load_tokenizer
from tests.chat_templates import ENDLESS, HONEST, TOO_MUCH
from tests.converters import sources
from tests.converters.tiny_models import write_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("name", HONEST)
def test_a_template_is_taken_and_renders_as_in_transformers(name: str, tokenizer: Any) -> None:
    tokenizer.chat_template = HONEST[name]
    found = chat_template_of(tokenizer)
    assert (found.text, found.why) == (HONEST[name], "")
    template = environment().from_string(HONEST[name])
    rendered = 0
    for messages in CONVERSATIONS:
        try:
            expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            with pytest.raises(type(error)):
                render(template, messages, found.special_tokens)
        else:
            assert render(template, messages, found.special_tokens) == expected
            rendered += 1
    assert rendered


def test_the_default_of_several_templates_is_taken(tokenizer: Any) -> None:
    tokenizer.chat_template = {"tool_use": "another", "default": HONEST["chatml"]}
    assert chat_template_of(tokenizer).text == HONEST["chatml"]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "the tokenizer has none"),
        ("", "the tokenizer has none"),
        ({"rag": "x"}, "none of the tokenizer's templates is the default"),
        ("{% if", "does not parse"),
        ("{{ raise_exception('not for talking') }}", "renders none of 5 conversations: TemplateError: not for talking"),
        ("{{ nothing.at.all }}", "renders none of 5 conversations: UndefinedError"),
        ("{# only a remark #}", "renders none of 5 conversations"),
        ("{{ range(10**9) }}", "renders none of 5 conversations"),
    ],
)
def test_a_template_that_is_of_no_use_stays_out_with_its_reason(template: Any, why: str, tokenizer: Any) -> None:
    tokenizer.chat_template = template
    found = chat_template_of(tokenizer)
    assert found.text is None
    assert why in found.why


def test_a_template_that_renders_otherwise_than_transformers_stays_out(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.chat_template = HONEST["chatml"]
    other = type(tokenizer).apply_chat_template
    monkeypatch.setattr(type(tokenizer), "apply_chat_template", lambda *given, **named: other(*given, **named) + " ")
    found = chat_template_of(tokenizer)
    assert (found.text, found.why) == (None, "it renders a conversation of 1 messages otherwise than transformers does")


def test_an_endless_template_refuses_the_model_and_leaves_no_timer(tokenizer: Any) -> None:
    tokenizer.chat_template = ENDLESS
    with pytest.raises(ModelRefused, match="does not end"):
        chat_template_of(tokenizer)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_a_template_that_writes_without_measure_refuses_the_model(tokenizer: Any) -> None:
    tokenizer.chat_template = TOO_MUCH
    with pytest.raises(ModelRefused, match="at most 1048576 characters"):
        chat_template_of(tokenizer)


def test_a_template_in_a_file_of_its_own_is_staged_and_found(tmp_path: Path) -> None:
    folder = sources.sound(tmp_path / "model")
    write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(HONEST["generation"], encoding="utf-8")
    staged = stage(Located(folder, "model", None), tmp_path / "staged")
    assert chat_template_of(load_tokenizer(staged.folder)).text == HONEST["generation"]


def test_a_template_in_a_file_may_not_reach_into_python(tmp_path: Path) -> None:
    folder = sources.sound(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ ''.__class__ }}", encoding="utf-8")
    with pytest.raises(ModelRefused, match=r"chat_template\.jinja: expected a chat template that only formats text"):
        stage(Located(folder, "model", None), tmp_path / "staged")
