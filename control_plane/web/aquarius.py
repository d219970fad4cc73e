"""`/api/aquarius/*`: the metadata of Ocean assets, as Aquarius 5.1 serves it.

In: DIDs, searches, documents to be validated. Out: documents with Aquarius's fields. This module must never ask the chain: what it
shows is the index, which the log keeper writes.
"""

from __future__ import annotations

import hashlib
from typing import Any

from flask import Blueprint, Response, jsonify, request

from control_plane.did import Did, parse_did
from control_plane.errors import BadInput
from control_plane.flows.services import Services
from control_plane.provider.aqua import WITHDRAWN, Shelf, shown
from control_plane.provider.asset_index import DOCUMENTS, IndexedAsset
from control_plane.provider.ddo_schema import faults_of
from control_plane.provider.search import search
from control_plane.provider.signing import prefixed
from control_plane.web.body import parse_object, read_body
from control_plane.web.provider_input import address_in, body, did_in, transaction_in

AQUARIUS = "/api/aquarius"
MOST_NAMES = 250
"""DIDs of one question, each counted once."""


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("aquarius", __name__)
    index, key, chain = services.provider.assets, services.provider.key, services.network.chain_id
    shelf = Shelf()

    @pages.get(f"{AQUARIUS}/assets/ddo/<did>")
    def document(did: str) -> tuple[Response, int]:
        asset = index.find(_did(did))
        return (jsonify(shown(asset)), 200) if asset is not None else _not_found(did)

    @pages.get(f"{AQUARIUS}/assets/metadata/<did>")
    def metadata(did: str) -> tuple[Response, int]:
        asset = index.find(_did(did))
        if asset is None or asset.state in WITHDRAWN:
            return _not_found(did)
        return jsonify(asset.document["metadata"]), 200

    @pages.post(f"{AQUARIUS}/assets/names")
    def names() -> Response:
        asked = body("didList")["didList"]
        dids = {parse_did(each, "didList") for each in asked} if isinstance(asked, list) and len(asked) <= 4 * MOST_NAMES else None
        if dids is None or len(dids) > MOST_NAMES:
            raise BadInput("didList", f"a list of at most {MOST_NAMES} DIDs", "something else")
        found = [each for each in index.all() if each.did in dids and each.state not in WITHDRAWN]
        return jsonify({each.did: each.document["metadata"]["name"] for each in found})

    @pages.post(f"{AQUARIUS}/assets/query")
    def query() -> Response:
        body = parse_object(read_body())
        return jsonify(search(shelf.texts_of(index.all()), body))

    @pages.post(f"{AQUARIUS}/assets/ddo/validate")
    def validate() -> tuple[Response, int]:
        """The signature goes on chain beside the document: it says that this operator found it valid, and nothing more."""
        clear = read_body()
        faults = faults_of(parse_object(clear), chain)
        if faults:
            return jsonify(errors=faults), 400
        digest = hashlib.sha256(clear).digest()
        signature = key.sign_digest(prefixed(digest))
        return jsonify(
            hash="0x" + digest.hex(),
            publicKey=key.address,
            v=signature[64],
            r=["0x" + signature[:32].hex()],
            s=["0x" + signature[32:64].hex()],
        ), 200

    @pages.get(f"{AQUARIUS}/state/ddo")
    def state() -> tuple[Response, int]:
        values = dict(request.args.items())
        asset = _by_state(services, values)
        if asset is None:
            return jsonify(error="No asset with this did, nft or txId is indexed."), 404
        return jsonify(did=asset.did, nft=asset.nft, tx_id=asset.event["tx"], valid=True, error=None), 200

    @pages.get(f"{AQUARIUS}/chains/list")
    def chains() -> Response:
        return jsonify({str(chain): True})

    @pages.get(f"{AQUARIUS}/chains/status/<chain_id>")
    def status(chain_id: str) -> tuple[Response, int]:
        cursor = index.cursor(DOCUMENTS)
        if chain_id != str(chain) or cursor is None:
            return jsonify(error="This chain is not indexed."), 404
        return jsonify(last_block=cursor.block), 200

    return pages


def _did(text: str) -> Did:
    return parse_did(text)


def _not_found(did: str) -> tuple[Response, int]:
    """`ocean.py` looks for these very words before it publishes: with any other answer it takes the asset for one that exists."""
    return jsonify(error=f"Asset DID {did} not found in Elasticsearch."), 404


def _by_state(services: Services, values: dict[str, Any]) -> IndexedAsset | None:
    index = services.provider.assets
    if values.get("did"):
        return index.find(did_in(values, "did"))
    if values.get("nft"):
        return index.find_nft(address_in(values, "nft"))
    if values.get("txId"):
        wanted = transaction_in(values, "txId")
        return next((each for each in index.all() if each.event["tx"] == wanted), None)
    raise BadInput("query", "one of did, nft and txId", "none", code="missing_parameter")
