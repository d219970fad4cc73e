"""Entries in S3, against the real rclone server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from c2d_adapter import storage
from c2d_adapter.storage import ENTRY, WEIGHTS, ObjectStore
from control_plane.errors import BadInput, IntegrityBroken, NotFound, Refused, Unavailable
from converters.entry import ModelDigest, model_digest
from converters.errors import EntryBroken, WeightsBroken
from converters.weights_folder import weights_digest
from tests.converters.test_weights_folder import make_weights
from tests.fixtures_objects import S3Server, running_s3, s3

__all__ = ["s3"]


def make_entry(folder: Path, weights: bytes = b"weights" * 500) -> ModelDigest:
    (folder / "1").mkdir(parents=True)
    (folder / "entry.json").write_text("{}")
    (folder / "1" / "model.onnx").write_bytes(weights)
    (folder / "1" / "empty").write_bytes(b"")
    return model_digest(folder)


def stored_file(server: Path, digest: ModelDigest, name: str) -> Path:
    return server / "objects" / "posthuman" / "entries" / digest[2:] / name


class Breaking:
    """A client whose one method fails once: before it is done, or after."""

    def __init__(self, client: Any, method: str, is_done_first: bool, nth: int = 1) -> None:
        self._client, self._method, self._is_done_first, self._left = client, method, is_done_first, nth

    def __getattr__(self, name: str) -> Any:
        real: Callable[..., Any] = getattr(self._client, name)
        if name != self._method:
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                if self._is_done_first:
                    real(*arguments, **named)
                raise EndpointConnectionError(endpoint_url="http://127.0.0.1")
            return real(*arguments, **named)

        return call


@pytest.mark.live
def test_an_entry_comes_back_byte_for_byte(s3: S3Server, tmp_path: Path) -> None:
    digest = make_entry(tmp_path / "entry")
    store = s3.store()
    assert store.put(ENTRY, tmp_path / "entry", digest) > 0
    assert store.holds(ENTRY, digest)
    restored = store.get(ENTRY, digest, tmp_path / "restored")
    assert model_digest(restored) == digest


@pytest.mark.live
def test_storing_twice_sends_nothing_the_second_time(s3: S3Server, tmp_path: Path) -> None:
    digest = make_entry(tmp_path / "entry", b"twice")
    assert s3.store().put(ENTRY, tmp_path / "entry", digest) > 0
    assert s3.store().put(ENTRY, tmp_path / "entry", digest) == 0


@pytest.mark.live
@pytest.mark.parametrize("is_done_first", [False, True], ids=["it failed", "it failed after it was done"])
@pytest.mark.parametrize(("method", "nth"), [("create_bucket", 1), ("put_object", 1), ("put_object", 3), ("put_object", 4)])
def test_a_broken_upload_is_whole_after_a_repeat(s3: S3Server, tmp_path: Path, method: str, nth: int, is_done_first: bool) -> None:
    digest = make_entry(tmp_path / "entry", f"{method} {nth} {is_done_first}".encode())
    store = s3.store(bucket=f"broken-{method.replace('_', '-')}-{nth}-{is_done_first}".lower())
    healthy = store._client
    store._client = Breaking(healthy, method, is_done_first, nth)
    with pytest.raises(Unavailable):
        store.put(ENTRY, tmp_path / "entry", digest)
    store._client = healthy
    assert store.holds(ENTRY, digest) is ((method, nth) == ("put_object", 4) and is_done_first)
    store.put(ENTRY, tmp_path / "entry", digest)
    assert store.holds(ENTRY, digest)
    assert model_digest(store.get(ENTRY, digest, tmp_path / "restored")) == digest


@pytest.mark.live
def test_a_file_cut_short_on_the_server_is_sent_again(tmp_path: Path) -> None:
    digest = make_entry(tmp_path / "entry", b"cut short" * 100)
    with running_s3(tmp_path / "s3") as server:
        server.store().put(ENTRY, tmp_path / "entry", digest)
    stored_file(tmp_path / "s3", digest, "files/1/model.onnx").write_bytes(b"cut")
    with running_s3(tmp_path / "s3") as server:  # a new server: the old one remembers sizes
        assert server.store().put(ENTRY, tmp_path / "entry", digest) == 900


@pytest.mark.live
def test_large_files_go_up_in_parts(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MULTIPART_BYTES", 5 << 20)
    digest = make_entry(tmp_path / "entry", bytes(range(256)) * (12 << 12))
    assert s3.store().put(ENTRY, tmp_path / "entry", digest) > 12 << 20
    assert model_digest(s3.store().get(ENTRY, digest, tmp_path / "restored")) == digest


@pytest.mark.live
def test_bytes_changed_on_the_server_are_not_restored(s3: S3Server, tmp_path: Path) -> None:
    digest = make_entry(tmp_path / "entry", b"honest weights")
    s3.store().put(ENTRY, tmp_path / "entry", digest)
    stored_file(s3.folder, digest, "files/1/model.onnx").write_bytes(b"foreign weight")
    with pytest.raises(IntegrityBroken, match=digest):
        s3.store().get(ENTRY, digest, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


@pytest.mark.live
@pytest.mark.parametrize(
    ("text", "reason"), [('[["../../../etc/passwd", 1, "00"]]', "has digest"), ("not json", "damaged"), ('[["a"]]', "damaged")]
)
def test_a_changed_manifest_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    digest = make_entry(tmp_path / "entry", b"honest manifest")
    with running_s3(tmp_path / "s3") as server:
        server.store().put(ENTRY, tmp_path / "entry", digest)
    stored_file(tmp_path / "s3", digest, "manifest.json").write_text(text)
    with running_s3(tmp_path / "s3") as server, pytest.raises(IntegrityBroken, match=reason):
        server.store().get(ENTRY, digest, tmp_path / "restored")


@pytest.mark.live
def test_swapped_weights_on_disk_are_replaced_and_the_derived_file_is_kept(s3: S3Server, tmp_path: Path) -> None:
    folder = tmp_path / "entry"
    digest = make_entry(folder, b"weights to swap")
    s3.store().put(ENTRY, folder, digest)
    (folder / "config.pbtxt").write_text("derived")
    (folder / "1" / "model.onnx").write_bytes(b"swapped weights")
    (folder / "1" / "added").write_bytes(b"x")
    assert model_digest(s3.store().get(ENTRY, digest, folder)) == digest
    assert (folder / "config.pbtxt").read_text() == "derived"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entry"]


@pytest.mark.live
def test_an_unknown_digest_is_not_found(s3: S3Server, tmp_path: Path) -> None:
    digest = make_entry(tmp_path / "entry", b"never stored")
    s3.store(bucket="empty").put(ENTRY, tmp_path / "entry", digest)
    with pytest.raises(NotFound, match="no entry"):
        s3.store(bucket="empty").get(ENTRY, ModelDigest("0x" + "0" * 64), tmp_path / "restored")


@pytest.mark.live
def test_a_wrong_secret_is_refused_and_not_retried_as_unavailable(s3: S3Server) -> None:
    with pytest.raises(Refused, match="SignatureDoesNotMatch"):
        ObjectStore(s3.url, "posthuman", s3.key_id, "not the secret").holds(ENTRY, ModelDigest("0x" + "0" * 64))


@pytest.mark.live
def test_a_server_that_is_down_is_unavailable(tmp_path: Path) -> None:
    with running_s3(tmp_path) as server:
        store = server.store()
    with pytest.raises(Unavailable, match="does not answer"):
        store.holds(ENTRY, ModelDigest("0x" + "0" * 64))


@pytest.mark.live
def test_an_entry_outlives_the_server(tmp_path: Path) -> None:
    digest = make_entry(tmp_path / "entry")
    with running_s3(tmp_path / "s3") as server:
        server.store().put(ENTRY, tmp_path / "entry", digest)
    with running_s3(tmp_path / "s3") as server:
        assert server.store().put(ENTRY, tmp_path / "entry", digest) == 0
        assert model_digest(server.store().get(ENTRY, digest, tmp_path / "restored")) == digest


def test_an_entry_with_another_digest_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    make_entry(tmp_path / "entry")
    store = ObjectStore("http://127.0.0.1:9", "posthuman", "key-id-of-nobody", "secret-of-nobody")
    with pytest.raises(EntryBroken, match="expected entry with digest"):
        store.put(ENTRY, tmp_path / "entry", ModelDigest("0x" + "1" * 64))


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "a/../../outside", "", "a//b"])
def test_a_path_that_leaves_the_folder_is_refused(path: str) -> None:
    with pytest.raises(BadInput, match="manifest path"):
        storage._safe(path)


@pytest.mark.live
def test_weights_are_kept_beside_entries_under_their_own_digest(s3: S3Server, tmp_path: Path) -> None:
    folder = make_weights(tmp_path / "weights")
    digest = weights_digest(folder)
    assert s3.store().put(WEIGHTS, folder, digest) > 0
    assert (s3.folder / "objects" / "posthuman" / "weights" / digest[2:] / "files" / "config.json").is_file()
    assert (s3.store().holds(WEIGHTS, digest), s3.store().holds(ENTRY, digest)) == (True, False)
    assert weights_digest(s3.store().get(WEIGHTS, digest, tmp_path / "restored")) == digest


def test_a_folder_that_is_no_weights_is_not_sent(tmp_path: Path) -> None:
    folder = make_weights(tmp_path / "weights")
    digest = weights_digest(folder)
    (folder / "model.py").write_text("import os")
    store = ObjectStore("http://127.0.0.1:9", "posthuman", "key-id-of-nobody", "secret-of-nobody")
    with pytest.raises(WeightsBroken, match=r"model\.py"):
        store.put(WEIGHTS, folder, digest)


@pytest.mark.live
@pytest.mark.parametrize("is_done_first", [False, True], ids=["it failed", "it failed after it was done"])
@pytest.mark.parametrize(
    ("method", "nth", "left"),
    [("create_multipart_upload", 1, 3), ("upload_part", 2, 2), ("upload_part", 3, 1), ("complete_multipart_upload", 1, 0)],
)
def test_a_large_file_that_was_interrupted_goes_on_behind_its_last_part(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, nth: int, left: int, is_done_first: bool
) -> None:
    part = 5 << 20
    monkeypatch.setattr(storage, "MULTIPART_BYTES", part)
    content = f"{method} {nth} {is_done_first}".encode().ljust(32) * (2 * part // 32) + b"end"
    folder = make_weights(tmp_path / "weights", **{"model.safetensors": content})
    digest, store = weights_digest(folder), s3.store()
    healthy = store._client
    store._client = Breaking(healthy, method, is_done_first, nth)
    with pytest.raises(Unavailable):
        store.put(WEIGHTS, folder, digest)
    store._client = healthy
    expected = {3: len(content), 2: part + 3, 1: 3, 0: 0}[left]
    if is_done_first and method == "upload_part":
        expected -= part if nth == 2 else 3  # the part was there, only its answer was lost
    assert store.put(WEIGHTS, folder, digest) == expected
    assert weights_digest(store.get(WEIGHTS, digest, tmp_path / "restored")) == digest
    assert healthy.list_multipart_uploads(Bucket="posthuman").get("Uploads", []) == []


@pytest.mark.live
def test_parts_that_another_content_left_are_found_out_and_sent_anew(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = 5 << 20
    monkeypatch.setattr(storage, "MULTIPART_BYTES", part)
    folder = make_weights(tmp_path / "weights", **{"model.safetensors": b"honest weight" * part})
    folder.joinpath("model.safetensors").write_bytes(b"h" * (part + 1))
    digest, store = weights_digest(folder), s3.store()
    key = f"weights/{digest[2:]}/files/model.safetensors"
    upload = store._client.create_multipart_upload(Bucket="posthuman", Key=key)["UploadId"]
    store._client.upload_part(Bucket="posthuman", Key=key, UploadId=upload, PartNumber=1, Body=b"x" * part)
    with pytest.raises(IntegrityBroken, match="read back"):
        store.put(WEIGHTS, folder, digest)
    assert not store.holds(WEIGHTS, digest)
    assert store.put(WEIGHTS, folder, digest) == part + 1
    assert weights_digest(store.get(WEIGHTS, digest, tmp_path / "restored")) == digest


class Encrypting:
    """A client of a server that encrypts when asked: the real one, whose `head_object` says what `put_object` was asked for."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.asked: dict[str, dict[str, str]] = {}
        self.is_encrypting = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def _remember(self, Key: str, named: Any) -> None:  # noqa: N803  # the client's own name
        self.asked[Key] = {name: named[name] for name in ("ServerSideEncryption", "SSEKMSKeyId") if name in named}

    def put_object(self, **named: Any) -> Any:
        self._remember(named["Key"], named)
        return self._client.put_object(**named)

    def create_multipart_upload(self, **named: Any) -> Any:
        self._remember(named["Key"], named)
        return self._client.create_multipart_upload(**named)

    def head_object(self, **named: Any) -> Any:
        answer = self._client.head_object(**named)
        answer.pop("ServerSideEncryption", None)  # rclone repeats what it was asked for, and does not encrypt
        return answer | (self.asked.get(named["Key"], {}) if self.is_encrypting else {})


@pytest.mark.live
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("AES256", {"ServerSideEncryption": "AES256"}),
        ("aws:kms", {"ServerSideEncryption": "aws:kms"}),
        ("aws:kms:alias/models", {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/models"}),
    ],
)
def test_every_object_is_asked_to_be_encrypted(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, words: dict[str, str]
) -> None:
    monkeypatch.setattr(storage, "MULTIPART_BYTES", 5 << 20)
    folder = make_weights(tmp_path / "weights", **{"model.safetensors": asked.encode().ljust(32) * (6 << 15)})
    digest = weights_digest(folder)
    store = ObjectStore(s3.url, "posthuman", s3.key_id, s3.secret, encryption=asked)
    store._client = encrypting = Encrypting(store._client)
    store.put(WEIGHTS, folder, digest)
    names = {"files/config.json", "files/model.safetensors", "manifest.json"}
    assert encrypting.asked == {f"weights/{digest[2:]}/{name}": words for name in names}


@pytest.mark.live
def test_a_store_that_does_not_encrypt_though_asked_is_refused_and_keeps_nothing(s3: S3Server, tmp_path: Path) -> None:
    folder = make_weights(tmp_path / "weights", **{"model.safetensors": b"to be encrypted"})
    digest = weights_digest(folder)
    store = ObjectStore(s3.url, "posthuman", s3.key_id, s3.secret, encryption="AES256")
    store._client = encrypting = Encrypting(store._client)
    encrypting.is_encrypting = False
    with pytest.raises(Refused, match="expected it to encrypt with AES256, it says nothing"):
        store.put(WEIGHTS, folder, digest)
    assert not store.holds(WEIGHTS, digest)
    assert not list((s3.folder / "objects" / "posthuman" / "weights" / digest[2:]).rglob("*.safetensors"))


def test_an_encryption_that_no_store_has_is_refused_at_once() -> None:
    with pytest.raises(BadInput, match="AES256, aws:kms"):
        ObjectStore("http://127.0.0.1:9", "posthuman", "key-id", "secret", encryption="rot13")
