"""A market for publishing, in one folder: any chain, a real catalogue, an inference server that knows the answers to probes.

`Breaking` breaks one call of any part, before it is done or after.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from control_plane.chain.ledger import Ledger
from control_plane.database import metadata, open_database
from control_plane.did import Address, TokenWei
from control_plane.errors import NotFound, OutcomeUnknown, Unavailable
from control_plane.flows.entries import Made
from control_plane.flows.market import Conversion, Market
from control_plane.flows.open_log import open_log
from control_plane.flows.publish import Request
from control_plane.serving import oip
from control_plane.serving.catalogue import Catalogue
from control_plane.serving.inference import Generated, TensorAnswer
from converters.entry import Entry, ModelDigest, write_entry
from converters.probes import Probe, ProbeTensor, infer_request, read_probes, texts, write_probes
from converters.tensors import Tensor
from converters.weights_folder import weights_manifest
from tests.check_market import Seen, check_market
from tests.fixtures_chain import BOTH, ONE, Chain, either_chain

CHECKPOINT_KEY = bytes(range(32))


class Breaking:
    """Another object, of which one call can be broken."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._broken: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.counts: dict[str, int] = defaultdict(int)

    def break_call(self, method: str, when: str, number: int = 1) -> None:
        """The call number `number` from now: `before` it is done (Unavailable) or `after` (OutcomeUnknown)."""
        assert when in ("before", "after")
        self._broken[method].append((self.counts[method] + number, when))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self.counts[name] += 1
            when = [kind for number, kind in self._broken[name] if number == self.counts[name]]
            if "before" in when:
                raise Unavailable(f"{name}: broken before it was done")
            result = found(*arguments, **named)
            if "after" in when:
                raise OutcomeUnknown(f"{name}: broken after it was done")
            return result

        return call

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.__getattr__("__call__")(*arguments, **named)


class NamesServer:
    """An inference server that remembers what is loaded, and answers an entry's probes as the entry itself says.

    off_by: what it adds to every number of an answer.
    """

    def __init__(self, models: Path) -> None:
        self._models = models
        self.names: set[str] = set()
        self.loads: list[str] = []
        self.off_by = 0.0

    def is_ready(self) -> bool:
        return True

    def loaded(self) -> frozenset[str]:
        return frozenset(self.names)

    def load(self, name: str) -> None:
        self.loads.append(name)
        self.names.add(name)

    def unload(self, name: str) -> None:
        self.names.discard(name)

    def infer(self, name: str, body: bytes, header_length: int | None) -> TensorAnswer:
        if name not in self.names:
            raise NotFound(name)
        for probe in read_probes(self._models / name):
            if infer_request(probe)[0] == body:
                (expected,) = probe.outputs
                numbers = [number + self.off_by for number in oip.numbers(oip.RawTensor("FP32", expected.shape, expected.raw))]
                values = oip.Values(expected.name, "FP32", expected.shape, tuple(numbers))
                return oip.write_answer(name, [values], oip.Wanted((), {None: True}))
        raise NotFound(name)

    def generate(self, name: str, fields: Mapping[str, Any]) -> Generated:
        raise NotFound(name)

    def generate_stream(self, name: str, fields: Mapping[str, Any]) -> Iterator[Generated]:
        raise NotFound(name)


@dataclass
class Store:
    """Object storage that counts."""

    kept: dict[str, int]

    def __call__(self, folder: Path, digest: ModelDigest) -> str:
        self.kept[digest] = self.kept.get(digest, 0) + 1
        return f"memory://{folder.name}"


def make_model(folder: Path, weights: bytes = b"weights") -> Path:
    """A model's folder as far as anybody but the converter looks into it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def make_entry(
    folder: Path,
    weights: bytes = b"weights",
    licence: str | None = "apache-2.0",
    files: Mapping[str, str] | None = None,
    parents: tuple[str, ...] = (),
) -> Path:
    """An entry that no backend could run; enough to be published by a server that knows the answers to its probes."""
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(weights)
    (folder / "1" / "tokenizer.json").write_text("{}")
    text, answer = Tensor("text_input", "BYTES", (-1,)), Tensor("embedding", "FP32", (-1, 8))
    source = {"id": "tiny", "revision": None, "licence": licence, "files": dict(files or {"model.safetensors": "00"})}
    write_entry(
        folder,
        Entry(
            name="tiny",
            task="feature-extraction",
            backend="predict",
            architecture="BertModel",
            precision="fp32",
            inputs=(text,),
            outputs=(answer, Tensor("prompt_tokens", "INT32", (-1,))),
            details={"context_length": 64},
            source=source,
            export={"route": "optimum", "why": "optimum has a configuration for bert with feature-extraction"},
            parity=({"output": "embedding", "worst": 1e-6, "bound": 1e-4},),
            parents=parents,
        ),
    )
    write_probes(folder, tuple(_probe(["a text"] * count) for count in (1, 2, 3)))
    return folder


def _probe(asked: list[str]) -> Probe:
    raw = oip.pack("FP32", [0.25 * (place % 5) for place in range(8 * len(asked))])
    return Probe((texts("text_input", asked),), (ProbeTensor("embedding", "FP32", (len(asked), 8), raw),), bound=1e-4)


@dataclass
class Stand:
    """A market and its parts, each breakable."""

    chain: Chain
    folder: Path
    ledger: Breaking
    server: Breaking
    catalogue: Breaking
    store: Breaking
    store_weights: Breaking
    names: NamesServer
    kept: Store
    kept_weights: Store
    market: Market
    entry: Path
    engine: Engine

    def request(self, **changes: Any) -> Request:
        asked = Request(model=str(self.entry), name="Tiny", rate=TokenWei(ONE), timeout_s=3600, author="Alice")
        return replace(asked, **changes)


def open_stand(chain: Chain, folder: Path) -> Stand:
    engine = open_database(f"sqlite:///{folder / 'market.db'}")
    metadata.create_all(engine)
    operator = chain.wallets["operator"]
    models = folder / "models"
    ledger, names, kept, weights = Breaking(chain.ledger), NamesServer(models), Store({}), Store({})
    server, catalogue, store, store_weights = (Breaking(each) for each in (names, Catalogue(engine, models), kept, weights))

    def convert(asked: Conversion, out: Path) -> Made:
        """As the converter does: what it was given is checked and kept, and named in the entry with its parents."""
        weights = Path(shutil.copytree(asked.model, out / "weights" / "copy"))
        files = {line.path: line.sha256 for line in weights_manifest(weights)}
        made = make_entry(out / "entry", (weights / "model.safetensors").read_bytes(), files=files, parents=asked.parents)
        return Made(made, weights)

    market = Market(
        ledger=ledger,  # type: ignore[arg-type]  # any object's calls, passed through
        inference=server,  # type: ignore[arg-type]
        catalogue=catalogue,  # type: ignore[arg-type]
        convert=convert,
        store=store,
        store_weights=store_weights,
        log_nft=log_of(chain.ledger, chain),
        operator=operator.address,
        operator_key=operator.public_key,
        decryptor=operator,
        public_url="http://127.0.0.1:8030",
        base_token=chain.ocean,
        publish_fee=TokenWei(5 * 10**16),
        swap_fee=10**16,
        models=models,
        weights=folder / "weights",
        scratch=folder / "cache",
        publications=folder / "publications",
        clock=chain.now,
    )
    entry = make_entry(folder / "entry")
    return Stand(chain, folder, ledger, server, catalogue, store, store_weights, names, kept, weights, market, entry, engine)


def log_of(ledger: Ledger, chain: Chain) -> Address:
    operator = chain.wallets["operator"]
    return open_log(ledger, operator, operator.address, CHECKPOINT_KEY)


@pytest.fixture(params=BOTH)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    return open_stand(either_chain(request.param, request, tmp_path), tmp_path)


def check(stand: Stand) -> None:
    check_market(
        stand.chain.ledger,
        Seen(stand.catalogue.listings(), stand.market.log_nft, stand.market.models, stand.chain.wallets["operator"]),
    )
