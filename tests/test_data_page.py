"""docs/data.md: its commands and queries as they stand there, on what tollsplit writes."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tollsplit.cli import main
from tollsplit.cli.demo.example import CAPTURE, RULES, write_example
from tollsplit.cli.demo.traffic import write_capture

pytest.importorskip("pyarrow", reason="no pyarrow: install tollsplit[parquet]")

PAGE = (Path(__file__).resolve().parents[1] / "docs/data.md").read_text("utf-8")
ZONE = ZoneInfo("Asia/Shanghai")
TOP, SHARES, IDENTITY, MONEY = range(4)
Document = dict[str, Any]
Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    """Two runs as reports say them: over a capture alone, and booked. The current folder has a
    dataset of both, written as the page says.
    """
    home = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        write_example(home)
        with open("booked.pcap", "wb") as stream:
            write_capture(stream, seed=7)
        run = ["account", "--rules", RULES, "--format", "json", "--output"]
        assert main([*run, "alone.json", CAPTURE]) == 0
        assert main([*run, "booked.json", "--ledger", "sqlite:///books.db", "booked.pcap"]) == 0
        commands = re.findall(r"^    tollsplit (.* --format dataset .*)$", PAGE, re.M)
        assert len(commands) == 2
        for command in commands:
            assert main(command.split()) == 0
        yield [json.loads(Path(name).read_text("utf-8")) for name in ("alone.json", "booked.json")]


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)
    assert len(found) == 4
    return found


def duckdb_rows(question: int) -> Rows:
    duckdb = pytest.importorskip("duckdb", reason="no duckdb: pip install duckdb")
    return list(duckdb.sql(blocks("sql")[question]).fetchall())


def polars_rows(question: int) -> Rows:
    pytest.importorskip("polars", reason="no polars: pip install polars")
    names: dict[str, Any] = {}
    exec(blocks("python")[question], names)
    return list(names["result"].rows())


ENGINES = pytest.mark.parametrize("rows", [duckdb_rows, polars_rows], ids=["duckdb", "polars"])


@ENGINES
def test_data_page_top_subscribers(documents: list[Document], rows: Any) -> None:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for document in documents:
        for entry in document["usage"]:
            sums[entry["account"]][0] += entry["uplink_octets"] + entry["downlink_octets"]
            sums[entry["account"]][1] += entry["subscriber_octets"]
    expected = sorted(((name, *both) for name, both in sums.items()), key=lambda x: (-x[1], x[0]))
    assert rows(TOP) == expected[:10]


@ENGINES
def test_data_page_sponsors_by_day(documents: list[Document], rows: Any) -> None:
    sums: dict[tuple[date, str], int] = defaultdict(int)
    for document in documents:
        for entry in document["usage"]:
            day = datetime.fromisoformat(entry["window_start"]).astimezone(ZONE).date()
            for sponsor, octets in entry["sponsor_octets"].items():
                sums[day, sponsor] += octets
    expected = [(*key, octets) for key, octets in sorted(sums.items()) if octets]
    assert len({day for day, _ in sums}) == 3
    assert rows(SHARES) == expected


@ENGINES
def test_data_page_identity(documents: list[Document], rows: Any) -> None:
    """The ledger knows no buckets: the run that is only booked shows none."""
    alone, booked = documents
    seen, metered = alone["seen"]["octets"], alone["metered"]["octets"]
    [source] = {entry["source"] for entry in booked["usage"]}
    found = {row[0]: row[1:] for row in rows(IDENTITY)}
    assert found.pop(source) == (None, None, None, *[booked["metered"]["octets"]] * 2)
    assert list(found.values()) == [(seen, seen, metered, metered, metered)]


@ENGINES
def test_data_page_money_by_account(documents: list[Document], rows: Any) -> None:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for document in documents:
        for charge in document["charges"]:
            sums[charge["account"], charge["currency"]] += (
                charge["amount_micros"] + sum(charge["tax_micros"].values()))
    expected = sorted(((*key, Decimal(micros).scaleb(-6)) for key, micros in sums.items()),
                      key=lambda row: (row[1], -row[2], row[0]))
    assert len(expected) > 5
    found = rows(MONEY)
    assert found == expected
    assert {type(row[2]) for row in found} == {Decimal}


def test_data_page_columns_are_those_of_the_files(documents: list[Document]) -> None:
    """Every name and type in the page's tables, and the schema's version in the metadata."""
    parquet = pytest.importorskip("pyarrow.parquet")
    for table in ("usage", "charges", "runs"):
        text = PAGE.split(f"\n`{table}`, a row")[1].split("|---|---|---|\n")[1].split("\n\n")[0]
        said = [(name, kind) for names, kind, *_ in (
                    re.split(r" ?\| ?", line)[1:] for line in text.splitlines())
                for name in re.findall(r"`(\w+)`", names)]  # fmt: skip
        for path in Path("lake", table).rglob("*.parquet"):
            schema = parquet.read_schema(path)
            assert [(field.name, kind_of(str(field.type))) for field in schema] == said
            assert schema.metadata[b"tollsplit.schema"] == b"tollsplit.dataset/1"


def kind_of(arrow: str) -> str:
    """An Arrow type as the page writes it."""
    text = re.sub(r"\[[nu]s, tz=UTC\]|128(?=\()", "", arrow)
    text = re.sub(r"list<\w+: struct<(.*)>>", lambda m: "list of (" + re.sub(
        r"(\w+): ([^,(]+(?:\([^)]*\))?)", r"`\1` \2", m[1]) + ")", text)
    return re.sub(r"list<\w+: string>", "list of string", text)
