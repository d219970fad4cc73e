"""The story of `make demo`: publish, sell, call, verify, and refuse what is not honest.

In: a state folder, perhaps a model. Out: a told story and whether every check held. This module must never check with the part that
made the claim: what the market says is compared with the chain, and what the chain says with the files.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import requests
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from c2d_adapter.market import open_store
from control_plane.chain.ledger import LedgerReader
from control_plane.chain.ocean import open_ledger, open_reader
from control_plane.did import Did, TransactionHash, did_of
from control_plane.errors import PosthumanError
from control_plane.flows.publish import Published, Request
from control_plane.flows.services import Services
from control_plane.receipts.receipt import Issued, SignedReceipt, request_hash, response_hash
from control_plane.settings import Settings, read_settings
from control_plane.wiring import build_services
from converters.entry import model_digest
from converters.errors import ConverterError
from deploy.buyer import BuyerFiles, KeptCall
from deploy.commands.stack import bring_up
from deploy.commands.trade import token_wei, tokens
from deploy.demo import auditor, intruders, swap
from deploy.demo.models import DemoModel, choose_model, greedy_tokens
from deploy.demo.narration import Narrator
from deploy.demo.wire import Wire, before_receipt
from deploy.local.chain import local_account
from deploy.local.control import stop_stack
from deploy.market import Market, decode_receipt
from deploy.selling import publish_model
from deploy.trading import buy, session_for

PRICE = "1.5"
PROMPTS = ("The market stands at the end of", "The keeper of the gate", "Write first, and then")
TOKENS = 24
GREEDY: dict[str, Any] = {"prompt": PROMPTS[0], "max_tokens": TOKENS, "temperature": 0}
"""What Bob asks each surface."""

BREAKS = (
    PosthumanError,
    ConverterError,
    openai.OpenAIError,
    InferenceServerException,
    requests.RequestException,
    subprocess.SubprocessError,
    OSError,
)
"""What can end a chapter before its checks are done: a refusal, a stock client that gives up, a machine without room or time."""


@dataclass(frozen=True)
class Stage:
    """Who and what the chapters share. reader: the chain, read apart from the market."""

    home: Path
    settings: Settings
    market: Market
    reader: LedgerReader
    services: Services


@dataclass(frozen=True)
class Sold:
    """What Bob holds after chapter 3."""

    did: Did
    order: TransactionHash


@dataclass(frozen=True)
class Called:
    """One of Bob's calls, kept with its exact bytes."""

    kept: Path
    text: str
    receipt: SignedReceipt


def tell(home: Path, narrator: Narrator, named: str | None, revision: str | None, licence: str | None, is_ending: bool) -> bool:
    """Tell all seven chapters; True when every check held. Again: finds the stack, the model and the asset of the last time.

    A chapter that cannot go on is a check that failed, and the last one that is told: the others build on it.
    """
    try:
        _tell(home, narrator, named, revision, licence)
    except BREAKS as error:
        narrator.check("this chapter can be told to its end", False, f"{type(error).__name__}: {error}")
    holds = narrator.verdict()
    if is_ending:
        stop_stack(home)
    else:
        narrator.say("\nThe stack goes on running: `posthuman status` describes it, `make down` stops it.")
    return holds


def _tell(home: Path, narrator: Narrator, named: str | None, revision: str | None, licence: str | None) -> None:
    with narrator.chapter("The stack"):
        stage = start(home, narrator)
    with narrator.chapter("Alice publishes a model"):
        model = choose_model(named, home, narrator.steps, licence)
        published = publish(stage, narrator, model, revision)
    with narrator.chapter("Bob buys a datatoken and orders"):
        sold = purchase(stage, narrator, published)
    with narrator.chapter("Bob signs in once, and calls with clients that know nothing of us"):
        called = calls(stage, narrator, sold, model)
    with narrator.chapter("Mallory, an expired order, a forged and a replayed signature"):
        intruders.refuse(stage.market, stage.settings, narrator, sold.did, sold.order)
    with narrator.chapter("The log is anchored, and a stranger verifies the receipt"):
        auditor.audit(home, stage.settings, stage.reader, narrator, called.kept, called.receipt)
    with narrator.chapter("Someone swaps the weights on disk"):
        store = open_store(stage.settings)
        swap.swap_and_restore(stage.services, store, stage.market, narrator, sold.did, sold.order, GREEDY, called.text)


def start(home: Path, narrator: Narrator) -> Stage:
    status = bring_up(home, narrator.steps)
    for part in status["components"]:
        narrator.fact(part["name"], f"127.0.0.1:{part['port']}, pid {part['pid']}" if part["port"] else f"pid {part['pid']}")
    settings = read_settings()
    network = open_reader(settings.rpc_url, settings.chain_id).network
    narrator.fact("chain", f"{network.chain_id}, Ocean's factory {network.factory}, OCEAN {network.ocean}")
    narrator.fact("log NFT", settings.log_nft)
    states = [f"{part['name']} {part['state']}" for part in status["components"]]
    narrator.check("every component is ready", all(part["state"] == "ready" for part in status["components"]), ", ".join(states))
    reader = open_reader(settings.rpc_url, settings.chain_id)
    return Stage(home, settings, Market(settings.public_url), reader, build_services(settings))


def publish(stage: Stage, narrator: Narrator, model: DemoModel, revision: str | None) -> Published:
    alice = local_account("alice")
    narrator.fact("Alice", alice.address)
    narrator.fact("model", model.model)
    request = Request(
        model.model, model.name, token_wei(PRICE), stage.settings.order_timeout_s, revision=revision, licence=model.licence
    )
    began = time.monotonic()
    published = publish_model(stage.services, open_store(stage.settings), alice, request, narrator.steps)
    listing = published.listing
    narrator.fact("DID", listing.did)
    narrator.fact("model digest", listing.model_digest)
    narrator.fact("time taken", f"{time.monotonic() - began:.1f} s")
    facts = stage.reader.asset(listing.nft)
    narrator.check("the DID is the hash of the NFT's address and the chain", did_of(listing.nft, listing.chain_id) == listing.did)
    narrator.check("the NFT is Alice's, and of Ocean's factory", facts.owner == alice.address and facts.is_from_factory, facts.nft)
    on_disk = str(model_digest(stage.services.catalogue.folder(listing)))
    narrator.check("the digest on chain is that of the files on disk", facts.model_digest == on_disk, on_disk)
    narrator.check("the chain names this market's log", facts.log == stage.settings.log_nft, facts.log)
    offered = [found["id"] for found in stage.market.models()]
    narrator.check("the market offers it once", offered.count(listing.did) == 1, f"{len(offered)} on sale")
    return published


def purchase(stage: Stage, narrator: Narrator, published: Published) -> Sold:
    bob, operator = local_account("bob"), local_account("operator")
    files = BuyerFiles(stage.home, bob.address)
    ledger = open_ledger(stage.settings.rpc_url, stage.settings.chain_id, files.folder / "outbox")
    base, did = published.listing.base_token, published.listing.did
    narrator.fact("Bob", bob.address)
    before = {wallet.address: ledger.balance(base, wallet.address) for wallet in (bob, operator)}
    with narrator.steps.step("buying and ordering"):
        bought = buy(stage.market, ledger, bob, files, did)
    after = {address: ledger.balance(base, address) for address in before}
    narrator.fact("bought", f"1 datatoken for {tokens(bought.purchase.paid)} OCEAN, {bought.purchase.sent.transaction}")
    narrator.fact("ordered", f"{bought.sent.transaction} in block {bought.sent.block}")
    for fee in bought.fees:
        narrator.fact(f"{fee.kind} fee", f"{tokens(fee.amount)} OCEAN to {fee.to}")
    paid = sum(fee.amount for fee in bought.fees)
    received = after[operator.address] - before[operator.address]
    narrator.check(
        "the marketplace owner received the publish fee and the provider fee",
        received == stage.settings.publish_fee + stage.settings.provider_fee,
        f"{tokens(received)} OCEAN more at {operator.address}",
    )
    spent = before[bob.address] - after[bob.address]
    narrator.check(
        "Bob paid the price and the fees, and nothing else", spent == bought.purchase.paid + paid, f"{tokens(spent)} OCEAN"
    )
    facts = bought.facts
    narrator.check(
        "the order was emitted by the asset's own datatoken", facts.emitter == published.listing.datatoken, facts.emitter
    )
    return Sold(did, bought.sent.transaction)


def calls(stage: Stage, narrator: Narrator, sold: Sold, model: DemoModel) -> Called:
    bob = local_account("bob")
    files = BuyerFiles(stage.home, bob.address)
    session = session_for(stage.market, bob, files, sold.did, stage.settings.chain_id, sold.order)
    narrator.fact("session", f"until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(session.expires_at))}, one signature")
    client = openai.OpenAI(base_url=f"{stage.market.url}/v1", api_key=session.token, max_retries=0)
    narrator.check("the stock openai client finds the model", sold.did in [found.id for found in client.models.list().data])

    narrator.say(f"openai.completions.create({PROMPTS[0]!r}):")
    called = with_openai(client, files, sold.did, narrator)
    narrator.say(f"tritonclient.http.infer({PROMPTS[0]!r}):")
    text, token_ids = with_triton(stage.market.url, session.token, sold.did, PROMPTS[0], narrator)
    narrator.check("both clients get the same greedy text", text == called.text)
    latest = stage.market.get_json("/v1/receipts?limit=1000", session.token)["receipts"][-1]
    narrator.fact("receipt", f"{latest['id']}, number {latest['signed']['receipt']['sequence']}")
    followed = latest["signed"]["receipt"]["sequence"] == called.receipt.receipt.sequence + 1
    narrator.check("its receipt follows the one before", followed, f"previous {latest['signed']['receipt']['previous']}")
    narrator.say(f"openai.completions.create({PROMPTS[0]!r}, stream=True):")
    with_stream(stage.market.url, session.token, sold.did, called.text, narrator)
    if model.is_local:
        answers = [
            (PROMPTS[0], token_ids),
            *((prompt, with_triton(stage.market.url, session.token, sold.did, prompt)[1]) for prompt in PROMPTS[1:]),
        ]
        compare_with_transformers(model, stage.home, answers, narrator)
    else:
        narrator.say("not compared with transformers: a hub id's files were only with the converter; name a folder to compare")
    return called


def with_openai(client: openai.OpenAI, files: BuyerFiles, did: Did, narrator: Narrator) -> Called:
    began = time.perf_counter()
    raw = client.completions.with_raw_response.create(model=did, **GREEDY)
    seconds = time.perf_counter() - began
    text = raw.parse().choices[0].text
    envelope = decode_receipt(raw.headers["X-Posthuman-Receipt"])
    signed = SignedReceipt.from_json(envelope["signed"])
    sent, received = bytes(raw.http_response.request.content), bytes(raw.content)
    narrator.fact("completion", repr(text))
    narrator.fact("time taken", f"{seconds * 1000:.1f} ms ({raw.headers.get('Server-Timing', '')})")
    narrator.fact("receipt", f"{envelope['id']}, number {signed.receipt.sequence}")
    salt = bytes.fromhex(str(envelope["salt"])[2:])
    is_ours = (
        request_hash(salt, sent) == signed.receipt.request_hash and response_hash(salt, received) == signed.receipt.response_hash
    )
    narrator.check("the receipt is over exactly the bytes sent and received", is_ours, f"{len(sent)} and {len(received)} bytes")
    kept = files.keep_call(KeptCall(did, "/v1/completions", sent, received, envelope, seconds))
    narrator.fact("kept in", kept)
    return Called(kept, text, signed)


def with_triton(url: str, token: str, did: Did, prompt: str, narrator: Narrator | None = None) -> tuple[str, list[int]]:
    """Text and token ids, by the stock Triton client."""
    import numpy as np

    client = tritonclient.http.InferenceServerClient(urlsplit(url).netloc)
    inputs = []
    for name, value in (
        ("text_input", np.array([prompt.encode()], dtype=np.object_)),
        ("max_tokens", np.array([TOKENS], dtype=np.int32)),
        ("temperature", np.array([0.0], dtype=np.float32)),
    ):
        tensor = tritonclient.http.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    began = time.perf_counter()
    result: Any = client.infer(did, inputs, headers={"Authorization": f"Bearer {token}"})
    seconds = time.perf_counter() - began
    client.close()
    text = result.as_numpy("text_output")[0].decode()
    if narrator is not None:
        narrator.fact("completion", repr(text))
        narrator.fact("time taken", f"{seconds * 1000:.1f} ms")
    return text, [int(token_id) for token_id in result.as_numpy("token_ids")]


def with_stream(url: str, token: str, did: Did, expected: str, narrator: Narrator) -> None:
    wire = Wire()
    heard = openai.DefaultHttpxClient(event_hooks={"response": [wire.hear]})
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0, http_client=heard)
    pieces: list[str] = []
    receipt: Any = None
    first_s = 0.0
    began = time.perf_counter()
    for chunk in client.completions.create(model=did, stream=True, **GREEDY):
        first_s = first_s or time.perf_counter() - began
        receipt = getattr(chunk, "receipt", None) or receipt
        pieces += [choice.text for choice in chunk.choices]
    client.close()
    text = "".join(pieces)
    shown = f"{len(pieces)} pieces, the first after {first_s * 1000:.1f} ms"
    narrator.check("streamed, it is the same text, and ends with its receipt", text == expected and receipt is not None, shown)
    if receipt is None:
        return
    issued = Issued.from_json(receipt)
    narrator.fact("receipt", f"{issued.id}, number {issued.signed.receipt.sequence}")
    hashed = before_receipt(bytes(wire.received))
    is_ours = (
        request_hash(issued.salt, wire.sent) == issued.signed.receipt.request_hash
        and response_hash(issued.salt, hashed) == issued.signed.receipt.response_hash
    )
    sizes = f"{len(wire.sent)} and {len(hashed)} bytes"
    narrator.check("the streamed receipt is over exactly the bytes sent and received before it", is_ours, sizes)


def compare_with_transformers(model: DemoModel, home: Path, answers: list[tuple[str, list[int]]], narrator: Narrator) -> None:
    with narrator.steps.step("asking transformers for the same, greedily"):
        expected = greedy_tokens(model.model, [prompt for prompt, _ in answers], TOKENS, home)
    for (prompt, found), wanted in zip(answers, expected, strict=True):
        same = f"{len(found)} tokens" if found == wanted else f"{json.dumps(found)} and not {json.dumps(wanted)}"
        narrator.check(f"{prompt!r}: token for token what transformers gives", found == wanted and bool(found), same)
