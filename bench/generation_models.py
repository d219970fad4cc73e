"""One model in the form of each engine that `bench.generation` compares.

In: a working folder, a precision. Out: `<precision>/` with `model/`, `entry/`, `optimum/`, `ct2/` and `genai/`, as `bench.engines`
reads them, and the error of each engine that takes the model in none. This module must never run an engine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy

from bench.report import REPOSITORY

FIRST_NAMED = 3_000
"""From here on each token has a text that is that token alone, whatever stands beside it."""


_SPREAD = 0.02
"""Of the weights, as a GPT-2 begins its training. With 0.1 int8 is refused: its rounding grew to 0.2 of the largest logit."""


@dataclass(frozen=True)
class Shape:
    """Of a GPT-2. tokens, load_s: how long the answers are, and how long the load lasts, in seconds."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    tokens: int
    load_s: float

    def cached_bytes(self, tokens: float) -> float:
        """Keys and values of one call, in float32."""
        return 2 * 4 * self.layers * self.width * tokens

    def prompts(self, chances: numpy.random.Generator, count: int, tokens: int) -> list[list[int]]:
        return chances.integers(FIRST_NAMED, self.vocabulary, (count, tokens)).tolist()


FULL = Shape(layers=12, width=768, heads=12, vocabulary=50_257, tokens=64, load_s=30.0)
TINY = Shape(layers=2, width=64, heads=4, vocabulary=6_000, tokens=6, load_s=2.0)
"""For a try of the whole way; its figures say nothing."""


def environment(peers: Path) -> dict[str, str]:
    """For a process that may import the peers."""
    return {**os.environ, "PYTHONPATH": str(peers), "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}


def text_of(tokens: list[int]) -> str:
    """A prompt that the tokenizer reads as these tokens, from FIRST_NAMED on."""
    return "".join(f"<extra {token}>" for token in tokens)


def write_model(out: Path, shape: Shape) -> Path:
    """A GPT-2 with random weights and a name for every row of its embedding: each token has a text, so that each is streamed, and
    CTranslate2 takes no model without. Again: does nothing."""
    from bench.decoders import decoder_folder

    if not out.exists():
        size = {"layers": shape.layers, "width": shape.width, "heads": shape.heads, "vocabulary": shape.vocabulary}
        name_tokens(decoder_folder(out, **size, spread=_SPREAD), shape.vocabulary)
    return out


def name_tokens(model: Path, vocabulary: int) -> None:
    """Give every token that the folder's tokenizer does not know a text, and every role a token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.bos_token = tokenizer.unk_token = tokenizer.eos_token
    tokenizer.add_tokens([f"<extra {number}>" for number in range(len(tokenizer), vocabulary)])
    tokenizer.save_pretrained(model)


def prepare_ours(work: Path, precision: str, shape: Shape) -> Path:
    """Model and entry alone, in the folder that is returned. Again: does nothing."""
    model, folder = write_model(work / "model", shape), work / precision
    if not folder.exists():
        folder.mkdir()
        (folder / "model").symlink_to(model)
        convert(model, folder / "entry", precision, "shared")
    return folder


def prepare(work: Path, precision: str, peers: Path, shape: Shape) -> dict[str, str]:
    """Everything that the engines of this precision read; the error of each that takes the model in no form."""
    folder = prepare_ours(work, precision, shape)
    model = folder / "model"
    convert(model, folder / "grown", precision, "grown")
    errors: dict[str, str] = {}
    with _noting(errors, "optimum"):
        _for_optimum(folder, precision)
    with _noting(errors, "ctranslate2"):
        code = (
            "import sys; from ctranslate2.converters import TransformersConverter as Converter;"
            " Converter(sys.argv[1]).convert(sys.argv[2], quantization=sys.argv[3] or None)"
        )
        command = [sys.executable, "-c", code, str(model), str(folder / "ct2"), "int8" if precision == "int8" else ""]
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment(peers))
    _for_genai(folder, shape)
    return errors


def step_bytes(entry: Path) -> int:
    """Bytes of weights that one step reads: all but those of which it takes single rows."""
    import onnx

    graph = onnx.load(str(entry / "1" / "model.onnx"), load_external_data=False).graph
    gathered = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    read = {name for node in graph.node if node.op_type != "Gather" for name in node.input}
    sizes = {}
    for tensor in graph.initializer:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        sizes[tensor.name] = width * int(numpy.prod(tensor.dims)) if tensor.dims else width
    return sum(size for name, size in sizes.items() if name in read or name not in gathered)


def convert(model: Path, target: Path, precision: str, cache: str) -> None:
    """The entry, at `target`. Raises RuntimeError with what the conversion said."""
    out = target.with_suffix(".out")
    command = [sys.executable, "-m", "converters", str(model), "--out", str(out), "--precision", precision, "--kv-cache", cache]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"converting to {precision}: exit {done.returncode}: {done.stderr.strip()[-500:]}")
    (entry,) = (path for path in out.iterdir() if (path / "entry.json").exists())
    entry.rename(target)


def _for_optimum(folder: Path, precision: str) -> None:
    """Optimum reads an ONNX export and its configuration. It has no blocks of weights: for int8 it quantises a float32 export."""
    into = folder / "optimum"
    into.mkdir()
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(folder / "model" / name, into / name)
    if precision == "fp32":
        _link_graphs(folder / "grown", into)
        return
    full, export = folder.with_name("fp32") / "grown", folder / "export"
    if not full.exists():
        full = folder / "full"
        convert(folder / "model", full, "fp32", "grown")
    export.mkdir()
    _link_graphs(full, export)
    shutil.copyfile(folder / "model" / "config.json", export / "config.json")
    code = (
        "import sys; from optimum.onnxruntime import ORTQuantizer;"
        " from optimum.onnxruntime.configuration import AutoQuantizationConfig;"
        " way = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False);"
        " ORTQuantizer.from_pretrained(sys.argv[1], file_name='model.onnx')"
        ".quantize(save_dir=sys.argv[2], quantization_config=way, file_suffix='')"
    )
    subprocess.run([sys.executable, "-c", code, str(export), str(into)], check=True, capture_output=True, text=True)


def _link_graphs(entry: Path, into: Path) -> None:
    for graph in (entry / "1").glob("model.onnx*"):
        (into / graph.name).symlink_to(graph)


def _for_genai(folder: Path, shape: Shape) -> None:
    """onnxruntime-genai runs any decoder's export from a description of its tensors."""
    into = folder / "genai"
    into.mkdir()
    _link_graphs(folder / "grown", into)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / "model" / name, into / name)
    described = {
        "model": {
            "type": "decoder",
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "vocab_size": shape.vocabulary,
            "context_length": 256,
            "decoder": {
                "session_options": {"intra_op_num_threads": 2},
                "filename": "model.onnx",
                "head_size": shape.width // shape.heads,
                "hidden_size": shape.width,
                "num_attention_heads": shape.heads,
                "num_key_value_heads": shape.heads,
                "num_hidden_layers": shape.layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
            },
        },
        "search": {"do_sample": False, "num_beams": 1, "max_length": 256, "past_present_share_buffer": False},
    }
    (into / "genai_config.json").write_text(json.dumps(described), encoding="utf-8")


@contextmanager
def _noting(errors: dict[str, str], name: str) -> Iterator[None]:
    """Keep the last line that a command said before it failed, by name."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        errors[name] = (str(error.stderr).strip().splitlines() or [str(error)])[-1][:300]
