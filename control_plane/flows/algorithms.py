"""Publish the market's own algorithms: one free Ocean asset for each kind of job.

In: the operator's wallet. Out: each kind's data NFT. This module must never publish a program.

A document is sealed with a fresh key each time, so it is kept on disk before it is sent: `<folder>/<kind>.json`. A crash leaves
either no file (nothing was sent), or the very bytes that were, or may have been, sent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.chain import ddo
from control_plane.chain.ledger import Created, Ledger, Terms, Wallet
from control_plane.did import Address, Bytes32, TokenWei, UnixSeconds, parse_address, parse_bytes32
from control_plane.errors import BadInput, IntegrityBroken
from control_plane.jobs.algorithms import description, section, statement
from control_plane.jobs.job import canonical_json
from control_plane.jobs.states import Kind

VERSION = 1
PATH = "/v1/algorithms/"
"""Where a market shows the file of each algorithm."""


@dataclass(frozen=True)
class Kept:
    """A sealed document. about: the digest of all that it was made from."""

    about: Bytes32
    nft: Address
    document: str
    clear_hash: Bytes32
    endpoint: str


def publish_algorithms(
    ledger: Ledger,
    wallet: Wallet,
    operator_key: bytes,
    public_url: str,
    folder: Path,
    clock: Callable[[], float],
) -> Mapping[Kind, Address]:
    """The data NFT of each kind of job. folder: where sealed documents are kept. operator_key: 64-byte public key of `wallet`.

    Raises what the ledger raises; run it again then.
    Again: finds what was made, and writes a document only where it would now say something else.
    """
    return {kind: _publish(ledger, wallet, operator_key, public_url, folder, clock, kind) for kind in Kind}


def _publish(
    ledger: Ledger, wallet: Wallet, operator_key: bytes, public_url: str, folder: Path, clock: Callable[[], float], kind: Kind
) -> Address:
    key = f"algorithm/{wallet.address}/{kind.value}"
    free = Terms(TokenWei(0), ledger.network.ocean, TokenWei(0), wallet.address)
    made = ledger.create_asset(wallet, f"{key}/asset", f"Posthuman {kind.value}", f"PH{kind.value.upper()}", free)
    facts: dict[str, Any] = {
        "algorithm": section(kind),
        "description": description(kind),
        "url": f"{public_url}{PATH}{kind.value}",
        "nft": made.nft,
        "datatoken": made.datatoken,
    }
    about = Bytes32("0x" + hashlib.sha256(canonical_json(facts).encode()).hexdigest())
    kept = _read(folder, kind)
    if kept is None or kept.about != about:
        kept = _seal(ledger, wallet, operator_key, public_url, made, kind, about, UnixSeconds(int(clock())))
        _write(folder, kind, kept)
    sealed = bytes.fromhex(kept.document[2:])
    # each sealing is another document, so its hash names this very write
    ledger.record_metadata(wallet, f"{key}/{kept.clear_hash}", kept.nft, sealed, kept.clear_hash, kept.endpoint, wallet.address)
    return made.nft


def _seal(
    ledger: Ledger,
    wallet: Wallet,
    operator_key: bytes,
    public_url: str,
    made: Created,
    kind: Kind,
    about: Bytes32,
    created: UnixSeconds,
) -> Kept:
    said = ddo.Description(
        name=f"Posthuman {kind.value}",
        description=description(kind),
        author=wallet.address,
        licence="Apache-2.0",
        created=created,
        facts={"kind": kind.value, "statement": statement(kind).decode()},
    )
    document = ddo.build_algorithm_ddo(
        made.nft,
        made.datatoken,
        ledger.network.chain_id,
        said,
        public_url,
        operator_key,
        f"{public_url}{PATH}{kind.value}",
        section(kind),
    )
    sealed = "0x" + ddo.seal(document, operator_key).hex()
    return Kept(about, made.nft, sealed, ddo.clear_hash(document), public_url)


def _read(folder: Path, kind: Kind) -> Kept | None:
    path = folder / f"{kind.value}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("version") != VERSION:
            raise ValueError("another version")
        kept = Kept(**record)
        bytes.fromhex(kept.document[2:])
        parse_address(kept.nft)
        for digest in (kept.about, kept.clear_hash):
            parse_bytes32(digest, "digest")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, BadInput) as error:
        expected = f"an algorithm's kept document of version {VERSION}"
        raise IntegrityBroken(f"{path}: expected {expected}, found {type(error).__name__}") from error
    return kept


def _write(folder: Path, kind: Kind, kept: Kept) -> None:
    """It is on disk before this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind.value}.json"
    scratch = path.with_suffix(f".part{os.getpid()}")
    with scratch.open("w", encoding="utf-8") as stream:
        json.dump({"version": VERSION, **vars(kept)}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(path)
