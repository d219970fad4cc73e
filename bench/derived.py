"""How long it takes from "training done" until the derived asset answers, stage by stage, on a real stack.

In: nothing but the checkout. Out: a report and a table for `bench/train.py`. This module must never time anything that a worker's
log or the trainer's own clock does not say.

A stack of its own is started with one published model of each shape. Each round, the trainer buys a short training of each; the
worker's log says when the program had ended, what each step took then, and when the job was finished. Then the trainer orders what
came of it, as anybody would, and calls it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.decoders import decoder_folder
from bench.encoders import CORPUS
from bench.load import median
from bench.plot import Bar, Chart, Group
from bench.stack import Stack, running_stack
from control_plane.chain.ocean import open_ledger
from control_plane.did import Did, parse_did
from control_plane.jobs.environments import PAID
from deploy.buyer import BuyerFiles
from deploy.job_trading import Wanted, follow, order_job, with_any_session
from deploy.local.chain import local_account
from deploy.market import Market
from deploy.trading import buy, call

TRAINED = {"steps": 4, "batch_size": 4, "sequence_length": 64}
"""As short as it goes: what comes after a training does not depend on its length."""
PAID_S = 600
STAGES = {
    "stored": "weights to object storage",
    "weights": "weights hashed again",
    "convert": "converted to ONNX, compared with PyTorch, entry written",
    "install": "entry installed under its digest",
    "asset": "NFT, datatoken, 200 minted, digest and lineage on chain",
    "metadata": "document on chain",
    "rights": "rights given up on chain",
    "store": "entry copied to object storage",
    "compare": "compared with the chain",
    "load": "loaded by Triton",
    "parity": "asked by Triton, compared with PyTorch",
    "on sale": "on sale",
    "rest": "between these",
    "order": "ordered by its trainer",
    "answer": "first answer",
}
"""What each is called on the page, in the order in which they come; `rest` is what no step says."""
CONVERSION = ("fetch", "scan", "start", "load", "export", "parity", "probes", "entry")
_UNTIL = ("order", "answer")


def measure(folder: Path, shapes: Mapping[str, Mapping[str, int]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Of each shape and round: `stages` and `conversion`, seconds by name, and `all_s`. folder: for models and texts."""
    texts = folder / "texts"
    texts.mkdir(parents=True)
    for part in ("train.txt", "test.txt"):
        shutil.copyfile(CORPUS, texts / part)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in shapes}
    with running_stack(WIKITEXT=str(texts)) as stack:
        sold = {
            name: stack.publish(decoder_folder(folder / "sources" / str(number), **shape), f"derived {number}").did
            for number, (name, shape) in enumerate(shapes.items())
        }
        for number in range(rounds):
            for name, did in sold.items():
                found[name].append(_one(stack, did, number))
                print(f"{name}: {found[name][-1]['all_s']:.1f} s from the training's end to the answer", flush=True)
    return found


def _one(stack: Stack, did: Did, seed: int) -> dict[str, Any]:
    bob, settings = local_account("bob"), stack.settings
    files, market = BuyerFiles(stack.home, bob.address), Market(settings.public_url)
    ledger = open_ledger(settings.rpc_url, settings.chain_id, files.folder / "outbox", settings.confirmations)
    wanted = Wanted("train", did, {**TRAINED, "seed": seed}, PAID, PAID_S)
    job = order_job(market, ledger, bob, files, wanted)
    job_id = str(job["job_id"])

    def look() -> dict[str, Any]:
        return with_any_session(market, bob, files, settings.chain_id, lambda token: market.job(token, job_id))

    job = list(follow(look, every_s=0.2))[-1]
    if job["state"] != "finished":
        raise RuntimeError(f"job {job_id}: {job['state']}, {job['reason']}")
    derived = parse_did(job["derived_did"])
    began = time.monotonic()
    buy(market, ledger, bob, files, derived)
    ordered = time.monotonic()
    asked = {"model": derived, "prompt": "The market stands by the harbour", "max_tokens": 4, "temperature": 0}
    call(market, bob, files, derived, settings.chain_id, asked)
    answered = time.monotonic()
    told = stages_of(job_id, _lines(stack.home / "logs" / "worker.log"))
    told["stages"] |= {"order": ordered - began, "answer": answered - ordered}
    return {**told, "all_s": sum(told["stages"].values())}


def _lines(log: Path) -> Iterable[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def stages_of(job_id: str, lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What the worker said of a finished job after its training: seconds of each stage, and of each part of the conversion.

    Raises RuntimeError where its log does not tell the whole of it.
    """
    states: dict[str, float] = {}
    stages: dict[str, float] = {}
    conversion: dict[str, float] = {}
    for line in lines:
        if line.get("job") != job_id:
            continue
        if "convert" in line:
            conversion[line["convert"]] = conversion.get(line["convert"], 0.0) + line["seconds"]
        elif "derive" in line:
            stages[line["derive"]] = stages.get(line["derive"], 0.0) + line["seconds"]
        elif "state" in line:
            states[line["state"]] = line["at"]
    expected = {*STAGES} - {"stored", "rest", *_UNTIL}
    if missing := sorted((expected - stages.keys()) | ({"storing", "deriving", "finished"} - states.keys())):
        raise RuntimeError(f"job {job_id}: the worker's log does not tell of {', '.join(missing)}")
    stages["stored"] = states["deriving"] - states["storing"]
    stages["rest"] = states["finished"] - states["storing"] - sum(stages.values())
    return {"stages": {name: stages[name] for name in STAGES if name in stages}, "conversion": conversion}


def table(models: Mapping[str, list[dict[str, Any]]]) -> str:
    names = list(models)
    lines = [
        f'| from "training done" to the derived asset\'s answer, s | {" | ".join(names)} |',
        "|---|" + "---|" * len(names),
    ]
    for stage, said in STAGES.items():
        lines.append(f"| {said} | {' | '.join(_spread([one['stages'][stage] for one in models[name]]) for name in names)} |")
    whole = " | ".join(f"**{_spread([one['all_s'] for one in models[name]])}**" for name in names)
    parts = [
        f"{name}: "
        + ", ".join(f"{part} {median([one['conversion'].get(part, 0.0) for one in models[name]]):.1f}" for part in CONVERSION)
        for name in names
    ]
    return "\n".join([*lines, f"| **all** | {whole} |", "", "Parts of the conversion, s: " + "; ".join(parts) + "."])


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def chart(models: Mapping[str, list[dict[str, Any]]]) -> Chart:
    groups = [
        Group(
            name,
            [
                Bar("converted", [one["stages"]["convert"] for one in rounds]),
                Bar("on chain", [sum(one["stages"][part] for part in ("asset", "metadata", "rights")) for one in rounds]),
                Bar("stored and served", [_served(one["stages"]) for one in rounds]),
                Bar("all, to the first answer", [one["all_s"] for one in rounds], ours=True),
            ],
        )
        for name, rounds in models.items()
    ]
    return Chart(
        "train-derived", "From a training's end to the asset's answer", "seconds, less is better; whiskers: least and most", groups
    )


def _served(stages: Mapping[str, float]) -> float:
    return sum(stages[part] for part in ("stored", "install", "store", "compare", "load", "parity", "on sale"))
