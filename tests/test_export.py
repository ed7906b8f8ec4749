"""Exports: other programs read the whole ledger, and come to the same balances."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sqlite3
import subprocess
from collections import defaultdict
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bookings import DAY3, HOUR, charge, record, run_of
from hypothesis import example, given
from hypothesis import strategies as st

from tollsplit.cli import main
from tollsplit.export import Beancount, Hledger, documents
from tollsplit.export.plain_text import unescaped
from tollsplit.ledger import open_ledger
from tollsplit.model import TaxPart

NAMES = (
    "alice", "10.0.0.7", "2001:db8:0:7::/64", "张三", "Müller & Söhne", "two  blanks", "a;b",
    "=1+2", "(z)", "[z]",
    "a:b", "Ünal", "²x", "😀", '"quoted"', "back\\slash", "--", "X--x", "-2D", "%41",
    "tab\tand\nline", " lead", "trail ", "*", "!", "€ 5", "0", "teid:0x0000beef", "ǅ", "Ⅷ",
)  # fmt: skip


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this system")
    return found


TAXES = (TaxPart("city", "tax:city", 2, (1, 2)), TaxPart("vat", "tax:vat", -1, (2, 3)))


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str, str], int]:
    """A ledger with hard names, several currencies and runs; what its accounts hold."""
    monkeypatch.chdir(tmp_path)
    with open_ledger("sqlite:///books.db") as ledger:
        for number, epoch in enumerate(("e1", 'e"2",;|%')):
            run = run_of(epoch, captures=((f'cap;"{number}",\\n|.pcap', f"sha256:{number}"),))
            ledger.post(
                run,
                [record(i, DAY3 + HOUR * i, epoch=epoch, account=name, uplink_octets=10**15 + 400,
                        subscriber_octets=10**15 + 300) for i, name in enumerate(NAMES)],
                [*(charge(10**12 + 7 * i, name, currency=("CNY", "EUR")[i % 2], remainder=(1, 3))
                   for i, name in enumerate(NAMES)), charge(-5, "alice", taxes=TAXES)])  # fmt: skip
        ledger.post(run_of("empty"), [], [])
        return {(b.kind, b.account, b.unit): b.balance for b in ledger.balances()}


def export(form: str, name: str) -> Path:
    assert main(["ledger", "export", "--ledger", "sqlite:///books.db", "--format", form,
                 "--output", name]) == 0  # fmt: skip
    return Path(name)


def in_units(amount: Decimal, commodity: str) -> tuple[str, int]:
    """As the ledger has it."""
    if commodity.lower() == "octet":
        return "octet", int(amount)
    assert amount * 1_000_000 == int(amount * 1_000_000)
    return f"{commodity}/1000000", int(amount * 1_000_000)


# --- hledger and Beancount -------------------------------------------------------------------


def hledger(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("hledger"), "-f", str(path), *arguments], capture_output=True,
                          text=True, timeout=120, check=False,
                          env={**os.environ, "LC_ALL": "C.UTF-8"})  # fmt: skip


def test_export_hledgers_balances_are_ours(books: dict[tuple[str, str, str], int]) -> None:
    path = export("hledger", "books.journal")
    checked = hledger(path, "check", "--strict")
    assert checked.returncode == 0, checked.stderr
    report = hledger(path, "balance", "--flat", "--no-total", "--empty", "-O", "csv",
                     "--layout=bare")  # fmt: skip
    assert report.returncode == 0, report.stderr
    found: dict[tuple[str, str, str], int] = {}
    for row in csv.DictReader(io.StringIO(report.stdout)):
        kind, name = Hledger().decode(row["account"])
        unit, amount = in_units(Decimal(row["balance"]), row["commodity"])
        found[kind, name, unit] = amount
    expected = {key: balance for key, balance in books.items() if balance}
    assert {key: n for key, n in found.items() if n} == expected
    # Where it comes from is found again by its tag.
    tagged = hledger(path, "print", "tag:epoch=^e1$")
    assert tagged.stdout.count("transaction:") == 1 and "transaction:1\n" in tagged.stdout
    values = hledger(path, "tags", "epoch", "--values").stdout.splitlines()
    assert {unescaped(value, "%") for value in values} == {"e1", 'e"2",;|%', "empty"}


def test_export_beancounts_balances_are_ours(books: dict[tuple[str, str, str], int]) -> None:
    loader = pytest.importorskip("beancount.loader")
    from beancount.core import account, realization

    entries, errors, _ = loader.load_file(str(export("beancount", "books.beancount")))
    assert not errors, errors[:3]
    found: dict[tuple[str, str, str], int] = defaultdict(int)
    assert all(account.is_valid(entry.account) for entry in entries if hasattr(entry, "account"))
    for leaf in realization.iter_children(realization.realize(entries), leaf_only=True):
        for position in leaf.balance:
            kind, name = Beancount().decode(leaf.account)
            unit, amount = in_units(position.units.number, position.units.currency)
            found[kind, name, unit] = amount
    assert found == {key: balance for key, balance in books.items() if balance}
    first, second, empty = (e for e in entries if type(e).__name__ == "Transaction")
    assert first.meta["transaction"] == "1" and second.meta["epoch"] == 'e"2",;|%'
    assert json.loads(second.meta["captures"]) == [['cap;"1",\\n|.pcap', "sha256:1"]]
    assert second.narration == 'usage of cap;"1",\\n|.pcap' and not empty.postings


@pytest.mark.parametrize("form", ["hledger", "beancount"])
def test_export_a_changed_amount_is_found_by_the_assertions(
    books: dict[tuple[str, str, str], int], form: str
) -> None:
    """Two postings of one transaction are changed, so that it still sums to zero."""
    path = export(form, "books")
    text = path.read_text("utf-8")
    commodity = "octet" if form == "hledger" else "OCTET"
    booked = f"-{10**15 + 300} {commodity}"
    for change in (-1, 1):
        assert booked in text
        text = text.replace(booked, f"-{10**15 + 300 + change} {commodity}", 1)
    path.write_text(text, "utf-8")
    if form == "hledger":
        assert "assertion" in hledger(path, "check").stderr.replace("\n", " ").lower()
    else:
        _, errors, _ = pytest.importorskip("beancount.loader").load_file(str(path))
        assert {type(error).__name__ for error in errors} == {"BalanceError"}


@example("operator:traffic")
@given(st.text(max_size=12))
def test_export_names_are_given_back(name: str) -> None:
    if any(0xD800 <= ord(char) < 0xE000 for char in name):
        return  # no text that a ledger can hold
    for form in (Hledger(), Beancount()):
        assert form.decode(form.account("subscriber", name)) == ("subscriber", name)


@pytest.mark.parametrize("name", NAMES)
def test_export_hard_names_are_given_back(name: str) -> None:
    for form in (Hledger(), Beancount()):
        assert form.decode(form.account("card", name)) == ("card", name)
    assert not set(Hledger().account("card", name)) & set(' \t\n;"()[]*!=')


@pytest.mark.parametrize("form", ["hledger", "beancount", "json", "csv"])
def test_export_is_the_same_each_time(
    books: dict[tuple[str, str, str], int], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = export(form, "one"), export(form, "two")
    assert one.read_bytes() == two.read_bytes()
    assert main(["ledger", "export", "--ledger", "sqlite:///books.db", "--format", form]) == 0
    assert capsys.readouterr().out == one.read_text("utf-8")


# --- documents and tables -------------------------------------------------------------------


def totals(postings: list[dict[str, Any]]) -> dict[tuple[str, str, str], int]:
    sums: dict[tuple[str, str, str], int] = defaultdict(int)
    for posting in postings:
        key = posting["account_kind"], posting["account"], posting["unit"]
        sums[key] += int(posting["amount"])
    return sums


def test_export_json_has_everything(books: dict[tuple[str, str, str], int]) -> None:
    whole = json.loads(export("json", "books.json").read_text("utf-8"))
    assert list(whole) == ["schema", "accounts", "transactions", "postings", "usage", "charges"]
    assert totals(whole["postings"]) == books
    assert {(a["account_kind"], a["account"], a["unit"]): a["balance"]
            for a in whole["accounts"]} == books  # fmt: skip
    assert [t["epoch"] for t in whole["transactions"]] == ["e1", 'e"2",;|%', "empty"]
    assert len(whole["usage"]) == 2 * len(NAMES) and len(whole["charges"]) == 2 * len(NAMES) + 2
    used = sum(u["subscriber_octets"] + sum(u["sponsor_octets"].values()) for u in whole["usage"])
    assert used == books["operator", "operator:traffic", "octet"]
    assert whole["charges"][0]["remainder"] == "1/3"
    assert [c["tax_micros"] for c in whole["charges"]] == 2 * [
        *[{}] * len(NAMES), {"city": 2, "vat": -1}]  # fmt: skip
    with closing(sqlite3.connect("books.db")) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM postings")
    assert len(whole["postings"]) == count


def test_export_csv_has_everything(books: dict[tuple[str, str, str], int]) -> None:
    with open(export("csv", "books.csv"), encoding="utf-8", newline="") as stream:
        lines: dict[str, list[dict[str, str]]] = defaultdict(list)
        for line in csv.DictReader(stream):
            lines[line["line"]].append(line)
    assert {line: len(found) for line, found in lines.items()} == {
        "account": len(books), "transaction": 3, "posting": len(lines["posting"]),
        "usage": 2 * len(NAMES), "share": 2 * len(NAMES), "charge": 2 * len(NAMES) + 2,
        "tax": 4}  # fmt: skip
    assert [(t["tax"], t["tax_micros"]) for t in lines["tax"]] == 2 * [("city", "2"), ("vat", "-1")]
    guarded = {("'" + name if name[0] in "=+-@\t\r" else name): name for _, name, _ in books}
    for posting in lines["posting"]:
        posting["account"] = guarded[posting["account"]]
    assert totals(lines["posting"]) == books


def test_export_parquet_is_a_folder_of_tables(
    books: dict[tuple[str, str, str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(documents, "LEDGER_BATCH_RECORDS", 7)
    folder = export("parquet", "books")
    tables = {path.stem: parquet.read_table(path).to_pylist() for path in folder.iterdir()}
    assert sorted(tables) == ["accounts", "charges", "postings", "transactions", "usage"]
    assert totals(tables["postings"]) == books
    whole = json.loads(export("json", "books.json").read_text("utf-8"))
    for name, rows in tables.items():
        assert len(rows) == len(whole[name]), name
    usage = tables["usage"][3]
    assert usage["window_start"] == DAY3 + HOUR * 3
    assert dict(usage["sponsor_octets"]) == {"video-co": 700}
    assert dict(tables["charges"][-1]["tax_micros"]) == {"city": 2, "vat": -1}
    assert tables["transactions"][1]["captures"][0]["digest"] == "sha256:1"
    assert [p.name for p in Path().iterdir() if "partial" in p.name] == []


def test_export_refuses(
    books: dict[tuple[str, str, str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ledger", "export", "--ledger", "sqlite:///books.db", "--format", "parquet"]
    assert main(command) == 2
    assert "name it with --output PATH" in capsys.readouterr().err
    Path("there").mkdir()
    Path("there", "mine.txt").write_text("x")
    assert main([*command, "--output", "there"]) == 1
    assert "there: is there already" in capsys.readouterr().err
    assert [path.name for path in Path("there").iterdir()] == ["mine.txt"]
    assert main([*command, "--output", "no/such/folder"]) == 1
    assert "cannot be written: No such file" in capsys.readouterr().err
    assert main(["ledger", "export", "--ledger", "sqlite:///no.db", "--format", "json"]) == 1
    assert "no such ledger" in capsys.readouterr().err
