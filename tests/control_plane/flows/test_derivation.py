"""The statement of a derivation: its bytes, its hash, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from control_plane.did import Address, Bytes32, Did
from control_plane.errors import BadInput
from control_plane.flows.derivation import Derivation

NFT = Address("0x000000000000000000000000000000000000dEaD")
STATED = Derivation(
    job="0123456789abcdef" * 2,
    trainer=NFT,
    chain_id=8996,
    parent_nft=NFT,
    parent_digest=Bytes32("0x" + "11" * 32),
    parent_weights=Bytes32("0x" + "22" * 32),
    dataset="wikitext-2",
    algorithm=Did("did:op:" + "a1" * 32),
    parameters={"steps": 500, "learning_rate": 0.0005, "name": "Übung"},
    weights_digest=Bytes32("0x" + "33" * 32),
)


def test_the_statements_hash_stays_what_it_is() -> None:
    # Frozen: assets on chain name this hash.
    assert STATED.digest() == "0xd23c5d15f09047264c599f7e8f60aed62fbb3feb0b6fdead2055d369c9c866dd"


def test_a_statement_comes_back_from_its_json() -> None:
    assert Derivation.from_json(json.loads(STATED.canonical())) == STATED


@pytest.mark.parametrize("field", ["job", "trainer", "parent_digest", "parent_weights", "dataset", "parameters", "weights_digest"])
def test_any_changed_fact_changes_the_hash(field: str) -> None:
    values = {"job": "f" * 32, "trainer": Address("0x" + "10" * 20), "dataset": "other", "parameters": {"steps": 501}}
    changed: Any = {field: values.get(field, Bytes32("0x" + "99" * 32))}
    assert replace(STATED, **changed).digest() != STATED.digest()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "posthuman/derivation/v2"),
        ("job", "xyz"),
        ("job", 7),
        ("trainer", "0x12"),
        ("chain_id", True),
        ("chain_id", 0),
        ("dataset", None),
        ("algorithm", "train"),
        ("parameters", []),
        ("weights_digest", "0x12"),
        ("parent", {}),
        ("parent", "did:op:" + "0" * 64),
        ("more", 1),
    ],
)
def test_a_statement_that_is_none_is_refused(field: str, value: object) -> None:
    with pytest.raises(BadInput, match="derivation"):
        Derivation.from_json(STATED.to_json() | {field: value})


def test_a_parent_whose_did_is_not_that_of_its_nft_is_refused() -> None:
    record = STATED.to_json()
    record["parent"]["did"] = "did:op:" + "0" * 64
    with pytest.raises(BadInput, match=r"derivation\.parent\.did"):
        Derivation.from_json(record)


def test_a_missing_fact_is_refused() -> None:
    record = STATED.to_json()
    del record["dataset"]
    with pytest.raises(BadInput, match="exactly the fields"):
        Derivation.from_json(record)
