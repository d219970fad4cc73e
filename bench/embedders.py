"""What turns sentences into vectors, each in a process of its own that waits for orders: ours, over HTTP, and its peers.

In: `python -m bench.embedders NAME SETTINGS`, settings as JSON, then one JSON object a line on stdin: {"texts": [...]} asks for
vectors, {"batches": [[...], ...], "seconds": s, "clients": n} for calls, a batch each, as fast as n clients get their answers. Out:
one JSON object a line: {"ready": version} once, then {"vectors": [[...], ...]} or {"sentences": n, "seconds": s}.

All give the mean over a sentence's tokens, divided by its length. This module must import nothing but numpy before it is told which
one it is: each peer runs it with the Python of its own environment.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import numpy as np

Embed = Callable[[Sequence[str]], np.ndarray]


def posthuman(settings: dict[str, Any]) -> Callable[[], Embed]:
    """Over HTTP with binary tensors, through Triton alone or through the gate. Each client has a connection of its own."""
    parts = urlsplit(settings["url"])

    def client() -> Embed:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)

        def embed(texts: Sequence[str]) -> np.ndarray:
            raw = b"".join(struct.pack("<I", len(text)) + text for text in (text.encode() for text in texts))
            size = {"binary_data_size": len(raw)}
            described = {"name": "text_input", "shape": [len(texts)], "datatype": "BYTES", "parameters": size}
            wanted = {"name": "embedding", "parameters": {"binary_data": True}}
            header = json.dumps({"inputs": [described], "outputs": [wanted]}).encode()
            lengths = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
            connection.request("POST", parts.path, header + raw, {**settings["headers"], **lengths})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"expected status 200, found {answer.status}: {body[:300]!r}")
            begin = int(answer.headers["Inference-Header-Content-Length"])
            return np.frombuffer(body, np.float32, offset=begin).reshape(len(texts), -1)

        return embed

    return client


def sentence_transformers(settings: dict[str, Any]) -> Callable[[], Embed]:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(settings["threads"])
    model = SentenceTransformer(settings["model"], device="cpu")

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False))

    return lambda: embed


def optimum(settings: dict[str, Any]) -> Callable[[], Embed]:
    """As its own documentation has it: tokenizer, ORTModelForFeatureExtraction, the mean by the mask; in batches of 32."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    torch.set_num_threads(settings["threads"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    model = ORTModelForFeatureExtraction.from_pretrained(settings["graph"], session_options=options)

    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors = []
        for begin in range(0, len(texts), 32):
            given = tokenizer(list(texts[begin : begin + 32]), padding=True, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**given).last_hidden_state
            weights = given["attention_mask"][..., None].float()
            means = (hidden * weights).sum(1) / weights.sum(1)
            vectors.append(torch.nn.functional.normalize(means).numpy())
        return np.concatenate(vectors)

    return lambda: embed


EMBEDDERS = {
    "posthuman": (posthuman, "onnxruntime"),
    "sentence-transformers": (sentence_transformers, "sentence-transformers"),
    "optimum": (optimum, "optimum-onnx"),
}


def calls(client: Callable[[], Embed], batches: Sequence[Sequence[str]], seconds: float, clients: int) -> dict[str, float]:
    """Sentences embedded by so many clients together, and the seconds it took."""
    counts = [0] * clients
    failures: list[BaseException] = []
    start = threading.Barrier(clients + 1)
    until = [0.0]

    def work(number: int) -> None:
        try:
            embed = client()
            start.wait()
            for batch in itertools.islice(itertools.cycle(batches), number, None):
                if time.perf_counter() >= until[0]:
                    return
                counts[number] += len(embed(batch))
        except BaseException as error:
            failures.append(error)
            start.abort()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    until[0] = began + seconds
    start.wait()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return {"sentences": sum(counts), "seconds": time.perf_counter() - began}


def main() -> None:
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print do not talk into the answers
    make, package = EMBEDDERS[name]
    client = make(settings)
    alone = client()

    def say(record: dict[str, Any]) -> None:
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    say({"ready": version(package)})
    for line in sys.stdin:
        order = json.loads(line)
        if "texts" in order:
            say({"vectors": alone(order["texts"]).tolist()})
        else:
            once = (lambda: alone) if order["clients"] == 1 else client
            say(calls(once, order["batches"], order["seconds"], order["clients"]))


if __name__ == "__main__":
    main()
