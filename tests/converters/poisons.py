"""Model folders that are poisoned, each named for its fault: what makes it, and what the refusal must name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.converters.sources import Canary, change, put
from tests.converters.weight_poisons import WEIGHT_POISONS


def _zip(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def _zip_end() -> bytes:
    return b"PK\x05\x06" + bytes(18)


def _socket(path: Path) -> None:
    # By the open folder: a socket's path may have 108 bytes at most, and where the tests write is longer on some machines.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)


POISONS: dict[str, tuple[Callable[[Path, Path], None], str]] = {}
"""Fault -> (what makes it: model folder, canary), and what the refusal must name."""


def _poison(fault: str, names: str) -> Callable[[Callable[[Path, Path], None]], None]:
    def kept(make: Callable[[Path, Path], None]) -> None:
        POISONS[fault] = (make, names)

    return kept


def _simple(fault: str, names: str, make: Callable[[Path], Any]) -> None:
    POISONS[fault] = (lambda folder, _: make(folder), names)


_PICKLE_NAMES = (
    *("bin", "pt", "pth", "pkl", "pickle", "ckpt", "joblib", "npy", "npz", "h5", "hdf5", "keras", "msgpack", "ot", "pb", "tflite"),
    *("dill", "cloudpickle", "dat", "sav", "mar", "torch", "pt2", "ptl", "nemo", "gguf", "ggml", "mlmodel", "model_state"),
)
_KNOWN_FILES = (
    *("pytorch_model-00001-of-00002.bin", "consolidated.00.pth", "adapter_model.bin", "training_args.bin", "optimizer.pt"),
    *("scheduler.pt", "rng_state_0.pth", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.safetensors.pkl"),
    *("pytorch_model.bin.index.json", "spiece.model.pkl", "vocab.pkl", "model.pt.json", "1_Pooling/weights.bin"),
)

for _suffix in _PICKLE_NAMES:

    @_poison(f"pickle-as-{_suffix}", f"weights.{_suffix}")
    def _(folder: Path, canary: Path, suffix: str = _suffix) -> None:
        put(folder, f"weights.{suffix}", pickle.dumps(Canary(canary)))


for _file in _KNOWN_FILES:

    @_poison(f"pickle-known-as-{_file.replace('/', '-')}", _file)
    def _(folder: Path, canary: Path, file: str = _file) -> None:
        put(folder, file, pickle.dumps(Canary(canary)))


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


def _tar(name: str, content: bytes, link: str | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        told = tarfile.TarInfo(name)
        told.size = len(content)
        if link is not None:
            told.type, told.linkname, told.size = tarfile.SYMTYPE, link, 0
        archive.addfile(told, io.BytesIO(content))
    return packed.getvalue()


_simple("zip-slip", "weights.zip", lambda folder: put(folder, "weights.zip", _zip("../../../evil.txt", b"out")))
_simple("zip-slip-named-vocabulary", "zip", lambda folder: put(folder, "vocab.txt", _zip("../../../evil.txt", b"out")))
_simple("zip-bomb-named-tokenizer", "zip", lambda folder: put(folder, "tokenizer.json", _zip("bomb", bytes(64 << 20))))
_simple("zip-that-is-empty", "zip", lambda folder: put(folder, "merges.txt", _zip_end()))
_simple("gzip-bomb-named-configuration", "gzip", lambda folder: put(folder, "config.json", gzip.compress(bytes(64 << 20))))
_simple("gzip-bomb", "bomb.json.gz", lambda folder: put(folder, "bomb.json.gz", gzip.compress(bytes(1 << 20))))
_simple("bzip2-bomb-named-text", "bzip2", lambda folder: put(folder, "notes.txt", bz2.compress(bytes(64 << 20))))
_simple("xz-bomb-named-text", "xz", lambda folder: put(folder, "notes.txt", lzma.compress(bytes(1 << 20))))
_simple("tar-slip", "weights.tar", lambda folder: put(folder, "weights.tar", _tar("/etc/evil", b"out")))
_simple("tar-slip-named-text", "tar", lambda folder: put(folder, "notes.txt", _tar("../../evil", b"out")))
_simple("tar-link-named-vocabulary", "tar", lambda folder: put(folder, "vocab.txt", _tar("a", b"", link="/etc/passwd")))


@_poison("torch-tar-named-configuration", "tar")
def _(folder: Path, canary: Path) -> None:
    put(folder, "config.json", _tar("storages", pickle.dumps(Canary(canary))))


@_poison("torch-archive-in-a-subfolder", "zip")
def _(folder: Path, canary: Path) -> None:
    put(folder, "1_Pooling/config.json", _zip("archive/data.pkl", pickle.dumps(Canary(canary))))


@_poison("pickle-after-a-comment-named-text", "pickle")
def _(folder: Path, canary: Path) -> None:
    put(folder, "vocab.txt", b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")


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


_simple("symlink-that-dangles", "link", lambda folder: (folder / "vocab.txt").symlink_to("nowhere"))
_simple("symlink-to-itself", "link", lambda folder: (folder / "vocab.txt").symlink_to("vocab.txt"))
_simple("symlink-to-a-parent", "link", lambda folder: (folder / "deeper").symlink_to(".."))
_simple("symlink-to-a-device", "link", lambda folder: (folder / "vocab.txt").symlink_to("/dev/zero"))
_simple("symlink-to-memory", "link", lambda folder: (folder / "LICENSE").symlink_to("/proc/self/environ"))
_simple("socket-named-text", "link or a special file", lambda folder: _socket(folder / "vocab.txt"))


@_poison("symlinked-weights", "link")
def _(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(canary)


@_poison("hard-linked-weights", "link")
def _(folder: Path, canary: Path) -> None:
    os.link(folder / "model.safetensors", canary.with_name("kept-by-someone"))


@_poison("hard-link-within-the-model", "link")
def _(folder: Path, _canary: Path) -> None:
    os.link(folder / "tokenizer.json", folder / "vocab.json")


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
_simple("layers-written-as-a-fraction", "n_layer", lambda folder: change(folder, "config.json", n_layer=1e9))
_simple("layers-in-a-list", "depths", lambda folder: change(folder, "config.json", depths=[2, 10**9]))
_simple("thousand-million-decoder-layers", "decoder_layers", lambda folder: change(folder, "config.json", decoder_layers=10**9))
_simple("thousand-million-experts", "num_experts", lambda folder: change(folder, "config.json", num_experts=10**9))
_simple("layers-of-a-part", "num_hidden_layers", lambda f: change(f, "config.json", text_config={"num_hidden_layers": 10**9}))
_simple("number-past-infinity", "n_inner", lambda f: put(f, "config.json", b'{"model_type": "gpt2", "n_inner": 1e999}'))
_simple("kernel-under-an-inner-name", "attn", lambda f: change(f, "config.json", _attn_implementation_internal="evil/kernel"))
_simple("key-of-pythons-own", "__class__", lambda folder: change(folder, "config.json", __class__="evil"))
_simple("backbone-at-a-path", "backbone", lambda f: change(f, "config.json", backbone="/etc", use_pretrained_backbone=True))
_simple("backbone-above", "backbone", lambda folder: change(folder, "config.json", backbone="a/../../../etc"))
_simple("auto-map-in-a-part", "auto_map", lambda f: change(f, "config.json", vision_config={"auto_map": {"AutoModel": "evil.E"}}))
_simple("trust-asked-for", "trust_remote_code", lambda folder: change(folder, "config.json", trust_remote_code=True))
_simple("pipeline-of-its-own", "custom_pipelines", lambda f: change(f, "config.json", custom_pipelines={"x": {"impl": "evil.P"}}))
_simple("dtype-is-a-function", "torch_dtype", lambda folder: change(folder, "config.json", torch_dtype="load"))
_simple("model-type-is-a-path", "model_type", lambda folder: change(folder, "config.json", model_type="../../evil"))
_simple("architecture-is-code", "architectures", lambda folder: change(folder, "config.json", architectures=["os.system('x')"]))
_simple("config-is-a-list", "config.json", lambda folder: put(folder, "config.json", [1]))
_simple("config-says-a-key-twice", "twice", lambda f: put(f, "config.json", b'{"model_type": "gpt2", "model_type": "bert"}'))
_simple("config-nested-too-deep", "deep", lambda folder: put(folder, "config.json", b'{"a":' * 100_000))
_simple("config-nested-quite-deep", "deep", lambda f: put(f, "config.json", b'{"a":' * 200 + b"1" + b"}" * 200))
_simple("config-not-utf8", "config.json", lambda folder: put(folder, "config.json", b'{"model_type": "\xff"}'))
_simple("infinitely-many-layers", "n_layer", lambda f: put(f, "config.json", b'{"model_type": "gpt2", "n_layer": Infinity}'))
_simple("config-holds-nan", "NaN", lambda folder: put(folder, "config.json", b'{"model_type": "gpt2", "a": NaN}'))
_simple("no-config", "config.json", lambda folder: (folder / "config.json").unlink())
_simple("no-weights", "model.safetensors", lambda folder: (folder / "model.safetensors").unlink())
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

for _fault, _template in {
    "glues-with-join": "{{ ['_','_'] | join | attr('x') }}",
    "escapes-its-way-out": "{{ x['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "escapes-in-unicode": "{{ x['\\u005f\\u005fglobals'] }}",
    "reads-globals": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "asks-a-cycler": "{{ cycler.next }}",
    "includes-a-file": "{% include '/etc/passwd' %}",
    "imports": "{%- import 'os' as os %}",
}.items():
    _simple(
        f"chat-template-{_fault}",
        "chat template",
        lambda folder, template=_template: change(folder, "tokenizer_config.json", chat_template=template),
    )
_simple(
    "chat-template-in-a-processor",
    "chat template",
    lambda f: put(f, "processor_config.json", {"chat_template": "{{ x.__init__ }}"}),
)
_simple(
    "chat-template-of-a-megabyte",
    "chat template",
    lambda f: change(f, "tokenizer_config.json", chat_template="a" * (2 << 20)),
)
_simple("special-tokens-name-code", "auto_map", lambda f: put(f, "special_tokens_map.json", {"auto_map": {"AutoTokenizer": "e.T"}}))
_simple("tokenizer-is-too-large", "at most", lambda f: _sparse(f / "tokenizer.json", 1 << 30))
_simple("tokenizer-nested", "deep", lambda f: put(f, "tokenizer.json", b"[" * 100_000))

for _fault, _names, _changes in (
    ("class-is-a-path", "image_processor_type", {"image_processor_type": "../evil"}),
    ("class-is-a-call", "feature_extractor_type", {"feature_extractor_type": "os.system('x')"}),
    ("class-is-a-list", "processor_class", {"processor_class": ["Evil"]}),
    ("is-python", "auto_map", {"auto_map": {"AutoImageProcessor": "evil.E"}}),
    ("resizes-to-a-thousand-million-pixels", "height", {"size": {"height": 100_000, "width": 10_000}}),
    ("crops-to-an-absurd-size", "crop_size", {"crop_size": 10**9}),
    ("allows-absurd-pixels", "max_pixels", {"max_pixels": 10**12}),
    ("edge-is-absurd", "shortest_edge", {"size": {"shortest_edge": 1e9}}),
    ("patch-is-absurd", "patch_size", {"patch_size": [14, 10**8]}),
    ("pads-sound-for-a-year", "chunk_length", {"chunk_length": 31_000_000}),
    ("hears-too-much", "sampling_rate", {"sampling_rate": 10**12}),
    ("transforms-too-much", "n_fft", {"n_fft": 2**40}),
    ("number-past-counting", "num_channels", {"num_channels": 2**60}),
):
    _simple(
        f"processor-{_fault}",
        _names,
        lambda folder, changes=_changes: put(
            folder, "preprocessor_config.json", {"image_processor_type": "ViTImageProcessor", **changes}
        ),
    )
_simple("processor-is-a-list", "preprocessor_config.json", lambda folder: put(folder, "preprocessor_config.json", [1]))
_simple("processor-is-a-pickle", "pickle", lambda folder: put(folder, "preprocessor_config.json", pickle.dumps({})))

for _fault, _names, _changes in (
    ("end-is-code", "eos_token_id", {"eos_token_id": "__import__('os')"}),
    ("ends-are-nested", "eos_token_id", {"eos_token_id": [[1], {}]}),
    ("end-past-counting", "eos_token_id", {"eos_token_id": 2**63}),
    ("is-absurdly-long", "max_length", {"max_length": 10**18}),
    ("names-code", "auto_map", {"auto_map": {"x": "evil.E"}}),
    ("trusts", "trust_remote_code", {"trust_remote_code": True}),
):
    _simple(f"generation-{_fault}", _names, lambda folder, changes=_changes: put(folder, "generation_config.json", changes))

for _fault, (_make, _names) in WEIGHT_POISONS.items():
    _simple(_fault, _names, _make)
