"""A document is given out only as what it is: the DDO of the NFT that it stands on, byte for byte."""

from __future__ import annotations

import hashlib
import json
import lzma

import pytest

from control_plane.chain.ddo import MAX_DOCUMENT_BYTES, canonical, encrypt
from control_plane.did import Did
from control_plane.errors import BadInput
from control_plane.provider.documents import open_document
from tests.fixtures_market import wallet_of

KEY = wallet_of("operator")
DID = Did("did:op:" + "a" * 64)
DOCUMENT = {"id": DID, "metadata": {"name": "Wörter"}}
CLEAR = json.dumps(DOCUMENT).encode()


def sealed(clear: bytes, flags: int, to: bytes = KEY.public_key) -> bytes:
    packed = lzma.compress(clear) if flags & 1 else clear
    return encrypt(to, packed) if flags & 2 else packed


def opened(flags: int, data: bytes, clear: bytes = CLEAR) -> bytes:
    return open_document(flags, data, hashlib.sha256(clear).digest(), DID, KEY).clear


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_a_document_is_opened_as_its_flags_say(flags: int) -> None:
    assert opened(flags, sealed(CLEAR, flags)) == CLEAR
    assert opened(flags, b"0x" + sealed(CLEAR, flags).hex().encode()) == CLEAR


def test_the_bytes_are_given_as_they_were_hashed() -> None:
    spaced = json.dumps(DOCUMENT, indent=3).encode()
    assert opened(3, sealed(spaced, 3), spaced) == spaced


@pytest.mark.parametrize(
    "clear",
    [
        canonical({"datatokenAddress": "0x00", "nftAddress": "0x00", "files": [{"type": "url", "url": "https://secret.example"}]}),
        canonical({**DOCUMENT, "id": "did:op:" + "b" * 64}),
        canonical([DOCUMENT]),  # type: ignore[arg-type]
        b'"https://secret.example"',
        b"not JSON",
        b"[" * 100_000,
        CLEAR[:-1] + b', "deep": ' + b"[" * 40 + b"]" * 40 + b"}",
        CLEAR[:-1] + b', "deep": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
        CLEAR[:-1] + b', "number": NaN}',
        CLEAR[:-1] + b', "number": -Infinity}',
        CLEAR[:-1] + b', "number": 1e999}',
        CLEAR[:-1] + b', "number": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_the_document_of_this_nft_is_never_opened(clear: bytes) -> None:
    """Anybody can write another asset's encrypted `files` on an NFT of his own, with the right hash if he can guess it."""
    with pytest.raises(BadInput):
        opened(2, sealed(clear, 2), clear)


def test_numbers_and_lists_that_json_has_are_kept() -> None:
    clear = CLEAR[:-1] + b', "numbers": [1, 1.5, -2e10, [[[]]]]}'
    assert open_document(0, clear, hashlib.sha256(clear).digest(), DID, KEY).document["numbers"] == [1, 1.5, -2e10, [[[]]]]


def test_another_hash_another_key_and_damaged_bytes_are_refused() -> None:
    for flags, data, clear in (
        (3, sealed(CLEAR, 3), b"other"),
        (3, sealed(CLEAR, 3, wallet_of("mallory").public_key), CLEAR),
        (3, sealed(CLEAR, 2), CLEAR),
        (1, b"\x00" * 40, CLEAR),
        (2, b"", CLEAR),
    ):
        with pytest.raises(BadInput):
            opened(flags, data, clear)


def test_a_document_that_unpacks_to_more_than_a_document_is_refused() -> None:
    bomb = b" " * (MAX_DOCUMENT_BYTES + 1)
    with pytest.raises(BadInput, match="at most"):
        opened(1, lzma.compress(bomb), bomb)


def asks_for(size: int) -> bytes:
    """A few bytes whose header asks for a dictionary of `size` bytes."""
    packed = bytearray(lzma.compress(CLEAR, format=lzma.FORMAT_ALONE))
    packed[1:5] = size.to_bytes(4, "little")
    return bytes(packed)


def test_a_document_that_asks_for_gigabytes_to_be_unpacked_is_refused() -> None:
    assert opened(1, asks_for(1 << 20)) == CLEAR
    with pytest.raises(BadInput, match="LZMA"):
        opened(1, asks_for(0xFFFFFFFF))


def test_a_document_may_be_packed_as_hard_as_can_be() -> None:
    assert opened(1, lzma.compress(CLEAR, preset=9 | lzma.PRESET_EXTREME)) == CLEAR
