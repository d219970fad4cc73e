"""Signed notes against Go's published example, and checkpoints and proofs as text."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.errors import BadInput
from control_plane.receipts.checkpoint import Checkpoint, NoteSigner, key_id, open_checkpoint, open_note
from control_plane.receipts.merkle import Tree, inclusion_proof, leaf_hash
from control_plane.receipts.proof import Proof

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "signed-note.json").read_text())
ORIGIN = "posthuman/8996/0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"
SIGNER = NoteSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"\x05" * 32))
LEAF = leaf_hash(b"leaf 3")
TREE = Tree([leaf_hash(f"leaf {number}".encode()) for number in range(7)])
CHECKPOINT = Checkpoint(ORIGIN, 7, TREE.root())
NOTE = SIGNER.sign(CHECKPOINT.text())
PROOF = Proof(3, tuple(inclusion_proof(TREE.node, 3, 7)), NOTE)


def test_go_s_example_note_opens_and_is_signed_the_same() -> None:
    name, identity, key = VECTOR["verifier_key"].split("+", 2)
    public = base64.b64decode(key)
    assert public[0] == 1
    assert key_id(name, public[1:]).hex() == identity
    assert open_note(VECTOR["note"], name, public[1:]) == VECTOR["text"]
    secret = base64.b64decode(VECTOR["signer_key"].split("+", 4)[4])
    assert NoteSigner(name, Ed25519PrivateKey.from_private_bytes(secret[1:])).sign(VECTOR["text"]) == VECTOR["note"]


def test_a_checkpoint_round_trips() -> None:
    assert open_checkpoint(NOTE, ORIGIN, SIGNER.public_key) == CHECKPOINT


def test_signatures_of_witnesses_are_passed_over() -> None:
    witness = NoteSigner("witness.example", Ed25519PrivateKey.from_private_bytes(b"\x06" * 32)).sign(CHECKPOINT.text())
    assert open_checkpoint(NOTE + witness.split("\n\n")[1], ORIGIN, SIGNER.public_key) == CHECKPOINT


def test_a_note_without_our_signature_is_refused() -> None:
    stranger = NoteSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"\x06" * 32)).sign(CHECKPOINT.text())
    with pytest.raises(BadInput, match="0 of them"):
        open_checkpoint(stranger, ORIGIN, SIGNER.public_key)
    with pytest.raises(BadInput, match="0 of them"):
        open_checkpoint(NOTE, "posthuman/1/0x00", SIGNER.public_key)


def test_a_checkpoint_that_names_another_log_is_refused() -> None:
    with pytest.raises(BadInput, match="origin"):
        open_checkpoint(SIGNER.sign(replace(CHECKPOINT, origin="posthuman/1/other").text()), ORIGIN, SIGNER.public_key)


@settings(max_examples=300)
@given(position=st.integers(0, len(NOTE.encode()) - 1), bit=st.integers(0, 7))
def test_a_note_with_any_bit_changed_is_refused(position: int, bit: int) -> None:
    raw = bytearray(NOTE.encode())
    raw[position] ^= 1 << bit
    try:
        changed = raw.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(BadInput):
        open_checkpoint(changed, ORIGIN, SIGNER.public_key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"{ORIGIN}\n7\n",
        f"{ORIGIN}\n07\n{base64.b64encode(TREE.root()).decode()}\n",
        f"{ORIGIN}\n-7\n{base64.b64encode(TREE.root()).decode()}\n",
        f"{ORIGIN}\n7\n{base64.b64encode(b'short').decode()}\n",
        f"{ORIGIN}\n7\n{base64.b64encode(TREE.root()).decode()}\nextension\n",
        f"{ORIGIN}\n\u0667\n{base64.b64encode(TREE.root()).decode()}\n",
    ],
    ids=["empty", "one line", "no root", "leading zero", "negative", "short root", "extension", "other digits"],
)
def test_a_text_that_is_no_checkpoint_is_refused_though_signed(text: str) -> None:
    with pytest.raises(BadInput):
        open_checkpoint(SIGNER.sign(text), ORIGIN, SIGNER.public_key)


def test_a_note_signer_shows_no_private_key() -> None:
    assert ("05" * 32) not in repr(SIGNER)


def test_a_proof_round_trips_and_verifies() -> None:
    assert PROOF.to_text().startswith("c2sp.org/tlog-proof@v1\nindex 3\n")
    assert Proof.from_text(PROOF.to_text()) == PROOF
    assert PROOF.verify(LEAF, ORIGIN, SIGNER.public_key) == CHECKPOINT


def test_a_proof_of_a_single_leaf_has_no_hashes() -> None:
    tree = Tree([LEAF])
    proof = Proof(0, (), SIGNER.sign(Checkpoint(ORIGIN, 1, tree.root()).text()))
    assert Proof.from_text(proof.to_text()) == proof
    proof.verify(LEAF, ORIGIN, SIGNER.public_key)


@settings(max_examples=400)
@given(position=st.integers(0, len(PROOF.to_text().encode()) - 1), bit=st.integers(0, 7))
def test_a_proof_with_any_bit_changed_is_refused(position: int, bit: int) -> None:
    raw = bytearray(PROOF.to_text().encode())
    raw[position] ^= 1 << bit
    try:
        changed = raw.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(BadInput):
        Proof.from_text(changed).verify(LEAF, ORIGIN, SIGNER.public_key)


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_any_text_is_a_proof_or_bad_input(text: str) -> None:
    for candidate in (text, "c2sp.org/tlog-proof@v1\n" + text, "c2sp.org/tlog-proof@v1\nindex 0\n\n" + text):
        with pytest.raises(BadInput):
            Proof.from_text(candidate).verify(LEAF, ORIGIN, SIGNER.public_key)


def test_extra_data_is_refused() -> None:
    with pytest.raises(BadInput, match="second line"):
        Proof.from_text(PROOF.to_text().replace("index", "extra YQ==\nindex"))
