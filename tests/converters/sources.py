"""Model folders made by hand: one that is sound, and many that are poisoned, each named for its fault."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CONFIG: Mapping[str, Any] = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_positions": 64,
    "n_layer": 2,
    "vocab_size": 4,
}
TOKENIZER: Mapping[str, Any] = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}


class Canary:
    """An object whose unpickling writes a file: if the file is there, something was loaded that should not have been."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


def safetensors(tensors: Mapping[str, Any] | None = None, *, data: bytes = b"\0" * 16, header: bytes | None = None) -> bytes:
    """The bytes of a safetensors file; `tensors` is its header as a mapping, `header` the header's bytes as they are."""
    said = {"wte.weight": {"dtype": "F32", "shape": [4, 1], "data_offsets": [0, 16]}} if tensors is None else tensors
    written = json.dumps(said).encode() if header is None else header
    return len(written).to_bytes(8, "little") + written + data


def sound(folder: Path) -> Path:
    """A folder that `stage` accepts (its weights fit no real model)."""
    folder.mkdir(parents=True)
    put(folder, "config.json", CONFIG)
    put(folder, "tokenizer.json", TOKENIZER)
    put(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    put(folder, "model.safetensors", safetensors())
    put(folder, "README.md", b"---\nlicense: mit\n---\n")
    return folder


def put(folder: Path, name: str, content: Any) -> None:
    """Write bytes as they are, anything else as JSON."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def change(folder: Path, name: str, **changes: Any) -> None:
    put(folder, name, {**json.loads((folder / name).read_bytes()), **changes})


def _tensor(**changes: Any) -> Mapping[str, Any]:
    return {"wte.weight": {"dtype": "F32", "shape": [4, 1], "data_offsets": [0, 16], **changes}}


def _two(first: list[int], second: list[int]) -> Mapping[str, Any]:
    return {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": first},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": second},
    }


def _zip(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def _sharded(folder: Path, weight_map: Mapping[str, Any], *names: str) -> None:
    (folder / "model.safetensors").unlink()
    put(folder, "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    for name in names:
        put(folder, name, safetensors())


def external_onnx(location: str, place: str = "initializer", **keys: str) -> bytes:
    """A graph with one tensor whose data lies elsewhere. place: where in the graph the tensor hides."""
    import onnx

    tensor = onnx.TensorProto(name="hidden", data_type=onnx.TensorProto.FLOAT, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **keys}.items():
        tensor.external_data.add(key=key, value=value)
    graph = onnx.GraphProto(name="graph")
    model = onnx.ModelProto(ir_version=8, graph=graph)
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "sparse":
        model.graph.sparse_initializer.add(values=tensor, dims=[4])
    elif place == "constant":
        model.graph.node.add(op_type="Constant").attribute.add(name="value", t=tensor, type=onnx.AttributeProto.TENSOR)
    elif place == "tensors":
        model.graph.node.add(op_type="X").attribute.add(name="values", tensors=[tensor], type=onnx.AttributeProto.TENSORS)
    elif place == "subgraph":
        inner = onnx.GraphProto(name="then", initializer=[tensor])
        model.graph.node.add(op_type="If").attribute.add(name="then_branch", g=inner, type=onnx.AttributeProto.GRAPH)
    elif place == "function":
        node = onnx.NodeProto(op_type="Constant")
        node.attribute.add(name="value", t=tensor, type=onnx.AttributeProto.TENSOR)
        model.functions.add(name="f", domain="ours", node=[node])
    elif place == "training":
        model.training_info.add().initialization.initializer.append(tensor)
    return model.SerializeToString()


POISONS: dict[str, tuple[Callable[[Path, Path], None], str]] = {}
"""Fault -> (what makes it: model folder, canary), and what the refusal must name."""


def _poison(fault: str, names: str) -> Callable[[Callable[[Path, Path], None]], None]:
    def kept(make: Callable[[Path, Path], None]) -> None:
        POISONS[fault] = (make, names)

    return kept


def _simple(fault: str, names: str, make: Callable[[Path], Any]) -> None:
    POISONS[fault] = (lambda folder, _: make(folder), names)


for _suffix in ("bin", "pt", "pth", "pkl", "pickle", "ckpt", "joblib", "npy", "npz", "h5", "keras", "msgpack", "ot"):

    @_poison(f"pickle-as-{_suffix}", f"weights.{_suffix}")
    def _(folder: Path, canary: Path, suffix: str = _suffix) -> None:
        put(folder, f"weights.{suffix}", pickle.dumps(Canary(canary)))


@_poison("pickle-weights-only", "pytorch_model.bin")
def _(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    put(folder, "pytorch_model.bin", pickle.dumps(Canary(canary)))


@_poison("pickle-in-a-subfolder", "checkpoint-1/optimizer.pt")
def _(folder: Path, canary: Path) -> None:
    put(folder, "checkpoint-1/optimizer.pt", pickle.dumps(Canary(canary)))


@_poison("pickle-in-capitals", "MODEL.PKL")
def _(folder: Path, canary: Path) -> None:
    put(folder, "MODEL.PKL", pickle.dumps(Canary(canary)))


for _protocol in range(6):

    @_poison(f"pickle-protocol-{_protocol}-named-safetensors", "model.safetensors")
    def _(folder: Path, canary: Path, protocol: int = _protocol) -> None:
        put(folder, "model.safetensors", pickle.dumps(Canary(canary), protocol=protocol))


@_poison("pickle-named-config", "config.json")
def _(folder: Path, canary: Path) -> None:
    put(folder, "config.json", pickle.dumps(Canary(canary)))


for _protocol in (0, 2, 4):

    @_poison(f"pickle-protocol-{_protocol}-named-text", "notes.txt")
    def _(folder: Path, canary: Path, protocol: int = _protocol) -> None:
        put(folder, "notes.txt", pickle.dumps(Canary(canary), protocol=protocol))


@_poison("torch-archive-named-safetensors", "zip")
def _(folder: Path, canary: Path) -> None:
    put(folder, "model.safetensors", _zip("archive/data.pkl", pickle.dumps(Canary(canary))))


@_poison("code-beside-the-model", "modeling_evil.py")
def _(folder: Path, canary: Path) -> None:
    put(folder, "modeling_evil.py", f"open({str(canary)!r}, 'w')".encode())
    change(folder, "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})


@_poison("remote-code-of-another-repository", "auto_map")
def _(folder: Path, _canary: Path) -> None:
    change(folder, "config.json", auto_map={"AutoModelForCausalLM": "evil/repository--modeling_evil.Evil"})


@_poison("symlink-to-a-secret", "link")
def _(folder: Path, canary: Path) -> None:
    (folder / "merges.txt").symlink_to(canary)


@_poison("symlinked-folder", "link")
def _(folder: Path, _canary: Path) -> None:
    (folder / "1_Pooling").symlink_to("/etc")


@_poison("hard-link-to-a-secret", "link")
def _(folder: Path, canary: Path) -> None:
    secret = canary.with_name("secret")
    secret.write_text("{}")
    os.link(secret, folder / "vocab.json")


_simple("named-pipe", "vocab.json", lambda folder: os.mkfifo(folder / "vocab.json"))
_simple("shared-library", "libevil.so", lambda folder: put(folder, "libevil.so", b"\x7fELF"))
_simple("program-named-text", "program", lambda folder: put(folder, "vocab.txt", b"\x7fELF\x02\x01"))
_simple("script-named-text", "script", lambda folder: put(folder, "merges.txt", b"#!/bin/sh\n"))
_simple("quantised-config", "quantization_config", lambda f: change(f, "config.json", quantization_config={"quant_method": "gptq"}))
_simple("kernel-from-the-hub", "attn", lambda f: change(f, "config.json", attn_implementation="evil/kernel"))
_simple("nested-kernel", "attn", lambda f: change(f, "config.json", text_config={"_attn_implementation": "evil/kernel"}))
_simple("thousand-million-layers", "n_layer", lambda folder: change(folder, "config.json", n_layer=10**9))
_simple("absurd-vocabulary", "vocab_size", lambda folder: change(folder, "config.json", vocab_size=10**18))
_simple("absurd-context", "n_positions", lambda folder: change(folder, "config.json", n_positions=10**9))
_simple("dtype-is-a-function", "torch_dtype", lambda folder: change(folder, "config.json", torch_dtype="load"))
_simple("model-type-is-a-path", "model_type", lambda folder: change(folder, "config.json", model_type="../../evil"))
_simple("architecture-is-code", "architectures", lambda folder: change(folder, "config.json", architectures=["os.system('x')"]))
_simple("config-is-a-list", "config.json", lambda folder: put(folder, "config.json", [1]))
_simple("config-says-a-key-twice", "twice", lambda f: put(f, "config.json", b'{"model_type": "gpt2", "model_type": "bert"}'))
_simple("config-nested-too-deep", "deep", lambda folder: put(folder, "config.json", b'{"a":' * 100_000))
_simple("config-nested-quite-deep", "deep", lambda f: put(f, "config.json", b'{"a":' * 200 + b"1" + b"}" * 200))
_simple("config-not-utf8", "config.json", lambda folder: put(folder, "config.json", b'{"model_type": "\xff"}'))
_simple("config-holds-nan", "NaN", lambda folder: put(folder, "config.json", b'{"model_type": "gpt2", "a": NaN}'))
_simple("no-config", "config.json", lambda folder: (folder / "config.json").unlink())
_simple("no-weights", "model.safetensors", lambda folder: (folder / "model.safetensors").unlink())
_simple("no-tokenizer", "tokenizer.json", lambda folder: (folder / "tokenizer.json").unlink())
_simple(
    "tokenizer-is-python", "auto_map", lambda f: change(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})
)
_simple("tokenizer-reads-elsewhere", "vocab_file", lambda f: change(f, "tokenizer_config.json", vocab_file="/etc/passwd"))
_simple("tokenizer-class-is-a-path", "tokenizer_class", lambda f: change(f, "tokenizer_config.json", tokenizer_class="evil.Evil()"))
_simple(
    "chat-template-reaches-out",
    "chat template",
    lambda f: change(f, "tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"),
)
_simple(
    "chat-template-glues-its-way-out",
    "chat template",
    lambda f: change(f, "tokenizer_config.json", chat_template=[{"name": "a", "template": "{{ x|attr('_'~'_class_'~'_') }}"}]),
)

_simple("header-length-absurd", "header", lambda f: put(f, "model.safetensors", (2**63).to_bytes(8, "little") + b"{}"))
_simple("header-past-the-end", "header", lambda f: put(f, "model.safetensors", (1000).to_bytes(8, "little") + b"{}"))
_simple("header-missing", "header", lambda f: put(f, "model.safetensors", b"\0\0"))
_simple("header-empty-file", "header", lambda f: put(f, "model.safetensors", b""))
_simple("header-not-json", "header", lambda f: put(f, "model.safetensors", safetensors(header=b"not json")))
_simple("header-broken-json", "JSON", lambda f: put(f, "model.safetensors", safetensors(header=b'{"a":')))
_simple("header-nested", "deep", lambda f: put(f, "model.safetensors", safetensors(header=b'{"a":' * 5000 + b"1" + b"}" * 5000)))
_simple("header-holds-no-tensors", "tensors", lambda f: put(f, "model.safetensors", safetensors({}, data=b"")))
_simple("header-unknown-dtype", "dtype", lambda f: put(f, "model.safetensors", safetensors(_tensor(dtype="OBJECT"))))
_simple("header-dtype-is-a-list", "dtype", lambda f: put(f, "model.safetensors", safetensors(_tensor(dtype=["F32"]))))
_simple(
    "header-negative-offset", "data_offsets", lambda f: put(f, "model.safetensors", safetensors(_tensor(data_offsets=[-16, 0])))
)
_simple("header-offset-past-end", "bytes", lambda f: put(f, "model.safetensors", safetensors(_tensor(data_offsets=[0, 1 << 30]))))
_simple("header-shape-too-large", "takes", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[2**40, 2**40]))))
_simple("header-shape-negative", "shape", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[-4, -1]))))
_simple("header-shape-is-true", "shape", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[True, 4]))))
_simple("header-rank-too-high", "shape", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[1] * 9))))
_simple("header-overlap", "overlap", lambda f: put(f, "model.safetensors", safetensors(_two([0, 8], [4, 12]))))
_simple("header-gap", "gap", lambda f: put(f, "model.safetensors", safetensors(_two([0, 8], [12, 20]), data=b"\0" * 20)))
_simple("bytes-after-the-weights", "data", lambda f: put(f, "model.safetensors", safetensors(data=b"\0" * 64)))
_simple("weights-cut-short", "data", lambda f: put(f, "model.safetensors", safetensors(data=b"\0" * 8)))
_simple(
    "weights-of-tensorflow",
    "format",
    lambda f: put(f, "model.safetensors", safetensors({**_tensor(), "__metadata__": {"format": "tf"}})),
)
_simple("metadata-is-a-list", "metadata", lambda f: put(f, "model.safetensors", safetensors({**_tensor(), "__metadata__": []})))
_simple(
    "tensor-name-with-control-characters",
    "names",
    lambda f: put(f, "model.safetensors", safetensors({"a\n": _tensor()["wte.weight"]})),
)

_simple("index-points-up", "weight_map|wte", lambda f: _sharded(f, {"wte.weight": "../../secret.safetensors"}))
_simple("index-points-to-root", "wte", lambda f: _sharded(f, {"wte.weight": "/etc/passwd"}))
_simple("index-names-a-missing-shard", "wte", lambda f: _sharded(f, {"wte.weight": "model-00001-of-00001.safetensors"}))
_simple(
    "index-names-a-missing-tensor",
    "'b'",
    lambda f: _sharded(
        f,
        {"b": "model-00001-of-00001.safetensors", "wte.weight": "model-00001-of-00001.safetensors"},
        "model-00001-of-00001.safetensors",
    ),
)
_simple(
    "index-hides-a-shard",
    "found 2",
    lambda f: _sharded(
        f, {"wte.weight": "model-00001-of-00002.safetensors"}, *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    ),
)
_simple("index-without-a-map", "weight_map", lambda f: _sharded(f, {}))
_simple("index-and-single-file", "both", lambda f: put(f, "model.safetensors.index.json", {"weight_map": {"a": "b"}}))

for _place in ("initializer", "sparse", "constant", "tensors", "subgraph", "function", "training"):
    _simple(
        f"onnx-points-outside-in-{_place}",
        "plain file name",
        lambda folder, place=_place: put(folder, "onnx/model.onnx", external_onnx("../../../etc/passwd", place)),
    )
_simple("onnx-points-to-root", "plain file name", lambda folder: put(folder, "model.onnx", external_onnx("/etc/passwd")))
_simple("onnx-broken", "ONNX", lambda folder: put(folder, "model.onnx", b"\xff\xff\xff"))
