"""Keys and values in a GPU's memory, as far as a machine without one goes: the code that moves them there runs on the CPU here."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from generate.buffers import Buffers
from generate.cache import HOST, KINDS, Place, empty_cache, place_of, run
from generate.copying import clearing_graph, copying_graph
from generate.model_rows import cache_bytes
from generate.shared import Shared, check_attends
from generate.stores import CacheTensor, DeviceStore, Held, HostStore, store_of
from opening.entry import EntryUnusable, open_entry
from opening.memory import device_ceiling
from tests.fixtures_triton import Converted, tiny_gpt2
from tests.model_repository.calls import CACHE_BYTES, call_of

__all__ = ["tiny_gpt2"]

CPU = ["CPUExecutionProvider"]
GPU = Place("cuda", 1)


def device_store() -> DeviceStore:
    return DeviceStore(HOST, CPU)


def tensor_of(dtype: str) -> CacheTensor:
    return CacheTensor("past", "present", heads=2, size=4, kind=KINDS[dtype])


def words(held: Held, rows: int) -> np.ndarray:
    """What lies there, [rows, heads, length, size], as unsigned numbers."""
    kind = {2: np.uint16, 4: np.uint32}[held.tensor.kind.words.itemsize]
    shape = held.tensor.shape(rows, held.length)
    raw = (ctypes.c_char * (int(np.prod(shape)) * np.dtype(kind).itemsize)).from_address(held.address)
    return np.frombuffer(raw, kind).reshape(shape)


@pytest.mark.parametrize("dtype", sorted(KINDS))
def test_a_device_keeps_the_same_bits_as_the_host_when_its_memory_grows_shrinks_and_closes_up(dtype: str) -> None:
    tensor, kept = tensor_of(dtype), [4, 2]
    stores = [HostStore(), device_store()]
    held = [store.make([tensor], 2, 8)[0] for store in stores]
    bits = np.random.default_rng(0).integers(1, 1 << 8 * tensor.kind.words.itemsize, words(held[0], 2).shape)
    for length in (16, 8):
        for place, store in enumerate(stores):
            if length == 16:
                words(held[place], 2)[:] = bits
            target = store.make([tensor], 3, length)[0]
            store.copy(held[place], target, kept)
            store.move(target, 1, 2, kept[1])
            held[place] = target
        for one in held:
            rows = words(one, 3)
            np.testing.assert_array_equal(rows[0, :, :4], bits[0, :, :4])
            for row in (1, 2):
                np.testing.assert_array_equal(rows[row, :, :2], bits[1, :, :2])


@pytest.mark.parametrize("dtype", sorted(KINDS))
def test_what_nobody_wrote_in_a_devices_memory_is_zero(dtype: str) -> None:
    store = device_store()
    for _ in range(3):  # memory of the one before may be given again
        (held,) = store.make([tensor_of(dtype)], 2, 8)
        assert not words(held, 2).any()
        words(held, 2)[:] = 0x7FFF  # not a number


def test_the_graphs_that_move_memory_are_onnx() -> None:
    for graph in (copying_graph(), clearing_graph()):
        model = onnx.load_from_string(graph)
        onnx.checker.check_model(model, full_check=True)
        assert model.SerializeToString() == graph


def test_a_device_without_room_says_so_and_names_what_was_asked_for() -> None:
    with pytest.raises(MemoryError, match="1048576 rows of 1048576 tokens on cpu 0"):
        device_store().make([tensor_of("FP32")], 1 << 20, 1 << 20)


def test_calls_in_a_devices_memory_get_what_they_get_in_the_hosts(tiny_gpt2: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generate.shared._LEAST_LENGTH", 16)
    entry = open_entry(tiny_gpt2.entry)
    told = []
    for store in (HostStore(), device_store()):
        shared = Shared(entry, most=4, most_bytes=CACHE_BYTES, store=store)
        first = shared.enter(call_of([5, 6, 7]))
        logits = [shared.begin(first)]
        second = shared.enter(call_of([9] * 40))  # makes room for more and longer rows
        assert shared.room == (2, 64)
        logits += [shared.begin(second), *shared.step([first, second], [11, 12])]
        shared.leave(first)  # the second row moves down
        logits += shared.step([second], [13])
        third = shared.enter(call_of([4]))
        logits += [shared.begin(third), *shared.step([second, third], [14, 15])]
        told.append(np.stack(logits))
    np.testing.assert_array_equal(*told)


class Recorder:
    """A session that computes nothing, and what was bound to it."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}

    def io_binding(self) -> Recorder:
        return self

    def bind_input(self, name: str, *where: Any) -> None:
        self.inputs[name] = where

    def bind_output(self, name: str, *where: Any) -> None:
        self.outputs[name] = where

    def bind_ortvalue_input(self, name: str, value: onnxruntime.OrtValue) -> None:
        self.inputs[name] = (value.device_name(),)

    def run_with_iobinding(self, binding: Recorder) -> None:
        assert binding is self

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(numpy=lambda: np.zeros(1), where=where) for where in self.outputs.values()]


def test_the_graph_reads_and_writes_keys_and_values_where_they_lie() -> None:
    session, tensor = Recorder(), tensor_of("FP16")

    class OnGpu(HostStore):
        place = GPU

        def make(self, tensors: Any, rows: int, length: int) -> list[Held]:
            return [Held(tensor, length, 1 << 40, None)]

    buffers = Buffers(session, [tensor], OnGpu())
    buffers.resize(4, 8, [])
    buffers.bound(2, 2)
    expected = ("cuda", 1, 10, (2, 2, 8, 4), (1 << 40) + 2 * 2 * 8 * 4 * 2)
    assert session.inputs == {"past": expected} and session.outputs == {"present": expected}


def test_only_what_is_read_comes_to_the_host() -> None:
    session = Recorder()
    past = empty_cache([{"name": "past", "dtype": "FP16", "axes": ["batch", 2, "past", 8]}], ["past"])
    read, kept = run(session, GPU, past, ["logits"], ["present"])
    assert len(read) == 1 and [value.where for value in kept] == [("cuda", 1)]
    assert session.outputs == {"logits": ("cpu",), "present": ("cuda", 1)}


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_keys_and_values_lie_on_the_gpu_that_computes(provider: str) -> None:
    options = {provider: {"device_id": "1"}}
    session = SimpleNamespace(get_providers=lambda: [provider, *CPU], get_provider_options=lambda: options)
    assert place_of(session) == GPU
    assert isinstance(store_of(HOST), HostStore)


def test_a_gpus_memory_is_taken_as_large_as_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda _graph, _options, providers: opened.append(providers))
    assert store_of(GPU).place == GPU
    exact = {"device_id": "1", "arena_extend_strategy": "kSameAsRequested"}
    assert opened == [[("CUDAExecutionProvider", exact), *CPU]] * 2


def test_float32_is_refused_where_the_gpu_has_no_attention_for_it() -> None:
    check_attends({KINDS["FP32"]}, HOST)
    check_attends({KINDS["FP16"], KINDS["BF16"]}, GPU)
    with pytest.raises(EntryUnusable, match=r"FP16 or BF16 .* on cuda, found FP32: publish with --precision fp16"):
        check_attends({KINDS["FP32"]}, GPU)


def test_a_gpus_keys_and_values_get_half_of_what_its_weights_leave(tiny_gpt2: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = open_entry(tiny_gpt2.entry)
    weights = sum(path.stat().st_size for path in (tiny_gpt2.entry / "1").iterdir())
    monkeypatch.setattr("generate.model_rows.place_of", lambda _session: GPU)
    monkeypatch.setattr("generate.model_rows.device_ceiling", lambda number: weights + 1000 * number)
    assert cache_bytes(entry) == 500


def test_a_gpus_memory_is_asked_of_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        @staticmethod
        def cuInit(_flags: int) -> int:  # noqa: N802 - CUDA's name
            return 0

        @staticmethod
        def cuDeviceGet(device: Any, number: int) -> int:  # noqa: N802 - CUDA's name
            device._obj.value = number
            return 0 if number < 2 else 101

        @staticmethod
        def cuDeviceTotalMem_v2(size: Any, device: ctypes.c_int) -> int:  # noqa: N802 - CUDA's name
            size._obj.value = 80_000 * (device.value + 1)
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver)
    assert device_ceiling(1) == 144_000
    with pytest.raises(OSError, match="GPU 2: cuDeviceGet answered 101"):
        device_ceiling(2)
