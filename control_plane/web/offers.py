"""`/v1/offers/<did>`: what an order costs, signed by the operator.

In: a DID, how long calls are wanted. Out: an `Offer` as JSON. This module must never set a price.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from control_plane.did import parse_address, parse_did
from control_plane.errors import BadInput
from control_plane.flows.offer import make_offer
from control_plane.flows.services import Services
from control_plane.serving.access import on_sale_only

MOST_S = 366 * 86_400


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("offers", __name__)

    @pages.get("/v1/offers/<did>")
    def offer(did: str) -> Response:
        for name in request.args:
            if name not in ("consumer", "valid_for_s"):
                raise BadInput("query", "only consumer and valid_for_s", name, code="unknown_parameter")
        listing = services.catalogue.find(parse_did(did, "model"))
        on_sale_only(listing).enforce()
        parse_address(request.args.get("consumer"), "consumer")
        asked = request.args.get("valid_for_s", str(services.settings.order_timeout_s))
        if not (asked.isascii() and asked.isdigit() and len(asked) <= 12) or not 0 < int(asked) <= MOST_S:
            raise BadInput("valid_for_s", f"a whole number of seconds from 1 to {MOST_S}", asked)
        made = make_offer(listing, services.operator, services.settings.provider_fee, int(asked), services.clock)
        response = jsonify(made.to_json())
        response.headers["Cache-Control"] = "no-store"
        return response

    return pages
