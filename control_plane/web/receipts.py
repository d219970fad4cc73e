"""`/v1/receipts/*`: a buyer's receipts, their proofs, and the way back for one that was lost.

In: a session, a receipt's id, a receipt. Out: receipts with their salt for the order's holder; proofs for anyone. This module must
never show a salt to others: with it, a guessed prompt could be checked against the log.
"""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, jsonify, request

from control_plane.did import parse_bytes32, parse_transaction_hash
from control_plane.errors import BadInput, Forbidden, NotFound, Unavailable
from control_plane.flows.services import Services
from control_plane.receipts.proof import MEDIA_TYPE
from control_plane.receipts.public_log import PublicLog
from control_plane.receipts.store import Issued
from control_plane.receipts.tiles import TileFolder
from control_plane.serving.access import session_only
from control_plane.serving.sessions import Session
from control_plane.web.bearer import bearer_session
from control_plane.web.body import read_object

MOST = 1000
_QUERY = ("order", "from", "limit", "call")


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("receipts", __name__)
    store, log_folder = services.store, services.settings.log_folder

    @pages.get("/v1/receipts")
    def listed() -> Response:
        session = _session(services)
        for name in request.args:
            if name not in _QUERY:
                raise BadInput("query", f"only {', '.join(_QUERY)}", name, code="unknown_parameter")
        call_id = request.args.get("call")
        if call_id is not None:
            issued = store.receipt_of_call(call_id[:64])
            if issued is None:
                raise NotFound("call: expected one of this order that has its receipt, found none", code="receipt_unknown")
            return _listed([_own(issued, session)])
        order = parse_transaction_hash(request.args.get("order", session.order))
        if order != session.order:
            raise Forbidden(
                f"order: expected {session.order}, which this token is for, found {order}", code="token_of_another_order"
            )
        found = store.receipts_of(order=order, from_sequence=_whole("from", 0, 2**62), limit=_whole("limit", 100, MOST, 1))
        return _listed(list(found))

    @pages.get("/v1/receipts/<identity>")
    def one(identity: str) -> Response:
        session = _session(services)
        return jsonify(_shown(_own(store.receipt(parse_bytes32(identity, "receipt")), session)))

    @pages.get("/v1/receipts/<identity>/proof")
    def proof(identity: str) -> Response:
        issued = store.receipt(parse_bytes32(identity, "receipt"))
        return Response(_prove(issued, log_folder), content_type=MEDIA_TYPE)

    @pages.post("/v1/receipts")
    def readmit() -> tuple[Response, int]:
        given = Issued.from_json(read_object()[1])
        stored = store.readmit(given.signed, given.salt)  # anyone may post a leaf, for leaves are public: no salt goes back
        return jsonify(id=stored.id, leaf_index=stored.leaf_index), 200

    return pages


def _session(services: Services) -> Session:
    """Receipts may be read as long as the session lives, also when its calls are used up or the model was withdrawn."""
    session = bearer_session(services.sessions)
    session_only(session, services.clock()).enforce()
    return session


def _own(issued: Issued, session: Session) -> Issued:
    if issued.signed.receipt.order != session.order:
        raise Forbidden("receipt: expected one of this token's order, found another's", code="receipt_foreign")
    return issued


def _shown(issued: Issued) -> dict[str, object]:
    return {**issued.to_json(), "leaf_index": issued.leaf_index}


def _listed(found: list[Issued]) -> Response:
    response = jsonify(receipts=[_shown(issued) for issued in found])
    response.headers["Cache-Control"] = "no-store"
    return response


def _prove(issued: Issued, log_folder: Path) -> str:
    waits = Unavailable(f"receipt {issued.id} waits for the next checkpoint", code="not_logged", retry_after_s=2)
    if issued.leaf_index is None:
        raise waits
    try:
        log = PublicLog(TileFolder(log_folder))
    except NotFound as error:
        raise waits from error
    if issued.leaf_index >= log.size:
        raise waits
    return log.prove(bytes.fromhex(issued.id[2:]), issued.leaf_index).to_text()


def _whole(name: str, default: int, high: int, low: int = 0) -> int:
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or not low <= int(text) <= high:
        raise BadInput(name, f"a whole number from {low} to {high}", text)
    return int(text)
