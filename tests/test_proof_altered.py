"""Proof: one that was altered, whatever of it, is found out or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from proofs import Clock, book_november, closed

from tollsplit.errors import ProofError
from tollsplit.ledger import open_ledger, proof
from tollsplit.ledger.signing import Signer, is_signed


def resolved(document: Any, path: str) -> tuple[Any, Any]:
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in steps:
        document = document[step]
    return document, last


ALTERED = [
    ("head.root", "00" * 32, "not signed by this public key"),
    ("head.previous", "00" * 32, "not signed by this public key"),
    ("head.accounts", 9, "not signed by this public key"),
    ("signature", "00" * 64, "not signed by this public key"),
    ("signature", "zz", "not signed by this public key"),
    ("leaf.2.0.2", -642, "don't add up to closing"),
    ("leaf.1", "alice", "its path does not lead to the signed root"),
    ("leaf.3", 8, "8 are in the leaf, 11 in the proof"),
    ("index", 0, "its path does not lead"),
    ("index", -1, "its path does not lead"),
    ("index", 7, "its path does not lead"),
    ("path.0", "00" * 32, "its path does not lead"),
    ("path.0", "zz", "its path does not lead"),
    ("items.0.12", -204, "link "),
    ("items.2.7", "10.0.0.9", "one was changed, removed, added or moved"),
    ("items.2.18", 301, "1000 octets metered, 1001 split among payers"),
    ("items.2.20", 701, "-1400 posted in octet, its records less what is uncollected sum to 1401"),
    ("items.4.8", 202, "-200 posted in CNY/1000000, its charges and taxes less what is uncollected "
     "sum to 199"),
    ("items.5.6", 27, "its charges and taxes less what is uncollected sum to 201"),
    ("items.5.4", "tax:city", "one was changed, removed, added or moved"),
    ("items.6.7", 28, "its charges and taxes less what is uncollected sum to 201"),
    ("items.6.2", 5, "its time is not in the period"),
    ("items.7.2", 5, "its time is not in the period"),
    ("items.7.1", 99, "link 99 is not in the period"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "value", "finding"), ALTERED, ids=[f"{w}={v}"[:40] for w, v, _ in ALTERED])  # fmt: skip # noqa: E501
def test_proof_that_was_altered_is_found(
    tmp_path: Path, clock: Clock, signer: Signer, keys: Path, where: str, value: object,
    finding: str,
) -> None:  # fmt: skip
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock_ns=clock) as ledger:
        book_november(ledger)
        document = json.loads(closed(ledger, clock, signer).text)
    holder, step = resolved(document, where)
    holder[step] = value
    altered = proof.read(json.dumps(document), "proof.json")
    found = list(proof.astray(altered, signer.public_key, is_signed))
    assert any(finding in text for text in found), found


def test_proof_with_items_left_out_added_or_moved_is_found(
    tmp_path: Path, clock: Clock, signer: Signer
) -> None:
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock_ns=clock) as ledger:
        book_november(ledger)
        found = closed(ledger, clock, signer)
    items = found.items
    for altered in (items[:2] + items[3:], items[:-1], (*items, items[-1]), items[::-1]):
        broken = list(proof.astray(replace(found, items=altered), signer.public_key, is_signed))
        assert any("changed, removed, added or moved" in text for text in broken)


@pytest.mark.parametrize("text", [
    "", "[]", "{}", '{"schema":"tollsplit.proof/2"}', "[" * 100_000,
    '{"schema":"tollsplit.proof/1","leaf":["tollsplit.leaf/1","a",[],0,""]}',
])  # fmt: skip
def test_proof_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ProofError, match=r"proof.json: expected a file as `tollsplit statement"):
        proof.read(text, "proof.json")


def test_proof_any_field_of_another_type_is_found_or_refused(
    tmp_path: Path, clock: Clock, signer: Signer
) -> None:
    """Every value in turn becomes something else: never an error of Python's, never accepted."""
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock_ns=clock) as ledger:
        book_november(ledger)
        text = closed(ledger, clock, signer).text

    def paths(found: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        inner = found.items() if isinstance(found, dict) else enumerate(found)
        for key, value in inner:
            yield (*before, key)
            if isinstance(value, dict | list):
                yield from paths(value, (*before, key))

    tried = 0
    for path in paths(json.loads(text)):
        for value in (None, "x", 7, [], {}, [[]], -(2**80)):
            document = json.loads(text)
            holder = document
            for step in path[:-1]:
                holder = holder[step]
            if holder[path[-1]] == value or path == ("public_key",):
                continue
            holder[path[-1]] = value
            try:
                altered = proof.read(json.dumps(document), "proof.json")
                assert list(proof.astray(altered, signer.public_key, is_signed)), (path, value)
            except ProofError:
                pass
            tried += 1
    assert tried > 1_000
