"""docs/rating.md: every figure on the page is what captures, booked run by run, come to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

from bookings import held
from gateways import HEADER, packet

import tollsplit
from tollsplit.ledger import open_ledger
from tollsplit.model import Charge
from tollsplit.rules import load

PAGE = Path(__file__).resolve().parents[1] / "docs/rating.md"
DATAGRAM_MAX, DATAGRAM_MIN = 65_000, 28
DAY, MONTH = "A subscriber's day", "A sponsor's month"


def section(title: str) -> str:
    [text] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.S | re.M)
    return text


def tables(text: str) -> list[tuple[str, list[list[str]]]]:
    """Each table's first column's title, and its rows."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        head, _, *rows = ([cell.strip() for cell in line.strip()[1:-1].split("|")]
                          for line in table.splitlines())  # fmt: skip
        found.append((head[0], rows))
    return found


def number(text: str) -> Fraction:
    return Fraction(text.replace(",", "") or 0)


def instant_ns(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 10**9


class Books:
    """The rules of a section, and what its captures are booked as."""

    def __init__(self, home: Path, title: str) -> None:
        self.text = section(title)
        [rules] = re.findall(r"^```toml\n(.*?)^```", self.text, re.S | re.M)
        (home / "rules.toml").write_text(rules, "utf-8")
        self.zone = load(home / "rules.toml").meter.zone
        self.url = f"sqlite:///{home}/ledger.db"
        self._home = home

    def book(self, used: Sequence[tuple[str, int, Fraction]]) -> tuple[Charge, ...]:
        """One run: (when, subscriber, octets) of each row. Its charges."""
        records = []
        for at, subscriber, octets in used:
            left = int(octets)
            while left:
                size = left if left <= DATAGRAM_MAX else DATAGRAM_MAX - DATAGRAM_MIN
                records.append(packet(instant_ns(at, self.zone), size, subscriber))
                left -= size
        (self._home / "run.pcap").write_bytes(HEADER + b"".join(records))
        report = tollsplit.account(self._home / "run.pcap", self._home / "rules.toml",
                                   ledger=self.url)  # fmt: skip
        assert report.receipt is not None and report.receipt.booked
        return report.charges

    def expect(self, rows: list[list[str]], charges: Sequence[Charge]) -> None:
        """That the page's rows are these charges."""
        assert [row[0] for row in rows] == [f"{c.period_start:%Y-%m-%d %H:%M}" for c in charges]
        for row, charge in zip(rows, charges, strict=True):
            octets, rated, exact, amount, left, tax_exact, tax_amount, tax_left = (
                number(cell.replace("minimum", "")) for cell in row[1:])
            [tax] = charge.taxes
            assert (charge.octets, charge.rated_octets) == (octets, rated), row
            assert (charge.amount_micros, Fraction(*charge.remainder)) == (amount, left), row
            assert exact == amount + left, row
            assert (tax.amount_micros, Fraction(*tax.remainder)) == (tax_amount, tax_left), row
            assert tax_exact == tax_amount + tax_left, row

    def balances(self) -> dict[tuple[str, str], int]:
        with open_ledger(self.url) as ledger:
            assert ledger.verify().findings == ()
            return {key: amount for key, amount in held(ledger).items() if key[1] != "octet"}


def test_rating_page_subscriber_day(tmp_path: Path) -> None:
    books = Books(tmp_path, DAY)
    found = tables(books.text)
    assert [title for title, _ in found] == ["at", "begins", "at", "begins", "account"]
    for (_, used), (_, charged) in (found[:2], found[2:4]):
        books.expect(charged, books.book(
            [(at, 0x0A000007, number(octets)) for at, octets in used]))  # fmt: skip
    _, rows = found[4]
    assert books.balances() == {
        (account, "CNY/1000000"): number(amount) for account, amount in rows}
    assert sum(number(amount) for _, amount in rows) == 0


def test_rating_page_sponsor_month(tmp_path: Path) -> None:
    books = Books(tmp_path, MONTH)
    found = tables(books.text)
    assert [title for title, _ in found] == [
        "at", "begins", "begins", "begins", "subscriber", "account"]
    _, used = found[0]
    _, own = found[4]
    for (at, subscriber, octets, sponsor, rest), (_, rows), line in zip(
        used, found[1:4], own, strict=True
    ):
        address = 0x0A000000 + int(subscriber.rpartition(".")[2])
        charges = books.book([(at, address, number(octets))])
        books.expect(rows, [c for c in charges if c.account == "sponsor:video-co"])
        assert sum(c.octets for c in charges if c.account == "sponsor:video-co") == number(sponsor)
        [mine] = [c for c in charges if c.account == subscriber]
        _, used_octets, exact, amount, left = line
        assert mine.octets == number(rest) == number(used_octets)
        assert (mine.amount_micros, Fraction(*mine.remainder)) == (number(amount), number(left))
        assert number(amount) + number(left) == number(exact)
        assert mine.taxes == ()
    _, rows = found[5]
    expected = {(account, f"{currency}/1000000"): number(cell) for account, *cells in rows
                for currency, cell in zip(("EUR", "CNY"), cells, strict=True) if cell}
    assert books.balances() == expected
    assert [sum(n for (_, unit), n in expected.items() if unit == f"{c}/1000000")
            for c in ("EUR", "CNY")] == [0, 0]


def test_rating_page_sums_in_its_text_are_right() -> None:
    """The figures between the tables, from the same fractions."""
    text = PAGE.read_text("utf-8")
    [(numerator, denominator)] = re.findall(r"sum to 1 and ([\d,]+)/([\d,]+):", text)
    _, own = tables(section(MONTH))[4]
    assert sum(number(row[4]) for row in own) == 1 + number(numerator) / number(denominator)
    [exact] = re.findall(r"exact ones ([\d,/]+), which is 991,436 and a fraction", text)
    net = sum(number(row[3]) for _, rows in tables(section(MONTH))[1:4] for row in rows)
    assert number(exact) == net
    assert net // 1 == 991_436
    assert net * Fraction(19, 100) // 1 == 188_372
    charged = [rows for title, rows in tables(section(DAY)) if title == "begins"]
    price = sum(number(row[3]) for rows in charged for row in rows)
    assert price == 960_150
    assert price * Fraction(13, 100) == 124_819 + Fraction(1, 2)
