"""Marks of sponsored traffic that come and go: a file of them, which a rule names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tollsplit.rules.prefixes import Finding, prefix, prefix_text
from tollsplit.rules.rule import Prefix
from tollsplit.rules.units import expected, nearest

_WHOSE = "subscriber="
TAG_BITS = {"dscp": 6, "flow_label": 20}  # RFC 2474 §3, RFC 8200 §3


class Tag(NamedTuple):
    """What every packet of a session carries."""

    kind: str  # a key of TAG_BITS
    value: int

    def __str__(self) -> str:
        return f"{self.kind}={self.value}"


class Mark(NamedTuple):
    """A server's address, preset; with a tag, only packets that carry it are meant, and with a
    subscriber only that one's.
    """

    server: Prefix
    tag: Tag | None = None
    subscriber: Prefix | None = None

    def __str__(self) -> str:
        parts = [prefix_text(self.server)]
        if self.tag is not None:
            parts.append(str(self.tag))
        if self.subscriber is not None:
            parts.append(f"{_WHOSE}{prefix_text(self.subscriber)}")
        return " ".join(parts)


class Marks(NamedTuple):
    """A file of marks, as conditions: any of the servers, and where there are tags or subscribers
    any of these.
    """

    server: tuple[Prefix, ...] = ()
    subscriber: tuple[Prefix, ...] | None = None
    dscp: frozenset[int] | None = None
    flow_label: frozenset[int] | None = None


def tag(text: str) -> Tag:
    """The tag that a text names, such as dscp=46. Raises ValueError."""
    kind, equals, number = text.partition("=")
    if not equals or kind not in TAG_BITS:
        remedy = nearest(kind, TAG_BITS) if equals else ""
        raise expected("a tag such as dscp=46 or flow_label=74565", text, remedy)
    highest = (1 << TAG_BITS[kind]) - 1
    if not (number.isascii() and number.isdigit()) or int(number) > highest:
        raise expected(f"{kind}=0..{highest}", text)
    return Tag(kind, int(number))


def mark(text: str) -> Mark:
    """The mark that a line names: an address or prefix, and behind it a tag, and whose packets.

    Raises ValueError.
    """
    server, *more = text.split()
    whose = None
    if more and more[-1].startswith(_WHOSE):
        whose = prefix(more.pop().removeprefix(_WHOSE))
    if len(more) > 1:
        raise expected("an address, a tag, and subscriber=ADDRESS, of these what there is", text)
    return Mark(prefix(server), tag(more[0]) if more else None, whose)


def read_marks(content: bytes) -> tuple[Marks, list[Finding]]:
    """The marks of a file, one a line with # comments. None at all is an answer too."""
    marks: list[Mark] = []
    findings: list[Finding] = []
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        return Marks(), [Finding(number, "expected UTF-8 text")]
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            found = mark(text)
            _expect_alike(found, marks)
            marks.append(found)
        except ValueError as error:
            findings.append(Finding(number, str(error)))
    return gathered(marks), findings


def _expect_alike(found: Mark, before: list[Mark]) -> None:
    """A rule's conditions hold together: it cannot ask for a tag here and for none there."""
    if before and _kind(found) != _kind(before[0]):
        raise ValueError(f'expected marks of one kind in a file, got "{found}" after '
                         f'"{before[0]}"; give the others a file and a rule of their own')


def _kind(found: Mark) -> tuple[str | None, bool]:
    return found.tag.kind if found.tag else None, found.subscriber is not None


def gathered(marks: Sequence[Mark]) -> Marks:
    """Marks of one kind, as conditions."""
    servers = tuple(dict.fromkeys(found.server for found in marks))
    whose = tuple(dict.fromkeys(m.subscriber for m in marks if m.subscriber is not None))
    tags = {kind: frozenset(m.tag.value for m in marks if m.tag and m.tag.kind == kind)
            for kind in TAG_BITS}
    return Marks(servers, whose or None, tags["dscp"] or None, tags["flow_label"] or None)


def marks_text(marks: Iterable[Mark]) -> str:
    """The content of a file of marks: sorted, so that the same ones are the same rules."""
    lines = sorted(str(found) for found in set(marks))
    return "".join(f"{line}\n" for line in ["# marks of sponsored traffic", *lines])
