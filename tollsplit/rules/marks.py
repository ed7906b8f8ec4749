"""Marks of sponsored traffic that come and go: a file of them, which a rule names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tollsplit.rules.prefixes import Finding, prefix, prefix_text
from tollsplit.rules.rule import Prefix
from tollsplit.rules.units import expected, nearest

TAG_BITS = {"dscp": 6, "flow_label": 20}  # RFC 2474 §3, RFC 8200 §3


class Tag(NamedTuple):
    """What every packet of a session carries."""

    kind: str  # a key of TAG_BITS
    value: int

    def __str__(self) -> str:
        return f"{self.kind}={self.value}"


class Mark(NamedTuple):
    """A server's address, preset; with a tag, only packets that carry it are meant."""

    server: Prefix
    tag: Tag | None = None

    def __str__(self) -> str:
        return prefix_text(self.server) + (f" {self.tag}" if self.tag else "")


class Marks(NamedTuple):
    """A file of marks, as conditions: any of the servers, and where there are tags any of them."""

    server: tuple[Prefix, ...] = ()
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
    """The mark that a line names: an address or prefix, and a tag behind it. Raises ValueError."""
    words = text.split()
    if not 1 <= len(words) <= 2:
        raise expected("an address, and a tag where there is one", text)
    return Mark(prefix(words[0]), tag(words[1]) if len(words) == 2 else None)


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
    if before and (found.tag and found.tag.kind) != (before[0].tag and before[0].tag.kind):
        raise ValueError(f'expected marks of one kind in a file, got "{found}" after '
                         f'"{before[0]}"; give the others a file and a rule of their own')


def gathered(marks: Sequence[Mark]) -> Marks:
    """Marks of one kind, as conditions."""
    servers = tuple(dict.fromkeys(found.server for found in marks))
    tags = {kind: frozenset(t.value for _, t in marks if t and t.kind == kind)
            for kind in TAG_BITS}
    return Marks(servers, tags["dscp"] or None, tags["flow_label"] or None)


def marks_text(marks: Iterable[Mark]) -> str:
    """The content of a file of marks: sorted, so that the same ones are the same rules."""
    lines = sorted(str(found) for found in set(marks))
    return "".join(f"{line}\n" for line in ["# marks of sponsored traffic", *lines])
