"""Secrets: those that people choose, and those that are made for them.

What people choose is kept as argon2id and compared in two steps, for hashing takes long: `compare`
outside the transaction (an operation's `before`), `settle` inside it, where failures are counted.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from threading import BoundedSemaphore

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from ..ledger import Annex, Guard
from ..ledger.store import Store
from ..limits import (
    SERVICE_FAILURES_MAX,
    SERVICE_HASH_ITERATIONS,
    SERVICE_HASH_KIB,
    SERVICE_HASHES_AT_ONCE,
)

HASHER = PasswordHasher(
    time_cost=SERVICE_HASH_ITERATIONS, memory_cost=SERVICE_HASH_KIB, parallelism=1, type=Type.ID)
_AT_ONCE = BoundedSemaphore(SERVICE_HASHES_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of a comparison, to be settled."""

    kind: str
    subject: str
    stored: str  # the hash that was compared with; "": there was none
    matches: bool


def make(text: str) -> str:
    """The hash of a secret that somebody chose; slow, so for an operation's `before`."""
    with _AT_ONCE:
        return HASHER.hash(_normal(text))


def put(store: Store, kind: str, subject: str, made: str, now_ns: int) -> None:
    """Set a subject's secret of one kind; what was counted or blocked before is forgotten.

    made  by `make`
    """
    store.write(_PUT, [(kind, subject, made, now_ns)])


def compare(store: Store, kind: str, subject: str, given: str) -> Compared:
    """Compare what was given with a subject's secret; takes as long where there is none."""
    stored = next((made for (made,) in store.rows(_STORED, kind, subject)), "")
    with _AT_ONCE:
        try:
            # Whoever has no secret is compared with one that nobody has.
            matches = HASHER.verify(stored or _nobodys(HASHER), _normal(given)) and bool(stored)
        except (VerificationError, InvalidHashError):
            matches = False
    return Compared(kind, subject, stored, matches)


def settle(store: Store, compared: Compared, now_ns: int) -> bool:
    """Whether it was right, in time: after five wrong ones in a row nothing is right any more,
    until the secret is set anew.

    A handler that is told False returns its refusal and does not raise it, or nothing is counted.
    The refusal says the same whatever was wrong: the subject, the secret, or that it is blocked.
    """
    whose = (compared.kind, compared.subject, compared.stored, SERVICE_FAILURES_MAX)
    if compared.matches:
        return store.write(_RIGHT, [whose]) == 1
    store.write(_WRONG, [(now_ns, *whose)])
    return False


def is_blocked(store: Store, kind: str, subject: str) -> bool:
    """For the operator, not for who tries."""
    return any(failures >= SERVICE_FAILURES_MAX
               for (failures,) in store.rows(_FAILURES, kind, subject))  # fmt: skip


def new_code() -> str:
    """A code that nobody guesses: 128 random bits."""
    return secrets.token_urlsafe(16)


def digest(code: str) -> str:
    """How a code that nobody guesses is kept."""
    return hashlib.sha256(code.encode()).hexdigest()


def is_same(code: str, kept: str) -> bool:
    """Whether a code is the one whose digest was kept; takes as long for any."""
    return hmac.compare_digest(digest(code), kept)


def _normal(text: str) -> str:
    # One keyboard composes what another doesn't (RFC 8265 §4.2).
    return unicodedata.normalize("NFC", text)


@cache
def _nobodys(hasher: PasswordHasher) -> str:
    return hasher.hash(secrets.token_urlsafe(32))


def _astray(store: Store) -> Iterator[str]:
    for kind, subject, made, failures in store.rows(_ALL):
        if not made.startswith("$argon2id$"):
            yield f'secret {kind} of "{subject}": it is not kept as argon2id'
        if not 0 <= failures <= SERVICE_FAILURES_MAX:
            yield f'secret {kind} of "{subject}": {failures} failures'


ANNEX = Annex(
    "secrets",
    (
        (
            "CREATE TABLE service_secrets (kind TEXT NOT NULL, subject TEXT NOT NULL, "
            "made TEXT NOT NULL, failures BIGINT NOT NULL DEFAULT 0, set_at_ns BIGINT NOT NULL, "
            "failed_at_ns BIGINT, PRIMARY KEY (kind, subject))",
            Guard("service_secrets_keep", "service_secrets", "UPDATE",
                  "a secret belongs to its subject", ("kind", "subject")),
        ),
    ),
    (("secrets are kept as hashes, their failures are counted", _astray),),
)  # fmt: skip

_PUT = """
    INSERT INTO service_secrets (kind, subject, made, set_at_ns) VALUES (?, ?, ?, ?)
    ON CONFLICT (kind, subject) DO UPDATE
    SET made = excluded.made, set_at_ns = excluded.set_at_ns, failures = 0, failed_at_ns = NULL"""
_STORED = "SELECT made FROM service_secrets WHERE kind = ? AND subject = ?"
_RIGHT = """
    UPDATE service_secrets SET failures = 0
    WHERE kind = ? AND subject = ? AND made = ? AND failures < ?"""
_WRONG = """
    UPDATE service_secrets SET failures = failures + 1, failed_at_ns = ?
    WHERE kind = ? AND subject = ? AND made = ? AND failures < ?"""
_FAILURES = "SELECT failures FROM service_secrets WHERE kind = ? AND subject = ?"
_ALL = "SELECT kind, subject, made, failures FROM service_secrets ORDER BY kind, subject"
