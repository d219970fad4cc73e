"""The real Triton on free ports, started once for all tests that ask, and the entries they serve with it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from control_plane.serving.triton import Triton
from converters.entry import entry_files, model_digest, read_entry, triton_name
from converters.pbtxt import config_pbtxt
from deploy.local.ports import free_port
from deploy.local.triton_server import TritonPorts, remove_leftovers, stage_backends, triton_command
from tests.converters.tiny_models import tiny_model

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENT = REPOSITORY / ".venv-triton"
SMOKE = REPOSITORY / "model_repository" / "models" / "smoke"


@dataclass
class TritonServer:
    """One server. A test that kills it starts it again; `install` loads an entry, `restart` loads none."""

    folder: Path
    ports: TritonPorts = field(default_factory=lambda: TritonPorts(free_port(), free_port(), free_port()))
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    process: psutil.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def log(self) -> Path:
        return self.folder / "triton.log"

    @property
    def client(self) -> Triton:
        if not hasattr(self, "_client"):
            self._client = Triton(self.url, self.key, timeout_s=60.0)
        return self._client

    def start(self) -> None:
        self.models.mkdir(parents=True, exist_ok=True)
        backends = self.folder / "backends"
        stage_backends(ENVIRONMENT, backends)
        remove_leftovers(self.ports)
        command, environment = triton_command(ENVIRONMENT, self.models, backends, self.ports, self.key)
        with self.log.open("ab") as log:
            self.process = psutil.Popen(command, env=dict(environment), stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 30
        while not self.client.is_ready():
            assert self.process.poll() is None, f"Triton ended at once:\n{self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"Triton was not ready within 30 s:\n{self.log.read_text()[-2000:]}"
            time.sleep(0.05)

    def install(self, entry: Path, name: str | None = None) -> str:
        """Copy an entry into the repository, write its config.pbtxt, load it; return its name in Triton."""
        digest = model_digest(entry)
        name = name or triton_name(digest)
        target = self.models / name
        if not target.exists():
            for path in entry_files(entry):
                copied = target / path.relative_to(entry)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copied)
        (target / "config.pbtxt").write_text(config_pbtxt(read_entry(target), name, digest), encoding="utf-8")
        self.client.load(name)
        return name

    def stub_of(self, name: str) -> psutil.Process:
        """The process that computes the entry."""
        assert self.process is not None
        alive = (child for child in self.process.children() if child.status() != psutil.STATUS_ZOMBIE)
        (stub,) = (child for child in alive if any(f"/{name}/" in part for part in child.cmdline()))
        return stub

    def kill(self) -> None:
        """As a power cut would: nothing is cleaned up. Its stubs end by themselves, some only after half a minute."""
        assert self.process is not None
        stubs = self.process.children(recursive=True)
        self.process.kill()
        self.process.wait(10)
        _gone, alive = psutil.wait_procs(stubs, timeout=3)
        for stub in alive:
            stub.kill()

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        self.client.close()  # Triton waits for idle connections too: 7.6 s instead of 2.4 s
        if self.process is not None and self.process.poll() is None:
            stubs = self.process.children(recursive=True)
            self.process.terminate()
            try:
                self.process.wait(15)
            except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
                self.process.kill()
            psutil.wait_procs(stubs, timeout=10)
        remove_leftovers(self.ports)


@pytest.fixture(scope="session")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A running server with an empty repository. A test that leaves it dead must start it again."""
    if not (ENVIRONMENT / "bin" / "python3").exists():
        pytest.skip("no Triton environment in .venv-triton: run `make setup`")
    server = TritonServer(tmp_path_factory.mktemp("triton"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def convert_model(model: Path, out: Path, *options: str) -> Path:
    """Convert as a publisher would, in a child process; returns the entry's folder."""
    done = subprocess.run(
        [sys.executable, "-m", "converters", str(model), "--out", str(out), *options],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Path(done.stderr.strip().splitlines()[-1])


@dataclass(frozen=True)
class Converted:
    """A model's folder as its publisher has it, and the entry made of it."""

    model: Path
    entry: Path


def _tiny(factory: pytest.TempPathFactory, family: str, head: str, *, longest: int = 64, **overrides: object) -> Converted:
    folder = factory.mktemp(f"{family}-{head}")
    model = tiny_model(folder / "model", family, head, **overrides)
    described = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**described, "model_max_length": longest}))
    return Converted(model, convert_model(model, folder / "out"))


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Random weights, spread so wide that greedy text does not repeat itself. Context of 64 tokens."""
    return _tiny(tmp_path_factory, "gpt2", "LMHeadModel", initializer_range=0.5)


TALKS = "{% for m in messages %}{{ m['role'][0] + '>' + m['content'] + eos_token }}{% endfor %}{{ 'a>' }}"
"""A chat template so short that a conversation fits into 64 tokens."""


@pytest.fixture(scope="session")
def talking_llama(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Like `tiny_gpt2`, with a chat template of its own."""
    folder = tmp_path_factory.mktemp("talking")
    model = tiny_model(folder / "model", "llama", "ForCausalLM", initializer_range=0.5)
    described = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**described, "chat_template": TALKS}))
    return Converted(model, convert_model(model, folder / "out"))


@pytest.fixture(scope="session")
def slow_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Large enough that a whole context of 1024 tokens takes seconds, and its end token is never likely."""
    shape = {"n_embd": 256, "n_layer": 6, "n_head": 8, "n_positions": 1024, "initializer_range": 0.2}
    return _tiny(tmp_path_factory, "gpt2", "LMHeadModel", longest=1024, **shape)


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return _tiny(tmp_path_factory, "bert", "Model", initializer_range=0.5)


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return _tiny(tmp_path_factory, "bert", "ForSequenceClassification", initializer_range=0.5)


@pytest.fixture(scope="session")
def tiny_answerer(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return _tiny(tmp_path_factory, "bert", "ForQuestionAnswering", initializer_range=0.5)
