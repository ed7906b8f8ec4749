"""Keys of requests and the answers to them: what was asked once is done once.

An answer is kept in the transaction that it tells of. It is sealed with the caller's key, of which
only a digest is kept: whoever reads the database learns no code or credential from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ..ledger import Annex, append_only
from ..ledger.store import Store
from ..limits import (
    SERVICE_ANSWER_S,
    SERVICE_KEY_CHARACTERS_MAX,
    SERVICE_KEY_CHARACTERS_MIN,
    SERVICE_SWEEP_ROWS,
)
from .problem import KEY_IN_PROGRESS, KEY_REUSED, MALFORMED, UNSIGNED
from .signature import Signed

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it was given."""

    status: int
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Key:
    """One principal's key for one operation, and the request that it stands for."""

    principal: str  # the device's id
    route: str  # the operation's name
    text: str
    fingerprint: str  # of the request: its path and body

    @property
    def digest(self) -> str:
        return self._hash(b"key").hex()

    def _hash(self, use: bytes) -> bytes:
        """A digest for one use; keys are as random as their callers make them."""
        text = "\0".join((self.principal, self.route, self.text))
        return hashlib.blake2b(text.encode(), digest_size=32, person=use).digest()

    def seal(self, text: bytes) -> str:
        # A key seals one answer, ever: its nonce need not change.
        return ChaCha20Poly1305(self._hash(b"seal")).encrypt(bytes(12), text, None).hex()

    def open(self, sealed: str) -> bytes:
        return ChaCha20Poly1305(self._hash(b"seal")).decrypt(bytes(12), bytes.fromhex(sealed), None)


def key_of(principal: str, route: str, text: str | None, path: str, body: bytes) -> Key:
    """Raises Problem where there is no key, or none that will do."""
    if text is None or not (
        SERVICE_KEY_CHARACTERS_MIN <= len(text) <= SERVICE_KEY_CHARACTERS_MAX
        and text.isascii() and text.isprintable()
    ):  # fmt: skip
        raise MALFORMED(
            f"Idempotency-Key: expected {SERVICE_KEY_CHARACTERS_MIN} to "
            f"{SERVICE_KEY_CHARACTERS_MAX} printable characters, random ones"
        )
    fingerprint = hashlib.sha256(path.encode() + b"\0" + body).hexdigest()
    return Key(principal, route, text, fingerprint)


def recall(store: Store, key: Key, now_ns: int) -> Kept | None:
    """The answer that was given before; raises Problem KEY_REUSED where another was asked for."""
    for fingerprint, status, media_type, sealed in store.rows(
        _RECALL, key.principal, key.route, key.digest, now_ns
    ):
        if fingerprint != key.fingerprint:
            raise KEY_REUSED("use a new key for a new request")
        return Kept(status, media_type, key.open(sealed))
    return None


def keep(store: Store, key: Key, answer: Kept, now_ns: int) -> None:
    """Keep an answer. Raises Problem where another process was faster."""
    store.write(_FORGET, [(key.principal, key.route, key.digest, now_ns)])
    if not store.write(_KEEP, [(
        key.principal, key.route, key.digest, key.fingerprint, answer.status, answer.media_type,
        key.seal(answer.body), now_ns, now_ns + SERVICE_ANSWER_S * _SECOND_NS,
    )]):  # fmt: skip
        raise KEY_IN_PROGRESS("ask again for its answer")


def spend(store: Store, signed: Signed) -> None:
    """Use a signature up; raises Problem UNSIGNED where it was used before."""
    if not store.write(_SPEND, [(signed.device, signed.nonce, signed.expires_at_ns)]):
        raise UNSIGNED("this signature was used before")


def forget(store: Store, now_ns: int) -> None:
    """Delete answers and nonces whose time is over, some at a time."""
    store.write(_OLD_ANSWERS, [(now_ns, SERVICE_SWEEP_ROWS)])
    store.write(_OLD_NONCES, [(now_ns, SERVICE_SWEEP_ROWS)])


def _astray(store: Store) -> Iterator[str]:
    for principal, route, digest, fingerprint, status, created, expires in store.rows(_ALL):
        is_whole = len(digest) == len(fingerprint) == 64 and 200 <= status < 500
        if not is_whole or expires != created + SERVICE_ANSWER_S * _SECOND_NS:
            yield f"answer {route} of {principal}: it is not as answers are kept"


ANNEX = Annex(
    "requests",
    (
        (
            "CREATE TABLE service_answers (principal TEXT NOT NULL, route TEXT NOT NULL, "
            "key_digest TEXT NOT NULL, fingerprint TEXT NOT NULL, status BIGINT NOT NULL, "
            "media_type TEXT NOT NULL, sealed TEXT NOT NULL, created_at_ns BIGINT NOT NULL, "
            "expires_at_ns BIGINT NOT NULL, PRIMARY KEY (principal, route, key_digest))",
            append_only("service_answers", "answers stay as they were given")[0],
            "CREATE INDEX service_answers_to_forget ON service_answers (expires_at_ns)",
            "CREATE TABLE service_nonces (device TEXT NOT NULL, nonce TEXT NOT NULL, "
            "expires_at_ns BIGINT NOT NULL, PRIMARY KEY (device, nonce))",
            append_only("service_nonces", "nonces stay as they were given")[0],
            "CREATE INDEX service_nonces_to_forget ON service_nonces (expires_at_ns)",
        ),
    ),
    (("answers are as they were kept", _astray),),
)

_RECALL = """
    SELECT fingerprint, status, media_type, sealed FROM service_answers
    WHERE principal = ? AND route = ? AND key_digest = ? AND expires_at_ns > ?"""
_FORGET = """
    DELETE FROM service_answers
    WHERE principal = ? AND route = ? AND key_digest = ? AND expires_at_ns <= ?"""
_KEEP = """
    INSERT INTO service_answers (principal, route, key_digest, fingerprint, status, media_type,
        sealed, created_at_ns, expires_at_ns)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_SPEND = """
    INSERT INTO service_nonces (device, nonce, expires_at_ns) VALUES (?, ?, ?)
    ON CONFLICT DO NOTHING"""
_OLD_ANSWERS = """
    DELETE FROM service_answers WHERE (principal, route, key_digest) IN (
        SELECT principal, route, key_digest FROM service_answers WHERE expires_at_ns <= ?
        ORDER BY expires_at_ns LIMIT ?)"""
_OLD_NONCES = """
    DELETE FROM service_nonces WHERE (device, nonce) IN (
        SELECT device, nonce FROM service_nonces WHERE expires_at_ns <= ?
        ORDER BY expires_at_ns LIMIT ?)"""
_ALL = """
    SELECT principal, route, key_digest, fingerprint, status, created_at_ns, expires_at_ns
    FROM service_answers ORDER BY created_at_ns, principal, route"""
