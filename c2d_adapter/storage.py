"""Entries and weights in S3, by their digests.

In: a folder, or a digest. Out: the same bytes, on the other side. This module must never hand out a presigned URL
(whoever holds one holds the weights), and must never trust what it fetched before hashing it.

Layout of the bucket:

    entries/<64 hex digits>/files/<path in the entry>
    entries/<64 hex digits>/manifest.json      written last, when every file is there and was read back
    weights/<64 hex digits>/...                the same
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as ConnectionLost

from control_plane.errors import BadInput, IntegrityBroken, NotFound, Refused, Unavailable
from converters.entry import DERIVED, digest_of, manifest
from converters.errors import ConverterError, EntryBroken, WeightsBroken
from converters.manifest import ManifestLine
from converters.weights_folder import weights_digest_of, weights_manifest

Digest = str
"""A `ModelDigest` or a `WeightsDigest`: `0x` and 64 lower-case hex digits."""


@dataclass(frozen=True)
class Kind:
    """What is stored: its name in messages, its folder in the bucket, how its files are listed and what their list is called.

    derived: a file beside them that a restore leaves as it is. broken: what `manifest` raises.
    """

    name: str
    prefix: str
    manifest: Callable[[Path], tuple[ManifestLine, ...]]
    digest_of: Callable[[tuple[ManifestLine, ...]], Digest]
    broken: type[ConverterError]
    derived: str | None = None


ENTRY = Kind("entry", "entries", manifest, digest_of, EntryBroken, DERIVED)
WEIGHTS = Kind("weights", "weights", weights_manifest, weights_digest_of, WeightsBroken)

MULTIPART_BYTES = 64 << 20
"""Files above this go up in parts of this size: S3 takes 5 GB in one piece, and a broken try goes on behind its last part."""
_READ_BYTES = 1 << 20
_ABSENT = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NotFound"})
_TRY_AGAIN = frozenset({"500", "502", "503", "504", "InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout"})


class ObjectStore:
    """One bucket of one S3 server, addressed by path (`url/bucket/key`).

    encryption: how the server shall encrypt what it keeps: `AES256`, `aws:kms`, `aws:kms:<key id>`, or nothing.

    Every method raises Unavailable when the server does not answer (try again: nothing half-done counts) and Refused when it
    says no (wrong keys, no such bucket and no right to make one), or does not encrypt though it was asked to.
    """

    def __init__(self, url: str, bucket: str, key_id: str, secret: str, *, timeout_s: float = 60.0, encryption: str = "") -> None:
        self._bucket = bucket
        self._encryption = _encryption(encryption)
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

    def put(self, kind: Kind, folder: Path, digest: Digest) -> int:
        """Store a folder; returns how many bytes were sent.

        Again: sends nothing when the manifest is there, and after a broken try only the files, and of a large file only the parts,
        that are not yet there whole.
        Raises EntryBroken or WeightsBroken when the folder's digest is not `digest`.
        """
        lines = kind.manifest(folder)
        found = kind.digest_of(lines)
        if found != digest:
            raise kind.broken(f"{folder}: expected {kind.name} with digest {digest}, found {found}")
        with self._errors():
            self._make_bucket()
            if self._read_manifest(kind, digest) == lines and all(
                self._size(_key(kind, digest, line)) == line.size for line in lines
            ):
                return 0
            sent = sum(self._put(folder / line.path, _key(kind, digest, line), line) for line in lines)
            body = json.dumps([[line.path, line.size, line.sha256] for line in lines]).encode("utf-8")
            key = _manifest_key(kind, digest)
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType="application/json", **self._encryption)
        return sent

    def get(self, kind: Kind, digest: Digest, into: Path) -> Path:
        """Restore the folder `into`, checked byte for byte; returns `into`.

        The old folder is replaced in one rename after every file was hashed, so a broken try changes nothing. An entry's derived
        config.pbtxt is kept. Again: does nothing when the folder already holds these bytes.
        Raises NotFound when the store does not have this digest, IntegrityBroken when its bytes are not the digest's.
        """
        if _digest_in(kind, into) == digest:
            return into
        with self._errors():
            lines = self._read_manifest(kind, digest)
            if lines is None:
                raise NotFound(f"{self._where}: no {kind.name} with digest {digest}")
            if kind.digest_of(lines) != digest:
                raise IntegrityBroken(f"{self._where}: the manifest of {digest} has digest {kind.digest_of(lines)}")
            scratch = into.parent / f".{into.name}.restoring"
            shutil.rmtree(scratch, ignore_errors=True)
            for line in lines:
                target = scratch / _safe(line.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file(self._bucket, _key(kind, digest, line), str(target), Config=self._transfer)
        found = _digest_in(kind, scratch)
        if found != digest:
            shutil.rmtree(scratch)
            raise IntegrityBroken(f"{self._where}: the bytes stored for {digest} have digest {found}")
        _replace(into, scratch, kind.derived)
        return into

    def holds(self, kind: Kind, digest: Digest) -> bool:
        """Whether it is here whole: its manifest is, and that is written last."""
        with self._errors():
            return self._read_manifest(kind, digest) is not None

    def _put(self, path: Path, key: str, line: ManifestLine) -> int:
        if self._size(key) == line.size and self._sha256(key) == line.sha256:
            return 0
        if line.size > MULTIPART_BYTES:
            sent = self._put_parts(path, key, line.size)
        else:
            with path.open("rb") as stream:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=stream, **self._encryption)
            sent = line.size
        self._require_encrypted(key)
        found = self._sha256(key)
        if found != line.sha256:
            self._client.delete_object(Bucket=self._bucket, Key=key)  # the next try must not go on with these parts
            raise IntegrityBroken(f"{self._where}/{key}: expected SHA-256 {line.sha256} after the upload, read back {found}")
        return sent

    def _put_parts(self, path: Path, key: str, size: int) -> int:
        """Send what an earlier try has not sent yet; the key names the content, so its parts are the same ones."""
        upload, there = self._begun(key)
        parts: list[dict[str, Any]] = []
        sent = 0
        with path.open("rb") as stream:
            for number, start in enumerate(range(0, size, MULTIPART_BYTES), 1):
                length = min(MULTIPART_BYTES, size - start)
                held = there.get(number)
                if held is None or held["Size"] != length:
                    stream.seek(start)
                    held = self._client.upload_part(
                        Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=stream.read(length)
                    )
                    sent += length
                parts.append({"PartNumber": number, "ETag": held["ETag"]})
        self._client.complete_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
        return sent

    def _begun(self, key: str) -> tuple[str, Mapping[int, Mapping[str, Any]]]:
        """An upload of this key that a broken try left, with its parts by number; otherwise a new one without any."""
        try:
            listed = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key).get("Uploads", [])
            for upload in (str(each["UploadId"]) for each in listed if each["Key"] == key):
                pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload)
                return upload, {int(part["PartNumber"]): part for page in pages for part in page.get("Parts", [])}
        except ClientError as error:
            if _code(error) not in _ABSENT:  # rclone 1.75 answers so in place of an empty list
                raise
        begun = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, **self._encryption)
        return str(begun["UploadId"]), {}

    def _require_encrypted(self, key: str) -> None:
        asked = self._encryption.get("ServerSideEncryption")
        if asked is None:
            return
        found = self._client.head_object(Bucket=self._bucket, Key=key).get("ServerSideEncryption")
        if found != asked:
            self._client.delete_object(Bucket=self._bucket, Key=key)
            raise Refused(f"{self._where}: expected it to encrypt with {asked}, it says {found or 'nothing'}", code="not_encrypted")

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

    def _read_manifest(self, kind: Kind, digest: Digest) -> tuple[ManifestLine, ...] | None:
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=_manifest_key(kind, digest))["Body"].read()
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


def _digest_in(kind: Kind, folder: Path) -> Digest:
    """The digest of what a folder holds, or why it has none."""
    try:
        return kind.digest_of(kind.manifest(folder))
    except kind.broken as error:
        return str(error)


def _replace(folder: Path, scratch: Path, derived: str | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = folder.parent / f".{folder.name}.replaced"
    shutil.rmtree(old, ignore_errors=True)
    if derived is not None and (folder / derived).is_file():
        shutil.copyfile(folder / derived, scratch / derived)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _key(kind: Kind, digest: Digest, line: ManifestLine) -> str:
    return f"{kind.prefix}/{digest[2:]}/files/{_safe(line.path)}"


def _manifest_key(kind: Kind, digest: Digest) -> str:
    return f"{kind.prefix}/{digest[2:]}/manifest.json"


def _encryption(text: str) -> Mapping[str, str]:
    """S3's words for what was asked. Raises BadInput for anything else."""
    name, _, key = text.partition(":kms:") if text.startswith("aws:kms:") else (text, "", "")
    if not text:
        return {}
    if key:
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
    if name not in ("AES256", "aws:kms"):
        raise BadInput("POSTHUMAN_S3_ENCRYPTION", "AES256, aws:kms, aws:kms:<key id>, or nothing", text)
    return {"ServerSideEncryption": name}


def _safe(path: str) -> str:
    """A manifest comes back from a server: no path of it may leave the folder."""
    parsed = PurePosixPath(path)
    if parsed.is_absolute() or not parsed.parts or ".." in parsed.parts or str(parsed) != path:
        raise BadInput("manifest path", "a relative path without '..'", path)
    return path


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
