"""Models with real weights, published and called through the whole path, and compared with PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from c2d_adapter.algorithms.evaluate import draw
from control_plane.did import TransactionHash, parse_did
from deploy.local.chain import local_accounts
from deploy.market import Market
from tests.fixtures_stack import LiveStack
from tests.real_models import minilm_folder, minilm_package

pytestmark = [pytest.mark.live, pytest.mark.slow]

SENTENCES = (
    "A merchant sells fish at the harbour market.",
    "Someone trades seafood near the port.",
    "The proof of the theorem needs two lemmas.",
)
PROMPTS = (" = Harbour = \n The first ships", "In the early morning", "The war of")


def published(stack: LiveStack, folder: Path, name: str) -> str:
    """Publish `folder` as Alice; its DID."""
    terms = ("--as", "alice", "--price", "1", "--name", name, "--licence", "apache-2.0")
    ran = stack.run("publish", str(folder), *terms, "--json", timeout_s=600)
    assert ran.code == 0, ran.out + ran.err
    return str(ran.json["did"])


def client_of(stack: LiveStack, did: str) -> OpenAI:
    """Bob buys, signs in, and hands his token to the stock client."""
    bought = stack.run("buy", did, "--as", "bob", "--json")
    assert bought.code == 0, bought.out + bought.err
    settings = stack.settings
    order = TransactionHash(bought.json["order"])
    session = Market(settings.public_url).sign_in(local_accounts()["bob"], parse_did(did), order, settings.chain_id)
    return OpenAI(base_url=f"{settings.public_url}/v1", api_key=session.token, max_retries=0)


def in_pytorch(script: str, *arguments: str) -> Any:
    """What PyTorch says, from a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"HF_HUB_OFFLINE": "1", "PATH": ""})
    return json.loads(done.stdout.strip().splitlines()[-1])


EMBED = """
import json, sys, torch
from transformers import AutoModel, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
found = []
with torch.no_grad():
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        found.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)[0].tolist())
print(json.dumps(found))
"""
COMPLETE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, texts, steps = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
found = []
for text in texts:
    ids = tokenizer(text, return_tensors="pt").input_ids
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, do_sample=False, pad_token_id=0)[0]
    new = out[ids.shape[1]:].tolist()
    found.append([new, tokenizer.decode([token for token in new if token != tokenizer.eos_token_id])])
print(json.dumps(found))
"""


LOSS = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, texts, most = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
total, count = 0.0, 0
with torch.no_grad():
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :most]
        total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
print(json.dumps([total / count, count]))
"""


@pytest.fixture(scope="module")
def trained(stack: LiveStack, on_sale: str, test_data: Path) -> tuple[Path, str]:
    """A small GPT-2 that was trained, and its DID."""
    folder = test_data / "gpt2-wikitext-mini"
    return folder, published(stack, folder, "gpt2-wikitext-mini")


def cosine(left: list[float], right: list[float]) -> float:
    length = sum(value * value for value in left) ** 0.5 * sum(value * value for value in right) ** 0.5
    return sum(a * b for a, b in zip(left, right, strict=True)) / length


def test_minilm_embeds_through_the_whole_path_as_in_pytorch(stack: LiveStack, on_sale: str, tmp_path: Path) -> None:
    package = minilm_package()
    if package is None:
        pytest.skip("no real MiniLM: run `make setup-tests`")
    folder = minilm_folder(package, tmp_path)
    did = published(stack, folder, "all-MiniLM-L6-v2")
    answer = client_of(stack, did).embeddings.create(model=did, input=list(SENTENCES))
    served = [one.embedding for one in answer.data]
    expected = in_pytorch(EMBED, str(folder), json.dumps(SENTENCES))
    assert all(cosine(ours, theirs) > 0.99999 for ours, theirs in zip(served, expected, strict=True))
    assert cosine(served[0], served[1]) > 0.5 > 0.2 > cosine(served[0], served[2])


def test_a_trained_gpt2_completes_through_the_whole_path_as_in_pytorch(stack: LiveStack, trained: tuple[Path, str]) -> None:
    folder, did = trained
    client = client_of(stack, did)
    for prompt, (tokens, text) in zip(PROMPTS, in_pytorch(COMPLETE, str(folder), json.dumps(PROMPTS), "48"), strict=True):
        answer = client.completions.create(model=did, prompt=prompt, max_tokens=48, temperature=0)
        assert answer.choices[0].text == text
        assert answer.usage is not None
        assert answer.usage.completion_tokens == len(tokens)


def test_a_buyer_finds_the_loss_that_pytorch_finds_and_its_receipts_verify(
    stack: LiveStack, trained: tuple[Path, str], test_data: Path
) -> None:
    folder, did = trained
    dataset = test_data / "wikitext-2" / "test.clean.txt"
    if not dataset.is_file():
        pytest.skip("no wikitext-2: run `POSTHUMAN_TEST_DATA=FOLDER make test`")
    bought = stack.run("buy", did, "--as", "elena", "--json")
    assert bought.code == 0, bought.out + bought.err
    ran = stack.run("evaluate", did, "--dataset", str(dataset), "--samples", "10", "--seed", "0", "--as", "elena", "--json")
    assert ran.code == 0, ran.out + ran.err
    found, passages = ran.json, draw([dataset.read_text(encoding="utf-8")], 10, 0)
    scored = [passage[: sample["characters"]] for passage, sample in zip(passages, found["samples"], strict=True)]
    loss, tokens = in_pytorch(LOSS, str(folder), json.dumps(scored), "256")
    assert (found["loss"], found["tokens"]) == (pytest.approx(loss, abs=1e-5), tokens)
    assert len(found["model_digests"]) == 1
    request = stack.home / "run" / "anchor-now"
    request.touch()
    deadline = time.monotonic() + 30
    while request.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    where = f"--rpc={stack.settings.rpc_url}", f"--log={stack.settings.public_url}/log"
    others = [f"--with={sample['file']}" for sample in found["samples"][1:]]
    verified = stack.run("verify", found["samples"][0]["file"], *where, *others, "--json")
    assert verified.code == 0, verified.out + verified.err
    assert {check["name"]: check["verdict"] for check in verified.json["checks"]}["response"] == "ok"
