"""A real S3 server on a free port, started and ended by the test that asks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from c2d_adapter.storage import ObjectStore
from deploy.local import objects
from deploy.local.ports import HOST, free_port

RCLONE = Path(sys.executable).parent / "rclone"


@dataclass(frozen=True)
class S3Server:
    url: str
    key_id: str
    secret: str
    folder: Path

    def store(self, bucket: str = "posthuman") -> ObjectStore:
        return ObjectStore(self.url, bucket, self.key_id, self.secret)


@contextmanager
def running_s3(folder: Path, port: int | None = None, keys: tuple[str, str] | None = None) -> Iterator[S3Server]:
    chosen = port or free_port()
    key_id, secret = keys or objects.new_keys()
    process = subprocess.Popen(
        objects.command(RCLONE, folder / "objects", chosen, folder / "cache"),
        env={**os.environ, **objects.environment(key_id, secret)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not objects.is_ready(chosen):
            assert process.poll() is None, "rclone ended at once"
            assert time.monotonic() < deadline, "rclone did not listen within 20 s"
            time.sleep(0.05)
        yield S3Server(f"http://{HOST}:{chosen}", key_id, secret, folder)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server
