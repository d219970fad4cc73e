"""What `/openapi.json` says of Ocean's surfaces, `/`, `/api/services` and `/api/aquarius`.

In: nothing. Out: operations. This module must never describe what no path does.
"""

from __future__ import annotations

from control_plane.web import openapi_answers as shapes
from control_plane.web.aquarius import AQUARIUS
from control_plane.web.openapi_answers import Schema
from control_plane.web.openapi_operation import BINARY, TEXT, Operation
from control_plane.web.provider import SERVICES

_TEXT: Schema = {"type": "string", "minLength": 1}
_NONCE: Schema = {
    "description": "greater than the last one that the address used, below 2**53",
    "type": ["string", "number"],
    "pattern": "^(0|[1-9][0-9]{0,15})([.][0-9]{1,9})?$",
    "minimum": 0,
    "exclusiveMaximum": 2**53,
}
_SIGNATURE: Schema = {"type": "string", "pattern": "^(0x)?[0-9a-fA-F]{130}$"}
_CHAIN: Schema = {"type": ["string", "integer"]}
_HEX: Schema = {"type": "string", "pattern": "^(0x)?([0-9a-fA-F]{2})+$"}


def _members(*required: str, **members: Schema) -> Schema:
    """An object with these; others are passed over."""
    return {"type": "object", "required": list(required), "properties": members}


_DECRYPT = _members(
    "decrypterAddress",
    "chainId",
    "nonce",
    "signature",
    decrypterAddress=shapes.ADDRESS,
    chainId=_CHAIN,
    transactionId=shapes.HEX32,
    dataNftAddress=shapes.ADDRESS,
    encryptedDocument=_HEX,
    flags={"type": ["string", "integer"]},
    documentHash=shapes.HEX32,
    nonce=_NONCE,
    signature=_SIGNATURE,
)
_BODY_CODES = (400, 413, 415, 503)


def provider_operations() -> tuple[Operation, ...]:
    return (*_services(), *_files(), *_jobs(), *_aquarius())


def _services() -> tuple[Operation, ...]:
    return (
        Operation("get", "/", "What this Ocean Provider is and where its services are", answer=shapes.DISCOVERY),
        Operation(
            "get",
            f"{SERVICES}/nonce",
            "The last nonce that an address used",
            query={"userAddress": shapes.ADDRESS},
            required=("userAddress",),
            answer=shapes.USER_NONCE,
            codes=(400, 503),
        ),
        Operation(
            "get",
            f"{SERVICES}/createAuthToken",
            "A token that speaks for an address, for a signature over the address and the nonce",
            query={"address": shapes.ADDRESS, "expiration": {"type": "integer"}, "nonce": _NONCE, "signature": _SIGNATURE},
            required=("address", "expiration", "nonce", "signature"),
            answer=shapes.AUTH_TOKEN,
            codes=(400, 503),
        ),
        Operation(
            "delete",
            f"{SERVICES}/deleteAuthToken",
            "End a token",
            schema=_members(
                "address", "token", "nonce", "signature", address=shapes.ADDRESS, token=_TEXT, nonce=_NONCE, signature=_SIGNATURE
            ),
            codes=_BODY_CODES,
        ),
        Operation(
            "post",
            f"{SERVICES}/encrypt",
            "Encrypt bytes to this provider (ECIES)",
            query={"chainId": _CHAIN},
            required=("chainId",),
            files=(BINARY,),
            answers=(TEXT,),
            codes=_BODY_CODES,
            status=201,
        ),
        Operation(
            "post",
            f"{SERVICES}/decrypt",
            "The document of a data NFT, by the transaction that wrote it or by its sealed bytes",
            schema=_DECRYPT,
            answers=(TEXT,),
            codes=(*_BODY_CODES, 403),
            status=201,
        ),
        Operation(
            "get",
            f"{SERVICES}/computeEnvironments",
            "What jobs may run on, and what a minute costs, by chain",
            query={"chainId": _CHAIN},
            answer={"type": "object", "additionalProperties": {"type": "array", "items": {"type": "object"}}},
            codes=(400, 503),
        ),
        Operation(
            "post",
            f"{SERVICES}/validateContainer",
            "Whether an algorithm's container is named as it must be",
            schema=_members(
                "entrypoint",
                "image",
                "checksum",
                entrypoint=_TEXT,
                image=_TEXT,
                checksum={"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
            ),
            answer=shapes.CONTAINER,
            codes=_BODY_CODES,
        ),
    )


_OF_A_SERVICE = {"documentId": shapes.DID, "serviceId": _TEXT, "consumerAddress": shapes.ADDRESS, "fileIndex": shapes.COUNTED}


def _files() -> tuple[Operation, ...]:
    return (
        Operation(
            "post",
            f"{SERVICES}/fileinfo",
            "What the files of a service are: whether each can be fetched, its size and type, with checksum its SHA-256",
            schema=_members(
                did=shapes.DID,
                serviceId=_TEXT,
                checksum={"description": "anything that is true"},
                url={"type": "string", "description": "instead of did: a file that is not published yet"},
                type={"const": "url"},
            ),
            answer=shapes.FILES,
            codes=(*_BODY_CODES, 429),
        ),
        Operation(
            "get",
            f"{SERVICES}/initialize",
            "What an order of a service costs, signed; or whether one that was made is good",
            query={**_OF_A_SERVICE, "transferTxId": shapes.HEX32},
            required=("documentId", "serviceId", "consumerAddress"),
            answer=shapes.INITIALIZED,
            codes=(400, 429, 503),
        ),
        Operation(
            "get",
            f"{SERVICES}/download",
            "A file of a service that was ordered, for a signature over the DID and the nonce; never a model's",
            query={**_OF_A_SERVICE, "transferTxId": shapes.HEX32, "nonce": _NONCE, "signature": _SIGNATURE},
            required=("documentId", "serviceId", "consumerAddress", "transferTxId", "fileIndex", "nonce"),
            answers=(BINARY,),
            codes=(400, 429, 503),
        ),
    )


_PART = _members("documentId", "serviceId", documentId=shapes.DID, serviceId=_TEXT, transferTxId=shapes.HEX32)
_JOB_QUERY = {
    "consumerAddress": shapes.ADDRESS,
    "documentId": shapes.DID,
    "jobId": {"type": "string", "minLength": 1, "maxLength": 64},
    "nonce": _NONCE,
    "signature": _SIGNATURE,
}


def _jobs() -> tuple[Operation, ...]:
    def one(method: str, summary: str, *required: str) -> Operation:
        needed = ("consumerAddress", "nonce", *required)
        path = f"{SERVICES}/compute"
        return Operation(method, path, summary, query=_JOB_QUERY, required=needed, answer=shapes.OCEAN_JOBS, codes=(400, 503))

    return (
        Operation(
            "post",
            f"{SERVICES}/initializeCompute",
            "What a job's parts cost, signed: the model's fee pays for computing until validUntil",
            schema=_members(
                "datasets",
                "algorithm",
                "compute",
                "consumerAddress",
                datasets={"type": "array", "items": _PART, "minItems": 1},
                algorithm=_PART,
                compute=_members("env", "validUntil", env=_TEXT, validUntil={"type": "integer", "minimum": 0}),
                consumerAddress=shapes.ADDRESS,
            ),
            codes=(*_BODY_CODES, 429),
        ),
        Operation(
            "post",
            f"{SERVICES}/compute",
            "Start a job that was ordered; parameters in the algorithm's algocustomdata",
            schema=_members(
                "dataset",
                "algorithm",
                "environment",
                "consumerAddress",
                "nonce",
                dataset=_PART,
                algorithm={**_PART, "properties": {**_PART["properties"], "algocustomdata": {"type": ["object", "string"]}}},
                environment=_TEXT,
                consumerAddress=shapes.ADDRESS,
                nonce=_NONCE,
                signature=_SIGNATURE,
            ),
            answer=shapes.OCEAN_JOBS,
            codes=(*_BODY_CODES, 422, 429),
        ),
        one("get", "Jobs of who signs, or one of them"),
        one("put", "Stop a job", "jobId"),
        one("delete", "Stop a job that still runs; its record stays", "jobId"),
        Operation(
            "get",
            f"{SERVICES}/computeResult",
            "One result of a job, by its position",
            query={**{name: each for name, each in _JOB_QUERY.items() if name != "documentId"}, "index": shapes.COUNTED},
            required=("consumerAddress", "jobId", "index", "nonce"),
            answers=(BINARY,),
            codes=(400, 503),
        ),
    )


def _aquarius() -> tuple[Operation, ...]:
    return (
        Operation("get", f"{AQUARIUS}/assets/ddo/{{did}}", "An asset's document", answer=shapes.DDO, codes=(400, 404, 503)),
        Operation("get", f"{AQUARIUS}/assets/metadata/{{did}}", "An asset's metadata", codes=(400, 404, 503)),
        Operation(
            "post",
            f"{AQUARIUS}/assets/names",
            "Names of assets by DID",
            schema=_members("didList", didList={"type": "array", "items": shapes.DID, "minItems": 1, "maxItems": 1000}),
            answer={"type": "object", "additionalProperties": {"type": "string"}},
            codes=_BODY_CODES,
        ),
        Operation(
            "post",
            f"{AQUARIUS}/assets/query",
            "Search in Elasticsearch's language, in part",
            schema={
                "type": "object",
                "properties": {
                    "query": {"type": "object"},
                    "from": {"type": "integer", "minimum": 0, "maximum": 10_000},
                    "size": {"type": "integer", "minimum": 0, "maximum": 1000},
                    "sort": {"type": ["array", "object", "string"]},
                    "track_total_hits": {"const": True},
                },
                "additionalProperties": False,
            },
            answer=shapes.HITS,
            codes=_BODY_CODES,
        ),
        Operation(
            "post",
            f"{AQUARIUS}/assets/ddo/validate",
            "Whether a document is valid; the operator's signature over its SHA-256 where it is",
            schema={"type": "object"},
            files=(BINARY,),
            answer=shapes.VALIDATED,
            codes=_BODY_CODES,
        ),
        Operation(
            "get",
            f"{AQUARIUS}/state/ddo",
            "Whether a document was indexed",
            query={"did": shapes.DID, "nft": shapes.ADDRESS, "txId": shapes.HEX32},
            codes=(400, 404, 503),
        ),
        Operation("get", f"{AQUARIUS}/chains/list", "Chains that are indexed"),
        Operation("get", f"{AQUARIUS}/chains/status/{{chain_id}}", "How far a chain was read", codes=(404, 503)),
    )
