"""What each path answers, as JSON Schema, for `/openapi.json`.

In: nothing. Out: schemas. This module must never say more than the surfaces promise: members may be added, so no answer is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

DID: Schema = {"type": "string", "pattern": "^did:op:[0-9a-f]{64}$"}
HEX32: Schema = {"type": "string", "pattern": "^0x[0-9a-fA-F]{64}$"}
ADDRESS: Schema = {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}
_TEXT: Schema = {"type": "string"}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_WHOLE: Schema = {"type": "integer"}
COUNTED: Schema = {"type": "integer", "minimum": 0}
_WEI: Schema = {"type": "string", "pattern": "^[0-9]+$"}


def _object(**members: Schema) -> Schema:
    """All of these, and perhaps more."""
    return {"type": "object", "required": list(members), "properties": members}


def _listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _one(value: str) -> Schema:
    return {"type": "string", "const": value}


_MODEL = _object(
    id=DID,
    object=_one("model"),
    created=_WHOLE,
    owned_by=ADDRESS,
    name=_TEXT,
    task=_TEXT,
    state={"enum": ["on_sale", "withdrawn"]},
    reason=_TEXT,
    model_digest=HEX32,
    chain_id=_WHOLE,
    nft=ADDRESS,
    datatoken=ADDRESS,
    parity=_listed({"type": "object"}),
    weights_digest={"anyOf": [HEX32, {"type": "null"}], "description": "what it can be trained from; null: it cannot be trained"},
    derivation={"type": ["object", "null"], "description": "how it was trained from another asset; null: it was published"},
)
_WRITER: Schema = {
    "enum": ["model", "plain"],
    "description": "whose template makes a prompt of a conversation: the model's own, or ours",
}
MODEL: Schema = {**_MODEL, "properties": {**_MODEL["properties"], "chat_template": _WRITER}}
MODELS = _object(object=_one("list"), data=_listed(_MODEL))
_TENSORS = _listed(_object(name=_TEXT, dtype=_TEXT, shape=_listed(_WHOLE)))
ENTRY = _object(
    format=_TEXT, name=_TEXT, task=_TEXT, precision=_TEXT, inputs=_TENSORS, outputs=_TENSORS, details={"type": "object"}
)
OFFER = _object(did=DID, rate=_WEI, base_token=ADDRESS, publish_fee=_WEI, timeout_s=COUNTED, provider_fee={"type": "object"})

_USAGE = _object(prompt_tokens=COUNTED, completion_tokens=COUNTED, total_tokens=COUNTED)
_ENDED: Schema = {"enum": ["stop", "length"]}
COMPLETION = _object(
    id=_TEXT,
    object=_one("text_completion"),
    created=_WHOLE,
    model=DID,
    choices=_listed(_object(index=COUNTED, text=_TEXT, finish_reason=_ENDED)),
    usage=_USAGE,
)
_MESSAGE = _object(role=_one("assistant"), content=_TEXT)
CHAT_COMPLETION = _object(
    id=_TEXT,
    object=_one("chat.completion"),
    created=_WHOLE,
    model=DID,
    system_fingerprint=HEX32,
    chat_template=_WRITER,
    choices=_listed(_object(index=COUNTED, message=_MESSAGE, finish_reason=_ENDED)),
    usage=_USAGE,
)
_VECTOR: Schema = {"oneOf": [_listed({"type": "number"}), {"type": "string", "contentEncoding": "base64"}]}
EMBEDDINGS_ANSWER = _object(
    object=_one("list"),
    data=_listed(_object(object=_one("embedding"), index=COUNTED, embedding=_VECTOR)),
    model=DID,
    usage=_object(prompt_tokens=COUNTED, total_tokens=COUNTED),
)

SERVER = _object(name=_TEXT, version=_TEXT, extensions=_listed(_TEXT))
_DECLARED = _listed(_object(name=_TEXT, datatype=_TEXT, shape=_listed(_WHOLE)))
METADATA = _object(name=DID, versions=_listed(_TEXT), platform=_TEXT, inputs=_DECLARED, outputs=_DECLARED)
INFERRED = _object(model_name=_TEXT, outputs=_DECLARED)
GENERATED = _object(
    model_name=DID,
    model_version=_TEXT,
    text_output=_TEXT,
    token_ids={"oneOf": [COUNTED, _listed(COUNTED)]},
    prompt_tokens=COUNTED,
    completion_tokens=COUNTED,
    finish_reason={"enum": ["stop", "length", ""]},
)

NONCE = _object(nonce=_TEXT, expires_at=_WHOLE)
MESSAGE_ANSWER = _object(message=_TEXT, nonce=_TEXT, expires_at=_WHOLE)
SESSION = _object(token=_TEXT, expires_at=_WHOLE, did=DID, order=HEX32, calls_limit=COUNTED)
REVOKED = _object(revoked={"type": "boolean"})
_PLACE: Schema = {"type": ["integer", "null"], "minimum": 0}
ENVELOPE: Schema = {
    "type": "object",
    "required": ["signed", "salt", "id"],
    "additionalProperties": False,
    "properties": {"signed": {"type": "object"}, "salt": HEX32, "id": HEX32},
}
RECEIPT = _object(signed={"type": "object"}, salt=HEX32, id=HEX32, leaf_index=_PLACE)
RECEIPTS = _object(receipts=_listed(RECEIPT))
READMITTED = _object(id=HEX32, leaf_index=_PLACE)
ALIVE = _object(status=_one("alive"))
READY = _object(status={"enum": ["ready", "not ready"]}, components={"type": "object"}, needed=_listed(_TEXT))

ERROR = _object(
    error=_object(message=_TEXT, type=_TEXT, param=_MAYBE_TEXT, code=_MAYBE_TEXT, expected=_MAYBE_TEXT, found=_MAYBE_TEXT)
)
PLAIN_ERROR = _object(error=_TEXT, type=_TEXT, param=_MAYBE_TEXT, code=_MAYBE_TEXT, expected=_MAYBE_TEXT, found=_MAYBE_TEXT)
"""Where clients print `error` as a text: under `/v2` and `/models`."""
OCEAN_ERROR: Schema = {
    "type": "object",
    "anyOf": [
        _object(error=_TEXT),
        _object(success={"const": False}, message=_TEXT, errors={"type": "object"}),
        _object(errors={"type": "object"}),
    ],
}
"""Under `/api`: Ocean Provider's two shapes, and Aquarius's for a document with faults."""
DISCOVERY = _object(
    software=_one("Provider"),
    version=_TEXT,
    providerAddresses={"type": "object", "additionalProperties": ADDRESS},
    chainIds=_listed(_WHOLE),
    serviceEndpoints={"type": "object", "minProperties": 16, "maxProperties": 16},
)
USER_NONCE = _object(nonce={"type": "number", "minimum": 0})
AUTH_TOKEN = _object(token=_TEXT)
DDO = _object(**{"@context": {}, "id": DID, "version": _TEXT, "chainId": _WHOLE, "nftAddress": ADDRESS, "nft": {"type": "object"}})
"""A withdrawn asset's has no metadata and no services."""
HITS = _object(hits=_object(total={"type": "object"}, hits=_listed(_object(_id=DID, _source={"type": "object"}))))
VALIDATED = _object(hash=HEX32, publicKey=ADDRESS, v=_WHOLE, r=_listed(HEX32), s=_listed(HEX32))
FILES = _listed(_object(index=COUNTED, valid={"type": "boolean"}, type=_one("url")))
INITIALIZED: Schema = {
    "type": "object",
    "oneOf": [_object(datatoken=ADDRESS, nonce={"type": "number"}, providerFee={"type": "object"}), _object(validOrder=HEX32)],
}
OCEAN_JOBS = _listed(
    _object(agreementId=HEX32, jobId=_TEXT, owner=ADDRESS, status=_WHOLE, statusText=_TEXT, algoDID=DID, inputDID=_listed(DID))
)
CONTAINER = _object(entrypoint=_TEXT, image=_TEXT, checksum=_TEXT)
