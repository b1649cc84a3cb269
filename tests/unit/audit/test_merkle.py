from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_audit import merkle

_LEAVES = [merkle.leaf_hash(i.to_bytes(4)) for i in range(1_000)]


def _mth(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\1" + _mth(leaves[:k]) + _mth(leaves[k:])).digest()


def _at(height: int, index: int) -> bytes:
    return _mth(_LEAVES[index << height : (index + 1) << height])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 4), (4, 4)])
def test_no_proof_is_made_for_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        merkle.inclusion_proof(index, size, _at)


@given(st.integers(1, 600), st.data())
def test_a_changed_inclusion_proof_does_not_lead_to_the_root(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    root = _mth(_LEAVES[:size])
    proof = merkle.inclusion_proof(index, size, _at)
    assert merkle.root_from_inclusion(_LEAVES[index], index, size, proof=proof) == root
    assert merkle.root_from_inclusion(_LEAVES[index + 1], index, size, proof=proof) != root
    assert merkle.root_from_inclusion(_LEAVES[index], index, size, proof=[*proof, root]) is None
    if proof:
        assert merkle.root_from_inclusion(_LEAVES[index], index, size, proof=proof[:-1]) is None
        changed = [*proof]
        place = data.draw(st.integers(0, len(proof) - 1))
        changed[place] = bytes([changed[place][0] ^ 1]) + changed[place][1:]
        assert merkle.root_from_inclusion(_LEAVES[index], index, size, proof=changed) != root


@given(st.integers(1, 600), st.data())
def test_a_consistency_proof_holds_for_a_prefix_and_for_nothing_else(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    old_root, new_root = _mth(_LEAVES[:old]), _mth(_LEAVES[:new])
    proof = merkle.consistency_proof(old, new, _at)
    assert merkle.is_consistent(old, new, old_root=old_root, new_root=new_root, proof=proof)
    other = sha256(b"other").digest()
    assert not merkle.is_consistent(old, new, old_root=other, new_root=new_root, proof=proof)
    assert not merkle.is_consistent(old, new, old_root=old_root, new_root=other, proof=proof)
    assert not merkle.is_consistent(old, new, old_root=old_root, new_root=new_root, proof=[*proof, other])
    if proof:
        assert not merkle.is_consistent(old, new, old_root=old_root, new_root=new_root, proof=proof[:-1])


@given(st.integers(0, 1_000), st.lists(st.integers(1, 300), max_size=8))
def test_the_edge_grows_to_the_same_root_however_it_is_fed(size: int, cuts: list[int]) -> None:
    edge, start = merkle.Edge(), 0
    for cut in [*cuts, size]:
        edge.append(_LEAVES[start : min(start + cut, size)])
        start = min(start + cut, size)
    assert edge.root() == _mth(_LEAVES[:size])


def test_tiles_of_every_level_appear_when_full() -> None:
    edge = merkle.Edge()
    leaves = [merkle.leaf_hash(i.to_bytes(4)) for i in range(256 * 256 + 3)]
    tiles = edge.append(leaves)
    assert [t.index for t in tiles if t.level == 0] == list(range(256))
    assert [(t.level, t.index) for t in tiles if t.level > 0] == [(1, 0)]
    assert tiles[1].hashes == b"".join(leaves[256:512])
    assert edge.root() == _mth(leaves)
