"""`rules explain` and `rules check` where rules ask for names and tokens."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from judges import Frame
from strategies import capture
from test_names import RULES, segment
from test_names_hosts import OK, A, B, C, opening
from test_names_hosts import RULES as HOSTED
from test_names_quic import ONE, SHORT, datagram
from test_names_quic_again import ANOTHER, PARTS

from tollsplit.cli import main
from tollsplit.cli.table import print_explanation
from tollsplit.rules.rule import RuleSet
from tollsplit.run import explain

REST = '[[pools]]\nprefixes = ["10.0.0.0/8"]\n[meter]\ntunnel_endpoints = []\n[sponsors.shop]\n'


def told(folder: Path, frames: list[Frame], rules: RuleSet, kind: str) -> list[tuple[str, bool]]:
    """What is said of the first rule's condition, for each packet."""
    (folder / "names.pcapng").write_bytes(capture(frames))
    found = []
    for number in range(1, len(frames) + 1):
        [side] = explain(folder / "names.pcapng", rules, number).sides
        [condition] = [c for c in side.judgements[0].conditions if c.name == kind]
        found.append((condition.found, condition.holds))
        if rules.rules[0].match.sni or rules.rules[0].match.host:
            assert (side.rule is rules.rules[0]) == all(
                c.holds for c in side.judgements[0].conditions)
    return found


def test_explain_says_which_name_a_quic_flow_has(tmp_path: Path) -> None:
    frames = [datagram(0, ONE), datagram(1, SHORT), datagram(2, PARTS[0]), datagram(2.1, SHORT),
              datagram(2.2, PARTS[1]), datagram(3, ONE, client=2001),
              datagram(4, ANOTHER, client=2001)]
    ours, free = "its flow has said www.shop.example", "its flow has said free.example"
    assert told(tmp_path, frames, RULES, "sni") == [
        (ours, True), (ours, True), (f"{ours}, and is in doubt", False),
        (f"{ours}, and is in doubt", False), (free, False), (ours, True), (free, False)]


def test_explain_says_whom_a_request_is_for(tmp_path: Path) -> None:
    """Packets are their requests'; the last one of the connection is named."""
    frames = [*opening(), segment(1, A), segment(1.1, C, len(A)), segment(1.2, OK, down=True),
              segment(1.3, OK, len(OK), down=True), segment(2, B, len(A + C))]
    such, none = "its request is for such a host", "its request is for no such host"
    assert told(tmp_path, frames, HOSTED, "host")[2:] == [
        (f"{such}; the last one was for shop.example", True),
        (f"{none}; the last one was for evil.example", False),
        (f"{such}; the last one was for evil.example", True),
        (f"{none}; the last one was for evil.example", False),
        (f"{none}; the last one was for www.bank.example", False)]


def test_explain_says_what_may_cover_a_packet_yet(tmp_path: Path) -> None:
    """The opening is its first request's; from another server nothing can come."""
    elsewhere = segment(2, B, server="198.51.100.77", client=2001)
    (tmp_path / "a.pcapng").write_bytes(capture([*opening(), segment(1, A), elsewhere]))
    said = []
    for number in (1, 3, 4):
        found, shown = explain(tmp_path / "a.pcapng", HOSTED, number), io.StringIO()
        print_explanation(found, shown)
        said.append("unless its flow brings within 10 s what" in shown.getvalue())
    assert said == [True, False, False]


def test_explain_forgets_names_with_their_flow(tmp_path: Path) -> None:
    frames = [datagram(0, ONE), datagram(1000, SHORT)]
    assert told(tmp_path, frames, RULES, "sni")[1] == ("its flow has said no name", False)


@pytest.mark.parametrize(("match", "asked"), [
    ('sni = ["a.example"]', True), ('sni = ["a.example"], protocol = "tcp"', False),
    ('host = ["a.example"]', False), ("port = 443", False)])
def test_rules_check_says_that_cryptography_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    match: str, asked: bool
) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(f'{REST}[[rules]]\nid = "a"\nprecedence = 1\nmatch = {{ {match}, '
                    'server = ["203.0.113.0/24"] }\nsplit = { sponsor = "shop" }\n', "utf-8")
    assert main(["rules", "check", str(path)]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    assert main(["rules", "check", str(path)]) == 0
    error = capsys.readouterr().err
    assert ("pip install 'tollsplit[names]'" in error) == asked
    assert error.startswith(f"tollsplit: warning: {path}: ") or not asked
