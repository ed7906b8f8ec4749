"""What is sent to workers: the captures, the rules, and each task's part of the work."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from tollsplit import __version__
from tollsplit.cext.layout import COUNTER, SUBSCRIBER
from tollsplit.cluster.likeness import Likeness
from tollsplit.rules.rule import RuleSet

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Capture:
    """A capture as its user names it, where it lies on every machine, and what it has to be."""

    name: str
    path: str
    likeness: Likeness


@dataclass(frozen=True, slots=True)
class Job:
    """All that the tasks of one run have in common.

    token   of this run alone
    key     what shares are drawn by
    """

    token: str
    program: str
    captures: tuple[Capture, ...]
    rules: RuleSet
    skip_links: bool
    trust_ip_length: bool
    key: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """What one task counts.

    captures         their numbers, in their order
    start, end       the octets of a single one that are counted; None: all
    share, shares    of the address pairs, where a packet's rule depends on other packets
    octets           how much of all work it is, for progress
    """

    captures: tuple[int, ...]
    octets: int
    start: int = 0
    end: int | None = None
    share: int = 0
    shares: int = 1


def program() -> str:
    """The program that counts: two that say the same count the same.

    It is what this process has loaded, which may have been installed anew since.
    """
    found = _digest()
    since = "" if found == _LOADED else f", on the disk {found} since: restart it"
    return f"tollsplit {__version__} ({_LOADED}{since})"


def _digest() -> str:
    """Of the package's files: its Python and its compiled core."""
    content = hashlib.sha256(repr([COUNTER.descr, SUBSCRIBER.descr, sys.byteorder]).encode())
    for path in sorted(path for kind in ("*.py", "*.so") for path in PACKAGE.rglob(kind)):
        content.update(f"{path.relative_to(PACKAGE)}\n".encode())
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


_LOADED = _digest()
