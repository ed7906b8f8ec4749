"""Keys and signatures: Ed25519 (RFC 8032), keys in PEM files as everybody reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import LedgerError, ProofError

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
        load_pem_public_key,
    )
except ImportError as error:
    raise LedgerError(
        f"{error}; install cryptography: pip install 'tollsplit[proof]'"
    ) from error


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key."""

    _key: Ed25519PrivateKey

    @property
    def public_key(self) -> str:
        """Its 32 octets, hexadecimal."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, text: str) -> str:
        """The signature's 64 octets, hexadecimal."""
        return self._key.sign(text.encode()).hex()


def make_keys(path: Path) -> Path:
    """Write a new private key, for its owner's eyes alone, and beside it the public one, whose path
    is returned. Raises ProofError where either is there already.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public_path = path.with_name(f"{path.name}.pub")
    if public_path.exists():
        raise ProofError(f"{public_path}: there already; name another file")
    for target, text, mode in ((path, private, 0o600), (public_path, public, 0o644)):
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as file:
                file.write(text)
        except FileExistsError as error:
            raise ProofError(f"{target}: there already; name another file") from error
        except OSError as error:
            raise ProofError(f"{target}: cannot be written: {error.strerror}") from error
    return public_path


def read_signer(path: Path) -> Signer:
    """As read_private_key."""
    return Signer(read_private_key(path))


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Raises ProofError, also where others may read the key."""
    text = _read(path)
    if path.stat().st_mode & 0o077:
        raise ProofError(f"{path}: others may read this private key; run chmod 600 on it")
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ProofError(f"{path}: expected a private key as `ledger keygen` writes it") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ProofError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
    return key


def read_public_key(path: Path) -> str:
    """Its 32 octets, hexadecimal. Raises ProofError."""
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProofError(f"{path}: expected a public key as `ledger keygen` writes it") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ProofError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def is_signed(text: str, public_key: str, signature: str) -> bool:
    """Whether the signature is the key's over that text; anything malformed is not."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), text.encode())
    except (ValueError, InvalidSignature):
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProofError(f"{path}: cannot be read: {error.strerror}") from error
