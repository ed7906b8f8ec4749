"""The command line, as a person or a script meets it: texts, files, exit codes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest
from commands import COMMAND

from tollsplit import account, run
from tollsplit.cli import main, output, progress
from tollsplit.cli.amount import money, size
from tollsplit.cli.demo.example import RULES, write_example
from tollsplit.errors import TollsplitError, UsageError
from tollsplit.rules import load

# --- starting ------------------------------------------------------------------------------


def test_cli_help_imports_nothing_heavy() -> None:
    code = ("import sys; from tollsplit.cli import main; main(['--help']); "
            "print(sorted({'numpy', 'numba', 'rich', 'pyarrow', 'sqlite3', 'tomllib'}"
            " & set(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    assert "account" in done.stdout


def test_package_import_is_cheap_and_names_are_there() -> None:
    code = ("import sys, tollsplit; before = set(sys.modules); assert 'numpy' not in before; "
            "assert 'click' not in before; tollsplit.RulesError; tollsplit.account; "
            "tollsplit.Report; print('numpy' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=60, check=True)
    assert done.stdout.strip() in ("True", "False")


@pytest.mark.parametrize(("arguments", "code"), [
    (["--version"], 0),
    (["--help"], 0),
    (["-h"], 0),
    (["account", "--help"], 0),
    ([], 2),
    (["nonsense"], 2),
    (["account"], 2),
    (["account", "capture.pcap"], 2),
    (["account", "x.pcap", "--rules", "r.toml", "--format", "xml"], 2),
    (["account", "x.pcap", "--rules", "r.toml", "--workers", "0"], 2),
])
def test_cli_usage_exit_codes(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert bool(printed.err) == (code != 0)


# --- where results go ----------------------------------------------------------------------


def test_output_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with output.Output(path, "json") as result:
        assert not path.exists()
        result.write_text(lambda stream: stream.write("whole\n") and None)
        assert path.read_text() == "whole\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_output_file_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("yesterday's")

    def fail(stream: IO[str]) -> None:
        stream.write("half")
        raise ValueError("in the middle")

    with pytest.raises(ValueError), output.Output(path, "json") as result:
        result.write_text(fail)
    assert path.read_text() == "yesterday's"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_output_folder_that_is_not_there_is_known_before_the_work(tmp_path: Path) -> None:
    with (
        pytest.raises(TollsplitError, match=r"x\.json: cannot be written: No such file"),
        output.Output(tmp_path / "nowhere" / "x.json", "json"),
    ):
        raise AssertionError("the work began")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_output_full_disk_is_one_message() -> None:
    with (
        pytest.raises(TollsplitError, match="/dev/full: cannot be written: No space left"),
        output.Output(Path("/dev/full"), "json") as result,
    ):
        result.write_text(lambda stream: stream.write("x" * 100_000) and None)


def test_output_parquet_to_a_terminal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match="--output FILE"):
        output.Output(None, "parquet")


# --- rules, statement, ledger, demo ----------------------------------------------------------


def test_rules_check_says_what_is_there(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rules", "check", "rules.toml"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(
        "rules.toml: valid: 5 rules (4 server prefixes), 2 sponsors, 1 pool (2 prefixes), "
        "5 directory lines, 2 tariffs; sha256:")
    assert len(printed.out.splitlines()) == 1


def test_rules_check_names_the_line(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("rules.toml").read_text("utf-8")
    Path("rules.toml").write_text(text.replace('share = "70%"', 'share = "120%"'), "utf-8")
    number = text[: text.index('share = "70%"')].count("\n") + 1
    assert main(["rules", "check", "rules.toml"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"line {number}" in printed.err or f":{number}" in printed.err
    assert "120%" in printed.err


def test_rules_explain_agrees_with_the_account(example: Path) -> None:
    """What it says of the packets of one record adds up to the record."""
    octets = Path("capture.pcap").read_bytes()
    offset = 24
    for _ in range(120):
        offset += 16 + int.from_bytes(octets[offset + 8 : offset + 12], "little")
    Path("few.pcap").write_bytes(octets[:offset])
    rules = load("rules.toml")
    found: dict[tuple[str, str | None], list[int]] = {}
    for number in range(1, 121):
        for side in run.explain("few.pcap", rules, number).sides:
            held = [judgement.rule for judgement in side.judgements if judgement.holds]
            assert side.rule == (held[0] if held else None)
            sums = found.setdefault((side.subscriber, side.rule and side.rule.id), [0, 0])
            assert side.rule is None or side.before == sum(sums)
            sums[0] += side.subscriber_octets
            sums[1] += sum(octets for _, octets in side.sponsor_octets)
    assert found == {
        (record.subscriber, record.rule): [
            record.subscriber_octets, sum(record.sponsor_octets.values())]
        for record in account("few.pcap", rules).usage}
    assert {rule for _, rule in found} >= {"video", "dns"}


def test_rules_explain_shows_conditions_and_split(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rules", "explain", "rules.toml", "capture.pcap", "--packet", "3300"]) == 0
    text = capsys.readouterr().out
    for found in ("packet 3,300: metered", "downlink of 10.20.0.6", "198.51.100.128/25", "dscp",
                  "live wins, precedence 300", "running total per window: ", "video-co pays",
                  "shop-co pays", "the subscriber pays"):
        assert found in text


def test_rules_explain_of_no_such_packet(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rules", "explain", "rules.toml", "capture.pcap", "--packet", "9153"]) == 2
    assert "packet 9,153 was asked for, it has 9,152" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "json", "csv", "parquet"])
def test_statement_forms_carry_the_same_figures(
    example: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    report = account("capture.pcap", "rules.toml", ledger="sqlite:///books.db")
    paid = report.sponsor_octets["shop-co"]
    owed = sum(c.amount_micros for c in report.charges if c.account == "sponsor:shop-co")
    assert main(["statement", "--ledger", "sqlite:///books.db", "--account", "sponsor:shop-co",
                 "--format", form, "--output", "statement"]) == 0
    if form == "json":
        document = json.loads(Path("statement").read_text("utf-8"))
        assert document["paid_octets"] == paid
        assert document["charged_micros"] == {"CNY": owed}
        assert document["closing"] == {"CNY/1000000": -owed, "octet": -paid}
        return
    if form == "table":
        text = Path("statement").read_text("utf-8")
        assert f"{paid:,}" in text and f"{owed / 1e6:.6f} CNY" in text
        return
    if form == "csv":
        lines = list(csv.DictReader(Path("statement").read_text("utf-8").splitlines()))
    else:
        lines = pytest.importorskip("pyarrow.parquet").read_table("statement").to_pylist()
    assert sum(int(line["paid_octets"] or 0) for line in lines) == paid
    assert sum(int(line["amount_micros"] or 0) for line in lines) == owed


def test_ledger_commands(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = ["--ledger", "sqlite:///books.db"]
    assert main(["ledger", "balance", *ledger]) == 1
    assert "books.db: no such ledger" in capsys.readouterr().err
    assert main(["ledger", "init", *ledger]) == 0
    account("capture.pcap", "rules.toml", ledger="sqlite:///books.db")
    capsys.readouterr()
    assert main(["ledger", "balance", *ledger, "--format", "json"]) == 0
    balances = json.loads(capsys.readouterr().out)["balances"]
    for unit in ("octet", "CNY/1000000"):
        assert sum(line["balance"] for line in balances if line["unit"] == unit) == 0
    assert main(["ledger", "balance", *ledger]) == 0
    assert "sponsor:video-co" in capsys.readouterr().out
    assert main(["ledger", "verify", *ledger]) == 0
    assert "holds: transactions sum to zero per unit" in capsys.readouterr().out


def test_ledger_verify_of_cooked_books_exits_4(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    account("capture.pcap", "rules.toml", ledger="sqlite:///books.db")
    with closing(sqlite3.connect("books.db")) as connection:
        connection.execute("UPDATE accounts SET balance = balance + 1 WHERE name = 'alice'")
        connection.commit()
    assert main(["ledger", "verify", "--ledger", "sqlite:///books.db"]) == 4
    printed = capsys.readouterr()
    assert "alice" in printed.err and "DOES NOT HOLD" in printed.out


def test_demo_tells_the_story_and_books_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    first = capsys.readouterr()
    assert first.err == ""
    steps = [line for line in first.out.splitlines() if re.match(r"\d\. ", line)]
    assert len(steps) == 6
    assert "identity: the buckets add up to what was seen" in first.out
    assert "Statement of sponsor:video-co, 2026-11" in first.out
    assert main(["demo"]) == 0
    assert "already booked" in capsys.readouterr().out
    assert len([*Path("demo").glob("*.db")]) == 1


def test_demo_ignores_books_of_an_older_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def older(directory: Path) -> None:
        write_example(directory)
        with open(directory / RULES, "a", encoding="utf-8") as rules:
            rules.write("# older\n")

    with monkeypatch.context() as patch:
        patch.setattr("tollsplit.cli.demo.example.write_example", older)
        assert main(["demo"]) == 0
    assert main(["demo"]) == 0
    printed = capsys.readouterr()
    assert "already booked" not in printed.out and printed.err == ""


def test_demo_capture_is_the_same_everywhere(tmp_path: Path) -> None:
    write_example(tmp_path)
    digest = hashlib.sha256((tmp_path / "capture.pcap").read_bytes()).hexdigest()
    assert digest == "39211428781d49a97df2b784a088ad39a027217b933eec0d7ed0ff05ab824179"


# --- ends ------------------------------------------------------------------------------------


def test_cli_broken_pipe_is_quiet(example: Path) -> None:
    command = [*COMMAND, "account", "capture.pcap", "--rules", "rules.toml", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) in (0, 141)  # 0: all of it fitted into the pipe


def test_cli_interrupt_is_clean(example: Path) -> None:
    os.mkfifo("slow.pcap")
    command = [*COMMAND, "account", "slow.pcap", "--rules", "rules.toml"]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # who runs the tests in the background may have had it ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process,
        open("slow.pcap", "wb") as stream,  # opens once the other end reads
    ):
        stream.write(Path("capture.pcap").read_bytes()[:1000])
        stream.flush()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"tollsplit: interrupted\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_cli_full_standard_output_is_one_message(example: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "account", "capture.pcap", "--rules", "rules.toml"], stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "tollsplit: standard output: No space left on device\n"


def test_cli_other_locales_get_tables_and_utf8_documents(example: Path) -> None:
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    Path("subscribers.csv").write_text("prefix,account,valid_from,valid_to\n10.20.0.1/32,Łukasz,,\n",
                                       "utf-8")
    for form in ("table", "json"):
        done = subprocess.run(
            [*COMMAND, "account", "capture.pcap", "--rules", "rules.toml", "--format", form],
            capture_output=True, timeout=60, check=False, env=latin)
        assert (done.returncode, done.stderr) == (0, b"")
        assert ("Łukasz".encode() in done.stdout) == (form == "json")


def test_cli_progress_shows_on_a_terminal_only(
    example: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["account", "capture.pcap", "--rules", "rules.toml", "--format", "json"]
    monkeypatch.setattr(progress, "PATIENCE_S", 0)
    assert main(command) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "metering" in printed.err
    assert json.loads(printed.out)["identity"]["holds"]


# --- words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("octets", "text"), [
    (0, "0 octets"), (1023, "1023 octets"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB"),
    (3 * 2**40, "3.0 TiB"), (2**63, "8.0 EiB"),
])
def test_cli_sizes(octets: int, text: str) -> None:
    assert size(octets) == text


@pytest.mark.parametrize(("micros", "text"), [
    (0, "0.000000 CNY"), (1, "0.000001 CNY"), (1_500_000, "1.500000 CNY"),
    (-250_000, "-0.250000 CNY"), (1_234_567_890_000, "1,234,567.890000 CNY"),
])
def test_cli_money_is_exact(micros: int, text: str) -> None:
    assert money(micros, "CNY") == text
