"""`/api/services`, second part: fileinfo, initialize, download.

In: requests as the stock `ocean.py` 3.1.2 sends them. Out: Ocean Provider 2.1's answers; files as streams. This module must
never tell where a file lies.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, request

from control_plane.errors import BadInput, PosthumanError, Unavailable
from control_plane.flows.consume import (
    check_consumable,
    check_order,
    fee_for,
    files_to_download,
    find_service,
    listing_of,
    to_ocean,
)
from control_plane.flows.services import Services
from control_plane.provider.fetch import FILE_BROKE_OFF, RemoteFile, unavailable
from control_plane.provider.files import file_name, read_file
from control_plane.provider.nonces import shown_nonce
from control_plane.web.provider import SERVICES
from control_plane.web.provider_input import Invalid, address_in, body, did_in, proven, query, text_in, transaction_in, whole_in
from control_plane.web.unstored import unstored

_MOST_RANGE = 128
_ALL_FILES_S = 60.0
"""The longest that all files of one question may take to be looked at; it holds a thread that calls need."""


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("provider_files", __name__)
    fetcher = services.provider.files

    @pages.post(f"{SERVICES}/fileinfo")
    def fileinfo() -> Response:
        values = body()
        has_checksum = bool(values.get("checksum"))
        if values.get("url"):
            if "did" in values or "serviceId" in values:
                raise BadInput("url", "no url where a did is given", "both")
            file = read_file(values)
            if file.method != "GET" or file.headers or has_checksum:  # whoever asks has published nothing and paid for nothing
                raise BadInput("url", "one to be asked by GET, without headers and checksum, where no asset is named", "more")
            return jsonify([_looked_at(services, 0, file, has_checksum=False, until=time.monotonic() + _ALL_FILES_S)])
        missing = {name: f"The {name} field is required." for name in ("did", "serviceId") if not values.get(name)}
        if missing:
            raise Invalid(missing)
        service = find_service(services, did_in(values, "did"), text_in(values, "serviceId"))
        listing = listing_of(services, service)
        if listing is not None:  # calls, not a file; clients ask before they order
            return jsonify([{"index": 0, "valid": listing.state == "on_sale", "type": "url", "contentType": "application/json"}])
        files = files_to_download(services, service, services.ledger.asset(service.nft))
        until = time.monotonic() + _ALL_FILES_S
        return jsonify([_looked_at(services, index, file, has_checksum, until) for index, file in enumerate(files)])

    @pages.get(f"{SERVICES}/initialize")
    def initialize() -> Response:
        values = query("documentId", "serviceId", "consumerAddress")
        consumer = address_in(values, "consumerAddress")
        service = find_service(services, did_in(values, "documentId"), text_in(values, "serviceId"))
        if service.is_compute:
            raise BadInput("serviceId", "a service of type access; use initializeCompute for jobs", "", code="service_is_compute")
        facts = check_consumable(services, service, consumer)
        if values.get("transferTxId"):
            transaction = transaction_in(values, "transferTxId")
            check_order(services, service, consumer, transaction)
            return unstored(jsonify(validOrder=transaction))
        if listing_of(services, service) is None:
            files = files_to_download(services, service, facts)
            index = _index_in(values, files) if values.get("fileIndex") else 0
            fetcher.open(files[index]).close()  # nobody is to pay for what is not there
        fee = fee_for(services, service)
        nonce = shown_nonce(services.provider.nonces.last(consumer))
        return unstored(jsonify(datatoken=service.datatoken, nonce=nonce, providerFee=to_ocean(fee)))

    @pages.get(f"{SERVICES}/download")
    def download() -> Response:
        values = query("documentId", "serviceId", "consumerAddress", "transferTxId", "fileIndex", "nonce")
        asked = proven(services, values, "consumerAddress", values["documentId"])
        service = find_service(services, did_in(values, "documentId"), text_in(values, "serviceId"))
        files = files_to_download(services, service, check_consumable(services, service, asked.address))
        index = _index_in(values, files)
        check_order(services, service, asked.address, transaction_in(values, "transferTxId"))
        byte_range = request.headers.get("Range")
        if byte_range is not None and len(byte_range) > _MOST_RANGE:
            raise BadInput("Range", f"at most {_MOST_RANGE} characters", "more")
        fetched = fetcher.open(files[index], byte_range)
        try:
            asked.use()  # the last thing: what failed before leaves the nonce good
        except BaseException:
            fetched.close()
            raise
        response = Response(fetched.chunks, status=fetched.status, content_type=fetched.content_type)
        response.call_on_close(fetched.close)  # also of an answer whose first byte was never asked for
        response.headers["Content-Disposition"] = f"attachment;filename={file_name(files[index], index)}"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        if fetched.length is not None:
            response.headers["Content-Length"] = str(fetched.length)
        if fetched.content_range is not None:
            response.headers["Content-Range"] = fetched.content_range
        return response

    return pages


def _index_in(values: Mapping[str, Any], files: tuple[RemoteFile, ...]) -> int:
    """Counted from 0. Ocean Provider 2.1 lets the number past the last one through, and breaks on it."""
    index = whole_in(values, "fileIndex")
    if index >= len(files):
        raise BadInput("fileIndex", f"a whole number from 0 to {len(files) - 1}", "a greater one")
    return index


def _looked_at(services: Services, index: int, file: RemoteFile, has_checksum: bool, until: float) -> dict[str, Any]:
    """What can be told of a file before it is paid for; of one that cannot be fetched nothing but that."""
    if time.monotonic() > until:
        raise _too_slow()
    try:
        fetched = services.provider.files.open(file)
        told: dict[str, Any] = {"index": index, "valid": True, "type": "url", "contentType": fetched.content_type}
        if fetched.length is not None:
            told["contentLength"] = str(fetched.length)
        if not has_checksum:
            fetched.close()
            return told
        digest = hashlib.sha256()
        for chunk in fetched.chunks:
            digest.update(chunk)
            if time.monotonic() > until:
                fetched.close()
                raise _too_slow()
        return {**told, "checksum": digest.hexdigest(), "checksumType": "sha256"}
    except PosthumanError as error:
        if error.code not in (unavailable().code, FILE_BROKE_OFF):
            raise
        return {"index": index, "valid": False, "type": "url"}


def _too_slow() -> Unavailable:
    return Unavailable(f"files: expected all of them to be looked at within {_ALL_FILES_S:g} s", code="files_too_slow")
