"""What a connection's uplink says first, octet by octet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tollsplit.engine.reference import hello
from tollsplit.engine.reference.packet import Segment
from tollsplit.limits import TALK_OCTETS_MAX
from tollsplit.rules.rule import Match, Rule

SYN, ACK = 2, 16
BEGINS = 6  # octets that show whether a hello may follow


@dataclass
class Uplink:
    """One direction of a connection, until its name is known or will not be."""

    first: int | None = None  # sequence number of its first octet
    kept: dict[int, int] | None = None  # by place; None: nothing has to be put in order
    told: bool = False  # what is kept is compared with what comes in its place
    contradicted: bool = False
    doubted: bool = False  # of UDP alone
    crowded: bool = False  # likewise

    def hear(self, segment: Segment, flags: int, _: int) -> hello.Hello | None:
        """The hello that a segment completes."""
        sequence = segment.sequence + (1 if flags & SYN else 0)
        if self.first is None:
            self.first = sequence % 2**32
        if not segment.octets:
            return None
        at = (sequence - self.first + 2**31) % 2**32 - 2**31
        whole = len(segment.captured) == segment.octets
        if self.kept is None:
            if at == 0 and whole:
                found = self.read(segment.captured)
                if self.told:
                    return found
            elif at >= TALK_OCTETS_MAX:
                self.told = True
                return None
            self.kept = {}
        for place, octet in enumerate(segment.captured, at):
            if 0 <= place < TALK_OCTETS_MAX and self.kept.setdefault(place, octet) != octet:
                self.hush()
                self.contradicted = True
                return None
        if self.told:
            return None
        count = 0
        while count in self.kept:
            count += 1
        found = self.read(bytes(self.kept[n] for n in range(count))) if count else None
        if found is None and (self.told or count == TALK_OCTETS_MAX):
            self.hush()
        return found

    def watch(self, segment: Segment) -> None:
        """Keep the hello that a segment has completed."""
        if self.kept is None:
            self.kept = dict(enumerate(segment.captured[:TALK_OCTETS_MAX]))

    def listens(self, _: Segment, __: bool) -> bool:
        """Whether what comes is of use."""
        return not self.told or self.kept is not None

    def read(self, octets: bytes) -> hello.Hello | None:
        try:
            found = hello.read(octets)
        except hello.More:
            return None
        self.told = True
        return found

    def hush(self) -> None:
        """Listen no more."""
        if self.kept is not None:
            self.kept, self.told = None, True

    def doubt(self) -> None:
        """Believe no name any more, of which a fragment may have said another."""
        if not self.told or self.kept is not None:
            self.kept, self.told, self.contradicted = None, True, True


def begins(segment: Segment) -> bool:
    """Whether a segment is the first of a hello, as far as it shows."""
    if len(segment.captured) < BEGINS:
        return False
    try:
        return hello.read(segment.captured[:TALK_OCTETS_MAX]) is not None
    except hello.More:
        return True


def named(match: Match, said: hello.Hello) -> bool:
    """Whether a rule asks for the name that was said."""
    return (match.sni is not None and (match.ech or not said.encrypted)
            and lists(match.sni, said.name))


def lists(names: Sequence[str], name: bytes) -> bool:
    """Whether a list of names holds one, or one above it."""
    text = name.decode("latin-1").lower().removesuffix(".")
    labels = text.split(".")
    if len(text) > 253 or not all(
            0 < len(label) < 64 and set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
            for label in labels):
        return False
    return any(text == n or text.endswith("." + n.removeprefix("*.")) for n in names)


def of_rules(rules: Sequence[Rule]) -> list[Rule]:
    """Those that ask for names."""
    return [rule for rule in rules if rule.match.sni is not None or rule.match.host is not None]
