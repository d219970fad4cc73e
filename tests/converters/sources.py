"""Model folders made by hand: one that is sound, and many that are poisoned, each named for its fault."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
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


def external_onnx(location: str, place: str = "initializer", dims: Sequence[int] = (4,), count: int = 1, **keys: str) -> bytes:
    """A graph with a tensor whose data lies elsewhere. place: where in the graph the tensor hides. count: how often it is there."""
    import onnx

    tensor = onnx.TensorProto(name="hidden", data_type=onnx.TensorProto.FLOAT, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **keys}.items():
        tensor.external_data.add(key=key, value=value)
    graph = onnx.GraphProto(name="graph")
    model = onnx.ModelProto(ir_version=8, graph=graph)
    if place == "initializer":
        model.graph.initializer.extend([tensor] * count)
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
