"""The catalogue: which DID is which entry, on sale or withdrawn, and whether the weights on disk are still those of the chain.

In: listings, the folder of entries. Out: listings, entries that were verified, refusals. This module must never load or serve an
entry whose digest is not the one the chain says.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, Engine, Row, delete, insert, select, update

from control_plane.chain.ledger import LedgerReader
from control_plane.database import models as table
from control_plane.database import reading, writing
from control_plane.did import Bytes32, Did, TokenWei
from control_plane.errors import IntegrityBroken, NotFound, PosthumanError, Unavailable
from control_plane.serving.inference import InferenceServer
from control_plane.serving.listing import Listing
from converters.entry import DERIVED, Entry, ModelDigest, model_digest, read_entry, triton_name
from converters.errors import EntryBroken
from converters.pbtxt import CPU, Hardware, config_pbtxt

Fingerprint = tuple[tuple[str | int, ...], ...]
Signs = tuple[tuple[int, ...], ...]
_HASH_TRIES = 3
_UNLOAD_WAIT_S = 15
_LOAD_AGAIN_S = 30
_SETTLED_NS = 100_000_000
"""File times move in steps of a few milliseconds: a file changed in the same step as it was hashed would look the same. A content
is remembered only when its youngest time is older than this, in nanoseconds; until then each call hashes again."""


@dataclass(frozen=True)
class Reconciled:
    """What `reconcile` did. refused: DID and reason of what stays unloaded. by_catalogue: loaded while no chain node answered."""

    loaded: tuple[Did, ...] = ()
    unloaded: tuple[str, ...] = ()
    refused: tuple[tuple[Did, str], ...] = ()
    by_catalogue: tuple[Did, ...] = ()


def fingerprint(folder: Path) -> Fingerprint:
    """Cheap signs of an entry's content: per name its kind, device, inode, size and times in nanoseconds.

    Two equal ones mean the same content unless somebody who can write the disk below the file system, or set the kernel's clock,
    hides a change: ctime cannot be set by a program. About 5 microseconds a file.
    """
    found: list[tuple[str | int, ...]] = []
    waiting = [(str(folder), "")]
    while waiting:
        parent, prefix = waiting.pop()
        with os.scandir(parent) as names:
            for name in names:
                path = prefix + name.name
                if path == DERIVED:
                    continue
                state = name.stat(follow_symlinks=False)
                if stat.S_ISDIR(state.st_mode):
                    waiting.append((name.path, path + "/"))
                    found.append((path, state.st_mode))
                else:
                    found.append(
                        (path, state.st_mode, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
                    )
    return tuple(sorted(found))


def signs(paths: tuple[str, ...]) -> Signs:
    """What `fingerprint` looks at, of paths that are known already, folders too; nothing where one of them is gone.

    A folder's times change with the names in it, so equal signs mean an equal fingerprint, at half the time.
    """
    try:
        states = [os.lstat(path) for path in paths]
    except OSError:
        return ()
    return tuple((of.st_mode, of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns) for of in states)


@dataclass(frozen=True)
class _Verified:
    """Content that was hashed, as `fingerprint` shows it. paths, signs: of it; no signs before it was seen again, unchanged."""

    digest: Bytes32
    content: Fingerprint
    paths: tuple[str, ...]
    signs: Signs = ()


class Catalogue:
    """Listings by DID, shared through the database; verified content, remembered by this process.

    cache_ttl_s: how long a listing may be answered from memory; a withdrawal elsewhere is seen after that at the latest.
    hardware: what the server runs entries on; it is written into each config.pbtxt.
    """

    def __init__(self, engine: Engine, models: Path, cache_ttl_s: float = 1.0, hardware: Hardware = CPU) -> None:
        self._engine, self._reading = engine, reading(engine)
        self._models, self._cache_ttl_s, self._hardware = models, cache_ttl_s, hardware
        self._not_before: dict[str, float] = {}
        self._crashes = models.parent / "run" / "crashed"
        self._held = models.parent / "run" / "held"
        self._listings: dict[Did, tuple[float, Listing]] = {}
        self._verified: dict[str, _Verified] = {}
        self._entries: dict[str, Entry] = {}
        self._hashing = threading.Lock()

    def folder(self, listing: Listing) -> Path:
        return self._models / listing.entry_name

    def find(self, did: Did) -> Listing:
        """Raises NotFound with code model_unknown for a DID that was never published here."""
        held = self._listings.get(did)
        if held is not None and time.monotonic() - held[0] < self._cache_ttl_s:
            return held[1]
        read_at = time.monotonic()
        with self._reading.connect() as connection:
            row = connection.execute(select(table).where(table.c.did == did)).first()
        if row is None:
            raise NotFound.named("model", "a DID that is published here (GET /v1/models)", did, code="model_unknown")
        listing = _listing_of(row)
        self._listings[did] = (read_at, listing)
        return listing

    def listings(self, beside: Connection | None = None) -> tuple[Listing, ...]:
        """Every listing, withdrawn ones too, oldest first. beside: a transaction that is under way, to read in it."""
        with self._reading.connect() if beside is None else nullcontext(beside) as connection:
            return tuple(_listing_of(row) for row in connection.execute(select(table).order_by(table.c.published_at, table.c.did)))

    def put_on_sale(self, listing: Listing) -> None:
        """Again: the same listing stays as it is; one with new terms, or one that was withdrawn, is replaced and on sale again."""
        record = asdict(listing) | {"state": "on_sale", "reason": ""}
        for amount in ("rate", "publish_fee", "swap_fee"):
            record[amount] = str(record[amount])
        with writing(self._engine, alone=f"model {listing.did}") as connection:
            connection.execute(delete(table).where(table.c.did == listing.did))
            connection.execute(insert(table).values(**record))
        self._listings.pop(listing.did, None)

    def withdraw(self, did: Did, reason: str) -> None:
        """Refuse its calls from now on, and say why. Again: the first reason stays."""
        with writing(self._engine) as connection:
            is_sold = (table.c.did == did) & (table.c.state == "on_sale")
            connection.execute(update(table).where(is_sold).values(state="withdrawn", reason=reason))
        self._listings.pop(did, None)

    def verify(self, listing: Listing) -> None:
        """Check that the entry on disk is still the one that was published; cheap unless its fingerprint changed.

        Raises IntegrityBroken with code model_tampered, after withdrawing the model, when the content differs.
        """
        seen = self._verified.get(listing.entry_name)
        if seen is not None and seen.digest == listing.model_digest:
            found = signs(seen.paths)
            if found and found == seen.signs:
                return
            if self._fingerprint(listing) == seen.content:  # after its signs were taken: what changes meanwhile is seen next time
                self._verified[listing.entry_name] = replace(seen, signs=found if _is_settled(found) else ())
                return
        with self._hashing:
            try:
                self._hash(listing)
            except IntegrityBroken as error:
                self.withdraw(listing.did, error.message)
                raise

    def report_crash(self, listing: Listing) -> None:
        """Ask for the entry to be loaded anew: its process in the server has died, and the server never starts it again.

        A file, so that any worker can ask and the log keeper acts once. Again: asks once.
        """
        self._crashes.mkdir(parents=True, exist_ok=True)
        (self._crashes / listing.entry_name).touch()

    def entry(self, listing: Listing) -> Entry:
        """The entry's record, from content that was verified. Raises IntegrityBroken like `verify`."""
        held = self._entries.get(listing.entry_name)
        if held is None:
            self.verify(listing)
            held = self._entries[listing.entry_name] = read_entry(self.folder(listing))
        return held

    @contextmanager
    def hold(self, entry_name: str) -> Iterator[None]:
        """While this lasts no `reconcile`, in any process of this machine, unloads the entry because nobody sells it.

        For who publishes: a model is loaded and compared before it is on sale. The lock ends with its process, however that ends.
        """
        self._held.mkdir(parents=True, exist_ok=True)
        with (self._held / entry_name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def _is_held(self, entry_name: str) -> bool:
        try:
            with (self._held / entry_name).open("r") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def load_verified(self, listing: Listing, server: InferenceServer, ledger: LedgerReader, is_chain_needed: bool = True) -> bool:
        """Load an entry whose digest is the chain's; hashed before and after, so that what was loaded is what was hashed.

        Returns whether the chain was asked. Without a node and with `is_chain_needed` false, the digest that was compared with the
        chain at publication, and is in the catalogue since, stands for it.
        Raises IntegrityBroken (disk, catalogue and chain do not agree), Unavailable (no node though needed, or no server).
        Again: loads again.
        """
        was_chain_asked = True
        try:
            self._compare_with_chain(listing, ledger)
        except Unavailable:
            if is_chain_needed:
                raise
            was_chain_asked = False
        with self._hashing:
            before = self._fingerprint(listing)
            self._hash(listing)
            write_config(self.folder(listing), listing.entry_name, listing.model_digest, self._hardware)
            server.load(listing.entry_name)
            self._hash(listing)
            if self._fingerprint(listing) != before:
                server.unload(listing.entry_name)
                raise IntegrityBroken(
                    f"{listing.did}: the entry on disk was changed and changed back while it was loaded", code="model_tampered"
                )
        return was_chain_asked

    def reconcile(self, server: InferenceServer, ledger: LedgerReader) -> Reconciled:
        """Bring the server to what the catalogue says: load what is on sale and missing or crashed, unload what nobody sells.

        For the log keeper, after Triton was restarted or a model withdrawn. An entry that does not verify is withdrawn.
        Raises Unavailable when the server does not answer. Again: finds nothing to do.
        """
        loaded = server.loaded()
        listings = self.listings()
        sold = {listing.entry_name for listing in listings if listing.state == "on_sale"}
        done: list[Did] = []
        refused: list[tuple[Did, str]] = []
        by_catalogue: list[Did] = []
        ready = set(loaded) - self._unload_crashed(server, loaded)
        for listing in listings:
            if listing.state != "on_sale" or listing.entry_name in ready:
                continue
            if time.monotonic() < self._not_before.get(listing.entry_name, 0.0):
                continue
            try:
                if not self.load_verified(listing, server, ledger, is_chain_needed=False):
                    by_catalogue.append(listing.did)
            except PosthumanError as error:
                if isinstance(error, Unavailable) and not server.is_ready():
                    raise
                if isinstance(error, IntegrityBroken):
                    self.withdraw(listing.did, error.message)
                # one entry that does not load must not keep the others waiting, nor be hashed again every second
                self._not_before[listing.entry_name] = time.monotonic() + _LOAD_AGAIN_S
                refused.append((listing.did, error.message))
                continue
            ready.add(listing.entry_name)
            done.append(listing.did)
        idle = {listing.entry_name for listing in listings} & loaded - sold
        unsold = tuple(name for name in sorted(idle) if not self._is_held(name))
        for name in unsold:
            server.unload(name)
        return Reconciled(tuple(done), unsold, tuple(refused), tuple(by_catalogue))

    def _unload_crashed(self, server: InferenceServer, loaded: frozenset[str]) -> set[str]:
        """Unload what `report_crash` named, and wait until it is gone: a load before that would do nothing."""
        named = {path.name: path for path in self._crashes.glob("*")} if self._crashes.is_dir() else {}
        for name, path in named.items():
            if name in loaded:
                server.unload(name)
                until = time.monotonic() + _UNLOAD_WAIT_S
                while name in server.loaded():
                    if time.monotonic() > until:
                        raise Unavailable(f"{name}: still loaded {_UNLOAD_WAIT_S} s after it was unloaded")
                    time.sleep(0.05)
            path.unlink(missing_ok=True)
        return set(named)

    def _fingerprint(self, listing: Listing) -> Fingerprint:
        """As `fingerprint`; nothing for an entry that is not there, which `_hash` then refuses with its reason."""
        try:
            return fingerprint(self.folder(listing))
        except OSError:
            return ()

    def _compare_with_chain(self, listing: Listing, ledger: LedgerReader) -> None:
        said = ledger.asset(listing.nft).model_digest
        if said != listing.model_digest:
            raise IntegrityBroken(
                f"{listing.did}: the catalogue has digest {listing.model_digest}, the chain says {said}", code="model_tampered"
            )
        if listing.entry_name != triton_name(ModelDigest(listing.model_digest)):
            raise IntegrityBroken(
                f"{listing.did}: the entry's name {listing.entry_name} is not its digest's", code="model_tampered"
            )

    def _hash(self, listing: Listing) -> None:
        """Read every byte of the entry; remember its fingerprint when the digest is the published one."""
        folder = self.folder(listing)
        for _ in range(_HASH_TRIES):
            try:
                before = fingerprint(folder)
                digest = Bytes32(model_digest(folder))
                after = fingerprint(folder)
            except (OSError, EntryBroken) as error:
                where = str(error).replace(f"{self._models}/", "")  # buyers read this: no path of the machine
                raise IntegrityBroken(f"{listing.did}: the entry on disk is broken: {where}", code="model_tampered") from error
            if digest != listing.model_digest:
                self._verified.pop(listing.entry_name, None)
                raise IntegrityBroken(
                    f"{listing.did}: weights on disk have digest {digest}, the chain says {listing.model_digest}",
                    code="model_tampered",
                )
            if before == after:
                if _is_settled(file for file in after if len(file) > 2):
                    paths = (str(folder), *(f"{folder}/{path}" for path, *_ in after))
                    self._verified[listing.entry_name] = _Verified(listing.model_digest, after, paths)
                return
        raise IntegrityBroken(f"{listing.did}: the entry on disk keeps changing while it is read", code="model_tampered")


def _is_settled(files: Iterable[tuple[str | int, ...]]) -> bool:
    """files: each ends with its times; ctime, the last, is never older than what was done to a file."""
    return max((int(file[-1]) for file in files), default=0) < time.time_ns() - _SETTLED_NS


def write_config(folder: Path, name: str, digest: Bytes32, hardware: Hardware = CPU) -> None:
    """Write what Triton reads beside an entry, anew from the entry itself. Again: replaces the file in one step.

    Raises IntegrityBroken with code entry_unservable when the entry asks for a backend that is not ours.
    """
    try:
        text = config_pbtxt(read_entry(folder), name, ModelDigest(digest), hardware)
    except EntryBroken as error:
        raise IntegrityBroken(f"{name}: the entry cannot be served: {error}", code="entry_unservable") from error
    # not inside the entry: there a second name would be a change of its content
    scratch = folder.parent / f".{name}.{os.getpid()}.part"
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(folder / DERIVED)


def _listing_of(row: Row[tuple[object, ...]]) -> Listing:
    record = dict(row._mapping)
    for amount in ("rate", "publish_fee"):
        record[amount] = TokenWei(int(record[amount]))
    record["swap_fee"] = int(record["swap_fee"])
    return Listing(**record)
