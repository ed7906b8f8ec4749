"""Secrets that people choose: five wrong ones block, and nothing tells which one it was."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher
from databases import Database

from tollsplit.ledger import Ledger, open_ledger
from tollsplit.limits import SERVICE_FAILURES_MAX, SERVICE_HASH_ITERATIONS, SERVICE_HASH_KIB
from tollsplit.services import secret

REAL = secret.HASHER


@pytest.fixture
def ledger(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(secret, "HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    with open_ledger(database.url) as ledger:
        ledger.define([secret.ANNEX])
        secret.put(ledger.store, "pin", "alice", secret.make("naïve 4711"), 1)
        yield ledger
        assert ledger.verify(annexes=[secret.ANNEX]).findings == ()


def tried(ledger: Ledger, given: str, subject: str = "alice") -> bool:
    compared = secret.compare(ledger.store, "pin", subject, given)
    return secret.settle(ledger.store, compared, 2)


def test_secret_is_right_in_any_composition(ledger: Ledger) -> None:
    assert tried(ledger, "naïve 4711") and tried(ledger, "nai\u0308ve 4711")
    assert not tried(ledger, "naive 4711")
    assert not tried(ledger, "naïve 4711", "bob")
    rows = str(list(ledger.store.rows("SELECT * FROM service_secrets")))
    assert "4711" not in rows and "$argon2id$" in rows


def test_secret_is_blocked_after_five_failures_in_a_row(ledger: Ledger) -> None:
    for _ in range(2):  # a right one in between starts anew
        for _ in range(SERVICE_FAILURES_MAX - 1):
            assert not tried(ledger, "wrong")
        assert tried(ledger, "naïve 4711")
    for _ in range(SERVICE_FAILURES_MAX):
        assert not secret.is_blocked(ledger.store, "pin", "alice")
        assert not tried(ledger, "wrong")
    assert secret.is_blocked(ledger.store, "pin", "alice")
    assert not tried(ledger, "naïve 4711")
    secret.put(ledger.store, "pin", "alice", secret.make("new"), 3)
    assert tried(ledger, "new") and not tried(ledger, "naïve 4711")


def test_secret_that_was_compared_early_is_still_counted(ledger: Ledger) -> None:
    """A hundred guesses at once, the right one last: it comes too late."""
    early = [secret.compare(ledger.store, "pin", "alice", f"guess {n}") for n in range(20)]
    right = secret.compare(ledger.store, "pin", "alice", "naïve 4711")
    assert right.matches
    assert not any(secret.settle(ledger.store, one, 2) for one in [*early, right])
    assert secret.is_blocked(ledger.store, "pin", "alice")


def test_secret_set_meanwhile_is_not_opened_by_the_old_one(ledger: Ledger) -> None:
    old = secret.compare(ledger.store, "pin", "alice", "naïve 4711")
    secret.put(ledger.store, "pin", "alice", secret.make("new"), 3)
    assert not secret.settle(ledger.store, old, 4)


def test_secret_of_nobody_is_hashed_too(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
            verified.append(str(hash))
            return super().verify(hash, password)

    monkeypatch.setattr(secret, "HASHER", Counting(time_cost=1, memory_cost=8, parallelism=1))
    assert not tried(ledger, "wrong") and not tried(ledger, "wrong", "nobody")
    assert len(verified) == 2 and len(set(verified)) == 2
    parameters = {made.rpartition("$")[0].rpartition("$")[0] for made in verified}
    assert len(parameters) == 1  # as slow for nobody


def test_secret_costs_what_owasp_asks_for() -> None:
    made = REAL.hash("one")
    assert f"m={SERVICE_HASH_KIB},t={SERVICE_HASH_ITERATIONS},p=1" in made
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: secret.make("x").startswith("$argon2id$"), range(8)))


def test_secret_codes_are_kept_as_digests() -> None:
    code = secret.new_code()
    assert len(code) == 22 and code != secret.new_code()
    assert secret.is_same(code, secret.digest(code))
    assert not secret.is_same(secret.new_code(), secret.digest(code))
