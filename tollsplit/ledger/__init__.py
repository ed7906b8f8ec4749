"""Money and octets: exact rating, and a double-entry ledger that always balances."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import LedgerError
from ..limits import LEDGER_WAIT_S
from .account import AccountKind
from .annex import Annex, Guard, append_only
from .book import Ledger
from .hold import Held, Hold
from .journal import Booked, BookedCharge, BookedPosting, BookedRun, Journal
from .lines import read_transfers
from .period import Head, SignedHead
from .proof import Proof
from .rating import rate
from .sqlite import Sqlite
from .statement import ChargeLine, Entry, Origin, RecordLine, Statement, TaxLine, UsageLine
from .store import Balance, Missing, Receipt, Run
from .teller import Teller
from .transfer import Posted, Provenance, Transfer
from .verify import Check, Verification

__all__ = [
    "AccountKind",
    "Annex",
    "Balance",
    "Booked",
    "BookedCharge",
    "BookedPosting",
    "BookedRun",
    "ChargeLine",
    "Check",
    "Entry",
    "Guard",
    "Head",
    "Held",
    "Hold",
    "Journal",
    "Ledger",
    "Missing",
    "Origin",
    "Posted",
    "Proof",
    "Provenance",
    "Receipt",
    "RecordLine",
    "Run",
    "SignedHead",
    "Statement",
    "TaxLine",
    "Teller",
    "Transfer",
    "UsageLine",
    "Verification",
    "append_only",
    "open_ledger",
    "rate",
    "read_transfers",
]


def open_ledger(
    url: str, *, create: bool = True, wait_s: float = LEDGER_WAIT_S,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Ledger:  # fmt: skip
    """The ledger that a URL names: sqlite:///relative/path, sqlite:////absolute/path, or
    postgresql://user@host:port/database (with the extra `postgres`).

    create    make one where there is none yet
    wait_s    how long a ledger that another process has locked is waited for
    clock_ns  nanoseconds since 1970-01-01 UTC; decides what has expired

    Raises LedgerError.
    """
    scheme, colon, path = url.partition("://")
    if scheme in ("postgresql", "postgres") and colon:
        try:
            from .postgres import Postgres
        except ImportError as error:
            raise LedgerError(
                f"{scheme}://: {error}; install psycopg: pip install 'tollsplit[postgres]'"
            ) from error
        return Ledger(Postgres(url, create=create, clock_ns=clock_ns, wait_s=wait_s), clock_ns)
    if scheme != "sqlite" or not path.startswith("/") or path[1:] in ("", ":memory:"):
        # Whatever it is, it may hold a password.
        got = f"{scheme}://…" if colon else "no URL"
        raise LedgerError(
            "ledger: expected sqlite:///PATH, the path of its file, or "
            f"postgresql://USER@HOST:PORT/DATABASE, got {got}"
        )
    return Ledger(Sqlite(url, path[1:], create=create, clock_ns=clock_ns, wait_s=wait_s), clock_ns)
