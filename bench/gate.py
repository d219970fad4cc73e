"""What the gate costs, and what others cost: the same calls straight to a server and through a gate, side by side in one run.

    python -m bench.gate [--blocks 20] [--rounds 5] [--peers .posthuman/bench] [--dry]

In: nothing but the checkout. Out: `docs/benchmarks/gate.json`, pictures, and tables in `docs/benchmarks.md`.
It starts a market of its own, publishes models with random weights, buys them, and compares three times:
our gate with Triton alone; our gate and LiteLLM's proxy, each with the server that it stands before; our gate and Triton with
MLServer and KServe's ModelServer, which serve the same ONNX graph. A peer that does not install or start is in the report with its
reason.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton_http

from bench.contest import Lengths, compete, stages
from bench.decoders import decoder_folder
from bench.encoders import encoder_folder
from bench.gate_report import charts, table
from bench.load import Target, one_after_another
from bench.peers import servers
from bench.peers.environments import PACKAGES, Environment, NotMeasured, environment
from bench.report import REPOSITORY, machine, write_report
from bench.stack import OnSale, Stack, posthuman, running_stack

__all__ = ["posthuman"]
TEXT = "The market stands by the harbour, and every stall keeps its own book of what was sold."
SHAPES = {
    "small": {"layers": 1, "width": 32, "heads": 2},
    "MiniLM's shape": {"layers": 6, "width": 384, "heads": 12},
    "BERT base's shape": {"layers": 12, "width": 768, "heads": 12},
}
ALIKE = ("small", "MiniLM's shape")
"""Those that all servers of ONNX graphs serve."""
OURS = frozenset({"Triton", "gate"})
PEERS = ("LiteLLM", "MLServer", "KServe")
TOKENS, LABELS = 20, 16
"""Of the classifiers that all servers of ONNX graphs serve: the length of the input, about that of the text, and of the output."""
JSON = {"Content-Type": "application/json"}


class Bench:
    """One run. failed: why a peer is missing, by its name. stages: milliseconds of our calls, by surface."""

    def __init__(self, stack: Stack, lengths: Lengths, environments: Mapping[str, Environment], failed: dict[str, str]) -> None:
        self._stack, self._lengths, self._environments = stack, lengths, environments
        self._settings = stack.settings
        self._models: dict[str, OnSale] = {}
        self.failed = failed
        self.stages: dict[str, dict[str, float]] = {}

    def gate(self) -> dict[str, Any]:
        """Our gate over Triton, by the Open Inference Protocol with binary tensors, as its stock client sends them."""
        body, header_length = _text_request()
        headers = {"Inference-Header-Content-Length": str(header_length), "Content-Type": "application/octet-stream"}
        found = {}
        for name in SHAPES:
            model = self._encoder(name)
            straight, gated = self._infer(model, headers, body)
            found[name] = compete((straight, gated), {"gate": "Triton"}, self._lengths, OURS)
            self.stages[f"/v2, {name}"] = stages(gated, self._lengths.calls)
        return found

    def gateways(self) -> dict[str, Any]:
        """Our gate over Triton, and LiteLLM's proxy over a server that answers at once: what each adds, the question the same."""
        decoder = self._publish("generator", decoder_folder(self._sources / "generator", layers=2, width=64, heads=2))
        encoder = self._encoder("small")
        asked = {"prompt": TEXT, "max_tokens": 1, "temperature": 0}
        generate = _body({"text_input": TEXT, "max_tokens": 1, "temperature": 0.0, "stream": False})
        infer, header_length = _text_request()
        binary = {"Inference-Header-Content-Length": str(header_length), "Content-Type": "application/octet-stream"}
        found = {}
        with ExitStack() as running:
            upstream = running.enter_context(servers.upstream(self._stack.home, SHAPES["small"]["width"]))
            proxy = self._started(running, "LiteLLM", servers.litellm, upstream)
            for path, model, straight, question in (
                ("completions", decoder, self._straight(decoder, "generate", JSON, generate), asked),
                ("embeddings", encoder, self._straight(encoder, "infer", binary, infer), {"input": TEXT}),
            ):
                token = self._stack.buy(model, "bob").token
                keyed = {**JSON, "Authorization": f"Bearer {token}"}
                gated = Target("gate", f"{self._settings.public_url}/v1/{path}", keyed, _body({"model": model.did, **question}))
                targets = [straight, gated]
                if proxy is not None:
                    named = _body({"model": path.removesuffix("s"), **question})
                    keyed = {**JSON, "Authorization": f"Bearer {servers.MASTER_KEY}"}
                    targets.append(Target("upstream", f"{upstream}/v1/{path}", JSON, named))
                    targets.append(Target("LiteLLM", f"{proxy}/v1/{path}", keyed, named))
                found[path] = compete(targets, {"gate": "Triton", "LiteLLM": "upstream"}, self._lengths, OURS)
                self.stages[f"/v1/{path}, small"] = stages(gated, self._lengths.calls)
        return found

    def servers(self) -> dict[str, Any]:
        """Four servers of the same ONNX graph, by the Open Inference Protocol in JSON, which all four speak."""
        models = {
            f"model{number}": self._publish(f"tensors, {name}", self._folder(name, LABELS), "--task", "tensors")
            for number, name in enumerate(ALIKE)
        }
        entries = {key: self._stack.home / "models" / model.entry for key, model in models.items()}
        graphs = {key: entry / "1" / "model.onnx" for key, entry in entries.items()}
        found = {}
        with ExitStack() as running:
            mlserver = self._started(running, "MLServer", servers.mlserver, graphs)
            kserve = self._started(running, "KServe", servers.kserve, graphs)
            for (key, model), name in zip(models.items(), ALIKE, strict=True):
                body = _tensor_request(entries[key])
                targets = list(self._infer(model, JSON, body))
                for peer, url in (("MLServer", mlserver), ("KServe", kserve)):
                    if url is not None:
                        targets.append(Target(peer, f"{url}/v2/models/{key}/infer", JSON, body))
                targets = [target for target in targets if self._answers_alike(target, targets[0])]
                found[name] = compete(targets, {"gate": "Triton"}, self._lengths, OURS)
        return found

    @property
    def _sources(self) -> Path:
        return self._stack.home / "sources"

    def _folder(self, name: str, labels: int = 0) -> Path:
        return encoder_folder(self._sources / f"{SHAPES[name]['width']}-{labels}", **SHAPES[name], labels=labels)

    def _encoder(self, name: str) -> OnSale:
        return self._publish(name, self._folder(name))

    def _publish(self, name: str, folder: Path, *options: str) -> OnSale:
        """Again: the one that is on sale."""
        if name not in self._models:
            print(f"publishing: {name}", file=sys.stderr)
            self._models[name] = self._stack.publish(folder, f"bench {name}", *options)
        return self._models[name]

    def _infer(self, model: OnSale, headers: Mapping[str, str], body: bytes) -> tuple[Target, Target]:
        token = self._stack.buy(model, "bob").token
        url = f"{self._settings.public_url}/v2/models/{model.did}/infer"
        return self._straight(model, "infer", headers, body), Target(
            "gate", url, {**headers, "Authorization": f"Bearer {token}"}, body
        )

    def _straight(self, model: OnSale, route: str, headers: Mapping[str, str], body: bytes) -> Target:
        url = f"{self._settings.triton_url}/v2/models/{model.entry}/{route}"
        return Target("Triton", url, {**headers, "triton-key": self._settings.triton_key}, body)

    def _started(
        self, running: ExitStack, name: str, starts: Callable[[Environment, Path, Any], AbstractContextManager[str]], given: Any
    ) -> str | None:
        """A peer's address; None when it cannot be measured, and then `failed` says why."""
        if name not in self._environments:
            return None
        print(f"starting: {name}", file=sys.stderr)
        try:
            return running.enter_context(starts(self._environments[name], self._stack.home, given))
        except NotMeasured as reason:
            self.failed[name] = str(reason)
            return None

    def _answers_alike(self, target: Target, first: Target) -> bool:
        """Whether a server computes what the first one does; one that does not would be compared for something else."""
        try:
            (answer,), (right,) = one_after_another(target, 1), one_after_another(first, 1)
        except RuntimeError as error:
            if target.name in OURS:
                raise
            self.failed[target.name] = str(error)
            return False
        found, expected = (np.array(json.loads(one.body)["outputs"][0]["data"], np.float32) for one in (answer, right))
        if found.shape == expected.shape and np.allclose(found, expected, atol=1e-4):
            return True
        self.failed[target.name] = (
            f"answered something else: {found.shape} {found.flat[:3]}, expected {expected.shape} {expected.flat[:3]}"
        )
        return False


def _body(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _text_request() -> tuple[bytes, int]:
    """One text as a binary tensor, as the stock client sends it: body and the length of its JSON header."""
    text = triton_http.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([TEXT.encode()], dtype=np.object_))
    embedding = triton_http.InferRequestedOutput("embedding", binary_data=True)
    return triton_http.InferenceServerClient.generate_request_body([text], outputs=[embedding])


def _tensor_request(entry: Path) -> bytes:
    """Every input of a classifier's graph, `TOKENS` long, and its output of `LABELS` numbers."""
    details = json.loads((entry / "entry.json").read_text(encoding="utf-8"))["details"]
    values = {"input_ids": list(range(3, 3 + TOKENS)), "attention_mask": [1] * TOKENS, "token_type_ids": [0] * TOKENS}
    inputs = [
        {"name": tensor["name"], "shape": [1, TOKENS], "datatype": tensor["dtype"], "data": values[tensor["name"]]}
        for tensor in details["graph_inputs"]
    ]
    return _body({"inputs": inputs, "outputs": [{"name": "logits"}]})


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=20, help="blocks of calls by one client, each side")
    parser.add_argument("--calls", type=int, default=100, help="calls a block")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of 16 clients, each side")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of such a round")
    parser.add_argument("--peers", type=Path, default=REPOSITORY / ".posthuman" / "bench", help="the folder of their environments")
    parser.add_argument("--dry", action="store_true", help="print the tables, write no file")
    chosen = parser.parse_args()
    lengths = Lengths(chosen.blocks, chosen.calls, chosen.rounds, chosen.seconds)
    environments, failed = {}, {}
    for peer in PEERS:
        print(f"installing, if it is not there yet: {peer}", file=sys.stderr)
        try:
            environments[peer] = environment(peer, chosen.peers)
        except NotMeasured as reason:
            failed[peer] = str(reason)
    load = os.getloadavg()[0]
    with running_stack() as stack:
        bench = Bench(stack, lengths, environments, failed)
        report = {
            "when": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": f"{machine()}, clients on the same",
            "load": load,
            "lengths": lengths.said(),
            "peers": {peer: PACKAGES[peer][0].replace("==", " ") for peer in PEERS},
            "gate": bench.gate(),
            "gateways": bench.gateways(),
            "servers": bench.servers(),
            "stages": bench.stages,
            "not_measured": bench.failed,
        }
    print(table(report))
    if not chosen.dry:
        write_report("gate", report, table(report), charts=charts(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
