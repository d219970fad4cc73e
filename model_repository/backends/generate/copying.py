"""Two graphs that move keys and values where they lie: ONNX Runtime has no other way to copy parts within a GPU's memory.

In: nothing. Out: a graph's bytes, and the names of what it takes and gives. This module must never run one.

Both know words of 32 bits alone, whatever these mean: for bf16 there are no kernels, and ONNX Runtime's CPU provider moves fp16
through float32, which changes bits of some of what bf16 would mean by them.

- clearing: `cleared`, zeros of `shape`. Memory that nobody wrote may hold what is no number, and no number times a masked place's
  zero is one;
- copying: `copied`, the first `kept` tokens of each row of `held` [rows, heads, length, words], and behind them zeros of `shape`.

Written as protobuf has it on the wire, since Triton's environment has no `onnx`: each field is its number and type, then its bytes.
Source: onnx.proto of ONNX 1.17. A test has `onnx` check the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

HELD, KEPT, SHAPE = "held", "kept", "shape"
COPIED, CLEARED = "copied", "cleared"
WORD, WORD_BYTES = 6, 4
"""int32, by ONNX's number."""
_TOKENS_AXIS = 2
_INT64 = 7
_IR_VERSION, _OPSET = 10, 17


def copying_graph() -> bytes:
    nodes = (
        _node("Slice", ("held", "first", "kept", "axis"), "cut"),
        _node("Expand", ("zero", "shape"), "behind"),
        _node("Concat", ("cut", "behind"), "copied", axis=_TOKENS_AXIS),
    )
    constants = (
        _constant("first", _INT64, 0, 8),
        _constant("axis", _INT64, _TOKENS_AXIS, 8),
        _constant("zero", WORD, 0, WORD_BYTES),
    )
    inputs = (_value(HELD, WORD, 4), _value(KEPT, _INT64, 1), _value(SHAPE, _INT64, 1))
    return _model(nodes, constants, inputs, _value(COPIED, WORD, 4))


def clearing_graph() -> bytes:
    node, zero = _node("Expand", ("zero", "shape"), "cleared"), _constant("zero", WORD, 0, WORD_BYTES)
    return _model((node,), (zero,), (_value(SHAPE, _INT64, 1),), _value(CLEARED, WORD, 4))


def _model(nodes: Sequence[bytes], constants: Sequence[bytes], inputs: Sequence[bytes], output: bytes) -> bytes:
    """ModelProto: 1 ir_version, 7 graph, 8 opset_import. GraphProto: 1 node, 2 name, 5 initializer, 11 input, 12 output."""
    parts = [*((1, one) for one in nodes), (2, b"memory"), *((5, one) for one in constants), *((11, one) for one in inputs)]
    graph = b"".join(_bytes(field, value) for field, value in (*parts, (12, output)))
    return _varint(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _varint(2, _OPSET))


def _node(operator: str, inputs: Sequence[str], output: str, axis: int | None = None) -> bytes:
    """NodeProto: 1 input, 2 output, 4 op_type, 5 attribute. AttributeProto: 1 name, 3 i, 20 type, here 2: an integer."""
    read = b"".join(_bytes(1, name.encode()) for name in inputs)
    given = b"" if axis is None else _bytes(5, _bytes(1, b"axis") + _varint(3, axis) + _varint(20, 2))
    return read + _bytes(2, output.encode()) + _bytes(4, operator.encode()) + given


def _constant(name: str, number: int, value: int, width: int) -> bytes:
    """TensorProto: 1 dims, 2 data_type, 8 name, 9 raw_data."""
    return _varint(1, 1) + _varint(2, number) + _bytes(8, name.encode()) + _bytes(9, value.to_bytes(width, "little"))


def _value(name: str, number: int, axes: int) -> bytes:
    """ValueInfoProto: 1 name, 2 type; in it 1 tensor_type: 1 elem_type, 2 shape; in that 1 dim, here of any length."""
    shape = b"".join(_bytes(1, b"") for _ in range(axes))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _varint(1, number) + _bytes(2, shape)))


def _varint(field: int, value: int) -> bytes:
    return _count(field << 3) + _count(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _count(field << 3 | 2) + _count(len(value)) + value


def _count(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more come."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + _count(rest)
