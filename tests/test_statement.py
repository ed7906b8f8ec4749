"""Statements for people: every line traced to its records, and a page that is safe to open."""

from __future__ import annotations

import csv
import json
import re
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bookings import DAY3, HOUR, MONEY, charge, record, run_of

from tollsplit.cli import main
from tollsplit.cli.plot import scale_top
from tollsplit.cli.statement import document
from tollsplit.cli.statement_page import columns_of, statement_page
from tollsplit.ledger import Ledger, Origin, open_ledger
from tollsplit.ledger.store import instant_ns
from tollsplit.model import TaxPart

HOSTILE = "<script>alert('1')</script> & 张三 \"Söhne\""


def book(ledger: Ledger) -> None:
    """Two runs of one epoch and one of another; alice and a hostile name, two sponsors."""
    both = {"video-co": 600, "shop-co": 100}
    first = [record(0), record(1, account=HOSTILE, sponsor_octets=both),
             record(2, DAY3 + HOUR, sponsor_octets=both),
             record(3, DAY3 + 24 * HOUR, rule=None, rating_group=None, sponsor_identity=None,
                    sponsor_octets={}, subscriber_octets=1000)]  # fmt: skip
    ledger.post(run_of(), first, [charge(), charge(13, period_start=DAY3 + 24 * HOUR),
                                  charge(609, "sponsor:video-co")])  # fmt: skip
    more = run_of(first_sequence=4, captures=(("late.pcap", "sha256:late"),))
    ledger.post(more, [record(4, DAY3 + 2 * HOUR)], [charge(5)])
    ledger.post(run_of("e2"), [record(0, epoch="e2")], [])


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.chdir(tmp_path)
    with open_ledger("sqlite:///books.db") as opened:
        book(opened)
        yield opened


# --- where lines come from -------------------------------------------------------------------


def test_statement_lines_say_which_records_they_add_up(ledger: Ledger) -> None:
    found = ledger.statement("alice", "2026-11")
    source = "campus.pcap"
    assert [(line.day, line.rule, line.records, line.origins) for line in found.usage] == [
        (date(2026, 11, 3), "pay-proxy", 4,
         (Origin(source, "e1", 0, 4, 3), Origin(source, "e2", 0, 0, 1))),
        (date(2026, 11, 4), None, 1, (Origin(source, "e1", 3, 3, 1),))]  # fmt: skip
    assert found.origins == ((source, "e1"), (source, "e2"))
    assert [(c.day.day, c.first_transaction, c.last_transaction) for c in found.charges] == [
        (3, 1, 2), (4, 1, 1)]  # fmt: skip
    assert found.records is None and found.charge_records is None


def test_statement_records_of_a_line_need_not_be_in_order_of_time(tmp_path: Path) -> None:
    with open_ledger(f"sqlite:///{tmp_path}/books.db") as ledger:
        ledger.post(run_of(), [record(i, DAY3 + HOUR * (5 - i)) for i in range(5)], [])
        [line] = ledger.statement("alice").usage
    assert line.origins == (Origin("campus.pcap", "e1", 0, 4, 5),)


@pytest.mark.parametrize("account", ["alice", HOSTILE, "sponsor:video-co", "sponsor:shop-co", None])
@pytest.mark.parametrize("period", [None, "2026-11", "2026-11-03", "2026-11-04", "2026-12"])
def test_statement_records_add_up_to_their_lines(
    ledger: Ledger, account: str | None, period: str | None
) -> None:
    for zone in ("UTC", "Pacific/Honolulu"):
        found = ledger.statement(account, period, zone, records=True)
        assert found.records is not None and found.charge_records is not None
        sums: dict[tuple[date, str | None], list[int]] = {}
        for line in found.records:
            total = sums.setdefault((line.day, line.record.rule), [0, 0, 0, 0])
            for at, number in enumerate((1, line.record.octets, line.record.subscriber_octets,
                                         line.paid_octets)):  # fmt: skip
                total[at] += number
        assert list(sums.items()) == [
            ((line.day, line.rule), [line.records, line.uplink_octets + line.downlink_octets,
                                     line.subscriber_octets, line.paid_octets])
            for line in found.usage]  # fmt: skip
        charged = sum(booked.charge.amount_micros for _, booked in found.charge_records)
        assert charged == sum(found.charged_micros.values())
        assert len(found.charge_records) == sum(line.charges for line in found.charges)
    if account is None and period is None:
        assert len(found.records) == 6 and len(found.charge_records) == 4


def test_statement_of_an_operator_names_the_transactions(ledger: Ledger) -> None:
    entries = ledger.statement("operator:revenue").entries
    assert [(entry.transaction, entry.unit, entry.amount) for entry in entries] == [
        (1, MONEY, 709), (2, MONEY, 5)]  # fmt: skip


# --- the command -----------------------------------------------------------------------------


def test_statement_command_with_records(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["statement", "--ledger", "sqlite:///books.db", "--account", "sponsor:video-co"]
    assert main([*command, "--format", "json", "--records"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert [(r["epoch"], r["sequence"], r["paid_octets"]) for r in whole["records"]] == [
        ("e1", 0, 700), ("e1", 1, 600), ("e1", 2, 600), ("e1", 4, 700), ("e2", 0, 700)]
    [paid] = whole["charge_records"]
    assert (paid["transaction"], paid["ordinal"], paid["amount_micros"]) == (1, 2, 609)
    assert whole["usage"][0]["origins"][0] == {
        "source": "campus.pcap", "epoch": "e1", "first_sequence": 0, "last_sequence": 4,
        "records": 4}  # fmt: skip
    assert main([*command, "--format", "csv", "--records"]) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    # Records are apart from the lines: each column still adds up.
    assert sum(int(line["paid_octets"] or 0) for line in lines) == 3300
    assert sum(int(line["record.paid_octets"] or 0) for line in lines) == 3300
    assert lines[0]["origins"] == "campus.pcap/e1/0-4, campus.pcap/e2/0-0"
    assert main([*command, "--records"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for part in ("S1 0–4 (4)", "S2 0", "sponsor shop-co", "S1: epoch e1 of campus.pcap", "Records"):
        assert part in text
    assert main(command) == 0
    assert "Records\n" not in capsys.readouterr().out


# --- the page --------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would make of it."""

    VOID = frozenset({"meta", "br", "line", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.words.append(text)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text


@pytest.mark.parametrize("records", [False, True])
def test_page_is_one_safe_file(ledger: Ledger, records: bool) -> None:
    text = statement_page(ledger.statement(HOSTILE, records=records))
    read = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "a", "form"} & set(read.tags)
    for name, value in read.attributes:
        assert not name.startswith("on") and name not in ("src", "href"), (name, value)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text
    assert HOSTILE in read.words  # as it is, and never as tags
    assert text == statement_page(ledger.statement(HOSTILE, records=records))


def test_page_takes_no_name_for_tags(tmp_path: Path) -> None:
    """Every name that somebody else may choose."""
    with open_ledger(f"sqlite:///{tmp_path}/books.db") as ledger:
        run = run_of(HOSTILE, source=HOSTILE, sponsor_accounts={HOSTILE: HOSTILE})
        ledger.post(run, [record(0, source=HOSTILE, epoch=HOSTILE, rule=HOSTILE, account=HOSTILE,
                                 subscriber=HOSTILE, sponsor_identity=HOSTILE,
                                 sponsor_octets={HOSTILE: 700})],
                    [charge(account=HOSTILE, tariff=HOSTILE)])  # fmt: skip
        text = statement_page(ledger.statement(HOSTILE, records=True))
        operator = statement_page(ledger.statement("operator:revenue"))
    read = Page(text)
    assert "<script" not in text and "script" not in read.tags
    assert sum(HOSTILE in word for word in read.words) >= 8
    assert "<script" not in operator


def test_page_carries_every_figure(ledger: Ledger) -> None:
    found = ledger.statement("alice", "2026-11", records=True)
    rows = Page(statement_page(found)).rows
    assert ["2026-11-03", "pay-proxy", "1,600", "2,400", "4,000", "1,200", "2,800", "1,200",
            "S1 0–4 (3)S2 0"] in rows  # fmt: skip
    assert ["2026-11-04", "no rule", "400", "600", "1,000", "1,000", "0", "1,000", "S1 3"] in rows
    assert ["Total", "", "2,000", "3,000", "5,000", "2,200", "2,800", "2,200", ""] in rows
    assert ["Sponsor shop-co", "100", "100 octets", "2.0 %"] in rows
    assert ["2026-11-03", "standard", "2", "600", "2,048", "0.000092 CNY", "1–2"] in rows
    assert ["CNY", "0.000000 CNY", "-0.000105 CNY", "0.000000 CNY", "-0.000105 CNY"] in rows
    assert ["octet", "0 octets", "-2,200 octets", "0 octets", "-2,200 octets"] in rows
    assert ["2026-11-03", "pay-proxy", "S2 0", "2026-11-03 00:00 – 01:00", "10.0.0.7", "400",
            "600", "300"] in rows  # fmt: skip
    charged = [row[2] for row in rows if row[2:3] and row[2].startswith("transaction")]
    assert charged == ["transaction 1, charge 0", "transaction 2, charge 0",
                       "transaction 1, charge 1"]  # fmt: skip
    words = Page(statement_page(found)).words
    assert "S1: epoch e1 of campus.pcap" in words and "S2: epoch e2 of campus.pcap" in words


def test_statement_shows_taxes(tmp_path: Path) -> None:
    """In the lines, the records of charges, and on the page."""
    taxes = (TaxPart("city", "tax:city", 3), TaxPart("vat", "tax:vat", 7, (1, 3)))
    with open_ledger(f"sqlite:///{tmp_path}/books.db") as ledger:
        ledger.post(run_of(), [record(0)], [charge(taxes=taxes), charge(13)])
        found = ledger.statement("alice", records=True)
    assert found.charge_records is not None
    assert [booked.charge.taxes for _, booked in found.charge_records] == [taxes, ()]
    assert found.closing[MONEY] == -110
    rows = Page(statement_page(found)).rows
    assert ["2026-11-03", "vat", "0.000007 CNY"] in rows
    assert ["Total", "", "0.000010 CNY"] in rows
    assert ["CNY", "0.000000 CNY", "-0.000110 CNY", "0.000000 CNY", "-0.000110 CNY"] in rows
    assert ["2026-11-03", "standard", "transaction 1, charge 0", "300", "1,024", "0.000087 CNY",
            "0.000010 CNY"] in rows  # fmt: skip
    [first, second] = document(found)["charge_records"]
    assert (first["tax_micros"], second["tax_micros"]) == ({"city": 3, "vat": 7}, {})


def test_page_of_a_period_without_traffic(ledger: Ledger) -> None:
    read = Page(statement_page(ledger.statement("alice", "2027-01")))
    assert "No traffic in this period." in read.words and "svg" not in read.tags
    assert ["CNY", "-0.000105 CNY", "0.000000 CNY", "0.000000 CNY", "-0.000105 CNY"] in read.rows


def test_page_command(ledger: Ledger) -> None:
    assert main(["statement", "--ledger", "sqlite:///books.db", "--format", "html", "--output",
                 "all.html"]) == 0  # fmt: skip
    read = Page(Path("all.html").read_text("utf-8"))
    assert "All payers" in read.words and ["Subscribers", "2,500", "2.4 KiB", "41.7 %"] in read.rows


def test_plot_columns_are_as_high_as_their_octets(ledger: Ledger) -> None:
    drawn = statement_page(ledger.statement("alice", "2026-11"))
    assert "<h2>Octets by day, 2026-11-01 to 2026-11-30</h2>" in drawn
    heights = [(kind, float(height)) for kind, height in re.findall(
        r'<rect class="(\w+)".*?height="([\d.]+)"', drawn)]  # fmt: skip
    assert [kind for kind, _ in heights] == ["own", "sponsors", "own"]
    scale = heights[0][1] / 1200
    assert [round(h / scale) for _, h in heights] == pytest.approx([1200, 2800, 1000], abs=12)
    tops = [float(y) for y in re.findall(r'<rect .*?y="([\d.]+)"', drawn)]
    assert tops[1] + heights[1][1] == pytest.approx(tops[0])  # one stands on the other
    assert drawn.count("<g><title>") == 30
    assert "2026-11-03: subscribers 1,200, sponsors 2,800 octets" in drawn


def test_plot_of_many_days_is_by_month(tmp_path: Path) -> None:
    start = datetime(2026, 1, 15, tzinfo=UTC)
    with open_ledger(f"sqlite:///{tmp_path}/long.db") as ledger:
        ledger.post(run_of(), [
            record(i, at, first_packet_ns=instant_ns(at), last_packet_ns=instant_ns(at))
            for i in range(200) for at in [start + i * timedelta(days=1)]], [])  # fmt: skip
        title, columns = columns_of(ledger.statement("alice"))
    assert title == "Octets by month, 2026-01-15 to 2026-08-02"
    assert len(columns) == 8
    assert (columns[1].title, columns[1].octets) == ("2026-02", [8400, 19_600])


@pytest.mark.parametrize("octets", [1, 3, 4, 5, 1023, 4096, 4097, 10**6, 10**9, 2**40 + 1, 2**62])
def test_plot_scale_holds_the_highest_column(octets: int) -> None:
    top = scale_top(octets)
    assert octets <= top <= max(4, 2 * octets) and top % 4 == 0
