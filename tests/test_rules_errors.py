"""Broken rules files: each with the exact message and line that a person gets."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tollsplit import rules
from tollsplit.errors import RulesError

# Added behind each document where it lacks them, so that a row shows only what it is about.
POOLS = '\n[[pools]]\nprefixes = ["10.0.0.0/8"]\n'
SPONSORS = "\n[sponsors.video-co]\n\n[sponsors.shop-co]\n"


def rule(body: str) -> str:
    """A document with one rule; the first line of the body is line 4."""
    return f'[[rules]]\nid = "video"\nprecedence = 1\n{body}'



def check_broken(document: str, files: dict[str, str], messages: list[str]) -> None:
    """Write the files to the current folder, load the document and compare what it says."""
    is_about_pools = "pools]" in document or document.startswith("# nothing")
    text = document if is_about_pools else f"{document}\n{POOLS}"
    text += "" if "sponsors" in document else SPONSORS
    is_toml = "not valid TOML" not in messages[0]
    Path("rules.toml").write_text(text if is_toml else document)
    for name, content in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content)
    with pytest.raises(RulesError) as caught:
        rules.load("rules.toml")
    assert str(caught.value).split("\n") == messages
    assert caught.value.exit_code == 3


# (what is wrong, document, files beside it, messages)
BROKEN: list[tuple[str, str, dict[str, str], list[str]]] = [
    # --- the document ---
    (
        "no value",
        "[meter]\nlayer =\n",
        {},
        ["rules.toml:2: not valid TOML: Invalid value (column 8)"],
    ),
    (
        "a string that never ends",
        '[meter]\nlayer = "ip\n',
        {},
        ["rules.toml:2: not valid TOML: Illegal character '\\n' (column 12)"],
    ),
    (
        "an array that never ends",
        "[[pools]]\nprefixes = [",
        {},
        ["rules.toml:2: not valid TOML: Invalid value (at the end)"],
    ),
    (
        "a key twice",
        '[meter]\nlayer = "ip"\nlayer = "frame"\n',
        {},
        ["rules.toml:3: not valid TOML: Cannot overwrite a value (column 16)"],
    ),
    (
        "unknown section",
        "[metre]\n",
        {},
        ['rules.toml:1: unknown key "metre"; did you mean "meter"?'],
    ),
    (
        "unknown key",
        rule('split = { sponsor = "video-co", shre = "70%" }'),
        {},
        ['rules.toml:4: rule "video": unknown key "shre"; did you mean "share"?'],
    ),
    (
        "unknown key, nothing close",
        "[sponsors.video-co]\nx = 1",
        {},
        [
            'rules.toml:2: sponsor "video-co": unknown key "x"; expected "account", '
            '"asp_identity", "budget", "per" or "tariff"'
        ],
    ),
    (
        "no table",
        "meter = 3\n",
        {},
        ['rules.toml:1: key "meter": expected a table, got 3'],
    ),
    (
        "no pools",
        "# nothing\n[sponsors.video-co]",
        {},
        ["rules.toml:1: expected at least one [[pools]] table: who the subscribers are"],
    ),
    # --- meter ---
    (
        "wrong type",
        "[meter]\nlayer = 3",
        {},
        ['rules.toml:2: meter: key "layer": expected "ip", "frame" or "payload", got 3'],
    ),
    (
        "unknown layer",
        '[meter]\nlayer = "frames"',
        {},
        [
            'rules.toml:2: meter: key "layer": expected "ip", "frame" or "payload", '
            'got "frames"; did you mean "frame"?'
        ],
    ),
    (
        "a window that does not divide a day",
        '[meter]\nwindow = "7h"',
        {},
        [
            'rules.toml:2: meter: key "window": expected "all", "1mo" or a duration that divides '
            'a day ("15m", "1h", "1d"), got "7h"; did you mean "6h" or "8h"?'
        ],
    ),
    (
        "a window of two days",
        '[meter]\nwindow = "2d"',
        {},
        [
            'rules.toml:2: meter: key "window": expected "all", "1mo" or a duration that divides '
            'a day ("15m", "1h", "1d"), got "2d"; did you mean "1d"?'
        ],
    ),
    (
        "retransmissions exempt by themselves",
        '[meter]\nretransmissions = "exempt"',
        {},
        [
            'rules.toml:2: meter: key "retransmissions": expected "charge", '
            '"charge_if_identical" or "exempt_if_identical", got "exempt"'
        ],
    ),
    *(
        (
            f"duplicates within {within}",
            f'[meter]\nduplicates = {within}',
            {},
            [
                'rules.toml:2: meter: key "duplicates": expected a duration up to 100 ms '
                f'("500us", "2ms"), got {within}'
            ],
        )
        for within in ('"101ms"', '"0us"', '"1s"', "2", '"2"')
    ),
    (
        "unknown zone",
        '[meter]\nzone = "Asia/Shangai"',
        {},
        [
            'rules.toml:2: meter: key "zone": expected a time zone such as "Asia/Shanghai", '
            'got "Asia/Shangai"; did you mean "Asia/Shanghai"?'
        ],
    ),
    (
        "tunnel endpoint",
        '[meter]\ntunnel_endpoints = [\n  "192.0.2.1",\n  "192.0.2.300",\n]',
        {},
        [
            'rules.toml:4: meter: key "tunnel_endpoints": expected a prefix such as '
            '203.0.113.0/24, got "192.0.2.300"'
        ],
    ),
    # --- pools ---
    (
        "host bits",
        '[[pools]]\nprefixes = ["10.1.2.3/8"]',
        {},
        [
            'rules.toml:2: pool 1: key "prefixes": expected a prefix without host bits, '
            'got "10.1.2.3/8"; did you mean 10.0.0.0/8?'
        ],
    ),
    (
        "prefix length",
        '[[pools]]\nprefixes = ["2001:db8::/32",\n"10.0.0.0/33"]',
        {},
        [
            'rules.toml:3: pool 1: key "prefixes": expected a prefix length 0..32, '
            'got "10.0.0.0/33"'
        ],
    ),
    (
        "the same prefix in two pools",
        '[[pools]]\nprefixes = ["10.0.0.0/8"]\n[[pools]]\nprefixes = ["10.0.0.0/8"]',
        {},
        [
            'rules.toml:4: pool 2: key "prefixes": 10.0.0.0/8 is in the pool on line 1 already'
        ],
    ),
    (
        "no prefixes",
        "[[pools]]\nipv4_key = 33\nprefixes = []",
        {},
        [
            'rules.toml:2: pool 1: key "ipv4_key": expected a number 0..32, got 33',
            'rules.toml:3: pool 1: key "prefixes": expected at least one, got an empty array',
        ],
    ),
    (
        "prefixes forgotten",
        '[[pools]]\nkey = "addresses"',
        {},
        [
            'rules.toml:1: pool 1: key "prefixes" is missing',
            'rules.toml:2: pool 1: key "key": expected "address", "gtp_teid", "vlan", '
            '"pppoe_session" or "mac", got "addresses"; did you mean "address"?',
        ],
    ),
    (
        "a subscriber who is cut in two by pools",
        '[[pools]]\nprefixes = ["10.0.0.0/16"]\nipv4_key = 24\n'
        '[[pools]]\nprefixes = ["10.0.0.128/25", "10.0.1.128/25"]\nipv4_key = 24',
        {},
        [
            'rules.toml:5: pool 2: key "prefixes": 10.0.0.128/25 is less than one subscriber, who '
            "is 10.0.0.0/24 (ipv4_key = 24), and 10.0.0.0/16 of pool 1 holds the rest or some of "
            "it: that would be two subscribers of one name; set ipv4_key = 25, or put both "
            "prefixes into one pool",
        ],
    ),
    (
        "a subscriber of whom two pools have a part each",
        '[[pools]]\nprefixes = ["2001:db8::1"]\n[[pools]]\nprefixes = ["2001:db8::2"]',
        {},
        [
            'rules.toml:2: pool 1: key "prefixes": 2001:db8::1/128 is less than one subscriber, '
            "who is 2001:db8::/64 (ipv6_key = 64), and 2001:db8::2/128 of pool 2 holds the rest or "
            "some of it: that would be two subscribers of one name; set ipv6_key = 128, or put "
            "both prefixes into one pool",
        ],
    ),
    (
        "a directory that is not there",
        '[[pools]]\nprefixes = ["10.0.0.0/8"]\ndirectory = "who.csv"',
        {},
        [
            'rules.toml:3: pool 1: key "directory": "who.csv" cannot be read: '
            "No such file or directory"
        ],
    ),
    (
        "a directory's rows",
        '[[pools]]\nprefixes = ["10.0.0.0/8"]\ndirectory = "who.csv"\n'
        '[meter]\nzone = "Europe/Berlin"',
        {
            "who.csv": "prefix,account,valid_from,valid_to\n"
            "10.0.0.7,alice,,2026-03-01\n"
            "10.0.0.7,bob,2026-02-28T23:00:00+01:00,\n"
            "10.0.0.1/24,carol,,\n"
            "10.0.0.8,,,\n"
            "10.0.0.9,dave,2026-13-01,\n"
            "10.0.0.9,dave,2026-03-29T02:30,\n"
            "10.0.0.9,dave,2026-10-25T02:30,\n"
            "10.0.0.9,dave,2026-02-02,2026-02-01\n"
            "10.0.0.9,dave\n"
            "2001:db8::7,erin,,\n"
        },
        [
            "who.csv:3: 10.0.0.7/32 is held twice at the same time: see line 2",
            'who.csv:4: expected a prefix without host bits, got "10.0.0.1/24"; '
            "did you mean 10.0.0.0/24?",
            "who.csv:5: expected an account, got none",
            "who.csv:6: expected an instant such as 2026-11-01T00:00:00Z, got \"2026-13-01\"",
            'who.csv:7: "2026-03-29T02:30" happens never in Europe/Berlin; '
            "add an offset such as +08:00",
            'who.csv:8: "2026-10-25T02:30" happens twice in Europe/Berlin; '
            "add an offset such as +08:00",
            "who.csv:9: expected valid_from before valid_to",
            "who.csv:10: expected 4 cells, got 2",
            "who.csv:11: 2001:db8::7/128 is less than one subscriber (ipv6_key = 64); "
            "did you mean 2001:db8::/64?",
        ],
    ),
    (
        "a directory's header",
        '[[pools]]\nprefixes = ["10.0.0.0/8"]\ndirectory = "who.csv"',
        {"who.csv": "address,acount\n10.0.0.7,alice\n"},
        [
            'who.csv:1: unknown column "address"',
            'who.csv:1: unknown column "acount"; did you mean "account"?',
            'who.csv:1: expected a header with the column "prefix": '
            "prefix,account,valid_from,valid_to",
            'who.csv:1: expected a header with the column "account": '
            "prefix,account,valid_from,valid_to",
        ],
    ),
    (
        "a directory with an open quote",
        '[[pools]]\nprefixes = ["10.0.0.0/8"]\ndirectory = "who.csv"',
        {"who.csv": 'prefix,account\n10.0.0.7,"alice\n'},
        ["who.csv:2: not valid CSV: unexpected end of data"],
    ),
    # --- sponsors, ingresses ---
    (
        "budget",
        '[sponsors.video-co]\nbudget = "10 TiBs"\nper = "year"',
        {},
        [
            'rules.toml:2: sponsor "video-co": key "budget": expected a size such as "50 MiB", '
            '"1 GB" or a number of octets, got "10 TiBs"; did you mean "TiB"?',
            'rules.toml:3: sponsor "video-co": key "per": expected "day", "month" or "campaign", '
            'got "year"',
        ],
    ),
    (
        "a budget's period without a budget",
        '[sponsors.video-co]\nper = "month"',
        {},
        ['rules.toml:2: sponsor "video-co": key "per": expected a "budget" beside it'],
    ),
    (
        "two ingresses of one interface",
        '[ingress.a]\ninterface = "gi0"\n[ingress.b]\ninterface = "gi0"\ntrusted = "yes"',
        {},
        [
            'rules.toml:4: ingress "b": key "interface": "gi0" is the ingress on line 1 already',
            'rules.toml:5: ingress "b": key "trusted": expected true or false, got "yes"',
        ],
    ),
]


@pytest.mark.parametrize(
    ("document", "files", "messages"), [pytest.param(*row[1:], id=row[0]) for row in BROKEN]
)
def test_broken_rules_say_what_and_where(
    document: str,
    files: dict[str, str],
    messages: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    check_broken(document, files, messages)


def test_rules_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    with pytest.raises(RulesError) as caught:
        rules.load(path)
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"


def test_rules_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_bytes(b"[meter]\n# caf\xe9\n")
    with pytest.raises(RulesError) as caught:
        rules.load(path)
    assert str(caught.value) == f"{path}:2: expected UTF-8 text, got the octet 0xe9"


def test_a_file_full_of_errors_lists_the_first_hundred(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[pools]]\nprefixes = "list.txt"')
    (tmp_path / "list.txt").write_text("nonsense\n" * 100_000)
    with pytest.raises(RulesError) as caught:
        rules.load(path)
    lines = str(caught.value).split("\n")
    assert lines[99].startswith(f"{tmp_path / 'list.txt'}:100: ")
    assert lines[100:] == [f"{path}: and 99,900 more errors"]


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[meter]\nlayer = "x"\nat = "y"\n[[pools]]\nprefixes = ["z"]\nwho = 1\n')
    with pytest.raises(RulesError) as caught:
        rules.load(path)
    places = [line.split(": ")[0] for line in str(caught.value).split("\n")]
    assert places == [f"{path}:{n}" for n in (2, 3, 5, 6)]


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool | float) else repr(value)


def mutants(value: Any) -> Iterator[Any]:
    """Copies of a tree with one value replaced by one of another kind, or left out."""
    yield from (-1, 2**70, 1.5, float("nan"), True, "", "x", [], [[1]], [{}], {}, {"a": 1})
    if isinstance(value, dict):
        for key, item in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: other} for other in mutants(item))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from ([*value[:index], m, *value[index + 1 :]] for m in mutants(item))


def test_no_value_of_any_kind_raises_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Path(__file__).resolve().parents[1] / "examples"
    tree = tomllib.loads((examples / "rules.toml").read_text())
    monkeypatch.chdir(tmp_path)
    for name in ("subscribers.csv", "prefixes/sponsor.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text((examples / name).read_text())
    count = 0
    for mutant in mutants(tree):
        if not isinstance(mutant, dict):
            continue
        count += 1
        Path("rules.toml").write_text(
            "\n".join(f"{as_toml(k)} = {as_toml(v)}" for k, v in mutant.items())
        )
        try:
            rules.load("rules.toml")
        except RulesError as error:
            assert all(line.startswith("rules.toml:") for line in str(error).split("\n"))
    assert count > 500
