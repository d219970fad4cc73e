"""Conversations through the real Triton: as transformers renders and tokenises them, whatever a template does to its own model."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import BadInput
from control_plane.serving.replay import replay
from converters.entry import read_entry
from converters.probes import read_probes
from tests.chat_templates import ENDLESS
from tests.fixtures_triton import TALKS, Converted, TritonServer, talking_llama, triton_server

__all__ = ["talking_llama", "triton_server"]

pytestmark = [pytest.mark.live, pytest.mark.slow]

SAID = [{"role": "user", "content": "the market"}]
GREEDY = {"max_tokens": 8, "temperature": 0}


def changed(entry: Path, into: Path, template: str | None) -> Path:
    """The same entry with another template than the converter took, or as one from before there were templates."""
    shutil.copytree(entry, into)
    record = json.loads((into / "entry.json").read_text(encoding="utf-8"))
    if template is None:
        del record["details"]["chat_template"]
        record["inputs"] = [{"name": "text_input", "dtype": "BYTES", "shape": [1]}]
        (into / "entry.json").write_text(json.dumps(record), encoding="utf-8")
    else:
        (into / record["details"]["chat_template"]["file"]).write_text(template, encoding="utf-8")
    return into


def test_the_entry_holds_its_template_and_a_conversation_that_is_asked_when_it_is_published(
    triton_server: TritonServer, talking_llama: Converted
) -> None:
    entry = talking_llama.entry
    stated = read_entry(entry).details["chat_template"]
    assert (entry / stated["file"]).read_text(encoding="utf-8") == TALKS
    assert (stated["special_tokens"]["eos_token"], stated["why"]) == ("<end>", "")
    assert [each.inputs[0].name for each in read_probes(entry)].count("messages") == 1
    replay(triton_server.client, triton_server.install(entry), entry)


def test_a_conversation_is_rendered_tokenised_and_answered_as_in_transformers(
    triton_server: TritonServer, talking_llama: Converted
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(talking_llama.model))
    asked = tokenizer.apply_chat_template(SAID, add_generation_prompt=True, return_tensors="pt")
    made = AutoModelForCausalLM.from_pretrained(str(talking_llama.model)).generate(
        asked, attention_mask=asked.new_ones(asked.shape), do_sample=False, max_new_tokens=8, pad_token_id=1
    )
    name = triton_server.install(talking_llama.entry)
    found = triton_server.client.generate(name, {"messages": json.dumps(SAID), **GREEDY})
    assert found.prompt_tokens == asked.shape[1]
    assert found.token_ids == tuple(made[0, asked.shape[1] :].tolist())


def test_an_entry_from_before_there_were_templates_takes_conversations_too(
    triton_server: TritonServer, talking_llama: Converted, tmp_path: Path
) -> None:
    name = triton_server.install(changed(talking_llama.entry, tmp_path / "old", None))
    found = triton_server.client.generate(name, {"messages": json.dumps(SAID), **GREEDY})
    assert found == triton_server.client.generate(name, {"text_input": "user: the market\nassistant:", **GREEDY})


@pytest.mark.parametrize("given", [{}, {"text_input": "x", "messages": json.dumps(SAID)}], ids=["neither", "both"])
def test_exactly_one_of_text_and_conversation_is_taken(
    triton_server: TritonServer, talking_llama: Converted, given: dict[str, Any]
) -> None:
    with pytest.raises(BadInput):
        triton_server.client.generate(triton_server.install(talking_llama.entry), {**given, **GREEDY})


def test_an_endless_template_stops_its_own_call_and_no_other(
    triton_server: TritonServer, talking_llama: Converted, tmp_path: Path
) -> None:
    """The converter refuses such a template; here it is put into the entry by hand, and does harm when it is told to."""
    template = "{% if messages[0].content == 'harm' %}" + ENDLESS + "{% endif %}the market"
    name = triton_server.install(changed(talking_llama.entry, tmp_path / "hostile", template))
    client, refusals = triton_server.client, list[BadInput]()

    def harm() -> None:
        with pytest.raises(BadInput) as caught:
            client.generate(name, {"messages": json.dumps([{"role": "user", "content": "harm"}]), **GREEDY})
        refusals.append(caught.value)

    client.generate(name, {"messages": json.dumps(SAID), **GREEDY})  # its process is there
    thread = threading.Thread(target=harm)
    thread.start()
    time.sleep(0.2)
    while_it_runs = 0
    while not refusals:
        client.generate(name, {"text_input": "the market", "max_tokens": 1})
        while_it_runs += not refusals
    thread.join()
    assert while_it_runs >= 3, "calls with a text waited for the endless template"
    assert refusals[0].field == "messages" and "processor time" in refusals[0].expected
    assert client.generate(name, {"messages": json.dumps(SAID), **GREEDY}).prompt_tokens > 0
