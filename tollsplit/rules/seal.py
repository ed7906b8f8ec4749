"""The seal of QUIC's Initial packets (RFC 9001 §5, RFC 9369 §3.3), which its first one opens."""

from __future__ import annotations

from collections.abc import Iterable

from tollsplit.errors import RulesError
from tollsplit.rules.rule import Rule

# version: the salt of its first secret, and what its labels begin with
VERSIONS = {
    0x00000001: (bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic"),
    0x6B3343CF: (bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), b"quicv2"),
}
PROTOCOL_UDP = 17
NUMBER_OCTETS_MAX = 4
SAMPLE_OCTETS = 16


class Seal:
    """Opens what a client sent.

    Raises RulesError where cryptography is not installed.
    """

    def __init__(self) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.hmac import HMAC
            from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
        except ImportError as error:
            raise RulesError(
                f"{error}; names and tokens in QUIC need it: pip install 'tollsplit[names]', or "
                'say protocol = "tcp" in each rule with sni or token'
            ) from error
        self._invalid, self._packet_cipher = InvalidTag, AESGCM
        self._hash, self._extract, self._expand = SHA256, HMAC, HKDFExpand
        self._header_cipher, self._block, self._mode = Cipher, algorithms.AES, modes.ECB

    def open(
        self, version: int, connection_id: bytes, packet: bytes, number_at: int
    ) -> bytes | None:
        """The payload of a client's Initial packet; None: it is not sealed so.

        version         1 or 2, by its number on the wire
        connection_id   that the connection's first packet went to
        packet          whole, and nothing behind it
        number_at       where its packet number begins
        """
        key, vector, header_key = self.keys(version, connection_id)
        sample_at = number_at + NUMBER_OCTETS_MAX
        sample = packet[sample_at : sample_at + SAMPLE_OCTETS]
        cipher = self._header_cipher(self._block(header_key), self._mode())
        mask = cipher.encryptor().update(sample)
        first = packet[0] ^ mask[0] & 0x0F
        payload_at = number_at + (first & 3) + 1
        number = bytes(
            octet ^ mask[1 + i] for i, octet in enumerate(packet[number_at:payload_at])
        )
        # the first packets' numbers are whole as they stand: they begin with 0 (RFC 9000 §12.3)
        nonce = int.from_bytes(vector, "big") ^ int.from_bytes(number, "big")
        header = bytes([first]) + packet[1:number_at] + number
        try:
            return self._packet_cipher(key).decrypt(
                nonce.to_bytes(len(vector), "big"), packet[payload_at:], header
            )
        except self._invalid:
            return None

    def keys(self, version: int, connection_id: bytes) -> tuple[bytes, bytes, bytes]:
        """A client's key, initialization vector and header protection key."""
        salt, word = VERSIONS[version]
        extract = self._extract(salt, self._hash())
        extract.update(connection_id)
        secret = self.labelled(extract.finalize(), b"client in", 32)
        return (self.labelled(secret, word + b" key", 16), self.labelled(secret, word + b" iv", 12),
                self.labelled(secret, word + b" hp", 16))  # fmt: skip

    def labelled(self, secret: bytes, label: bytes, octets: int) -> bytes:
        """HKDF-Expand-Label with an empty context (RFC 8446 §7.1)."""
        label = b"tls13 " + label
        info = octets.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return self._expand(self._hash(), octets, info).derive(secret)


def seal_of(rules: Iterable[Rule]) -> Seal | None:
    """What opens QUIC's first packets, where a rule asks for what they say: a name or a token.

    Raises RulesError where one does and cryptography is not installed.
    """
    asked = any(
        (rule.match.sni is not None or rule.match.token is not None) and rule.match.host is None
        and (rule.match.protocol is None or PROTOCOL_UDP in rule.match.protocol)
        for rule in rules)  # fmt: skip
    return Seal() if asked else None
