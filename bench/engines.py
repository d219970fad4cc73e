"""Engines that generate tokens, each in a process of its own that waits for orders: ours and those it is compared with.

In: `python -m bench.engines NAME FOLDER`, then one JSON object a line on stdin: {"prompts": [[token, ...], ...], "tokens": n}. Out:
one JSON object a line: {"ready": version} once, then {"seconds": s, "tokens": [[token, ...], ...]}. Everything but the answer's own
computation is done before the clock starts.

FOLDER holds what `bench.generation_models` made: `model/` (Hugging Face), `entry/` (ours), `optimum/`, `ct2/` (CTranslate2),
`genai/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy

THREADS = 2
Generate = Callable[[list[list[int]], int], Any]
"""Prompts and a number of tokens -> the tokens made for each prompt."""
BACKENDS = Path(__file__).resolve().parent.parent / "model_repository" / "backends"


def greedy(prompt: Sequence[int], tokens: int) -> Any:
    """A call of our engine for so many likeliest tokens. Our backends must be importable."""
    from generate.call import Call

    return Call(
        prompt=tuple(prompt),
        prompt_tokens=len(prompt),
        feeds={},
        max_tokens=tokens,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=None,
        stops=(),
        is_streamed=False,
    )


def posthuman(folder: Path) -> Generate:
    """The engine as Triton's backend runs it, without Triton: one call a prompt, all at once."""
    sys.path.insert(0, str(BACKENDS))
    from generate.engine import Engine
    from generate.generation import Generation, Piece
    from generate.model_rows import rows_of
    from opening.entry import open_entry

    entry = open_entry(folder / "entry", threads=THREADS)
    engine = Engine(rows_of(entry, most_bytes=1 << 32), most_waiting=256)

    class Waiting:
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.is_over = threading.Event()
            self.error: BaseException | None = None

        def is_cancelled(self) -> bool:
            return False

        def deliver(self, piece: Piece) -> None:
            self.tokens += piece.token_ids
            if piece.finish_reason:
                self.is_over.set()

        def fail(self, error: BaseException) -> None:
            self.error = error
            self.is_over.set()

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        listeners = [Waiting() for _ in prompts]
        for prompt, listener in zip(prompts, listeners, strict=True):
            engine.add(Generation(greedy(prompt, tokens), entry.tokenizer.decode, frozenset(), 0), listener)
        for listener in listeners:
            listener.is_over.wait()
            if listener.error is not None:
                raise listener.error
        return [listener.tokens for listener in listeners]

    return generate


def transformers(folder: Path) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    return _by_generate(AutoModelForCausalLM.from_pretrained(folder / "model").eval())


def optimum(folder: Path) -> Generate:
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    torch.set_num_threads(THREADS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return _by_generate(ORTModelForCausalLM.from_pretrained(folder / "optimum", session_options=options, use_cache=True))


def _by_generate(model: Any) -> Generate:
    import torch

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=1,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                pad_token_id=0,
            )
        return [[int(token) for token in row[ids.shape[1] :]] for row in made]

    return generate


def ctranslate2(folder: Path) -> Generate:
    import ctranslate2 as library

    generator = library.Generator(str(folder / "ct2"), device="cpu", intra_threads=THREADS, inter_threads=1)
    names = json.loads((folder / "ct2" / "vocabulary.json").read_text(encoding="utf-8"))
    numbers = {name: number for number, name in enumerate(names)}

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        results = generator.generate_batch(
            [[names[token] for token in prompt] for prompt in prompts],
            max_batch_size=len(prompts),
            max_length=tokens,
            min_length=tokens,
            sampling_topk=1,
            beam_size=1,
            include_prompt_in_result=False,
        )
        return [[numbers[name] for name in result.sequences[0]] for result in results]

    return generate


def genai(folder: Path) -> Generate:
    import onnxruntime_genai as library

    model = library.Model(str(folder / "genai"))

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        parameters = library.GeneratorParams(model)
        length = len(prompts[0]) + tokens
        parameters.set_search_options(max_length=length, min_length=length, do_sample=False, batch_size=len(prompts))
        generator = library.Generator(model, parameters)
        generator.append_tokens(numpy.array(prompts, numpy.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [[int(token) for token in generator.get_sequence(row)[len(prompts[0]) :]] for row in range(len(prompts))]

    return generate


def bandwidth(folder: Path) -> Generate:
    """Not an engine: says how fast memory can be read now."""
    from bench.reading import Reading

    reading = Reading(THREADS, folder)

    def generate(_prompts: list[list[int]], _tokens: int) -> dict[str, float]:
        return reading.speeds()

    return generate


@dataclass(frozen=True)
class Known:
    """make: opens the engine. package: whose version is told. precisions: what it computes with, by the precision asked for."""

    make: Callable[[Path], Generate]
    package: str
    precisions: Mapping[str, str]


_BLOCKS = "weights int8 in blocks of 32 with one scale each (MatMulNBits), sums of 8-bit products, rest float32"
ENGINES = {
    "posthuman": Known(posthuman, "onnxruntime", {"fp32": "float32", "int8": _BLOCKS}),
    "transformers": Known(transformers, "transformers", {"fp32": "float32"}),
    "optimum": Known(
        optimum,
        "optimum-onnx",
        {"fp32": "float32", "int8": "ONNX Runtime's dynamic quantisation: weights and activations int8, one scale a matrix"},
    ),
    "ctranslate2": Known(
        ctranslate2,
        "ctranslate2",
        {"fp32": "float32", "int8": "weights int8 with one scale a row, the embedding too; activations int8, rest float32"},
    ),
    "onnxruntime-genai": Known(genai, "onnxruntime-genai", {"fp32": "float32", "int8": f"our graph: {_BLOCKS}"}),
    "bandwidth": Known(bandwidth, "numpy", {}),
}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print do not talk into the answers
    known = ENGINES[name]
    generate = known.make(folder)

    def say(record: dict[str, Any]) -> None:
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    say({"ready": version(known.package)})
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            order = json.loads(line)
            began = time.perf_counter()
            tokens = generate(order["prompts"], order["tokens"])
            say({"seconds": time.perf_counter() - began, "tokens": tokens})


if __name__ == "__main__":
    main()
