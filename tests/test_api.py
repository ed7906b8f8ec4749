"""The Python API: the documented examples run, the arguments do what they say."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tollsplit
from tollsplit import run
from tollsplit.engine import Tally
from tollsplit.ledger import open_ledger

API = Path(__file__).resolve().parents[1] / "docs" / "api.md"
EXAMPLES = re.findall(r"^## (.*?)$.*?^```python\n(.*?)^```", API.read_text("utf-8"),
                      flags=re.S | re.M)


def test_api_has_an_example_for_each_part() -> None:
    assert [title for title, _ in EXAMPLES] == [
        "Who pays for what", "Usage records", "Booking", "The ledger itself",
        "Many callers at once"]


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_api_examples_run_as_they_stand(
    example: Path, capsys: pytest.CaptureFixture[str], title: str, code: str
) -> None:
    if "to_arrow" in code:
        pytest.importorskip("pyarrow")
    exec(compile(code, str(API), "exec"), {"__name__": title})
    said = capsys.readouterr().out
    assert {
        "Who pays for what": "video-co pays for ",
        "Usage records": "'video-co': ",
        "Booking": "2 was booked already\nexit code 3: no-such-rules.toml",
        "The ledger itself": "balance=10500000, held=0, floor=0",
        "Many callers at once": "Balance(account='alice', kind='subscriber', unit='octet'",
    }[title] in said


def test_api_names_are_all_there() -> None:
    for name in tollsplit.__all__:
        assert getattr(tollsplit, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tollsplit.nonsense


def test_api_layer_and_at_override_the_rules(example: Path) -> None:
    inner = tollsplit.account("capture.pcap", "rules.toml")
    frame = tollsplit.account("capture.pcap", "rules.toml", layer="frame")
    outer = tollsplit.account("capture.pcap", "rules.toml", at="outer")
    for report in (inner, frame, outer):
        assert report.identity_holds
        assert report.seen.packets == 9152
    assert (inner.layer, frame.layer, outer.at) == ("ip", "frame", "outer")
    assert frame.seen.octets > inner.seen.octets
    # What lies in tunnels belongs to subscribers inside and to nobody outside.
    assert outer.tally.unattributed.packets > inner.tally.unattributed.packets


def test_api_several_captures_count_as_one(example: Path) -> None:
    Path("copy.pcap").write_bytes(Path("capture.pcap").read_bytes())
    report = tollsplit.account(["capture.pcap", Path("copy.pcap")], "rules.toml")
    once = tollsplit.account("capture.pcap", "rules.toml")
    assert report.seen.octets == 2 * once.seen.octets


def test_api_the_same_octets_are_not_booked_twice_in_one_run(example: Path) -> None:
    with pytest.raises(tollsplit.UsageError, match="named twice"):
        tollsplit.account(["capture.pcap", "capture.pcap"], "rules.toml")
    Path("copy.pcap").write_bytes(Path("capture.pcap").read_bytes())
    with pytest.raises(tollsplit.UsageError, match=r"the same octets as capture\.pcap"):
        tollsplit.account(
            ["capture.pcap", "copy.pcap"], "rules.toml", ledger="sqlite:///ledger.db")


@pytest.mark.parametrize("link", [None, os.link, os.symlink])
def test_api_a_file_under_two_names_is_named_twice(
    example: Path, link: Callable[[str, str], None] | None
) -> None:
    name = "./capture.pcap"
    if link:
        name = "other.pcap"
        link("capture.pcap", name)
    with pytest.raises(tollsplit.UsageError, match=f"{name}: named twice, also as capture"):
        tollsplit.account(["capture.pcap", name], "rules.toml")


def test_api_standard_input_from_a_named_file_is_named_twice(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("capture.pcap") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(tollsplit.UsageError, match="-: named twice, also as capture"):
            tollsplit.account(["capture.pcap", "-"], "rules.toml")


def test_api_a_compressed_capture_is_the_capture(example: Path) -> None:
    Path("packed.gz").write_bytes(gzip.compress(Path("capture.pcap").read_bytes()))
    ledger = "sqlite:///books.db"
    with pytest.raises(tollsplit.UsageError, match=r"the same octets as capture\.pcap"):
        tollsplit.account(["capture.pcap", "packed.gz"], "rules.toml", ledger=ledger)
    booked = [tollsplit.account(name, "rules.toml", ledger=ledger).receipt
              for name in ("capture.pcap", "packed.gz")]
    assert [receipt and receipt.booked for receipt in booked] == [True, False]


def test_api_a_capture_that_changes_while_it_is_read_is_not_booked(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = run.meter

    def slow(*arguments: Any, **options: Any) -> Tally:
        tally = honest(*arguments, **options)
        status = os.stat("capture.pcap")
        os.utime("capture.pcap", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        return tally

    monkeypatch.setattr(run, "meter", slow)
    tollsplit.account("capture.pcap", "rules.toml")  # read once
    with pytest.raises(tollsplit.CaptureError, match=r"capture\.pcap: changed while it was read"):
        tollsplit.account("capture.pcap", "rules.toml", ledger="sqlite:///books.db")
    with open_ledger("sqlite:///books.db") as book:
        assert book.balances() == []


@pytest.mark.parametrize(("holder", "window", "per", "remedy"), [
    ("rule", "all", "session", None),
    *((holder, *case) for holder in ("rule", "sponsor") for case in (
        ("all", "day", "1d"), ("1mo", "day", "1d"), ("all", "month", "1mo"),
        ("1mo", "month", None), ("1d", "day", None), ("1h", "month", None))),
])
def test_api_a_total_within_a_window_is_not_booked(
    example: Path, holder: str, window: str, per: str, remedy: str | None
) -> None:
    """What a day used of a longer window cannot be told from the record of the window."""
    budget = f'budget = "9 KiB"\nper = "{per}"' if holder == "sponsor" else ""
    per_rule = f', per = "{per}"' if holder == "rule" else ""
    Path("short.toml").write_text(f"""
        meter = {{ window = "{window}" }}
        pools = [{{ prefixes = ["10.20.0.0/16"] }}]
        [sponsors.video-co]
        account = "sponsor:video-co"
        {budget}
        [[rules]]
        id = "video"
        precedence = 1
        match = {{ server = ["203.0.113.0/24"] }}
        split = {{ sponsor = "video-co", share = "70%"{per_rule} }}
        """)
    assert tollsplit.account("capture.pcap", "short.toml").sponsor_octets["video-co"] > 0
    ledger = "sqlite:///books.db"
    if remedy is None:
        report = tollsplit.account("capture.pcap", "short.toml", ledger=ledger)
        assert report.receipt is not None
        return
    name = '"video"' if holder == "rule" else '"video-co"'
    with pytest.raises(tollsplit.RulesError, match=(
            rf'short\.toml: {holder} {name}: .*got "{window}".*window = "{remedy}" or shorter')):
        tollsplit.account("capture.pcap", "short.toml", ledger=ledger)
    assert not Path("books.db").exists()


def test_api_progress_is_told(example: Path) -> None:
    told: list[tuple[int, int | None]] = []
    tollsplit.account("capture.pcap", "rules.toml",
                      progress=lambda done, total: told.append((done, total)))
    size = Path("capture.pcap").stat().st_size
    assert told and told == sorted(told)
    assert all(0 <= done <= size and total == size for done, total in told)
    assert told[-1] == (size, size)


def test_api_no_capture_is_a_usage_error() -> None:
    with pytest.raises(tollsplit.UsageError, match="no capture"):
        tollsplit.account([], "rules.toml")
