"""CSV for spreadsheets: what they would change is left as it is, by LibreOffice for one."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from bookings import DAY3, charge, record, run_of

from tollsplit.cli import main
from tollsplit.cli.spreadsheet import write_spreadsheet
from tollsplit.ledger import Transfer, open_ledger
from tollsplit.model import Posting
from tollsplit.report import guarded

COLUMNS = ("name", "octets", "amount_micros", "tax_micros.vat", "at")
# What each would be turned into: a formula, a number, a date, a time, a truth.
GUARDED = (
    "=cmd|' /C calc'!A0", "+49 30", "-1", "@SUM(A1)", "＝1+1", "\t=1", "'=1", "0017", "1E5", " 12",
    "1,5", "1/2", "1-2", "2026-11-03", "12:30", "MAR1", "mai 5", "5%", "$5", "(7)", "TRUE", "１２",
)  # fmt: skip
PLAIN = (
    "张三", "Müller & Söhne", 'O"Brien, x; y', "line\nbreak", "10.0.0.7", "2001:db8:0:7::/64",
    "alice", "rule-1", "teid:0x0000beef", "vlan:100.200", " lead", "a=b",
)  # fmt: skip
AT = "2026-11-03T00:30:00Z"
NUMBERS = ((0, 0), (10**15 - 1, -1), (2**40, 1_234_567), (7, 999_999_999_999_999))


def lines() -> Iterator[dict[str, Any]]:
    for name in (*GUARDED, *PLAIN):
        yield {"name": name, "octets": 1, "amount_micros": 1, "at": AT}
    for octets, micros in NUMBERS:
        yield {"name": "n", "octets": octets, "amount_micros": micros, "tax_micros.vat": -micros}


def written() -> str:
    stream = io.StringIO(newline="")
    write_spreadsheet(stream, COLUMNS, lines())
    return stream.getvalue()


def test_spreadsheet_text_is_rfc_4180_and_says_that_it_is_utf_8() -> None:
    text = written()
    assert text.startswith("\ufeffname,octets,amount_money,tax_money.vat,at\r\n")
    assert all(line.endswith("\r\n") for line in text.replace("line\nbreak", "").splitlines(True))
    assert '"O""Brien, x; y",1,0.000001,,2026-11-03 00:30:00\r\n' in text
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[0] for row in rows[1 : 1 + len(GUARDED)]] == [f"'{name}" for name in GUARDED]
    assert [row[0] for row in rows[1 + len(GUARDED) :]][: len(PLAIN)] == list(PLAIN)
    assert [(int(row[1]), Decimal(row[2]), row[3]) for row in rows[-4:]] == [
        (octets, Decimal(micros).scaleb(-6), format(Decimal(-micros).scaleb(-6), "f"))
        for octets, micros in NUMBERS]  # fmt: skip


def test_spreadsheet_numbers_that_would_lose_digits_are_text() -> None:
    stream = io.StringIO(newline="")
    write_spreadsheet(stream, ("octets", "amount_micros"), [
        {"octets": 10**15, "amount_micros": -(10**15)}])  # fmt: skip
    assert stream.getvalue().splitlines()[1] == "'1000000000000000,'-1000000000.000000"


def test_spreadsheet_guard_never_makes_two_names_one() -> None:
    names = ["=1", "'=1", "''=1", "1", "'1", "＝1"]
    assert len({guarded(name) for name in names}) == len(names)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[str, str]]]:
    """The cells of each row as LibreOffice takes them, its detection of special numbers on: what
    a cell is, and what it holds.
    """
    office = shutil.which("soffice")
    if office is None:
        pytest.skip("no soffice: install Debian's package libreoffice-calc-nogui")
    home = tmp_path_factory.mktemp("office")
    (home / "t.csv").write_text(written(), "utf-8", newline="")
    subprocess.run(
        [office, "--headless", "--norestore", f"-env:UserInstallation={(home / 'own').as_uri()}",
         "--infilter=CSV:44,34,76,1,,0,false,true", "--convert-to", "fods", "--outdir", home,
         home / "t.csv"], check=True, capture_output=True, timeout=120,
        env={**os.environ, "HOME": str(home)})  # fmt: skip
    return list(cells(home / "t.fods"))


def cells(path: Path) -> Iterator[list[tuple[str, str]]]:
    office, table, text = (f"{{urn:oasis:names:tc:opendocument:xmlns:{name}:1.0}}"
                           for name in ("office", "table", "text"))
    for row in ElementTree.parse(path).iter(f"{table}table-row"):
        found = []
        for cell in row.iter(f"{table}table-cell"):
            assert cell.get(f"{table}formula") is None
            kind = cell.get(f"{office}value-type", "")
            value = cell.get(f"{office}value") or cell.get(f"{office}date-value") or "\n".join(
                "".join(line.itertext()) for line in cell.iter(f"{text}p"))
            same = int(cell.get(f"{table}number-columns-repeated", "1"))
            found += [(kind, value)] * min(same, len(COLUMNS))
        yield found


def test_spreadsheet_names_are_names_to_libreoffice(opened: list[list[tuple[str, str]]]) -> None:
    names = [f"'{name}" for name in GUARDED] + list(PLAIN)
    for row, name in zip(opened[1:], names, strict=False):
        kind, value = row[0]
        assert kind == "string" and "".join(value.split()) == "".join(name.split()), name
        assert row[4][0] == "date" and row[4][1].startswith("2026-11-03"), row


def test_spreadsheet_numbers_are_exact_to_libreoffice(
    opened: list[list[tuple[str, str]]]
) -> None:
    start = 1 + len(GUARDED) + len(PLAIN)
    for row, (octets, micros) in zip(opened[start:], NUMBERS, strict=False):
        assert [kind for kind, _ in row[1:4]] == ["float"] * 3
        assert Decimal(row[1][1]) == octets
        assert Decimal(row[2][1]) == Decimal(micros).scaleb(-6) == -Decimal(row[3][1])


def test_spreadsheet_statement_is_in_money(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Charges, other entries and balances alike."""
    monkeypatch.chdir(tmp_path)
    with open_ledger("sqlite:///books.db") as book:
        book.post(run_of(), [record(0, DAY3)], [charge(1_500_000)])
        book.open_account("till", "CNY/1000000", "operator")
        book.transfer(Transfer("k", "payment", (Posting("alice", "CNY/1000000", 2_250_000),
                                                Posting("till", "CNY/1000000", -2_250_000))))
    command = ["statement", "--ledger", "sqlite:///books.db", "--account", "alice", "--format",
               "spreadsheet", "--output", "alice.csv"]  # fmt: skip
    assert main(command) == 0
    rows = list(csv.DictReader(Path("alice.csv").read_text("utf-8-sig").splitlines()))
    by_line = {(row["line"], row["unit"]): row for row in rows}
    assert by_line["charge", ""]["amount_money"] == "1.500000"
    assert by_line["entry", "CNY"]["amount"] == "2.250000"
    balance = by_line["balance", "CNY"]
    assert (balance["opening"], balance["closing"]) == ("0.000000", "0.750000")
    assert by_line["balance", "octet"]["closing"] == "-300"
