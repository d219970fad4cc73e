"""The files of a service: what its publisher encrypted to this provider.

In: a service of a DDO, the NFT that the DDO stands on. Out: where the files are. This module must never show a file's address,
and never open one asset's files for another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from control_plane.did import Address, parse_address
from control_plane.errors import BadInput
from control_plane.provider.documents import Decryptor
from control_plane.provider.fetch import RemoteFile

MOST_FILES = 100
_METHODS = ("GET", "POST")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_NAME = re.compile(r"[^A-Za-z0-9._-]")


def read_files(service: Mapping[str, Any], nft: Address, key: Decryptor) -> tuple[RemoteFile, ...]:
    """Raises BadInput with code files_unreadable: not encrypted to us, of a kind that is not served here, or another asset's.

    The encrypted part names the NFT and the datatoken it is for: whoever copies it into a document of his own gets nothing. Lists
    without those names (DDO 4.0.0) could be copied, so they are refused.
    """
    try:
        record = json.loads(key.decrypt(bytes.fromhex(str(service["files"]).removeprefix("0x"))))
    except (BadInput, ValueError, RecursionError) as error:
        raise _unreadable() from error
    if not isinstance(record, dict) or not isinstance(record.get("files"), list) or not 0 < len(record["files"]) <= MOST_FILES:
        raise _unreadable()
    try:
        names = (parse_address(record.get("nftAddress")), parse_address(record.get("datatokenAddress")))
        if names != (nft, parse_address(service["datatokenAddress"])):
            raise _unreadable()
    except BadInput as error:
        raise _unreadable() from error
    return tuple(read_file(each) for each in record["files"])


def read_file(record: object) -> RemoteFile:
    """A file object of type `url`, as clients write it. Raises BadInput: ipfs, arweave, graphql and contracts are not served
    here.
    """
    if not isinstance(record, Mapping) or record.get("type", "url") != "url":
        raise _unreadable()
    url, method, headers = record.get("url"), record.get("method") or "GET", record.get("headers") or {}
    if not isinstance(url, str) or len(url) > 4096 or not url.isascii() or not url.isprintable() or " " in url:
        raise _unreadable()
    if str(method).upper() not in _METHODS or not isinstance(headers, Mapping) or len(headers) > 16:
        raise _unreadable()
    for name, value in headers.items():
        is_right = isinstance(name, str) and _HEADER.fullmatch(name) and isinstance(value, str) and len(value) <= 4096
        if not is_right or not value.isprintable() or not value.isascii():
            raise _unreadable()
    return RemoteFile(url, str(method).upper(), dict(headers))


def file_name(file: RemoteFile, index: int) -> str:
    """What a download is called: the last part of the path where that is plain, else its number."""
    name = _NAME.sub("_", unquote(urlsplit(file.url).path).rsplit("/", 1)[-1])[:100].strip(".")
    return name if name and ".." not in name else f"file{index}"


def _unreadable() -> BadInput:
    expected = "files of type url, encrypted to this provider for this very NFT and datatoken"
    return BadInput("files", expected, "others", code="files_unreadable")
