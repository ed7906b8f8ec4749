"""`tollsplit account`, as a person or a script meets it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import tollsplit

from tollsplit import account, run
from tollsplit.cli import main
from tollsplit.engine import Tally
from tollsplit.ledger import open_ledger
from tollsplit.model import Volume


def test_account_table_is_readable_at_80_columns(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["account", "capture.pcap", "--rules", "rules.toml", "--top", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= 80
    for text in ("alice", "… and ", "more subscribers (--format json for all)", "sponsor video-co",
                 "metered twice", "unattributed", "non-IP", "control", "duplicate", "retransmitted",
                 "fault: truncated", "identity: the buckets add up to what was seen; lost 0"):
        assert (text in printed.out) == (text != "alice")  # not among the largest three


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_account_workers_and_order_of_files_change_nothing(
    example: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    octets = Path("capture.pcap").read_bytes()
    offset = 24
    for _ in range(4000):
        offset += 16 + int.from_bytes(octets[offset + 8 : offset + 12], "little")
    Path("a.pcap").write_bytes(octets[:offset])
    Path("b.pcap").write_bytes(octets[:24] + octets[offset:])
    results = set()
    for arguments in (["capture.pcap"], ["capture.pcap", "--workers", "3"], ["b.pcap", "a.pcap"]):
        assert main(["account", *arguments, "--rules", "rules.toml", "--format", form]) == 0
        text = capsys.readouterr().out
        results.add(re.sub(r'"elapsed_s".*"packets_per_s".*|in [0-9.]+ s', "", text, flags=re.S))
    assert len(results) == 1


def test_account_json_file_is_the_document(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["account", "capture.pcap", "--rules", "rules.toml", "--format", "json",
                 "--output", "report.json", "--layer", "frame", "--at", "outer"]) == 0
    assert capsys.readouterr().out == ""
    document = json.loads(Path("report.json").read_text("utf-8"))
    assert (document["layer"], document["at"]) == ("frame", "outer")
    assert document["identity"]["holds"]


def test_account_parquet_file(example: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert main(["account", "capture.pcap", "--rules", "rules.toml", "--format", "parquet",
                 "--output", "usage.parquet"]) == 0
    assert parquet.read_table("usage.parquet").num_rows > 50


def test_account_reads_standard_input(example: Path) -> None:
    with open("capture.pcap", "rb") as stream:
        done = tollsplit("account", "-", "--rules", "rules.toml", "--format", "json", stdin=stream)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seen"]["packets"] == 9152


def test_account_books_once_and_says_so(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["account", "--rules", "rules.toml", "--ledger", "sqlite:///books.db"]
    assert main([*command, "capture.pcap"]) == 0
    first = capsys.readouterr().out
    assert "ledger: booked 94 records" in first
    Path("renamed.pcap").write_bytes(Path("capture.pcap").read_bytes())
    assert main([*command, "renamed.pcap"]) == 0
    second = capsys.readouterr().out
    assert "already booked on" in second and "nothing changed" in second
    # The same report both times, although the ledger knows the running totals by now.
    assert first.partition("metered: layer")[0] == second.partition("metered: layer")[0]
    with open("capture.pcap", "rb") as stream:
        piped = tollsplit(*command, "-", "--format", "json", stdin=stream)
    assert piped.returncode == 0, piped.stderr
    assert json.loads(piped.stdout)["ledger"]["booked"] is False
    assert main(["ledger", "verify", "--ledger", "sqlite:///books.db"]) == 0


def test_account_under_other_rules_is_not_booked_again(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["account", "capture.pcap", "--rules", "rules.toml", "--ledger",
               "sqlite:///books.db"]
    assert main(command) == 0
    Path("rules.toml").write_text(Path("rules.toml").read_text("utf-8") + "# changed\n", "utf-8")
    capsys.readouterr()
    assert main(command) == 1
    assert "booked" in capsys.readouterr().err
    assert main(["ledger", "verify", "--ledger", "sqlite:///books.db"]) == 0


def test_account_quota_goes_on_from_what_is_booked(example: Path) -> None:
    """Two halves, booked one after the other, cost what the whole costs."""
    octets = Path("capture.pcap").read_bytes()
    offset = 24
    for _ in range(5000):
        offset += 16 + int.from_bytes(octets[offset + 8 : offset + 12], "little")
    Path("a.pcap").write_bytes(octets[:offset])
    Path("b.pcap").write_bytes(octets[:24] + octets[offset:])
    whole = account("capture.pcap", "rules.toml")
    halves = [account(name, "rules.toml", ledger="sqlite:///books.db")
              for name in ("a.pcap", "b.pcap")]
    alone = [account(name, "rules.toml") for name in ("a.pcap", "b.pcap")]
    paid = sum(half.sponsor_octets["video-co"] for half in halves)
    assert paid == whole.sponsor_octets["video-co"]
    assert paid < sum(half.sponsor_octets["video-co"] for half in alone)  # quotas began anew


def test_account_truncated_capture_is_shown_but_not_booked(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    octets = Path("capture.pcap").read_bytes()
    Path("cut.pcap").write_bytes(octets[: len(octets) // 2])
    assert main(["account", "cut.pcap", "--rules", "rules.toml", "--ledger", "sqlite:///b.db",
                 "--format", "json"]) == 3
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["identity"]["holds"] and document["ledger"] is None
    assert len(document["truncated"]) == 1
    assert "cut.pcap" in printed.err and "nothing was booked" in printed.err
    with open_ledger("sqlite:///b.db") as book:
        assert book.balances() == []


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["nowhere.pcap", "--rules", "rules.toml"], 3, "nowhere.pcap"),
    (["capture.pcap", "--rules", "nowhere.toml"], 3, "nowhere.toml"),
    (["capture.pcap", "--rules", "broken.toml"], 3, "broken.toml"),
    (["broken.pcap", "--rules", "rules.toml"], 3, "broken.pcap"),
    (["capture.pcap", "--rules", "rules.toml", "--ledger", "mysql://x"], 1, "sqlite:///PATH"),
    (["capture.pcap", "--rules", "rules.toml", "--output", "no/such/file"], 1, "no/such/file"),
    (["-", "-", "--rules", "rules.toml"], 2, "named twice"),
    ([".", "--rules", "rules.toml", "--ledger", "sqlite:///b.db"], 3, "directory"),
])
def test_account_bad_input_is_one_message(
    example: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    Path("broken.toml").write_text("[[rules]]\nid = 7\n")
    Path("broken.pcap").write_bytes(b"no capture at all, only text that goes on for a while")
    assert main(["account", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err and "Traceback" not in printed.err


def test_account_books_that_do_not_balance_exit_4(
    example: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One packet is made to vanish between counting and reporting."""
    honest = run.meter

    def lossy(*arguments: Any, **options: Any) -> Tally:
        tally = honest(*arguments, **options)
        return replace(tally, unattributed=Volume())

    monkeypatch.setattr(run, "meter", lossy)
    assert main(["account", "capture.pcap", "--rules", "rules.toml", "--ledger",
                 "sqlite:///b.db"]) == 4
    printed = capsys.readouterr()
    assert "DO NOT ADD UP" in printed.out
    assert "nothing was booked" in printed.err
    with open_ledger("sqlite:///b.db") as book:
        assert book.balances() == []
