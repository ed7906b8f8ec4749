"""From packets to charges: prices change inside a window, each octet has that of its instant."""

from __future__ import annotations

import csv
import io
import re
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from gateways import HEADER, packet

import tollsplit
from tollsplit.cli.statement import document
from tollsplit.cli.table import print_account, print_statement
from tollsplit.ledger import open_ledger

RULES = """
[meter]
window = "{window}"
zone = "Europe/Berlin"
tunnel_endpoints = []
[[pools]]
prefixes = ["10.0.0.0/8"]
[tariffs.standard]
currency = "EUR"
price = "1 EUR / MB"
increment = "1 kB"
rounding_per = "{per}"
bands = [{{ from = "18:30", to = "22:00", price = "3 EUR / MB" }},
    {{ from = "22:00", to = "02:30", price = "10 EUR / MB" }}]
"""
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, nanosecond: int = 0, fold: int = 0) -> int:
    wall = datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)
    return int(wall.timestamp()) * 10**9 + nanosecond


@pytest.mark.parametrize("per", ["record", "session", "day"])
@pytest.mark.parametrize(("window", "records"), [("1d", 1), ("1mo", 1), ("all", 1), ("12h", 2)])
def test_captures_a_switch_inside_a_window_cuts_it(
    tmp_path: Path, per: str, window: str, records: int
) -> None:
    """The last nanosecond before 18:30 has the old price, 18:30 the new one; one usage record."""
    (tmp_path / "rules.toml").write_text(RULES.format(window=window, per=per))
    (tmp_path / "seen.pcap").write_bytes(HEADER + b"".join([
        packet(at("2026-11-03T09:00"), 1000), packet(at("2026-11-03T18:29:59", 999_999_999), 1000),
        packet(at("2026-11-03T18:30:00"), 1001), packet(at("2026-11-03T21:59:59"), 1000),
        packet(at("2026-11-03T22:00:00"), 100),
    ]))  # fmt: skip
    report = tollsplit.account(tmp_path / "seen.pcap", tmp_path / "rules.toml")
    assert len(report.usage) == records
    # 2000 at 1, 2001 → 3000 at 3, 100 → 1000 at 10; twelve-hour windows: 1000 and 1000 at 1
    assert sum(c.amount_micros for c in report.charges) == 2000 + 9000 + 10_000
    assert sum(c.octets for c in report.charges) == 4101
    assert sum(c.rated_octets for c in report.charges) == 6000


def test_captures_switches_follow_a_clock_that_goes_back(tmp_path: Path) -> None:
    """25 October 2026: 02:00 to 03:00 comes twice, and so does the switch at 02:30."""
    (tmp_path / "rules.toml").write_text(RULES.format(window="1d", per="day"))
    instants = [("01:00", 0), ("02:29", 0), ("02:30", 0), ("02:29", 1), ("02:30", 1), ("03:00", 0)]
    (tmp_path / "seen.pcap").write_bytes(HEADER + b"".join(
        packet(at(f"2026-10-25T{wall}", fold=fold), 1000) for wall, fold in instants))
    report = tollsplit.account(tmp_path / "seen.pcap", tmp_path / "rules.toml")
    assert len(report.usage) == 1
    assert [(c.octets, c.amount_micros) for c in report.charges] == [(3000, 30_000), (3000, 3000)]


def test_captures_a_day_s_minimum_needs_no_windows(tmp_path: Path) -> None:
    """One record of the whole input goes to the day in which it begins, another run to its own."""
    rules = RULES.format(window="all", per="record").partition("bands")[0]
    (tmp_path / "rules.toml").write_text(rules + 'minimum = "1 EUR"\nminimum_per = "day"\n')
    totals = []
    for days in (["2026-11-03"], ["2026-11-03", "2026-11-04"], ["2026-11-04"]):
        (tmp_path / "seen.pcap").write_bytes(HEADER + b"".join(
            packet(at(f"{day}T09:00"), 1000) for day in days))
        report = tollsplit.account(tmp_path / "seen.pcap", tmp_path / "rules.toml",
                                   ledger=f"sqlite:///{tmp_path}/ledger.db")  # fmt: skip
        totals.append(sum(c.amount_micros for c in report.charges))
    assert totals == [1_000_000, 0, 1_000_000]


def test_captures_taxes_are_in_every_form_of_the_report(tmp_path: Path) -> None:
    rules = RULES.format(window="1d", per="day")
    (tmp_path / "rules.toml").write_text(
        rules + 'taxes = ["vat", "city"]\nprices = "net"\n'
        '[taxes.vat]\nrate = "13%"\n[taxes.city]\nrate = "5%"\n')
    (tmp_path / "seen.pcap").write_bytes(HEADER + packet(at("2026-11-03T09:00"), 1000))
    url = f"sqlite:///{tmp_path}/ledger.db"
    report = tollsplit.account(tmp_path / "seen.pcap", tmp_path / "rules.toml", ledger=url)
    [charge] = report.document()["charges"]
    assert (charge["amount_micros"], charge["tax_micros"]) == (1000, {"vat": 130, "city": 50})
    [line] = [line for line in csv.DictReader(io.StringIO(report.to_csv()))
              if line["line"] == "charge"]  # fmt: skip
    assert [line[f"tax_micros.{name}"] for name in ("vat", "city")] == ["130", "50"]
    shown = io.StringIO()
    print_account(report, shown, 10)
    assert re.search(r"10\.0\.0\.7 +1,000 +0\.000180 EUR +0\.001180 EUR", shown.getvalue())
    with open_ledger(url) as ledger:
        statement = ledger.statement("10.0.0.7", zone="Europe/Berlin")
    assert [(entry["tax"], entry["amount_micros"]) for entry in document(statement)["taxes"]] == [
        ("city", 50), ("vat", 130)]  # fmt: skip
    assert document(statement)["tax_micros"] == {"EUR": 180}
    assert statement.closing["EUR/1000000"] == -1180
    shown = io.StringIO()
    print_statement(statement, shown)
    assert re.search(r"2026-11-03 +vat +0\.000130 EUR", shown.getvalue())
