"""Sponsorships: what the operator agreed with sponsors about sessions, as its settings say."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from ipaddress import ip_address
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..rules.marks import TAG_BITS, Tag, tag
from .claim import Payee
from .wire import Line

Permission = Literal["identity", "behaviour"]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]
# How often a random flow label is drawn before all of them count as taken.
_DRAWS = 64


class Sponsorship(Struct, forbid_unknown_fields=True, dict=True):
    """One sponsor's sessions.

    account     the sponsor's in the ledger; its proxies' devices belong to it
    marks       the file of marks that the sponsor's rules name
    proxies     where its proxies take requests: "203.0.113.10:8080"
    payees      its payment servers: "shop.example:443"
    behaviours  of the payments that it pays for; "…*" is all that begin so
    tags        what sessions are marked by, one at a time: "dscp=46", or "flow_label" for any;
                none: the proxy's address is the mark, and each session has one for itself
    """

    name: Line
    account: Line
    marks: Line
    proxies: list[Line]
    payees: list[Line]
    behaviours: list[Line] = []
    tags: list[Line] = []
    permissions: tuple[Permission, ...] = ("identity", "behaviour")
    credential: bool = True  # whether sessions are issued one
    lifetime_s: Seconds = 900

    def __post_init__(self) -> None:
        """Raises ValueError, which the settings' reader tells with its place."""
        if not self.proxies or not self.payees:
            raise ValueError("expected at least one of `proxies` and of `payees`")
        for text in self.proxies:
            ip_address(place(text).host)
        for text in self.payees:
            place(text)
        for text in self.tags:
            if text != "flow_label":
                tag(text)
        if len({text.partition("=")[0] for text in self.tags}) > 1:
            raise ValueError(f"expected tags of one kind, of {', '.join(TAG_BITS)}")

    @cached_property
    def places(self) -> tuple[Payee, ...]:
        """The proxies, address and port."""
        found = (place(text) for text in self.proxies)
        return tuple(Payee(str(ip_address(host)), port) for host, port in found)

    @cached_property
    def payment_servers(self) -> frozenset[Payee]:
        return frozenset(place(text) for text in self.payees)

    def pays_for(self, behaviour: str) -> bool:
        return any(
            behaviour.startswith(known[:-1]) if known.endswith("*") else behaviour == known
            for known in self.behaviours
        )

    def free_tags(self, taken: Collection[str]) -> Iterator[Tag]:
        """Tags that no session carries, in no order that could be foreseen."""
        if self.tags == ["flow_label"]:
            for _ in range(_DRAWS):
                drawn = Tag("flow_label", 1 + secrets.randbelow((1 << TAG_BITS["flow_label"]) - 1))
                if str(drawn) not in taken:
                    yield drawn
            return
        free = [tag(text) for text in self.tags if text not in taken]
        secrets.SystemRandom().shuffle(free)
        yield from free


class SessionPolicy(Struct, forbid_unknown_fields=True, dict=True):
    """The table [session] of the settings.

    rules      the running engine's rules file, whose rules name the files of marks
    engine     its control socket, or the folder of its journal
    publish_s  how long a session waits for its mark to be in force
    """

    rules: str = ""
    engine: str = ""
    publish_s: Seconds = 30
    sponsorships: list[Sponsorship] = []

    def __post_init__(self) -> None:
        if self.sponsorships and not (self.rules and self.engine):
            raise ValueError("sponsorships need `rules` and `engine`: marks are published there")
        if len({found.name for found in self.sponsorships}) < len(self.sponsorships):
            raise ValueError("expected a name of its own for each sponsorship")

    @cached_property
    def by_name(self) -> dict[str, Sponsorship]:
        return {found.name: found for found in self.sponsorships}

    def of_payee(self, payee: Payee) -> Sponsorship | None:
        """Who sponsors payments to a server."""
        return self._first("identity", lambda one: payee in one.payment_servers)

    def of_behaviour(self, behaviour: str) -> Sponsorship | None:
        """Who sponsors payments that are called so."""
        return self._first("behaviour", lambda one: one.pays_for(behaviour))

    def _first(
        self, permission: Permission, holds: Callable[[Sponsorship], bool]
    ) -> Sponsorship | None:
        return next((found for found in self.sponsorships
                     if permission in found.permissions and holds(found)), None)


def place(text: str) -> Payee:
    """Host and port. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]").lower().rstrip(".")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT, got {text!r}")
    return Payee(host, int(port))
