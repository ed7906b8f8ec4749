"""Runs for the ledger's tests; as a program it books one and says when: it may be killed then."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tollsplit.ledger import Ledger, Receipt, Run, open_ledger
from tollsplit.ledger.store import instant_ns
from tollsplit.model import Charge, UsageRecord

RECORDS = 500
HOUR = timedelta(hours=1)
DAY3 = datetime(2026, 11, 3, tzinfo=UTC)
SPONSORS = {"video-co": "sponsor:video-co", "shop-co": "sponsor:shop-co"}
MONEY = "CNY/1000000"


@dataclass
class Clock:
    """A ledger's time; stands still until it is set."""

    now: datetime = DAY3

    def __call__(self) -> int:
        return instant_ns(self.now)


def run_of(epoch: str = "e1", **more: object) -> Run:
    run = Run(
        "campus.pcap", epoch, "sha256:rules", "ip", "inner", "tollsplit 0.1.0",
        (("campus.pcap", f"sha256:capture {epoch}"),), SPONSORS,
    )  # fmt: skip
    return replace(run, **more)  # type: ignore[arg-type]


def record(sequence: int = 0, start: datetime | None = DAY3, **more: object) -> UsageRecord:
    """1000 octets of 10.0.0.7 from `start` on, 700 of them paid by video-co."""
    first = instant_ns(start or DAY3)
    return replace(
        UsageRecord(
            "campus.pcap", "e1", sequence, start, start and start + HOUR, "10.0.0.7", "alice",
            "pay-proxy", "sha256:rules", 100, "video-co", "video.example", "ip", 2, 400, 3, 600,
            300, {"video-co": 700}, first, first + 10**9,
        ),
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def charge(amount: int = 87, account: str = "alice", **more: object) -> Charge:
    usual = Charge(account, "CNY", amount, "standard", 300, 1024, DAY3, (0, 1))
    return usual._replace(**more)  # type: ignore[arg-type]


def held(ledger: Ledger) -> dict[tuple[str, str], int]:
    return {(b.account, b.unit): b.balance for b in ledger.balances()}


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def book_many(ledger: Ledger, epoch: str) -> Receipt:
    """One run of many rows."""
    return ledger.post(
        run_of(epoch),
        (record(i, epoch=epoch, account=f"s{i}") for i in range(RECORDS)),
        (charge(1, f"s{i}", remainder=(1, 3)) for i in range(RECORDS)),
    )


def main(url: str, epoch: str) -> None:
    with open_ledger(url) as ledger:
        print("ready", flush=True)
        sys.stdin.readline()
        print("booked" if book_many(ledger, epoch).booked else "known", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
