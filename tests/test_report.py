"""The report: its forms carry the same figures, and its identity can fail."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tollsplit
from tollsplit.cli.demo.example import CAPTURE, RULES, write_example
from tollsplit.model import Volume
from tollsplit.report import Report, instant_text, usage_entries, usage_entry


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    write_example(folder)
    directory = folder / "subscribers.csv"
    directory.write_text(directory.read_text() + "10.20.0.4/32,=SUM(A1),,\n")
    return folder


@pytest.fixture(scope="module")
def report(example: Path) -> Report:
    found = tollsplit.account(example / CAPTURE, example / RULES)
    assert found.identity_holds
    return found


def test_report_document_has_every_key_of_the_interface(report: Report) -> None:
    document = report.document()
    assert list(document) == [
        "schema", "rules_version", "layer", "at", "seen", "metered", "metered_twice",
        "unattributed", "non_ip", "control", "duplicate", "retransmitted", "faults",
        "tunnel_overhead_octets", "coalesced", "mismatch", "overlapping", "untracked",
        "suspicious", "unsolicited", "refused_tokens", "lost", "identity", "truncated", "usage",
        "charges", "ledger", "elapsed_s", "packets_per_s",
    ]
    assert document["schema"] == "tollsplit.account/1"
    assert document["lost"] == {"kernel": 0, "interface": 0}
    assert document["identity"] == {"holds": True}
    # 42 octets of ARP, padded to 60 on the wire, less 14 of link header
    assert document["non_ip"] == {"packets": 1, "octets": 46}
    # 20 + 8 + 300, between two subscribers
    assert document["metered_twice"] == {"packets": 1, "octets": 328}
    assert document["unattributed"] == {"packets": 1, "octets": 76}
    assert document["control"] == {"packets": 1, "octets": 40}
    assert document["faults"] == {"ip_exceeds_wire": {"packets": 1, "octets": 88},
                                  "truncated": {"packets": 1, "octets": 118}}
    assert {"window_start", "window_end", "subscriber", "account", "rule", "rating_group",
            "sponsor_identity", "asp_identity", "uplink_packets", "uplink_octets",
            "downlink_packets", "downlink_octets", "subscriber_octets", "sponsor_octets",
            "source", "epoch", "sequence", "flags"} <= document["usage"][0].keys()
    assert document["usage"][0]["window_start"] == "2026-10-30T16:00:00Z"  # Shanghai's midnight
    assert {"account", "currency", "amount_micros"} <= document["charges"][0].keys()


def test_report_usage_adds_up_to_the_totals(report: Report) -> None:
    document = report.document()
    for payer in ("video-co", "shop-co"):
        paid = sum(line["sponsor_octets"].get(payer, 0) for line in document["usage"])
        assert paid == document["metered"]["sponsor_octets"][payer] > 0
    assert document["metered"]["subscriber_octets"] == sum(
        line["subscriber_octets"] for line in document["usage"])
    for line in document["usage"]:
        assert line["uplink_octets"] + line["downlink_octets"] == (
            line["subscriber_octets"] + sum(line["sponsor_octets"].values()))


def test_report_entries_are_those_of_the_records(report: Report) -> None:
    """Made from columns, they say what the records say."""
    assert list(usage_entries(report.usage)) == [usage_entry(record) for record in report.usage]


def test_report_records_have_a_source_only_where_they_are_booked(
    report: Report, example: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    ledger = f"sqlite:///{tmp_path}/books.db"
    booked = tollsplit.account(example / CAPTURE, example / RULES, ledger=ledger)
    for found, sourced in ((report, False), (booked, True)):
        entries = [(entry["source"], entry["epoch"]) for entry in found.document()["usage"]]
        lines = [(line["source"], line["epoch"])
                 for line in csv.DictReader(io.StringIO(found.to_csv()))
                 if line["line"] == "usage"]
        metadata = found.usage.to_arrow().schema.metadata
        if sourced:
            [(source, epoch)] = set(entries)
            assert source.startswith("sha256:") and epoch == "0"
            assert set(lines) == {(source, epoch)}
            assert metadata[b"source"] == source.encode()
        else:
            assert set(entries) == {(None, None)}
            assert set(lines) == {("", "")}
            assert (metadata[b"source"], metadata[b"epoch"]) == (b"", b"")


def test_report_json_text_is_the_document(report: Report) -> None:
    assert json.loads(report.to_json()) == report.document()


def test_report_csv_carries_every_figure(report: Report) -> None:
    document = report.document()
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    usage = [line for line in lines if line["line"] == "usage"]
    assert [line["subscriber"] for line in usage] == [u["subscriber"] for u in document["usage"]]
    for name in ("uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets",
                 "subscriber_octets"):
        # the whole column: other kinds of lines leave it empty
        assert sum(int(line[name] or 0) for line in lines) == sum(
            entry[name] for entry in document["usage"])
    assert sum(int(line["sponsor_octets.shop-co"] or 0) for line in lines) == (
        document["metered"]["sponsor_octets"]["shop-co"])
    buckets = {line["bucket"]: {"packets": int(line["packets"]), "octets": int(line["octets"])}
               for line in lines if line["line"] == "bucket"}
    for name in ("seen", "unattributed", "non_ip", "control", "duplicate", "retransmitted",
                 "metered_twice", "coalesced", "mismatch", "overlapping", "untracked", "suspicious",
                 "unsolicited"):
        assert buckets[name] == document[name]
    assert buckets["fault:truncated"] == document["faults"]["truncated"]
    assert buckets["lost:kernel"] == {"packets": 0, "octets": 0}
    charges = [line for line in lines if line["line"] == "charge"]
    assert [int(line["amount_micros"]) for line in charges] == [
        charge["amount_micros"] for charge in document["charges"]]


def test_report_csv_text_is_no_formula(report: Report) -> None:
    text = report.to_csv()
    assert ",'=SUM(A1)," in text
    assert ",=SUM" not in text


def test_report_parquet_carries_every_figure(report: Report, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "usage.parquet"
    report.to_parquet(str(path))
    table = parquet.read_table(path)
    document = report.document()
    assert table.num_rows == len(document["usage"])
    assert sum(table["subscriber_octets"].to_pylist()) == document["metered"]["subscriber_octets"]
    rest = json.loads(table.schema.metadata[b"tollsplit"])
    assert rest == {key: value for key, value in document.items() if key != "usage"}


@pytest.mark.parametrize(("bucket", "change"), [
    ("seen", Volume(0, 1)),
    ("seen", Volume(1, 0)),
    ("metered_twice", Volume(0, 1)),
    ("non_ip", Volume(0, 1)),
    ("control", Volume(1, 0)),
    ("unattributed", Volume(0, 1)),
])
def test_report_identity_fails_when_a_bucket_is_off(
    report: Report, bucket: str, change: Volume
) -> None:
    assert not changed(report, **{bucket: getattr(report.tally, bucket) + change}).identity_holds


def test_report_identity_fails_when_payers_are_off(report: Report) -> None:
    assert not changed(report, subscriber_octets=report.subscriber_octets - 1).identity_holds
    assert not changed(report, sponsor_octets={"video-co": 0}).identity_holds
    assert not changed(report, faults={}).identity_holds


def changed(report: Report, **figures: Any) -> Report:
    return replace(report, tally=replace(report.tally, **figures))


@pytest.mark.parametrize(("instant_ns", "text"), [
    (0, "1970-01-01T00:00:00.000000000Z"),
    (1_793_491_201_500_000_000, "2026-11-01T00:00:01.500000000Z"),
    (1_793_491_201_000_000_007, "2026-11-01T00:00:01.000000007Z"),
])
def test_report_instants_keep_their_nanoseconds(instant_ns: int, text: str) -> None:
    assert instant_text(instant_ns) == text
