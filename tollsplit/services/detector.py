"""Detectors: whether what a browser reports is a payment operation.

The extension's scripts tell facts of a page; what they amount to is decided here. Other programs
that see payments can report in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from .claim import Payee

Fact = Literal["card_fields", "product", "order", "checkout", "payment_request"]
PAYMENT_PAGE: frozenset[Fact] = frozenset(("card_fields", "checkout", "order"))
SHOPPING_PAGE: frozenset[Fact] = frozenset(("product",))
_PORTS = {"http": 80, "https": 443}


class Report(Struct, forbid_unknown_fields=True):
    """What a page's script tells.

    page   its address, without a query
    facts  what was noticed since the last report
    over   the page is left
    """

    page: Annotated[str, Meta(max_length=2048)]
    tab: int
    facts: Annotated[list[Fact], Meta(max_length=8)] = []
    over: bool = False

    @property
    def payee(self) -> Payee | None:
        """The server that the page is from; None: from none."""
        try:
            parts = urlsplit(self.page)
            host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            return None
        return Payee(host.rstrip("."), port) if host and port and parts.scheme in _PORTS else None


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment operation that a detector noticed."""

    detector: str
    behaviour: str  # what the distribution server decides by
    payee: Payee
    place: int  # the browser's tab


class Detector(Protocol):
    """Notices one sign of a payment operation."""

    @property
    def name(self) -> str: ...
    def notices(self, report: Report) -> bool: ...


class PageDetector:
    """The interface on screen is a payment or shopping page."""

    name = "page"

    def notices(self, report: Report) -> bool:
        return bool((PAYMENT_PAGE | SHOPPING_PAGE) & set(report.facts))


class InterfaceDetector:
    """The system's payment interface is being called."""

    name = "interface"

    def notices(self, report: Report) -> bool:
        return "payment_request" in report.facts


DETECTORS: tuple[Detector, ...] = (InterfaceDetector(), PageDetector())


def detected(report: Report, detectors: Sequence[Detector] = DETECTORS) -> Payment | None:
    """The payment that a report is of; None: no detector notices one, so there is no session."""
    payee = report.payee
    if payee is None or report.over:
        return None
    for detector in detectors:
        if detector.notices(report):
            return Payment(detector.name, report.page, payee, report.tab)
    return None
