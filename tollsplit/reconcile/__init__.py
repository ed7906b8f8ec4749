"""Two parties' records of the same traffic, line by line: what agrees, what differs, what lacks."""

from __future__ import annotations

from .comparison import AGREEING, Comparison, Figure, Finding, Summary, Tolerance
from .line import BY, By
from .party import open_party
from .windows import Calendar

__all__ = ["AGREEING", "BY", "Comparison", "Figure", "Finding", "Summary", "reconcile"]


def reconcile(
    ours: str,
    theirs: str,
    *,
    by: str = BY,
    tolerance: str = "0",
    mapping: str | None = None,
    sponsor: str | None = None,
    period: str | None = None,
    zone: str = "UTC",
) -> Comparison:
    """Compare two parties' records; close the comparison when done.

    ours, theirs  a document or CSV of `tollsplit account`, a ledger's URL, or an operator's CSV
                  or JSON
    by            what makes two lines the same one: window, day or month, subscriber, account,
                  rule, rating_group
    tolerance     octets ("100") or a part of ours ("0.5%")
    mapping       a TOML file that says which of their columns means what
    sponsor       only records that this sponsor has a part in
    period        a month ("2026-11") or a day, of the zone

    Lines of one party with the same key are added up. Raises ReconcileError, RulesError (of the
    mapping), UsageError.
    """
    told, allowed = By.of(by), Tolerance.of(tolerance)
    calendar = Calendar(told.time, zone, period)
    parties = open_party(ours), open_party(theirs, mapping)
    return Comparison(*parties, told, allowed, calendar, sponsor)
