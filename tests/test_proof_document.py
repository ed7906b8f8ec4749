"""The worked example of docs/proof.md is what the program writes, byte for byte."""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bookings import charge, record, run_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from proofs import SPONSOR, Clock

from tollsplit.ledger import Proof, chain, merkle, open_ledger, proof
from tollsplit.ledger.signing import Signer, is_signed

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "proof.md"
# RFC 8032 §7.1, test 1: everybody knows it, so it signs examples alone.
KEY = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))  # fmt: skip


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Proof, tuple[object, ...]]:
    """The example's proof, and the link of its only transaction."""
    identity = uuid.UUID("6f1c2a58-0f5e-4a39-9d52-7a0d5f3b1c11")
    monkeypatch.setattr(uuid, "uuid4", lambda: identity)
    clock = Clock()
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock_ns=clock) as ledger:
        ledger.post(run_of(), [record()], [charge(87), charge(203, SPONSOR, octets=700)])
        clock.now = datetime(2026, 12, 1, 6, tzinfo=UTC)
        ledger.close_period("2026-11", Signer(KEY))
        [link] = ledger._store.rows(
            "SELECT number, at_ns, kind, subject, digest FROM chain WHERE kind = 'transaction'")
        return ledger.prove(SPONSOR, "2026-11"), link


def test_document_shows_the_proof_that_is_written(
    example: tuple[Proof, tuple[object, ...]],
) -> None:
    found, link = example
    text = DOCUMENT.read_text("utf-8")
    [shown] = re.findall(r"^```json\n(\{\"schema\".*?)^```", text, re.S | re.M)
    assert shown == found.text
    read = proof.read(shown, "proof.json")
    assert list(proof.astray(read, Signer(KEY).public_key, is_signed)) == []
    figures = {
        "leaf": merkle.leaf_hash(found.leaf.text).hex(), "root": found.signed.head.root,
        "items": found.leaf.digest, "key": Signer(KEY).public_key,
        "link": link[4].hex(),  # type: ignore[attr-defined]
    }  # fmt: skip
    for name, figure in figures.items():
        assert f"`{figure}`" in text, (name, figure)


def test_document_link_is_hashed_as_it_says(example: tuple[Proof, tuple[object, ...]]) -> None:
    text = DOCUMENT.read_text("utf-8")
    [line] = re.findall(r'^(\["[0-9a-f]{64}",\d+,\d+,"transaction",.*\])$', text, re.M)
    assert hashlib.sha256(line.encode()).digest() == example[1][4]
    before, content = bytes.fromhex(line[2:66]), line[line.index(",[") + 1 : -1]
    sealed = chain.seal(before, *example[1][:4], content)  # type: ignore[arg-type]
    assert sealed == example[1][4]
