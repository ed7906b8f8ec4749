"""A tree of hashes over a list of leaves, as RFC 9162 §2.1 has it, with SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def leaf_hash(text: str) -> bytes:
    """Of one leaf. Its prefix keeps a leaf from passing for a node, and the other way round."""
    return hashlib.sha256(b"\x00" + text.encode()).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The tree's root over leaf hashes; over none, the hash of nothing."""
    if not leaves:
        return hashlib.sha256().digest()
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from a leaf to the root, the lowest first (§2.1.3.1)."""
    found = []
    level = list(leaves)
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            found.append(level[beside])
        level = _above(level)
        index //= 2
    return found


def root_by_path(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a leaf and its path come to (§2.1.3.2); None where they cannot be of a tree of
    so many leaves.
    """
    if not 0 <= index < count:
        return None
    last, found = count - 1, leaf
    for beside in path:
        if last == 0:
            return None
        if index % 2 or index == last:
            found = node_hash(beside, found)
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            found = node_hash(found, beside)
        index, last = index // 2, last // 2
    return found if last == 0 else None


def _above(level: list[bytes]) -> list[bytes]:
    """The nodes over a level; one that has none beside it goes up as it is."""
    nodes = [node_hash(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
    return nodes + level[len(level) - len(level) % 2 :]
