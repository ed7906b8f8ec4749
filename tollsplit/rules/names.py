"""Names of hosts: one as text, and a file of many."""

from __future__ import annotations

import re

from tollsplit.rules.prefixes import Finding, text_of
from tollsplit.rules.units import shown

_NAME = re.compile(r"(\*\.)?([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_NAME_CHARACTERS_MAX = 253  # RFC 1035 §2.3.4, without the root's dot


def name(text: object) -> str:
    """The name that the text gives, in lower case: it stands for itself and for all names below it;
    "*.x" for those below x alone.

    Raises ValueError with the remedy: no name, or one as people write it and no packet does.
    """
    if not isinstance(text, str) or not text:
        raise ValueError(f"expected a name such as video.example, got {shown(text)}")
    lower = text.lower().removesuffix(".")
    if lower.rpartition(".")[2].isdigit():
        raise ValueError(f'expected a name, got {shown(text)}: addresses are a "server"')
    if _NAME.fullmatch(lower) and len(lower.removeprefix("*.")) <= _NAME_CHARACTERS_MAX:
        return lower
    raise ValueError(f"expected a name such as video.example, got {shown(text)}{_remedy(lower)}")


def _remedy(text: str) -> str:
    """What somebody meant who gave a URL, a port, or letters that only people read."""
    host = text.partition("://")[2].partition("/")[0] or text
    host = host.partition(":")[0]
    try:
        wire = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
    return f"; did you mean {wire}?" if wire != text and _NAME.fullmatch(wire) else ""


def read_names(content: bytes) -> tuple[tuple[str, ...], list[Finding]]:
    """The names of a file, one a line with # comments, in order and each once."""
    found: dict[str, None] = {}
    findings: list[Finding] = []
    text, undecodable = text_of(content)
    if undecodable:
        return (), [undecodable]
    for number, line in enumerate(text.split("\n"), 1):
        word = line.partition("#")[0].strip()
        try:
            if word:
                found[name(word)] = None
        except ValueError as error:
            findings.append(Finding(number, str(error)))
    if not found and not findings:
        findings.append(Finding(1, "expected one name a line, got an empty file"))
    return tuple(found), findings
