"""Signed requests: RFC 9421 message signatures by devices' Ed25519 keys."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)

from ..errors import TollsplitError
from ..limits import SERVICE_SIGNATURE_S_MAX, SERVICE_SKEW_S
from .problem import UNSIGNED

TAG = "tollsplit"
_SECOND_NS = 1_000_000_000


class Signed(NamedTuple):
    """Of a signature that holds: who made it, and what makes it this one and no other."""

    device: str
    nonce: str
    expires_at_ns: int  # after that, with the skew, nobody takes it any more


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it was signed."""

    method: str
    url: str
    headers: Any  # with items(): each header line, in order


def device_id(public_key: str) -> str:
    """What a device is called: a digest of its public key (hexadecimal)."""
    digest = hashlib.sha256(bytes.fromhex(public_key)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_public_key(text: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError:
        return False
    return len(text) == 64


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """A device's private key."""

    key: Ed25519PrivateKey

    @classmethod
    def new(cls) -> DeviceKey:
        return cls(Ed25519PrivateKey.generate())

    @property
    def public_key(self) -> str:
        """32 octets, hexadecimal."""
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    @property
    def device(self) -> str:
        """The id under which it is registered."""
        return device_id(self.public_key)

    def sign(self, message: Message, body: bytes, now_ns: int) -> None:
        """Add the headers of a signature."""
        now = datetime.fromtimestamp(now_ns // _SECOND_NS, UTC)
        HTTPMessageSigner(
            signature_algorithm=algorithms.ED25519, key_resolver=_One(private=self.key)
        ).sign(
            message, key_id=self.device, created=now, nonce=secrets.token_urlsafe(16), tag=TAG,
            expires=now + timedelta(seconds=SERVICE_SIGNATURE_S_MAX), label="tollsplit",
            covered_component_ids=_covered(
                has_key=any(name.lower() == "idempotency-key" for name in message.headers)),
            body=body or None,
        )  # fmt: skip


def verify(
    message: Message, body: bytes, public_key: Callable[[str], str | None], now_ns: int,
    *, has_key: bool,
) -> Signed:  # fmt: skip
    """Check a request's signature; raises Problem UNSIGNED, which does not say what is wrong
    with a key.

    public_key  a device's, by its id; None: nobody's
    has_key     whether an Idempotency-Key has to be covered too
    """
    verifier = _Verifier(signature_algorithm=algorithms.ED25519, key_resolver=_One(public_key))
    verifier.now_ns = now_ns
    required = _covered(has_key=has_key)
    try:
        # Given a body, it wants a digest of it that is covered too.
        [found] = verifier.verify(message, expect_tag=TAG, require_components=required, body=body)
        nonce, expires = found.nonce, found.parameters["expires"]
        if not nonce or len(nonce) > 64:
            raise InvalidSignature("a nonce of 1 to 64 characters is needed")
    except (InvalidSignature, ValueError, KeyError) as error:
        if isinstance(error.__cause__, TollsplitError):
            raise error.__cause__ from None  # keys could not be looked up: nobody's fault
        raise UNSIGNED(_told(error)) from error
    return Signed(str(found.parameters["keyid"]), nonce,
                  (int(expires) + SERVICE_SKEW_S + 1) * _SECOND_NS)  # fmt: skip


def _told(error: Exception) -> str:
    """What a caller may know of it: times help an honest device, keys would help others."""
    found = str(error)
    return found if found.startswith(("created", "expires", "a nonce")) else (
        "expected a signature as docs/services.md describes it, by a registered device")


def _covered(*, has_key: bool) -> list[str]:
    return ["@method", "@target-uri", *(["idempotency-key"] if has_key else [])]


class _One(HTTPSignatureKeyResolver):
    def __init__(
        self, public: Callable[[str], str | None] | None = None,
        private: Ed25519PrivateKey | None = None,
    ) -> None:  # fmt: skip
        self._public = public
        self._private = private

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey | None:
        found = self._public(key_id) if self._public else None
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(found)) if found else None

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        assert self._private is not None
        return self._private


class _Verifier(HTTPMessageVerifier):
    """Times are compared with the server's clock, which tests set."""

    now_ns = 0

    def validate_created_and_expires(
        self, sig_input: Any, max_age: timedelta | None = None
    ) -> None:
        now_s = self.now_ns / _SECOND_NS
        created, expires = (sig_input.params.get(name) for name in ("created", "expires"))
        if not isinstance(created, int) or not isinstance(expires, int):
            raise InvalidSignature("created and expires are needed")
        if not created <= expires <= created + SERVICE_SIGNATURE_S_MAX:
            raise InvalidSignature(
                f"expires: expected at most {SERVICE_SIGNATURE_S_MAX} s after created")
        if created > now_s + SERVICE_SKEW_S:
            raise InvalidSignature(f"created: more than {SERVICE_SKEW_S} s ahead of this clock")
        if expires < now_s - SERVICE_SKEW_S:
            raise InvalidSignature(f"expires: over, by more than {SERVICE_SKEW_S} s")


def lines(headers: Iterable[tuple[bytes, bytes]]) -> HeaderLines:
    """Header lines as they came in, for a Message."""
    return HeaderLines((name.decode("latin-1"), line.decode("latin-1")) for name, line in headers)


class HeaderLines(list[tuple[str, str]]):
    """Each header line, in order."""

    def items(self) -> Iterable[tuple[str, str]]:
        return self
