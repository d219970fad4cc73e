"""What a buyer keeps: sessions, purchases under way, every call with the exact bytes its receipt speaks of, and statements.

In: a wallet's address and a state folder. Out: files under `<home>/buyer/<address>/`, readable by their owner alone. This module
must never speak to a server.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.did import Address, Did, TransactionHash
from control_plane.errors import BadInput
from control_plane.receipts.evaluation import SignedEvaluation, statement_hash
from control_plane.receipts.receipt import Issued

CALL_FORMAT = "posthuman/call/v1"
_SPARE_S = 30
"""A session that ends within this is not used any more: the call might outlive it."""


@dataclass(frozen=True)
class KeptSession:
    """expires_at: seconds since 1970."""

    token: str
    order: TransactionHash
    expires_at: float


@dataclass(frozen=True)
class KeptCall:
    """One call as it went over the wire. receipt: the envelope the market sent with the answer."""

    did: Did
    path: str
    request: bytes
    response: bytes
    receipt: Mapping[str, Any]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "format": CALL_FORMAT,
            "did": self.did,
            "path": self.path,
            "request": base64.b64encode(self.request).decode("ascii"),
            "response": base64.b64encode(self.response).decode("ascii"),
            "receipt": dict(self.receipt),
            "seconds": self.seconds,
        }


class BuyerFiles:
    """Files of one wallet. Writing again replaces in one step."""

    def __init__(self, home: Path, wallet: Address, clock: Callable[[], float] = time.time) -> None:
        self.folder = home / "buyer" / wallet
        self._clock = clock

    def session(self, market: str, did: Did) -> KeptSession | None:
        """A session for `did` at this market that is still good, as far as we know."""
        record = self._read("sessions.json").get(f"{market} {did}")
        if record is None or record["expires_at"] < self._clock() + _SPARE_S:
            return None
        return KeptSession(record["token"], TransactionHash(record["order"]), record["expires_at"])

    def keep_session(self, market: str, did: Did, session: KeptSession | None) -> None:
        """None forgets it."""
        sessions = self._read("sessions.json")
        sessions.pop(f"{market} {did}", None)
        if session is not None:
            sessions[f"{market} {did}"] = {
                "token": session.token,
                "order": session.order,
                "expires_at": session.expires_at,
            }
        self._write("sessions.json", sessions)

    def purchase_key(self, did: Did) -> str:
        """The key under which the purchase of `did` goes on. Again: the same one, until `purchased`.

        So a purchase that was interrupted, or whose outcome is not known, is looked for and not made twice.
        """
        pending = self._read("pending.json")
        if did not in pending:
            pending[did] = {"key": secrets.token_hex(8)}
            self._write("pending.json", pending)
        return str(pending[did]["key"])

    def purchased(self, did: Did, order: TransactionHash) -> None:
        """Remember the newest order, and let the next purchase be another one."""
        orders = self._read("orders.json")
        orders[did] = [*[kept for kept in orders.get(did, []) if kept != order], order]
        self._write("orders.json", orders)
        pending = self._read("pending.json")
        pending.pop(did, None)
        self._write("pending.json", pending)

    def latest_order(self, did: Did) -> TransactionHash | None:
        orders = self._read("orders.json").get(did, [])
        return TransactionHash(orders[-1]) if orders else None

    def job_payment(self, did: Did, environment: str, duration_s: int) -> tuple[str, TransactionHash | None]:
        """The key under which the payment for a job goes on, and its order once it is paid. Again: the same, until `job_queued`."""
        record, name = self._read("jobs.json"), f"{did} {environment} {duration_s}"
        pending = record.setdefault("pending", {})
        if name not in pending:
            pending[name] = {"key": secrets.token_hex(8), "order": None}
            self._write("jobs.json", record)
        order = pending[name]["order"]
        return str(pending[name]["key"]), None if order is None else TransactionHash(order)

    def job_paid(self, did: Did, environment: str, duration_s: int, order: TransactionHash) -> None:
        """Remember a payment before its job is asked for."""
        record = self._read("jobs.json")
        record["pending"][f"{did} {environment} {duration_s}"]["order"] = order
        record["orders"] = [*record.get("orders", []), {"did": did, "order": order}]
        self._write("jobs.json", record)

    def job_queued(self, did: Did, environment: str, duration_s: int, order: TransactionHash) -> None:
        """Let the next payment for such a job be another one, unless another than `order` is under way."""
        record, name = self._read("jobs.json"), f"{did} {environment} {duration_s}"
        pending = record.get("pending", {})
        if pending.get(name, {}).get("order") == order:
            del pending[name]
            self._write("jobs.json", record)

    def dataset_payment(self, did: Did) -> tuple[str, TransactionHash | None]:
        """The key under which the payment for a dataset goes on, and its order once it is paid. Again: the same, until
        `dataset_ended`."""
        record = self._read("jobs.json")
        datasets = record.setdefault("datasets", {})
        if did not in datasets:
            datasets[did] = {"key": secrets.token_hex(8), "order": None}
            self._write("jobs.json", record)
        order = datasets[did]["order"]
        return str(datasets[did]["key"]), None if order is None else TransactionHash(order)

    def dataset_paid(self, did: Did, order: TransactionHash) -> None:
        record = self._read("jobs.json")
        record["datasets"][did]["order"] = order
        self._write("jobs.json", record)

    def dataset_ended(self, did: Did, order: TransactionHash) -> None:
        """Let the next payment for the dataset be another one, unless another than `order` is under way."""
        record = self._read("jobs.json")
        if record.get("datasets", {}).get(did, {}).get("order") == order:
            del record["datasets"][did]
            self._write("jobs.json", record)

    def latest_job_order(self) -> tuple[Did, TransactionHash] | None:
        orders = self._read("jobs.json").get("orders", [])
        return (Did(orders[-1]["did"]), TransactionHash(orders[-1]["order"])) if orders else None

    def keep_call(self, call: KeptCall) -> Path:
        """Raises BadInput for a receipt that is none: what a market sends does not name files unread. Again: the same file."""
        issued = Issued.from_json(call.receipt)
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(self._clock()))}-{issued.id[2:14]}.json"
        kept = next((self.folder / "calls").glob(f"*-{issued.id[2:14]}.json"), None)
        return self._write(f"calls/{name if kept is None else kept.name}", call.to_json())

    def keep_evaluation(self, signed: SignedEvaluation) -> Path:
        """The statement as JSON, as `posthuman verify` reads it. Again: the same file."""
        return self._write(f"evaluations/{statement_hash(signed)[2:14]}.json", signed.to_json())

    def calls(self) -> list[Path]:
        """Kept calls, oldest first."""
        return sorted((self.folder / "calls").glob("*.json"))

    def _read(self, name: str) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise BadInput(str(self.folder / name), "JSON as this command wrote it", error) from error
        return record

    def _write(self, name: str, record: Mapping[str, Any]) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = path.with_name(f"{path.name}.part{os.getpid()}")
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=1)
        scratch.replace(path)
        return path
