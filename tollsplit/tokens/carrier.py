"""Where a token stands in a packet: an IPv6 option, a payload's first octets, TLS, HTTP."""

from __future__ import annotations

from .token import text_of

# Before a token where nothing else says that there is one.
MAGIC = b"\xf1tok"
# RFC 4727 §3.1: for experiments; who does not know it skips it, and it does not change on the way.
OPTION_TYPE = 0x1E
# RFC 8446 §11: 0xFF00 and above are for private use.
EXTENSION_TYPE = 0xFF70
HEADER = "Sponsored-Data-Token"


def prefix(token: bytes) -> bytes:
    """What a TCP stream or a UDP payload begins with."""
    return MAGIC + token


def option(token: bytes) -> bytes:
    """An IPv6 destination options header (RFC 8200 §4.6) as IPV6_DSTOPTS takes it (RFC 3542 §9.2):
    the kernel fills in what comes next.
    """
    body = bytes((OPTION_TYPE, len(MAGIC) + len(token))) + MAGIC + token
    fill = -(2 + len(body)) % 8
    if fill == 1:
        body += b"\x00"  # Pad1
    elif fill:
        body += bytes((1, fill - 2)) + bytes(fill - 2)  # PadN
    return bytes((0, (2 + len(body)) // 8 - 1)) + body


def extension(token: bytes) -> bytes:
    """An extension of a TLS ClientHello (RFC 8446 §4.2), type and length before it."""
    return EXTENSION_TYPE.to_bytes(2, "big") + len(token).to_bytes(2, "big") + token


def header(token: bytes) -> str:
    """A line of an HTTP request's head."""
    return f"{HEADER}: {text_of(token)}"
