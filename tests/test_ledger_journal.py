"""What is read back in whole is the same from both stores: exports, statements, comparisons."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from bookings import DAY3, HOUR, MONEY, charge, record, run_of
from databases import Database

from tollsplit.export import Beancount, Hledger, add_ledger, write_csv, write_json
from tollsplit.ledger import Ledger, Provenance, Transfer, open_ledger
from tollsplit.ledger.store import instant_ns
from tollsplit.model import Posting
from tollsplit.reconcile import reconcile


def book(url: str) -> Ledger:
    """Two runs, one of them reversed, and a transfer with where it comes from."""
    ledger = open_ledger(url)
    both = {"video-co": 600, "shop-co": 100}
    for epoch in ("e1", "e2"):
        ledger.post(run_of(epoch), [
            record(0, epoch=epoch), record(1, DAY3 + HOUR, epoch=epoch, sponsor_octets=both),
            record(2, DAY3 + HOUR * 30, epoch=epoch, rule=None, sponsor_identity=None,
                   rating_group=None, sponsor_octets={}, subscriber_octets=1000, account="张三"),
        ], [charge(), charge(13, "张三", period_start=None, remainder=(1, 3))])  # fmt: skip
    ledger.reverse(2, "back", "billed twice")
    ledger.open_account("shop", MONEY, "settlement")
    ledger.transfer(Transfer(
        "order 7", "payment", (Posting("alice", MONEY, -500), Posting("shop", MONEY, 500)),
        "paid", Provenance("request-7", None, "standard", "sha256:rules"),
    ))  # fmt: skip
    return ledger


@pytest.fixture
def ledger(database: Database) -> Ledger:
    with book(database.url) as opened:
        yield opened


def written(ledger: Ledger, write: Callable[..., None]) -> str:
    stream = io.StringIO()
    with ledger.journal() as journal:
        write(journal, stream)
    return re.sub(r"20\d\d-\d\d-\d\d(T[\d:.]+Z)?", "…", stream.getvalue())


@pytest.mark.parametrize("write", [Hledger().write, Beancount().write, write_json, write_csv])
def test_journal_is_the_same_from_both_stores(
    ledger: Ledger, tmp_path: Path, write: Callable[..., None]
) -> None:
    with book(f"sqlite:///{tmp_path}/reference.db") as reference:
        assert written(ledger, write) == written(reference, write)


def test_journal_says_where_transactions_come_from(ledger: Ledger) -> None:
    with ledger.journal() as journal:
        first, _, reversal, payment = journal.transactions()
        assert sum(1 for _ in journal.usage()) == 6
        assert [r.epoch for r in journal.usage(standing=True)] == ["e1"] * 3
        assert [c.transaction for c in journal.charges(standing=True)] == [1, 1]
    assert first.run is not None and first.run.key == ("campus.pcap", "e1", 0)
    assert (reversal.reverses, reversal.run) == (2, None)
    assert payment.provenance == Provenance("request-7", None, "standard", "sha256:rules")
    assert 'service_request: "request-7"' in written(ledger, Beancount().write)


def test_dataset_is_the_same_from_both_stores(ledger: Ledger, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="no pyarrow: install tollsplit[parquet]")
    found = []
    with book(f"sqlite:///{tmp_path}/reference.db") as reference:
        for number, one in enumerate((ledger, reference)):
            folder = tmp_path / str(number)
            with one.journal() as journal:
                assert add_ledger(journal, folder, "Asia/Shanghai") == (1, 0, 0)
            # Runs say when they were booked.
            found.append({path.relative_to(folder): path.read_bytes()
                          for table in ("usage", "charges")
                          for path in (folder / table).rglob("*.parquet")})  # fmt: skip
    assert found[0] == found[1] and len(found[0]) == 3


def test_journal_gives_one_run_alone(ledger: Ledger) -> None:
    with ledger.journal() as journal:
        first, second = journal.runs()
        assert (first.reversed, second.reversed) == (False, True)
        assert first.run.key == ("campus.pcap", "e1", 0) and first.run.captures
        assert (first.records, first.charges, first.first_packet_ns) == (3, 2, instant_ns(DAY3))
        of_second = list(journal.usage(transaction=second.transaction))
        assert [record.key for record in of_second] == [("campus.pcap", "e2", n) for n in range(3)]
        assert [c.epoch for c in journal.charges(transaction=second.transaction)] == ["e2"] * 2


@pytest.mark.parametrize("account", [None, "alice", "张三", "sponsor:shop-co", "operator:revenue"])
def test_statement_is_the_same_from_both_stores(
    ledger: Ledger, tmp_path: Path, account: str | None
) -> None:
    with book(f"sqlite:///{tmp_path}/reference.db") as reference:
        for period in (None, "2026-11-04"):
            got = ledger.statement(account, period, "Asia/Shanghai", records=True)
            expected = reference.statement(account, period, "Asia/Shanghai", records=True)
            assert (got.opening, got.closing) == (expected.opening, expected.closing)
            assert (got.usage, got.charges) == (expected.usage, expected.charges)
            assert (got.records, got.charge_records) == (
                expected.records, expected.charge_records)  # fmt: skip
            assert [(e.transaction, e.amount) for e in got.entries] == [
                (e.transaction, e.amount) for e in expected.entries]  # fmt: skip
            assert all(type(n) is int for n in got.closing.values())


def test_reconcile_compares_two_stores(
    ledger: Ledger, database: Database, tmp_path: Path
) -> None:
    reference = f"sqlite:///{tmp_path}/reference.db"
    book(reference).close()
    with reconcile(reference, database.url) as found:
        assert found.agrees and found.usage.counts["agreeing"] == 3
        assert found.charges.totals == {"amount_micros.CNY": [100, 100]}
