"""Entries in S3, by model digest.

In: an entry's folder or a model digest. Out: the same bytes, on the other side. This module must never hand out a presigned URL
(whoever holds one holds the weights), and must never trust what it fetched before hashing it.

Layout of the bucket:

    entries/<64 hex digits>/files/<path in the entry>
    entries/<64 hex digits>/manifest.json      written last, when every file is there and was read back
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as ConnectionLost

from control_plane.errors import BadInput, IntegrityBroken, NotFound, Refused, Unavailable
from converters.entry import DERIVED, ManifestLine, ModelDigest, digest_of, manifest, model_digest
from converters.errors import EntryBroken

MULTIPART_BYTES = 64 << 20
"""Files above this go up in parts of this size: S3 takes 5 GB in one piece, and a broken connection repeats one part only."""
_READ_BYTES = 1 << 20
_ABSENT = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
_TRY_AGAIN = frozenset({"500", "502", "503", "504", "InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout"})


class ObjectStore:
    """One bucket of one S3 server, addressed by path (`url/bucket/key`).

    Every method raises Unavailable when the server does not answer (try again: nothing half-done counts) and Refused when it
    says no (wrong keys, no such bucket and no right to make one).
    """

    def __init__(self, url: str, bucket: str, key_id: str, secret: str, *, timeout_s: float = 60.0) -> None:
        self._bucket = bucket
        self._where = f"{url}/{bucket}"
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                signature_version="s3v4",
                connect_timeout=5.0,
                read_timeout=timeout_s,
                retries={"mode": "standard", "total_max_attempts": 3},
                # boto3 1.36 and later add CRC32 trailers, which not every S3 server reads; SHA-256 after the put is ours
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._transfer = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4)

    def put_entry(self, folder: Path, digest: ModelDigest) -> int:
        """Store an entry; returns how many bytes were sent.

        Again: sends nothing when the manifest is there, and after a broken try only the files that are not yet there whole.
        Raises EntryBroken when the folder's digest is not `digest`.
        """
        lines = manifest(folder)
        found = digest_of(lines)
        if found != digest:
            raise EntryBroken(f"{folder}: expected model digest {digest}, found {found}")
        with self._errors():
            self._make_bucket()
            if self._read_manifest(digest) == lines and all(self._size(self._key(digest, line)) == line.size for line in lines):
                return 0
            sent = sum(self._put(folder / line.path, self._key(digest, line), line) for line in lines)
            body = json.dumps([[line.path, line.size, line.sha256] for line in lines]).encode("utf-8")
            self._client.put_object(Bucket=self._bucket, Key=_manifest_key(digest), Body=body, ContentType="application/json")
        return sent

    def get_entry(self, digest: ModelDigest, into: Path) -> Path:
        """Restore an entry to the folder `into`, checked byte for byte; returns `into`.

        The old folder is replaced in one rename after every file was hashed, so a broken try changes nothing. The derived
        config.pbtxt is kept. Again: does nothing when the folder already holds these bytes.
        Raises NotFound when the store does not have this digest, IntegrityBroken when its bytes are not the digest's.
        """
        if _holds(into, digest):
            return into
        with self._errors():
            lines = self._read_manifest(digest)
            if lines is None:
                raise NotFound(f"{self._where}: no entry with model digest {digest}")
            if digest_of(lines) != digest:
                raise IntegrityBroken(f"{self._where}: the manifest of {digest} has digest {digest_of(lines)}")
            scratch = into.parent / f".{into.name}.restoring"
            shutil.rmtree(scratch, ignore_errors=True)
            for line in lines:
                target = scratch / _safe(line.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file(self._bucket, self._key(digest, line), str(target), Config=self._transfer)
        found = model_digest(scratch)
        if found != digest:
            shutil.rmtree(scratch)
            raise IntegrityBroken(f"{self._where}: the bytes stored for {digest} have model digest {found}")
        _replace(into, scratch)
        return into

    def holds(self, digest: ModelDigest) -> bool:
        """Whether the entry is here whole: its manifest is, and that is written last."""
        with self._errors():
            return self._read_manifest(digest) is not None

    def _put(self, path: Path, key: str, line: ManifestLine) -> int:
        if self._size(key) == line.size and self._sha256(key) == line.sha256:
            return 0
        self._client.upload_file(str(path), self._bucket, key, Config=self._transfer)
        found = self._sha256(key)
        if found != line.sha256:
            raise IntegrityBroken(f"{self._where}/{key}: expected SHA-256 {line.sha256} after the upload, read back {found}")
        return line.size

    def _size(self, key: str) -> int | None:
        try:
            return int(self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])
        except ClientError as error:
            if _code(error) in _ABSENT:
                return None
            raise

    def _sha256(self, key: str) -> str:
        # Read back whole: ETags are MD5 on some servers and for some uploads only, and metadata does not outlive every server.
        hashed = hashlib.sha256()
        body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
        for block in body.iter_chunks(_READ_BYTES):
            hashed.update(block)
        return hashed.hexdigest()

    def _read_manifest(self, digest: ModelDigest) -> tuple[ManifestLine, ...] | None:
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=_manifest_key(digest))["Body"].read()
        except ClientError as error:
            if _code(error) in _ABSENT:
                return None
            raise
        try:
            return tuple(ManifestLine(str(path), int(size), str(sha256)) for path, size, sha256 in json.loads(body))
        except (ValueError, TypeError) as error:
            raise IntegrityBroken(f"{self._where}: the manifest of {digest} is damaged: {error}") from error

    def _make_bucket(self) -> None:
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if _code(error) not in _ABSENT:
                raise
            self._client.create_bucket(Bucket=self._bucket)

    def _key(self, digest: ModelDigest, line: ManifestLine) -> str:
        return f"entries/{digest[2:]}/files/{_safe(line.path)}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (ConnectionLost, HTTPClientError) as error:
            raise Unavailable(f"{self._where}: the S3 server does not answer ({type(error).__name__})") from error
        except ClientError as error:
            if _code(error) in _TRY_AGAIN:
                raise Unavailable(f"{self._where}: the S3 server answered {_code(error)}") from error
            raise Refused(f"{self._where}: the S3 server refused: {_code(error)}") from error
        except BotoCoreError as error:
            raise Unavailable(f"{self._where}: {type(error).__name__}") from error


def _holds(folder: Path, digest: ModelDigest) -> bool:
    try:
        return model_digest(folder) == digest
    except EntryBroken:
        return False


def _replace(folder: Path, scratch: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = folder.parent / f".{folder.name}.replaced"
    shutil.rmtree(old, ignore_errors=True)
    if (folder / DERIVED).is_file():
        shutil.copyfile(folder / DERIVED, scratch / DERIVED)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _manifest_key(digest: ModelDigest) -> str:
    return f"entries/{digest[2:]}/manifest.json"


def _safe(path: str) -> str:
    """A manifest comes back from a server: no path of it may leave the folder."""
    parsed = PurePosixPath(path)
    if parsed.is_absolute() or not parsed.parts or ".." in parsed.parts or str(parsed) != path:
        raise BadInput("manifest path", "a relative path without '..'", path)
    return path


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
