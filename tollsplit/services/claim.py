"""What a terminal shows a sponsor's proxy with each request, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from urllib.request import parse_http_list, parse_keqv_list

from ..rules.marks import Tag, tag

SCHEME = "Sponsored"
_CHARACTERS_MAX = 512


class Payee(NamedTuple):
    """A payment server, by name and port."""

    host: str  # lower case, no dot at the end
    port: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What is claimed. `credential` is a secret: nothing shows it.

    identifier   the communication identifier: "imsi:…", "msisdn:…" or "address:…"
    tag          what the session's packets carry; None: the proxy's address is the mark
    source       the address that the request came from
    preset       the proxy's address that it came to
    """

    identifier: str
    tag: Tag | None = None
    credential: str | None = field(default=None, repr=False)
    source: str = ""
    preset: str = ""

    def header(self) -> bytes:
        """The value of Proxy-Authorization."""
        parts = {"identifier": self.identifier, "tag": str(self.tag) if self.tag else None,
                 "credential": self.credential}
        listed = ", ".join(f'{name}="{value}"' for name, value in parts.items() if value)
        return f"{SCHEME} {listed}".encode("ascii")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a claim is good for."""

    session: str
    sponsor: str
    payees: frozenset[Payee]
    tag: Tag | None = None  # what the answer carries


class Permits(Protocol):
    """Knows which claims are good now: the distribution server, or who asks it."""

    async def permits(self, claim: Claim) -> Grant | None:
        """None: refused, and why is nobody's business. Secrets are compared in constant time."""


def read_claim(header: bytes, source: str, preset: str) -> Claim | None:
    """The claim in a Proxy-Authorization header; None where it is none."""
    try:
        scheme, _, rest = header.decode("ascii").partition(" ")
        if scheme.lower() != SCHEME.lower() or len(rest) > _CHARACTERS_MAX:
            return None
        parts: Mapping[str, str] = parse_keqv_list(parse_http_list(rest))
        carried = parts.get("tag")
        return Claim(parts["identifier"], tag(carried) if carried else None,
                     parts.get("credential"), source, preset)  # fmt: skip
    except (ValueError, LookupError):  # where nothing stands behind `=` it looks too far
        return None
