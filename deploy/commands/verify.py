"""`verify`: check a receipt, or the statement of an evaluation, as a stranger would.

In: a file, a node's URL, the public log's URL. Out: each check with its evidence. This module must never read the state
folder, a key, or anything else of the market's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from control_plane.chain.ledger import LedgerReader
from control_plane.chain.ocean import open_reader
from control_plane.errors import BadInput
from control_plane.receipts.proof import Proof
from control_plane.receipts.public_log import HttpLogFiles, PublicLog
from control_plane.receipts.receipt import SignedReceipt
from control_plane.receipts.verification import Verdict, Verification
from control_plane.receipts.verify import verify as check_receipt
from control_plane.receipts.verify_evaluation import verify_evaluation
from deploy import exits
from deploy.buyer import CALL_FORMAT
from deploy.progress import Steps

_WORDS = {Verdict.OK: "ok", Verdict.FAILED: "FAILED", Verdict.NOT_CHECKED: "not checked"}


@dataclass(frozen=True)
class Given:
    """What a file holds: the envelope, and the call's exact bytes where it is a kept call."""

    envelope: Mapping[str, Any]
    request: bytes | None = None
    response: bytes | None = None


def read_record(path: Path) -> dict[str, Any]:
    """Raises BadInput for anything but a JSON object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(str(path), "a readable JSON file", error) from error
    if not isinstance(record, dict):
        raise BadInput(str(path), "a JSON object", record)
    return record


def statement_in(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The statement of an evaluation that a file holds, by itself or as a job's result; None where it is about a call."""
    if "evaluation" in record:
        return record
    try:
        found = json.loads(record["statement"]) if isinstance(record.get("statement"), str) else record.get("statement")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, Mapping) else None


def read_given(path: Path) -> Given:
    """A kept call, an envelope `{"signed", "salt", "id"}`, or the answer of `/v1/receipts/<id>`. Raises BadInput otherwise."""
    record = read_record(path)
    if record.get("format") == CALL_FORMAT:
        try:
            request, response = (base64.b64decode(record[name], validate=True) for name in ("request", "response"))
        except (KeyError, ValueError, TypeError) as error:
            raise BadInput(str(path), "a call as `posthuman call` keeps it", error) from error
        return Given(_envelope(record.get("receipt"), path), request, response)
    return Given(_envelope(record, path))


def _envelope(record: object, path: Path) -> Mapping[str, Any]:
    if not isinstance(record, Mapping) or not {"signed", "salt", "id"} <= set(record):
        found = sorted(record) if isinstance(record, Mapping) else record
        raise BadInput(str(path), "a kept call, or an envelope with signed, salt and id", found)
    return {name: record[name] for name in ("signed", "salt", "id")}


def read_proof(path: Path) -> Proof:
    """Raises BadInput when the file holds no proof."""
    try:
        return Proof.from_text(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(path), "a readable text file with a proof", error) from error


def _read_other(path: Path) -> SignedReceipt:
    try:
        return SignedReceipt.from_json(read_given(path).envelope["signed"])
    except BadInput as error:
        raise BadInput(f"--with {path}", error.expected, error.found) from error


def _chain_of(signed: object, field: str = "signed.chain_id") -> int:
    chain_id = signed.get("chain_id") if isinstance(signed, Mapping) else None
    if not isinstance(chain_id, int) or isinstance(chain_id, bool):
        raise BadInput(field, "a whole number", chain_id)
    return chain_id


@click.command(cls=exits.Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rpc", required=True, help="URL of a node of the receipt's chain; choose one you trust.")
@click.option("--log", "log_url", help="URL of the market's public log, for instance http://127.0.0.1:8030/log.")
@click.option(
    "--proof", "proof_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A proof file, in place of --log."
)
@click.option(
    "--with",
    "others",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another receipt of the same order, to check that none is missing between them; can be given several times.",
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of an evaluation: a file that was evaluated, to check that it is the one; several in their order.",
)
def verify(
    files: tuple[Path, ...],
    rpc: str,
    log_url: str | None,
    proof_file: Path | None,
    others: tuple[Path, ...],
    texts: tuple[Path, ...],
    is_json: bool,
) -> None:
    """Check the receipt in each FILE against the chain and the public log. Exit code 0 only when every required check holds.

    Needs nothing of the market but its public log, and no wallet. A FILE may hold the statement of an evaluation instead: it is
    checked against the chain alone.

    \b
    Example:
      posthuman verify call.json --rpc http://127.0.0.1:8545 --log http://127.0.0.1:8030/log
    """
    if len(files) > 1 and (proof_file or others or texts):
        raise click.UsageError("--proof, --with, --text: expected together with one FILE")
    proof = None if proof_file is None else read_proof(proof_file)
    against = _Against(rpc, log_url, proof, [_read_other(path) for path in others], [path.read_bytes() for path in texts])
    if len(files) == 1:
        with Steps(is_quiet=is_json).step("checking against the chain and the log"):
            found = against.check(files[0])
        _end(found, is_json)
    every: list[Verification] = []
    with Steps(is_quiet=is_json).step(f"checking {len(files)} files against the chain and the log"):
        every.extend(against.check(file) for file in files)
    are_verified = all(one.is_verified for one in every)
    record = {
        "is_verified": are_verified,
        "files": [{"file": str(file), **one.to_json()} for file, one in zip(files, every, strict=True)],
    }
    lines = [f"{file}: {verification_lines(one)[-1]}" for file, one in zip(files, every, strict=True)]
    exits.show(record, lines, is_json)
    raise SystemExit(exits.DONE if are_verified else exits.FAILED)


class _Against:
    """What files are held against; a node and a log are asked for what they have in common once."""

    def __init__(self, rpc: str, log_url: str | None, proof: Proof | None, others: list[SignedReceipt], texts: list[bytes]) -> None:
        self._rpc, self._log_url, self._proof, self._others, self._texts = rpc, log_url, proof, others, texts
        self._readers: dict[int, LedgerReader] = {}
        self._log: PublicLog | None = None

    def check(self, file: Path) -> Verification:
        """Raises BadInput for a file that holds neither, Unavailable when node or log do not answer."""
        statement = statement_in(read_record(file))
        if statement is not None:
            reader = self._reader(_chain_of(statement, "chain_id"))
            return verify_evaluation(reader, statement, texts=self._texts or None)
        if self._texts:
            raise click.UsageError("--text: expected together with the statement of an evaluation")
        if self._log_url is None and self._proof is None:
            raise click.UsageError("give --log URL or --proof FILE")
        given = read_given(file)
        reader = self._reader(_chain_of(given.envelope.get("signed")))
        if self._log is None and self._log_url is not None:
            self._log = PublicLog(HttpLogFiles(self._log_url))
        return check_receipt(
            reader, given.envelope, self._proof, log=self._log, request=given.request, response=given.response, others=self._others
        )

    def _reader(self, chain_id: int) -> LedgerReader:
        if chain_id not in self._readers:
            self._readers[chain_id] = open_reader(self._rpc, chain_id)
        return self._readers[chain_id]


def _end(result: Verification, is_json: bool) -> NoReturn:
    exits.show(result.to_json(), verification_lines(result), is_json)
    raise SystemExit(exits.DONE if result.is_verified else exits.FAILED)


def verification_lines(result: Verification) -> list[str]:
    width = max(len(check.name) for check in result.checks)
    lines = [f"  {check.name:<{width}}  {_WORDS[check.verdict]:<11}  {check.evidence}" for check in result.checks]
    good = sum(check.verdict is Verdict.OK for check in result.checks)
    if result.is_verified:
        return [*lines, f"verified: {good} checks hold"]
    why = "failed" if result.failed else "not complete"
    named = ", ".join(check.name for check in (result.failed or result.missing))
    return [*lines, f"NOT verified, {why}: {named}"]
