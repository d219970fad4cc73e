"""A market over HTTP, as its buyers see it.

In: a URL, a wallet, prompts. Out: offers, tokens, answers with the exact bytes sent and received. This module must never read the
state folder of the server: it works from any machine.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from control_plane.chain.ledger import Wallet
from control_plane.did import Address, Did, TransactionHash, UnixSeconds
from control_plane.errors import PosthumanError, Unavailable
from control_plane.flows.offer import Offer
from control_plane.serving.eip4361 import SignInMessage
from deploy.buyer import KeptSession

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
RECEIPT_HEADER = "X-Posthuman-Receipt"
EVALUATIONS_AT_ONCE = 100
_CONNECT_S = 5.0


class MarketRefused(PosthumanError):
    """The market answered with an error; status, code and message are its own."""

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, Any], retry_after_s: int | None) -> None:
        super().__init__(message, code=code)
        self.status = status
        self._details = dict(details)
        self.retry_after_s = retry_after_s

    def details(self) -> dict[str, Any]:
        return {"status": self.status, **self._details}


@dataclass(frozen=True)
class Answered:
    """One call's exact bytes. receipt: the envelope `{"signed", "salt", "id"}`. seconds: until the last byte."""

    request: bytes
    response: bytes
    receipt: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class JobOffers:
    """What a job costs. dataset: None where none is to be ordered. dataset_order_refused: why the order of it that was told is none
    for this job."""

    model: Offer
    dataset: Offer | None
    dataset_order_refused: str | None = None


class Market:
    """Raises MarketRefused for what the market refuses, Unavailable when it does not answer."""

    def __init__(self, url: str, timeout_s: float = 120.0, clock: Callable[[], float] = time.time) -> None:
        self.url = url.rstrip("/")
        self._timeout = (_CONNECT_S, timeout_s)
        self._clock = clock
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy meant for the internet has no business between us and a local server

    def models(self) -> list[dict[str, Any]]:
        return list(self._json("GET", "/v1/models")["data"])

    def model(self, did: Did) -> dict[str, Any]:
        """What the market shows of one asset, withdrawn or not. Raises MarketRefused with code model_unknown."""
        return dict(self._json("GET", f"/v1/models/{did}"))

    def document(self, did: Did) -> dict[str, Any]:
        """An asset's document as Ocean's clients get it, with what the chain says of NFT and datatokens."""
        return dict(self._json("GET", f"/api/aquarius/assets/ddo/{did}"))

    def operator(self, chain_id: int) -> str:
        """Whose address the market signs fees with."""
        return str(self._json("GET", "/")["providerAddresses"][str(chain_id)])

    def offer(self, did: Did, consumer: Address, valid_for_s: int | None = None) -> Offer:
        query = {"consumer": consumer, **({} if valid_for_s is None else {"valid_for_s": str(valid_for_s)})}
        return Offer.from_json(self._json("GET", f"/v1/offers/{did}", params=query))

    def environments(self) -> list[dict[str, Any]]:
        return list(self._json("GET", "/v1/environments")["environments"])

    def job_offer(
        self,
        did: Did,
        consumer: Address,
        kind: str,
        parameters: Mapping[str, Any],
        environment: str,
        duration_s: int,
        dataset_order: TransactionHash | None = None,
    ) -> JobOffers:
        """dataset_order: asked whether it is still good."""
        asked = {
            "consumer": consumer,
            "kind": kind,
            "parameters": dict(parameters),
            "environment": environment,
            "duration_s": duration_s,
            **({} if dataset_order is None else {"dataset_order": dataset_order}),
        }
        record = self._json("POST", f"/v1/offers/{did}/jobs", json=asked)
        dataset, refused = record.get("dataset_offer"), record.get("dataset_order_refused")
        return JobOffers(
            Offer.from_json(record["offer"]),
            None if dataset is None else Offer.from_json(dataset),
            None if refused is None else str(refused),
        )

    def order_job(self, token: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Again: the same job, while it is not over."""
        return dict(self._json("POST", "/v1/jobs", json=dict(body), headers=_bearer(token)))

    def jobs(self, token: str, did: Did | None = None) -> list[dict[str, Any]]:
        chosen = {} if did is None else {"did": did}
        return list(self._json("GET", "/v1/jobs", params=chosen, headers=_bearer(token))["jobs"])

    def job(self, token: str, job_id: str) -> dict[str, Any]:
        return dict(self._json("GET", f"/v1/jobs/{quote(job_id, safe='')}", headers=_bearer(token)))

    def stop_job(self, token: str, job_id: str) -> dict[str, Any]:
        return dict(self._json("POST", f"/v1/jobs/{quote(job_id, safe='')}/stop", json={}, headers=_bearer(token)))

    def publish_job(self, token: str, job_id: str) -> dict[str, Any]:
        """Again: the same record."""
        return dict(self._json("POST", f"/v1/jobs/{quote(job_id, safe='')}/publish", json={}, headers=_bearer(token)))

    def evaluations(self, did: Did, evaluator: Address | None = None, before: str | None = None) -> list[dict[str, Any]]:
        """EVALUATIONS_AT_ONCE at most. before: id of one of them, for what is older."""
        asked = {"limit": str(EVALUATIONS_AT_ONCE), "evaluator": evaluator, "before": before}
        chosen = {name: value for name, value in asked.items() if value is not None}
        return list(self._json("GET", f"/v1/models/{did}/evaluations", params=chosen)["evaluations"])

    def nonce(self) -> str:
        return str(self._json("POST", "/v1/auth/nonce", json={})["nonce"])

    def message(
        self, address: Address, did: Did, order: TransactionHash, chain_id: int, nonce: str, valid_for_s: int
    ) -> SignInMessage:
        """The EIP-4361 message that signs `address` in."""
        now = int(self._clock())
        return SignInMessage(
            domain=urlsplit(self.url).netloc,
            address=address,
            uri=self.url,
            chain_id=chain_id,
            nonce=nonce,
            issued_at=UnixSeconds(now),
            expires_at=UnixSeconds(now + valid_for_s),
            did=did,
            order=order,
        )

    def sign_in(self, wallet: Wallet, did: Did, order: TransactionHash, chain_id: int, valid_for_s: int = 12 * 3600) -> KeptSession:
        """One wallet signature for a session. Again: another session."""
        text = self.message(wallet.address, did, order, chain_id, self.nonce(), valid_for_s).text()
        return self.exchange(text, wallet.sign_message(text), order)

    def exchange(self, text: str, signature: bytes, order: TransactionHash) -> KeptSession:
        """Hand in a signed message. Again: refused, its nonce is used."""
        record = self._json("POST", "/v1/auth/token", json={"message": text, "signature": "0x" + signature.hex()})
        return KeptSession(str(record["token"]), order, float(record["expires_at"]))

    def complete(self, token: str, body: Mapping[str, Any], path: str = COMPLETIONS) -> Answered:
        """One call, whole."""
        sent = json.dumps(body, ensure_ascii=False).encode("utf-8")
        began = time.perf_counter()
        response = self._ask("POST", path, data=sent, headers=_call_headers(token))
        seconds = time.perf_counter() - began
        header = response.headers.get(RECEIPT_HEADER)
        if header is None:
            raise Unavailable(f"{self.url}{path}: the answer came without a receipt")
        return Answered(sent, response.content, decode_receipt(header), seconds)

    def stream(self, token: str, body: Mapping[str, Any], on_text: Callable[[str], None], path: str = COMPLETIONS) -> Answered:
        """One call, piece by piece; `on_text` gets each text as it comes. The receipt is in the last event."""
        sent = json.dumps({**body, "stream": True}, ensure_ascii=False).encode("utf-8")
        began = time.perf_counter()
        response = self._ask("POST", path, data=sent, headers=_call_headers(token), stream=True)
        hashed, receipt = bytearray(), None
        with response:
            for event in _events(response):
                payload = event[len(b"data: ") :].strip()
                if payload == b"[DONE]":
                    break
                record = json.loads(payload)
                if "error" in record:
                    self._refuse(503, record["error"], None)
                if "receipt" in record:
                    receipt = record["receipt"]
                    continue
                hashed += event
                for choice in record.get("choices", []):
                    on_text(text_of(choice))
        if receipt is None:
            raise Unavailable(f"{self.url}{path}: the stream ended without a receipt")
        return Answered(sent, bytes(hashed), receipt, time.perf_counter() - began)

    def get_json(self, path: str, token: str | None = None) -> Any:
        return self._json("GET", path, headers={} if token is None else {"Authorization": f"Bearer {token}"})

    def _json(self, method: str, path: str, **named: Any) -> Any:
        response = self._ask(method, path, **named)
        try:
            return response.json()
        except ValueError as error:
            raise Unavailable(f"{self.url}{path}: expected JSON, found {response.headers.get('Content-Type')}") from error

    def _ask(self, method: str, path: str, **named: Any) -> Any:
        try:
            response = self._http.request(method, self.url + path, timeout=self._timeout, **named)
        except requests.RequestException as error:
            raise Unavailable(f"{self.url}: the market does not answer ({type(error).__name__})") from error
        if response.status_code >= 400:
            retry_after = response.headers.get("Retry-After", "")
            try:
                record = response.json()
            except ValueError:
                record = {"error": {"message": response.text[:200], "code": f"http_{response.status_code}"}}
            self._refuse(
                response.status_code, record.get("error", record), int(retry_after) if retry_after.isdigit() else None, record
            )
        return response

    def _refuse(self, status: int, error: Any, retry_after_s: int | None, record: Mapping[str, Any] | None = None) -> None:
        # the Open Inference Protocol has the text itself under `error`, and the rest beside it
        found: Mapping[str, Any] = error if isinstance(error, Mapping) else {"message": error, **(record or {})}
        details = {
            "field": found.get("param"),
            **{name: found[name] for name in ("expected", "found") if found.get(name) is not None},
        }
        raise MarketRefused(
            status,
            str(found.get("code") or f"http_{status}"),
            str(found.get("message") or f"HTTP {status}"),
            {name: value for name, value in details.items() if value is not None},
            retry_after_s,
        )


def text_of(choice: Mapping[str, Any]) -> str:
    """The text in one choice: of a completion or a conversation, whole or a piece of it."""
    said = choice.get("message", choice.get("delta"))
    found = choice.get("text") if said is None else said.get("content")
    return str(found or "")


def decode_receipt(header: str) -> Mapping[str, Any]:
    """The envelope that travels in the receipt header: base64url without padding of JSON."""
    padded = header + "=" * (-len(header) % 4)
    record: Mapping[str, Any] = json.loads(base64.urlsafe_b64decode(padded))
    return record


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _call_headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def _events(response: Any) -> Iterator[bytes]:
    """The events of a stream, each with the blank line that ends it."""
    waiting = b""
    for block in response.iter_content(chunk_size=None):
        waiting += block
        while (end := waiting.find(b"\n\n")) >= 0:
            yield waiting[: end + 2]
            waiting = waiting[end + 2 :]
