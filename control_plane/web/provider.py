"""`/` and `/api/services/*`, first part: an Ocean Provider's discovery, nonces, tokens, encryption.

In: requests as the stock `ocean.py` 3.1.2 sends them. Out: Ocean Provider 2.1's answers. This module must never decrypt for whoever
did not sign.
"""

from __future__ import annotations

import json
import re
from typing import Any

from flask import Blueprint, Response, jsonify, request

from control_plane.chain.ddo import MAX_DOCUMENT_BYTES, encrypt
from control_plane.errors import BadInput
from control_plane.flows.decrypt import Sealed, decrypt, find_sealed
from control_plane.flows.services import Services
from control_plane.provider.nonces import shown_nonce
from control_plane.web.body import read_body
from control_plane.web.provider_input import (
    Invalid,
    address_in,
    body,
    bytes_in,
    check_chain,
    checked,
    proven,
    query,
    text_in,
    transaction_in,
    whole_in,
)
from control_plane.web.unstored import unstored

SERVICES = "/api/services"
VERSION = "2.1.6"
"""Of the Ocean Provider whose surface this is; clients look at its first numbers."""
ENDPOINTS = {
    "computeDelete": ("DELETE", "compute"),
    "computeStart": ("POST", "compute"),
    "computeStatus": ("GET", "compute"),
    "computeStop": ("PUT", "compute"),
    "computeResult": ("GET", "computeResult"),
    "download": ("GET", "download"),
    "encrypt": ("POST", "encrypt"),
    "decrypt": ("POST", "decrypt"),
    "fileinfo": ("POST", "fileinfo"),
    "initialize": ("GET", "initialize"),
    "initializeCompute": ("POST", "initializeCompute"),
    "nonce": ("GET", "nonce"),
    "computeEnvironments": ("GET", "computeEnvironments"),
    "create_auth_token": ("GET", "createAuthToken"),
    "delete_auth_token": ("DELETE", "deleteAuthToken"),
    "validateContainer": ("POST", "validateContainer"),
}
"""These 16 and no more: Ocean's own tests count them."""
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("provider", __name__)
    provider = services.provider
    discovery = json.dumps(_discovery(services))

    @pages.get("/")
    def root() -> Response:
        """Asked twice before each call of `ocean.py`: made once, and any cache may keep it for a while."""
        response = Response(discovery, mimetype="application/json")
        response.headers["Cache-Control"] = "public, max-age=60"
        response.headers["Vary"] = "Accept"
        return response

    @pages.get(f"{SERVICES}/nonce")
    def nonce() -> Response:
        address = address_in(query("userAddress"), "userAddress")
        return unstored(jsonify(nonce=shown_nonce(provider.nonces.last(address))))

    @pages.get(f"{SERVICES}/createAuthToken")
    def create_token() -> Response:
        values = query("address", "expiration", "nonce", "signature")
        expires_at = whole_in(values, "expiration")
        asked = proven(services, values, "address", values["address"])
        asked.use()
        return unstored(jsonify(token=provider.tokens.make(asked.address, expires_at)))

    @pages.delete(f"{SERVICES}/deleteAuthToken")
    def delete_token() -> Response:
        values = body("address", "token", "nonce", "signature")
        asked = proven(services, values, "address", str(values["address"]))
        token = text_in(values, "token")
        provider.tokens.check(token, asked.address)
        asked.use()
        provider.tokens.revoke(token, asked.address)
        return jsonify(success="Token has been deactivated.")

    @pages.post(f"{SERVICES}/encrypt")
    def encrypted() -> tuple[Response, int]:
        if not request.args.get("chainId"):
            raise Invalid({"chainId": "The chainId field is required."})
        check_chain(services, request.args)
        clear = read_body()
        if not 0 < len(clear) <= MAX_DOCUMENT_BYTES:
            raise BadInput("body", f"1 to {MAX_DOCUMENT_BYTES} bytes to encrypt", f"{len(clear)} bytes", code="document_size")
        return Response("0x" + encrypt(provider.key.public_key, clear).hex(), mimetype="text/plain"), 201

    @pages.post(f"{SERVICES}/decrypt")
    def decrypted() -> tuple[Response, int]:
        values = body("decrypterAddress", "chainId", "nonce", "signature")
        if not values.get("transactionId"):
            checked(values, "dataNftAddress", "encryptedDocument", "flags", "documentHash")
        check_chain(services, values)
        named = values.get("transactionId") or values["dataNftAddress"]
        asked = proven(services, values, "decrypterAddress", f"{named}{values['decrypterAddress']}{values['chainId']}")
        clear = decrypt(services, _sealed(services, values))
        asked.use()
        return Response(clear, mimetype="text/plain"), 201

    @pages.get(f"{SERVICES}/computeEnvironments")
    def environments() -> Response:
        chain, now = services.network.chain_id, services.clock()
        if request.args.get("chainId"):
            check_chain(services, request.args)
        offered = [each.to_ocean(services.jobs.under_way(each.id), chain, now) for each in services.environments]
        return jsonify({str(chain): offered})

    @pages.post(f"{SERVICES}/validateContainer")
    def validate_container() -> Response:
        values = body()
        if not all(isinstance(values.get(name), str) and values[name] for name in ("entrypoint", "image", "checksum")):
            raise Coded("missing_entrypoint_image_checksum")
        if not _CHECKSUM.fullmatch(values["checksum"]):
            raise Coded("checksum_prefix")
        return jsonify({name: values[name] for name in ("entrypoint", "image", "checksum")})

    return pages


class Coded(BadInput):
    """Ocean Provider's one-word errors, which its clients compare: `{"error": "checksum_prefix"}`."""

    def __init__(self, word: str) -> None:
        super().__init__("request", word, "something else", code=word)
        self.message = word

    def details(self) -> dict[str, Any]:
        return {}


def _sealed(services: Services, values: dict[str, Any]) -> Sealed:
    nft = address_in(values, "dataNftAddress") if values.get("dataNftAddress") else None
    if values.get("transactionId"):
        return find_sealed(services, transaction_in(values, "transactionId"), nft)
    flags, clear_hash = values["flags"], bytes_in(values, "documentHash")
    number = (
        int.from_bytes(bytes_in(values, "flags")[-1:], "big") if str(flags).startswith("0x") else whole_in(values, "flags", 255)
    )
    return Sealed(address_in(values, "dataNftAddress"), number, bytes_in(values, "encryptedDocument"), clear_hash)


def _discovery(services: Services) -> dict[str, Any]:
    chain = services.network.chain_id
    return {
        "software": "Provider",
        "version": VERSION,
        "providerAddresses": {str(chain): services.provider.key.address},
        "chainIds": [chain],
        "serviceEndpoints": {name: [method, f"{SERVICES}/{path}"] for name, (method, path) in ENDPOINTS.items()},
    }
