"""The Python API: the documented examples run, the arguments do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tollsplit
from tollsplit.cli.demo.example import write_example

API = Path(__file__).resolve().parents[1] / "docs" / "api.md"
EXAMPLES = re.findall(r"^## (.*?)$.*?^```python\n(.*?)^```", API.read_text("utf-8"),
                      flags=re.S | re.M)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundled example, in the current folder."""
    write_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_api_has_three_examples() -> None:
    assert [title for title, _ in EXAMPLES] == ["Who pays for what", "Usage records", "Booking"]


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


def test_api_progress_is_told(example: Path) -> None:
    told: list[tuple[int, int | None]] = []
    tollsplit.account("capture.pcap", "rules.toml",
                      progress=lambda done, total: told.append((done, total)))
    size = Path("capture.pcap").stat().st_size
    assert told and told == sorted(told)
    assert all(0 <= done <= size and total == size for done, total in told)


def test_api_no_capture_is_a_usage_error() -> None:
    with pytest.raises(tollsplit.UsageError, match="no capture"):
        tollsplit.account([], "rules.toml")
