"""RFC 6962 trees: others' vectors, and the laws for every small size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.receipts.merkle import (
    EMPTY_ROOT,
    Tree,
    consistency_proof,
    extends,
    includes,
    inclusion_proof,
    leaf_hash,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "rfc6962.json").read_text())
LARGEST = 65
LEAVES = [hashlib.sha256(bytes([number])).digest() for number in range(LARGEST)]
TREE = Tree(LEAVES)


def reference_root(hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return hashlib.sha256(b"\x01" + reference_root(hashes[:split]) + reference_root(hashes[split:])).digest()


def reference_tree() -> Tree:
    return Tree(leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"])


def test_the_reference_tree_has_its_published_roots() -> None:
    tree = reference_tree()
    assert tree.root(0) == EMPTY_ROOT == bytes.fromhex(VECTORS["empty_root"])
    assert [tree.root(size).hex() for size in range(1, 9)] == VECTORS["roots"]


@pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=lambda vector: f"{vector['index']} of {vector['size']}")
def test_the_reference_tree_has_its_published_inclusion_proofs(vector: dict[str, object]) -> None:
    tree, index, size = reference_tree(), vector["index"], vector["size"]
    assert isinstance(index, int) and isinstance(size, int)
    path = inclusion_proof(tree.node, index, size)
    assert [part.hex() for part in path] == vector["path"]
    assert includes(leaf_hash(bytes.fromhex(VECTORS["leaves"][index])), index, size, path, tree.root(size))


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda vector: f"{vector['old']} in {vector['new']}")
def test_the_reference_tree_has_its_published_consistency_proofs(vector: dict[str, object]) -> None:
    tree, old, new = reference_tree(), vector["old"], vector["new"]
    assert isinstance(old, int) and isinstance(new, int)
    path = consistency_proof(tree.node, old, new)
    assert [part.hex() for part in path] == vector["path"]
    assert extends(old, new, tree.root(old), tree.root(new), path)


def test_every_root_up_to_65_leaves_is_the_rfc_s_recursion() -> None:
    for size in range(1, LARGEST + 1):
        assert TREE.root(size) == reference_root(LEAVES[:size])


def test_every_leaf_of_every_tree_up_to_65_is_included() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            assert includes(LEAVES[index], index, size, inclusion_proof(TREE.node, index, size), TREE.root(size))


def test_every_tree_up_to_65_extends_every_smaller_one() -> None:
    for new in range(LARGEST + 1):
        for old in range(new + 1):
            assert extends(old, new, TREE.root(old), TREE.root(new), consistency_proof(TREE.node, old, new))


@settings(max_examples=300)
@given(data=st.data())
def test_an_inclusion_proof_with_anything_changed_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, LARGEST))
    index = data.draw(st.integers(0, size - 1))
    path, root = inclusion_proof(TREE.node, index, size), TREE.root(size)
    kinds = ["leaf", "root", "index", "longer"] + (["path", "shorter"] if path else [])
    kind = data.draw(st.sampled_from(kinds))
    leaf, at = LEAVES[index], index
    if kind in ("leaf", "root"):
        leaf, root = (flip(leaf, data), root) if kind == "leaf" else (leaf, flip(root, data))
    elif kind == "index":
        at = data.draw(st.integers(-1, size + 1).filter(lambda other: other != index))
    elif kind == "longer":
        path.insert(data.draw(st.integers(0, len(path))), data.draw(st.sampled_from([root, leaf, b""])))
    elif kind == "shorter":
        del path[data.draw(st.integers(0, len(path) - 1))]
    else:
        chosen = data.draw(st.integers(0, len(path) - 1))
        path[chosen] = flip(path[chosen], data)
    assert not includes(leaf, at, size, path, root)


@settings(max_examples=300)
@given(data=st.data())
def test_a_consistency_proof_with_anything_changed_is_refused(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, LARGEST))
    old = data.draw(st.integers(1, new - 1))
    path, roots = consistency_proof(TREE.node, old, new), [TREE.root(old), TREE.root(new)]
    kind = data.draw(st.sampled_from(["old root", "new root", "path", "shorter", "longer", "swapped"]))
    if kind in ("old root", "new root"):
        which = 0 if kind == "old root" else 1
        roots[which] = flip(roots[which], data)
    elif kind == "swapped":
        roots.reverse()
    elif kind == "shorter":
        del path[data.draw(st.integers(0, len(path) - 1))]
    elif kind == "longer":
        path.insert(data.draw(st.integers(0, len(path))), data.draw(st.sampled_from([*roots, b""])))
    else:
        chosen = data.draw(st.integers(0, len(path) - 1))
        path[chosen] = flip(path[chosen], data)
    assert not extends(old, new, roots[0], roots[1], path)


def flip(value: bytes, data: st.DataObject) -> bytes:
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    raw = bytearray(value)
    raw[bit // 8] ^= 1 << bit % 8
    return bytes(raw)


def test_a_leaf_that_is_not_there_has_no_proof() -> None:
    with pytest.raises(IndexError):
        inclusion_proof(TREE.node, 5, 5)
    with pytest.raises(IndexError):
        consistency_proof(TREE.node, 6, 5)


def test_only_32_bytes_are_a_leaf_hash() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Tree([b"short"])
