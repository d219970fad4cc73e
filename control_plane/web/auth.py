"""`/v1/auth/*`: a nonce, a session for a signature, its end.

In: JSON. Out: JSON. This module must never decide who may sign in.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from control_plane.did import parse_address, parse_did, parse_transaction_hash
from control_plane.fields import DID_PATTERN, Table, parse_fields, patterned, text, whole
from control_plane.flows.services import Services
from control_plane.flows.sign_in import compose_message, sign_in
from control_plane.web.bearer import bearer_session
from control_plane.web.body import read_object
from control_plane.web.unstored import unstored

MESSAGE: Table = {
    "address": patterned("the address that will sign: 0x and 40 hex digits", "^0x[0-9a-fA-F]{40}$", is_required=True),
    "did": patterned("the model's DID", DID_PATTERN, is_required=True),
    "order": patterned("the order's transaction hash", "^0x[0-9a-fA-F]{64}$", is_required=True),
    "valid_for_s": whole("seconds that the session may last, at most a year", 1, 366 * 86_400, 86_400),
}
TOKEN: Table = {
    "message": text("the EIP-4361 text that was signed", is_required=True),
    "signature": patterned("0x and 130 hex digits: the EIP-191 signature of message", "^0x[0-9a-fA-F]{130}$", is_required=True),
}


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("auth", __name__)

    @pages.post("/v1/auth/nonce")
    def nonce() -> Response:
        issued = services.sessions.issue_nonce()
        return unstored(jsonify(nonce=issued.nonce, expires_at=int(issued.expires_at)))

    @pages.post("/v1/auth/message")
    def message() -> Response:
        fields = parse_fields(read_object()[1], MESSAGE)
        address, did = parse_address(fields["address"]), parse_did(fields["did"])
        order = parse_transaction_hash(fields["order"])
        issued = services.sessions.issue_nonce()
        composed = compose_message(services, address, did, order, issued.nonce, fields["valid_for_s"])
        return unstored(jsonify(message=composed.text(), nonce=issued.nonce, expires_at=int(issued.expires_at)))

    @pages.post("/v1/auth/token")
    def token() -> Response:
        fields = parse_fields(read_object()[1], TOKEN)
        signed_in = sign_in(services, fields["message"], fields["signature"])
        session = signed_in.session
        return unstored(
            jsonify(
                token=signed_in.token,
                expires_at=int(session.expires_at),
                did=session.did,
                order=session.order,
                calls_limit=session.calls_limit,
            )
        )

    @pages.delete("/v1/auth/token")
    def revoke() -> Response:
        services.sessions.revoke(bearer_session(services.sessions).token_hash, "by its owner")
        return jsonify(revoked=True)

    return pages
