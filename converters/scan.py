"""What a stranger's file may be: refusals by name, by first bytes, and by what its JSON says.

In: names, bytes and JSON documents of a model folder. Out: the parsed JSON, or ModelRefused. This module must never import a model
library, follow a link, or repair what it finds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from converters.errors import ModelRefused

CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyd", ".pyx", ".so", ".dll", ".dylib", ".sh", ".ipynb", ".js", ".jar", ".exe"})
PICKLE_SUFFIXES = frozenset(
    {
        *(".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".mar", ".torch", ".pt2", ".ptl"),  # PyTorch
        *(".h5", ".hdf5", ".keras", ".pb", ".tflite"),  # Keras Lambda layers and SavedModels hold code
        *(".npy", ".npz", ".joblib", ".dill", ".cloudpickle", ".dat", ".sav", ".model_state"),
        *(
            ".msgpack",
            ".ot",
            ".nemo",
            ".gguf",
            ".ggml",
            ".mlmodel",
            ".safetensors.pkl",
            ".7z",
            ".zip",
            ".tar",
            ".gz",
            ".tgz",
            ".xz",
        ),
    }
)
"""Weight formats that run code when opened, or that nobody has checked. The list errs on the side of refusing."""

_MAGICS = {
    b"PK\x03\x04": "a zip archive (PyTorch's pickle format is one)",
    b"PK\x05\x06": "a zip archive",
    b"\x93NUMPY": "a numpy array",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"(\xb5/\xfd": "a zstd file",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"#!": "a script",
    b"GGUF": "a GGUF file",
}
_PICKLE = re.compile(rb"\x80[\x01-\x05]")
_PICKLE_TEXT = re.compile(rb"(?:\(?[cib](?:os|nt|posix|sys|builtins|__builtin__|subprocess|torch|numpy)[\w.]*\n\w+\n)")

JSON_BYTES = 128 << 20
"""The largest tokenizer.json seen on the hub is about 34 MB."""
JSON_DEPTH = 64
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""Its closing quote is optional: a string that never ends is read once, not again from each quote in it."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NUMBER = 2**40
_BOUNDS = (
    (re.compile(r"layers?$|depths?$|blocks$|experts$|stages$"), 1024),
    (re.compile(r"position|n_ctx"), 2**24),
)
"""Keys of a `config.json` and the most they may say; any other whole number may be 2**40."""
_PROCESSOR_BOUNDS = (
    (re.compile(r"pixels"), 2**28),
    (re.compile(r"size|height|width|edge|patch"), 2**15),
    (re.compile(r"chunk_length|_seconds|_s$"), 3600),
    (re.compile(r"sampling_rate|n_samples|fft|hop|win|frames|bins|max_length"), 2**26),
)
"""The same for a `preprocessor_config.json`: what an image is resized to and how much sound is padded to is decided by these."""
_PIXEL_COUNTERS = re.compile(r"(?:Qwen2VL|Glm4v|Glm46V|VideoLlama3|Keye)ImageProcessor(?:Fast)?")
"""Processors whose `shortest_edge` and `longest_edge` count the pixels of an image, not those of an edge."""
_MAY_BE_INFINITE = frozenset({"time_step_limit"})
"""Keys of Mamba-2 and its relatives."""
_PROCESSOR_BYTES = 16 << 20
_CLASS_KEYS = ("image_processor_type", "feature_extractor_type", "processor_class", "tokenizer_class", "video_processor_type")
_TOKEN_KEYS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "auto"})
_ATTENTIONS = frozenset({"eager", "sdpa"})

_REACHES_INTO_PYTHON = re.compile(
    r"__|\\x5f|\\u005f|\\137|\|\s*attr\b|\b(?:lipsum|cycler|joiner)\b|\{%-?\s*(?:import|include|extends|from)\b", re.IGNORECASE
)

REFUSED_KEYS: Mapping[str, str] = {
    "auto_map": "it names code of the model's own; trust_remote_code is never used",
    "custom_pipelines": "it names code of the model's own",
    "quantization_config": "its weights are quantised; convert the original ones",
    "trust_remote_code": "it asks to run code of the model's own",
}


def refuse_name(relative: PurePosixPath) -> None:
    """Raises ModelRefused for a name that means code or a format other than safetensors, at any depth of the folder."""
    suffixes = {suffix.lower() for suffix in relative.suffixes[-2:]}
    if found := suffixes & PICKLE_SUFFIXES:
        raise ModelRefused(f"{relative}: expected weights as safetensors only, found a {min(found)} file; remove it and try again")
    if found := suffixes & CODE_SUFFIXES:
        raise ModelRefused(f"{relative}: expected data only, found code ({min(found)}); a model that needs its own code is refused")
    if any(not part.isprintable() or "\\" in part or ":" in part for part in relative.parts):
        raise ModelRefused(f"{str(relative)!r}: expected a plain file name, found special characters")


def refuse_content(relative: PurePosixPath, head: bytes) -> None:
    """Raises ModelRefused when a file's first bytes are a pickle's, an archive's or a program's, whatever its name says."""
    if head[257:262] == b"ustar":
        raise ModelRefused(f"{relative}: expected plain data, found a tar archive")
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            raise ModelRefused(f"{relative}: expected plain data, found {kind}")
    # A safetensors file starts with its header's length, which may look like a pickle's first bytes: 0x0280 is 640. The header
    # check refuses what is not safetensors.
    if relative.suffix == ".safetensors":
        return
    if (_PICKLE.match(head) and relative.suffix != ".onnx") or _PICKLE_TEXT.match(head):
        raise ModelRefused(f"{relative}: expected plain data, found a pickle")


def parse_json(name: str, data: bytes) -> Any:
    """The document; raises ModelRefused unless it is UTF-8 JSON of sane size and depth with no key said twice."""
    if len(data) > JSON_BYTES:
        raise ModelRefused(f"{name}: expected at most {JSON_BYTES} bytes of JSON, found {len(data)}")
    if _depth(data) > JSON_DEPTH:
        raise ModelRefused(f"{name}: expected JSON nested at most {JSON_DEPTH} deep, found more")
    try:
        constant = _infinity if name == "config.json" else _no_constant
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=constant)
    except ValueError as error:
        raise ModelRefused(f"{name}: expected JSON, found {error}") from error


def refuse_code_in(name: str, document: Any) -> None:
    """Raises ModelRefused when a document names code, a kernel, a file elsewhere, or a template that reaches into Python."""
    for node in _walk(document):
        if not isinstance(node, dict):
            continue
        for key, value in node.items():
            if key in REFUSED_KEYS and value not in (None, False, {}, []):
                raise ModelRefused(f"{name}: expected no {key!r}: {REFUSED_KEYS[key]}")
            # transformers sets whatever a configuration says as an attribute, Python's own and its inner names among them.
            if key.startswith("__") and (key, value) != ("__type", "AddedToken"):
                raise ModelRefused(f"{name}: expected no key of Python's own, found {key!r}")
            if "attn_implementation" in key and value is not None and value not in sorted(_ATTENTIONS):
                raise ModelRefused(f"{name}: {key} must be one of {sorted(_ATTENTIONS)}, found {value!r}: kernels are code")
            # transformers opens these wherever they point; it ignores the path of the special tokens, which old models carry.
            if key.endswith("_file") and isinstance(value, str) and key != "special_tokens_map_file":
                raise ModelRefused(f"{name}: {key} must be null, since files are found by their names; found {value!r}")
            if key == "backbone" and isinstance(value, str) and (value[:1] in "/.~" or ".." in value):
                raise ModelRefused(f"{name}: backbone must be a model's name, found the path {value!r}")
            if key == "chat_template":
                refuse_template(name, value)


def refuse_template(name: str, template: Any) -> None:
    """Raises ModelRefused for a chat template that touches Python's inner attributes, the way out of a template's sandbox."""
    texts = [node for node in _walk(template) if isinstance(node, str)]
    for text in texts:
        if len(text) > 1 << 20:
            raise ModelRefused(f"{name}: expected a chat template of at most 1 MiB, found {len(text)} characters")
        # Two underscores can also be written as escapes or glued together, so what does that is refused as well.
        if _REACHES_INTO_PYTHON.search(text):
            raise ModelRefused(f"{name}: expected a chat template that only formats text, found one that reaches into Python")


def check_config(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """`model_type` and `architectures` of a `config.json`; raises ModelRefused for what is missing, or absurd in size."""
    name = "config.json"
    model_type, architectures = config.get("model_type"), config.get("architectures") or []
    if not isinstance(model_type, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", model_type):
        raise ModelRefused(f"{name}: model_type must be the name of a model type, found {model_type!r}")
    if not isinstance(architectures, list) or not all(isinstance(item, str) and item.isidentifier() for item in architectures):
        raise ModelRefused(f"{name}: architectures must be a list of class names, found {architectures!r}")
    for node in _walk(config):
        for key in ("torch_dtype", "dtype") if isinstance(node, dict) else ():
            if node.get(key) is not None and node[key] not in sorted(_DTYPES):  # a list: an object cannot be looked up in a set
                raise ModelRefused(f"{name}: {key} must be one of {sorted(_DTYPES)}, found {node[key]!r}")
    _check_numbers(name, config, _BOUNDS)
    return model_type, tuple(architectures)


def check_processor(name: str, document: Mapping[str, Any]) -> None:
    """Raises ModelRefused for a `preprocessor_config.json` that names no plain class, or sizes that no image or sound has."""
    if len(json.dumps(document)) > _PROCESSOR_BYTES:
        raise ModelRefused(f"{name}: expected at most {_PROCESSOR_BYTES} bytes, found more")
    for node in _walk(document):
        for key in _CLASS_KEYS if isinstance(node, dict) else ():
            if node.get(key) is not None and not (isinstance(node[key], str) and node[key].isidentifier()):
                raise ModelRefused(f"{name}: {key} must be a class name, found {node[key]!r:.80}")
    counts_pixels = _PIXEL_COUNTERS.fullmatch(str(document.get("image_processor_type")))
    _check_numbers(name, document, ((re.compile(r"edge"), 2**28), *_PROCESSOR_BOUNDS) if counts_pixels else _PROCESSOR_BOUNDS)


def check_generation(name: str, document: Mapping[str, Any]) -> None:
    """Raises ModelRefused for a `generation_config.json` whose tokens are no tokens, or whose numbers are absurd."""
    for key in _TOKEN_KEYS:
        value = document.get(key)
        tokens = value if isinstance(value, list) else [value]
        if not all(token is None or (type(token) is int and abs(token) < 2**31) for token in tokens):
            raise ModelRefused(f"{name}: {key} must be a token's number, or a list of such, found {value!r:.80}")
    _check_numbers(name, document, ())


def _check_numbers(name: str, document: Any, bounds: tuple[tuple[re.Pattern[str], int], ...]) -> None:
    """Every number in the document, at any depth, against the bound of the nearest key above it."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += ((str(inner), item) for inner, item in value.items())
        elif isinstance(value, list):
            waiting += ((key, item) for item in value)
        elif isinstance(value, int | float) and not (value == math.inf and key in _MAY_BE_INFINITE):
            bound = next((bound for pattern, bound in bounds if pattern.search(key)), None)
            # A mask may be -3.4e38; a number of layers may not be, also when it is written 1e9.
            if abs(value) > (bound or (_NUMBER if isinstance(value, int) else math.inf)) or math.isinf(value):
                raise ModelRefused(f"{name}: {key} must be at most {bound or _NUMBER}, found {value}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key that is said twice")
    return document


def _infinity(constant: str) -> Any:
    """transformers writes Infinity for a limit that is none; under which keys it may stand, `_check_numbers` says."""
    return math.inf if constant == "Infinity" else _no_constant(constant)


def _no_constant(constant: str) -> Any:
    raise ValueError(f"{constant}, which is not a JSON number")


def _depth(data: bytes) -> int:
    """How deep a JSON text opens brackets, counted before it is parsed.

    Python's parser recurses, and a library that raises the recursion limit (py_ecc, which web3 brings, sets 100,000) turns a deep
    document from an error into a crash of the process.
    """
    brackets = _STRING.sub(b"", data).translate(None, delete=_NOT_BRACKETS)
    depth = deepest = 0
    for sign in brackets:
        depth += 1 if sign in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _walk(document: Any) -> Iterator[Any]:
    """Every node, without recursion."""
    waiting: list[Any] = [document]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
