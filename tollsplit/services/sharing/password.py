"""The password of a share: made by the lender's device, relayed sealed, verified either way.

The lender's device seals it for a key of the borrower's (X25519, HKDF-SHA256, ChaCha20-Poly1305),
so that the service relays what it cannot read. What the service keeps is a digest of the proof that
whoever knows the password can give: by it the service verifies a password, and the report of a
borrower's own module that it has verified one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ...errors import TollsplitError
from ...limits import SERVICE_FAILURES_MAX

# Letters and digits that nobody mistakes for each other; 20 of them are 100 bits.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_LENGTH = 20
_KEY_OCTETS = 32


class SealError(TollsplitError):
    """What was relayed was not sealed for this device, or was changed on the way."""


def make() -> str:
    """A new password, one that a Wi-Fi network takes too (8 to 63 characters)."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def proof(password: str, share: str) -> str:
    """What only those can tell who know the password of this share; hexadecimal."""
    return hmac.digest(password.encode(), f"tollsplit share {share}".encode(), "sha256").hex()


def proof_digest(proof: str) -> str:
    """What the service keeps of a proof."""
    return hashlib.sha256(proof.encode()).hexdigest()


def seal(password: str, share: str, public_key: str) -> str:
    """A password that the owner of a key alone can read; hexadecimal. Raises SealError."""
    own = X25519PrivateKey.generate()
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public_key)))
    except ValueError as error:
        raise SealError(f"share {share}: the borrower's sealing key is none") from error
    octets = _cipher(shared, share).encrypt(bytes(12), password.encode(), share.encode())
    return (own.public_key().public_bytes_raw() + octets).hex()


def _cipher(shared: bytes, share: str) -> ChaCha20Poly1305:
    # A key is used once, so its nonce need not change.
    info = f"tollsplit share {share}".encode()
    return ChaCha20Poly1305(HKDF(SHA256(), _KEY_OCTETS, None, info).derive(shared))


class SealingKey:
    """A borrower's key for one share."""

    def __init__(self, octets: bytes | None = None) -> None:
        """octets: of a key that was made before, see `octets`."""
        self._key = (X25519PrivateKey.generate() if octets is None
                     else X25519PrivateKey.from_private_bytes(octets))  # fmt: skip

    @property
    def octets(self) -> bytes:
        """To be kept where the device's private key is."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> str:
        return self._key.public_key().public_bytes_raw().hex()

    def unseal(self, sealed: str, share: str) -> str:
        """The password. Raises SealError."""
        try:
            octets = bytes.fromhex(sealed)
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(octets[:_KEY_OCTETS]))
            return _cipher(shared, share).decrypt(
                bytes(12), octets[_KEY_OCTETS:], share.encode()).decode()
        except (ValueError, InvalidTag) as error:
            raise SealError(f"share {share}: its password was not sealed for this device; ask the "
                            "lender for another") from error  # fmt: skip


@dataclass(slots=True)
class Module:
    """The borrower's own module: it verifies the password that somebody enters, by itself."""

    share: str
    password: str
    failures: int = 0

    @property
    def is_blocked(self) -> bool:
        return self.failures >= SERVICE_FAILURES_MAX

    def verify(self, entered: str) -> str | None:
        """The proof for the service, where it is the right one; after five wrong ones none is."""
        is_right = hmac.compare_digest(entered.encode(), self.password.encode())
        if self.is_blocked or not is_right:
            self.failures = min(self.failures + 1, SERVICE_FAILURES_MAX)
            return None
        return proof(self.password, self.share)
