"""Money and octets: exact rating, and a double-entry ledger that always balances."""

from __future__ import annotations

from ..errors import LedgerError
from ..limits import LEDGER_WAIT_S
from .book import Ledger
from .journal import Booked, BookedCharge, BookedPosting, Journal
from .rating import rate
from .sqlite import Sqlite
from .statement import ChargeLine, Entry, Origin, RecordLine, Statement, UsageLine
from .store import Balance, Receipt, Run
from .verify import Check, Verification

__all__ = [
    "Balance",
    "Booked",
    "BookedCharge",
    "BookedPosting",
    "ChargeLine",
    "Check",
    "Entry",
    "Journal",
    "Ledger",
    "Origin",
    "Receipt",
    "RecordLine",
    "Run",
    "Statement",
    "UsageLine",
    "Verification",
    "open_ledger",
    "rate",
]


def open_ledger(url: str, *, create: bool = True, wait_s: float = LEDGER_WAIT_S) -> Ledger:
    """The ledger that a URL names: sqlite:///relative/path or sqlite:////absolute/path.

    create  make one where there is no file yet, or an empty one
    wait_s  how long a ledger that another process has locked is waited for

    Raises LedgerError.
    """
    scheme, colon, path = url.partition("://")
    if scheme in ("postgresql", "postgres") and colon:
        # The URL stays out of the message: it may hold a password.
        raise LedgerError("postgresql://: not supported yet; expected sqlite:///PATH")
    if scheme != "sqlite" or not path.startswith("/") or path[1:] in ("", ":memory:"):
        raise LedgerError(f"{url}: expected sqlite:///PATH, the path of a ledger's file")
    return Ledger(Sqlite(url, path[1:], create=create, wait_s=wait_s))
