"""Signs receipts and evaluations and finds who signed one: EIP-712 over our two types, by hand.

In: receipts, evaluations, a key. Out: 65-byte signatures, addresses. This module must never read a file or print a key.

`eth_account.encode_typed_data` gives the same digest ten times slower (99-129 against 10 microseconds); a property test compares
the two. The pieces below are general enough to encode the EIP's own example, which a vector test does.
"""

from __future__ import annotations

from functools import lru_cache

from coincurve import PrivateKey, PublicKey
from Crypto.Hash import keccak as keccak_hash
from eth_utils.address import to_checksum_address

from control_plane.curve import CURVE_ORDER, HIGHEST_S
from control_plane.did import Address, parse_address
from control_plane.errors import BadInput
from control_plane.receipts.evaluation import Evaluation, SignedEvaluation
from control_plane.receipts.receipt import Receipt, SignedReceipt

DOMAIN_NAME = "Posthuman receipt"
DOMAIN_VERSION = "1"
DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
RECEIPT_TYPE = (
    "Receipt(string did,bytes32 modelDigest,bytes32 requestHash,bytes32 responseHash,address consumer,bytes32 order,"
    "uint64 sequence,bytes32 previous,uint64 startedAt,uint64 finishedAt,uint64 unitsIn,uint64 unitsOut,"
    "uint8 status,uint64 mergeBy)"
)
EVALUATION_DOMAIN = "Posthuman evaluation"
"""A domain of its own: a signature of one type is never one of the other."""
EVALUATION_TYPE = (
    "Evaluation(string did,address nft,address evaluator,bytes32 modelDigest,bytes32 datasetDigest,bool isSampled,"
    "uint64 sampleSeed,uint64 samples,uint64 maxTokens,uint64 tokens,uint64 lossMicronats,uint64 evaluatedAt)"
)


def keccak(data: bytes) -> bytes:
    """keccak-256 as Ethereum has it. `eth_utils.keccak` is this very function behind three others, and takes twice as long."""
    return keccak_hash.new(digest_bits=256, data=data).digest()


def type_hash(type_text: str) -> bytes:
    return keccak(type_text.encode())


def word_string(text: str) -> bytes:
    return keccak(text.encode())


def word_address(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def word_uint(value: int) -> bytes:
    return value.to_bytes(32, "big")


def hash_struct(hashed_type: bytes, *words: bytes) -> bytes:
    """`hashStruct` of EIP-712: keccak256(type hash, each member as one 32-byte word)."""
    return keccak(hashed_type + b"".join(words))


def typed_digest(domain: bytes, struct: bytes) -> bytes:
    """What is signed: keccak256(0x19 0x01, domain separator, struct hash)."""
    return keccak(b"\x19\x01" + domain + struct)


_DOMAIN_HASH = type_hash(DOMAIN_TYPE)
_RECEIPT_HASH = type_hash(RECEIPT_TYPE)
_EVALUATION_HASH = type_hash(EVALUATION_TYPE)
_cached_did = lru_cache(maxsize=4096)(word_string)


@lru_cache(maxsize=256)
def domain_separator(chain_id: int, contract: str, name: str = DOMAIN_NAME, version: str = DOMAIN_VERSION) -> bytes:
    return hash_struct(_DOMAIN_HASH, word_string(name), word_string(version), word_uint(chain_id), word_address(contract))


def receipt_digest(receipt: Receipt, chain_id: int, log: Address) -> bytes:
    """The 32 bytes that the operator signs for `receipt` in the log of `chain_id` and `log`."""
    words = b"".join(
        (
            _RECEIPT_HASH,
            _cached_did(receipt.did),
            bytes.fromhex(receipt.model_digest[2:]),
            bytes.fromhex(receipt.request_hash[2:]),
            bytes.fromhex(receipt.response_hash[2:]),
            word_address(receipt.consumer),
            bytes.fromhex(receipt.order[2:]),
            receipt.sequence.to_bytes(32, "big"),
            bytes.fromhex(receipt.previous[2:]),
            receipt.started_at.to_bytes(32, "big"),
            receipt.finished_at.to_bytes(32, "big"),
            receipt.units_in.to_bytes(32, "big"),
            receipt.units_out.to_bytes(32, "big"),
            int(receipt.status).to_bytes(32, "big"),
            receipt.merge_by.to_bytes(32, "big"),
        )
    )
    return typed_digest(domain_separator(chain_id, log), keccak(words))


def evaluation_digest(said: Evaluation, chain_id: int, log: Address) -> bytes:
    """The 32 bytes that the operator signs for an evaluation."""
    struct = hash_struct(
        _EVALUATION_HASH,
        word_string(said.did),
        word_address(said.nft),
        word_address(said.evaluator),
        bytes.fromhex(said.model_digest[2:]),
        bytes.fromhex(said.dataset_digest[2:]),
        word_uint(int(said.is_sampled)),
        word_uint(said.sample_seed),
        word_uint(said.samples),
        word_uint(said.max_tokens),
        word_uint(said.tokens),
        word_uint(said.loss_micronats),
        word_uint(said.evaluated_at),
    )
    return typed_digest(domain_separator(chain_id, log, EVALUATION_DOMAIN), struct)


def address_of(public_key: bytes) -> Address:
    """The address of an uncompressed public key: 65 bytes, 0x04 first."""
    return Address(to_checksum_address(keccak(public_key[1:])[-20:]))


class ReceiptSigner:
    """The operator's receipt key, bound to one log. Its `repr` shows the address only."""

    def __init__(self, key: bytes, chain_id: int, log: Address) -> None:
        if not isinstance(key, bytes) or len(key) != 32 or not 0 < int.from_bytes(key, "big") < CURVE_ORDER:
            raise BadInput("receipt key", "32 bytes of a secp256k1 private key", f"{type(key).__name__} (not shown)")
        self._key = PrivateKey(key)
        self.chain_id = chain_id
        self.log = parse_address(log, "log")
        self.address = address_of(self._key.public_key.format(compressed=False))

    def __repr__(self) -> str:
        return f"ReceiptSigner({self.address}, chain {self.chain_id}, log {self.log})"

    def sign(self, receipt: Receipt) -> SignedReceipt:
        """Sign: low s, v 27 or 28, the same signature for the same receipt (RFC 6979)."""
        return SignedReceipt(receipt, self.chain_id, self.log, self._sign(receipt_digest(receipt, self.chain_id, self.log)))

    def sign_evaluation(self, said: Evaluation) -> SignedEvaluation:
        """As `sign`, in the evaluations' own domain."""
        return SignedEvaluation(said, self.chain_id, self.log, self._sign(evaluation_digest(said, self.chain_id, self.log)))

    def _sign(self, digest: bytes) -> bytes:
        raw: bytes = self._key.sign_recoverable(digest, hasher=None)
        return raw[:64] + bytes((raw[64] + 27,))


def recover_signer(signed: SignedReceipt) -> Address:
    """The address whose key signed. Whether that key may speak for the log is another question (`verify`).

    Raises BadInput for a signature that is not 65 bytes, has another v than 27 or 28, r or s out of range, a high s (EIP-2), or is
    no point of the curve; also for numbers that EIP-712 could not have encoded.
    """
    return _recover(signed.signature, receipt_digest(signed.receipt, signed.chain_id, signed.log))


def recover_evaluator(signed: SignedEvaluation) -> Address:
    """As `recover_signer`, of an evaluation."""
    return _recover(signed.signature, evaluation_digest(signed.evaluation, signed.chain_id, signed.log))


def _recover(signature: bytes, digest: bytes) -> Address:
    if len(signature) != 65:
        raise BadInput("signature", "65 bytes", f"{len(signature)} bytes")
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    if v not in (27, 28):
        raise BadInput("signature", "v 27 or 28", f"v {v}")
    if not 0 < r < CURVE_ORDER or not 0 < s < CURVE_ORDER:
        raise BadInput("signature", "r and s between 1 and the curve's order", "a value outside")
    if s > HIGHEST_S:
        raise BadInput("signature", "the low s of the two that are possible (EIP-2)", "the high one")
    try:
        point = PublicKey.from_signature_and_message(signature[:64] + bytes((v - 27,)), digest, hasher=None)
    except Exception as error:  # coincurve 18 raises plain Exception when r is no x coordinate of the curve
        raise BadInput("signature", "a signature that some key has made", "one that none can have made") from error
    return address_of(point.format(compressed=False))
