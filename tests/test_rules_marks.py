"""Files of marks: what stands in them, what rules make of them, what a person gets told."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_rules_errors import check_broken, rule

from tollsplit.rules import RuleSet, load
from tollsplit.rules.marks import Mark, Marks, Tag, mark, marks_text, read_marks
from tollsplit.rules.prefixes import prefix

SHOP = prefix("203.0.113.10")
RULES = """
[[pools]]
prefixes = ["10.0.0.0/8"]
[sponsors.shop-co]
[[rules]]
id = "session"
precedence = 1
match = { marks = "shop.marks" }
split = { sponsor = "shop-co" }
"""


def loaded(folder: Path, marks: str) -> RuleSet:
    (folder / "rules.toml").write_text(RULES)
    (folder / "shop.marks").write_text(marks)
    return load(folder / "rules.toml")


@pytest.mark.parametrize(("text", "expected"), [
    ("", Marks()),
    ("# nothing now\n\n", Marks()),
    ("203.0.113.10\n", Marks((SHOP,))),
    ("203.0.113.10/32 # the proxy\n203.0.113.10\n", Marks((SHOP,))),
    ("203.0.113.10 dscp=46\n203.0.113.10 dscp=0\n2001:db8::/64 dscp=46",
     Marks((SHOP, prefix("2001:db8::/64")), dscp=frozenset({0, 46}))),
    ("203.0.113.10 subscriber=10.0.0.7\n203.0.113.10 subscriber=10.1.0.0/16",
     Marks((SHOP,), (prefix("10.0.0.7"), prefix("10.1.0.0/16")))),
    ("203.0.113.10 dscp=1 subscriber=10.0.0.7",
     Marks((SHOP,), (prefix("10.0.0.7"),), frozenset({1}))),
    ("2001:db8::1 flow_label=1048575", Marks((prefix("2001:db8::1"),),
                                             flow_label=frozenset({0xFFFFF}))),
])  # fmt: skip
def test_marks_file_is_conditions(text: str, expected: Marks) -> None:
    assert read_marks(text.encode()) == (expected, [])


@pytest.mark.parametrize(("text", "message"), [
    ("203.0.113.10 46", 'expected a tag such as dscp=46 or flow_label=74565, got "46"'),
    ("203.0.113.10 dcsp=46", 'expected a tag such as dscp=46 or flow_label=74565, got "dcsp=46"; '
                             'did you mean "dscp"?'),
    ("203.0.113.10 dscp=64", 'expected dscp=0..63, got "dscp=64"'),
    ("203.0.113.10 dscp=-1", 'expected dscp=0..63, got "dscp=-1"'),
    ("203.0.113.10 dscp=٣", 'expected dscp=0..63, got "dscp=٣"'),
    ("203.0.113.10 flow_label=1048576", 'expected flow_label=0..1048575, got '
                                        '"flow_label=1048576"'),
    ("203.0.113.10 dscp=1 dscp=2", "expected an address, a tag, and subscriber=ADDRESS, of "
                                   'these what there is, got "203.0.113.10 dscp=1 dscp=2"'),
    ("203.0.113.10 subscriber=home", "expected a prefix such as 203.0.113.0/24, got "
                                     '"home"'),
    ("203.0.113.0/33", 'expected a prefix length 0..32, got "203.0.113.0/33"'),
])  # fmt: skip
def test_marks_file_with_a_slip_says_where(text: str, message: str) -> None:
    marks, findings = read_marks(f"# one\n{text}\n".encode())
    assert findings == [(2, message)]
    assert marks == Marks()


def test_marks_of_two_kinds_need_two_files() -> None:
    """Conditions hold together: one rule cannot ask for a tag and do without."""
    _, findings = read_marks(b"203.0.113.10 dscp=46\n203.0.113.11\n203.0.113.10 flow_label=1\n"
                             b"203.0.113.10 dscp=46 subscriber=10.0.0.7\n")
    assert [line for line, _ in findings] == [2, 3, 4]
    assert "a file and a rule of their own" in findings[0].message
    assert read_marks(b"\xff")[1] == [(1, "expected UTF-8 text")]


def test_marks_text_reads_back_and_is_the_same_for_the_same() -> None:
    marks = [Mark(SHOP, Tag("dscp", 46)), mark("2001:db8::/64 dscp=1 subscriber=10.0.0.7"),
             Mark(SHOP, Tag("dscp", 46))]
    text = marks_text(marks)
    assert text == marks_text(reversed(marks))
    assert text.splitlines()[1:] == [
        "2001:db8::/64 dscp=1 subscriber=10.0.0.7/32", "203.0.113.10/32 dscp=46"]
    assert read_marks(marks_text(()).encode()) == (Marks(), [])


def test_marks_are_a_rules_conditions_and_part_of_its_version(tmp_path: Path) -> None:
    with_tag = loaded(tmp_path, "203.0.113.10 dscp=46")
    [rule_] = with_tag.rules
    assert (rule_.match.server, rule_.match.dscp) == ((SHOP,), {46})
    assert rule_.match.marks == "shop.marks"
    without = loaded(tmp_path, "")
    [rule_] = without.rules
    assert (rule_.match.server, rule_.match.dscp) == ((), None)
    assert with_tag.version != without.version
    assert not [w for w in without.warnings if "never match" in w]


def test_marks_that_are_everybody_back_no_tag() -> None:
    check_broken(
        rule('match = { marks = "all.marks" }\nsplit = { sponsor = "shop-co" }'),
        {"all.marks": "0.0.0.0/0 dscp=46\n"},
        ['rules.toml:4: rule "video": key "marks": users can write dscp themselves, and "server" '
         "holds 0.0.0.0/0, which is everybody; list the sponsor's own servers, or add \"dns\", a "
         '"token", an "ingress" that is trusted, or unverified = true to the rule'],
    )  # fmt: skip


def test_marks_beside_what_they_name_are_refused() -> None:
    check_broken(
        rule('match = { marks = "no.marks", dscp = 46, server = ["192.0.2.0/24"] }\n'
             'split = { sponsor = "shop-co" }'),
        {},
        ['rules.toml:4: rule "video": key "marks": "no.marks" cannot be read: No such file or '
         "directory",
         'rules.toml:4: rule "video": key "server": "marks" names the server too; leave one of '
         "them out",
         'rules.toml:4: rule "video": key "dscp": "marks" names the dscp too; leave one of them '
         "out"],
    )  # fmt: skip
    check_broken(
        rule('match = { marks = "bad.marks" }\nsplit = { sponsor = "shop-co" }'),
        {"bad.marks": "here\n"},
        ['bad.marks:1: expected a prefix such as 203.0.113.0/24, got "here"'],
    )


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
