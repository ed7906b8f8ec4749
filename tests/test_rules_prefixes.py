"""Prefixes, prefix files and directories; the lines of a TOML document."""

from __future__ import annotations

import ipaddress
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollsplit.rules.position import Positions
from tollsplit.rules.prefixes import (
    Cover,
    Finding,
    prefix,
    prefix_text,
    read_directory,
    read_prefixes,
)
from tollsplit.rules.rule import Prefix, Tenure

networks = st.one_of(
    st.builds(lambda a, n: ipaddress.ip_network((a, n), strict=False),
              st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(lambda a, n: ipaddress.ip_network((a, n), strict=False),
              st.integers(2**33, 2**128 - 1), st.integers(0, 128)),
)  # fmt: skip


@given(networks)
def test_prefix_agrees_with_ipaddress(network: ipaddress.IPv4Network) -> None:
    found = prefix(str(network))
    assert found == Prefix(network.version, int(network.network_address), network.prefixlen)
    assert ipaddress.ip_network(prefix_text(found)) == network


@given(st.text("0123456789.:/abcf %-x", max_size=24))
def test_prefix_accepts_what_ipaddress_accepts(text: str) -> None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        network = None
    # Masks and scopes are no prefixes to us.
    is_strange = "." in text.partition("/")[2] or "%" in text
    if network is None or is_strange:
        with pytest.raises(ValueError, match="expected"):
            prefix(text)
    else:
        try:
            assert ipaddress.ip_network(prefix_text(prefix(text))) == network
        except ValueError as error:  # "/08" is a slip, as everywhere in our files
            assert text.partition("/")[2].startswith("0"), error


def test_prefix_file_in_any_shape() -> None:
    content = b"\xef\xbb\xbf192.0.2.0/24\r\n\r\n  2001:db8::/32 # ours\t\n#\n"
    content += b"192.0.2.1\n192.0.2.0/24"
    expected = (Prefix(4, 0xC0000200, 24), Prefix(6, 0x20010DB8 << 96, 32))
    assert read_prefixes(content) == ((*expected, Prefix(4, 0xC0000201, 32)), [])


def test_prefix_file_in_another_encoding_is_an_error() -> None:
    findings = [Finding(2, "expected UTF-8 text, got the octet 0xff")]
    assert read_prefixes(b"192.0.2.0/24\n# \xff\n") == ((), findings)


@given(st.lists(networks, max_size=5), networks)
def test_cover_agrees_with_ipaddress(
    wide: list[ipaddress.IPv4Network], narrow: ipaddress.IPv4Network
) -> None:
    cover = Cover(prefix(str(n)) for n in wide)
    expected = any(n.version == narrow.version and narrow.subnet_of(n) for n in wide)
    assert cover.covers([prefix(str(narrow))]) is expected


def test_directory_in_any_shape() -> None:
    content = (
        b"\xef\xbb\xbfaccount,valid_to,prefix\r\n"
        b'"Smith, Ann",2026-11-01T00:00:00.000001Z,10.0.0.7\r\n'
        b"\r\n"
        b' bob ,"",2001:db8::/56\r\n'
    )
    second = 1_793_491_200
    expected = (
        Tenure(Prefix(4, 0x0A000007, 32), "Smith, Ann", None, second * 10**9 + 1000),
        Tenure(Prefix(6, 0x20010DB8 << 96, 56), "bob", None, None),
    )
    assert read_directory(content, "UTC", 32, 64) == (expected, [])


def test_directory_instants_follow_the_zone() -> None:
    content = b"prefix,account,valid_from,valid_to\n10.0.0.7,a,2026-11-01,2026-11-01T02:00+08:00\n"
    (tenure,), findings = read_directory(content, "Asia/Shanghai", 32, 64)
    assert not findings
    assert tenure.valid_to_ns is not None and tenure.valid_from_ns is not None
    assert tenure.valid_to_ns - tenure.valid_from_ns == 2 * 3600 * 10**9


TENURES = [
    ("one after another", [(None, 5), (5, 9), (9, None)], []),
    ("in any order", [(9, None), (None, 5), (5, 9)], []),
    ("a gap", [(1, 2), (3, 4)], []),
    ("one inside another", [(1, 9), (3, 4)], [(3, 2)]),
    ("two inside a long one", [(1, 9), (3, 4), (5, 6)], [(3, 2), (4, 2)]),
    ("two without limits", [(None, None), (None, None)], [(3, 2)]),
    ("one second too early", [(5, None), (1, 6)], [(3, 2)]),
]


@pytest.mark.parametrize(
    ("spans", "clashes"), [pytest.param(spans, clashes, id=n) for n, spans, clashes in TENURES]
)
def test_directory_refuses_tenures_that_overlap(
    spans: list[tuple[int | None, int | None]], clashes: list[tuple[int, int]]
) -> None:
    def cell(second: int | None) -> str:
        return "" if second is None else f"2026-01-01T00:00:0{second}Z"

    lines = [f"10.0.0.7,a{n},{cell(s)},{cell(e)}" for n, (s, e) in enumerate(spans)]
    content = "\n".join(["prefix,account,valid_from,valid_to", *lines]).encode()
    expected = [
        Finding(line, f"10.0.0.7/32 is held twice at the same time: see line {other}")
        for line, other in clashes
    ]
    assert read_directory(content, "UTC", 32, 64)[1] == expected


# --- positions ---

DOCUMENT = '''\
top = 1 # [not.a.table]
"quoted key".'single.one' = 2

[a.b]
list = [
  "# no comment", 'x"]',   # a comment with ] and "
  [1, [2,
       3]],
  { k = "v", l.m = [4,
     5] },
]
text = """
[not.a.table]
key = "no" \\""" ""quotes"" """""
raw = \'\'\'
'' ]
\'\'\'
when = 1979-05-27 07:32:00
[[t]]
[t.sub]
x = 1
[[t]]
  [[t.inner]]
  y = 2
  [[t.inner]]
  z = { } # empty
[t.sub]
x = 3
'''


def tree_paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = {path}
    for key, item in items:
        found |= tree_paths(item, (*path, key)) if isinstance(item, dict | list) else {(*path, key)}
    return found


def test_positions_are_the_lines() -> None:
    positions = Positions(DOCUMENT)
    assert positions.paths() == tree_paths(tomllib.loads(DOCUMENT))
    expected = {
        ("top",): 1,
        ("quoted key", "single.one"): 2,
        ("a",): 4,
        ("a", "b"): 4,
        ("a", "b", "list"): 5,
        ("a", "b", "list", 0): 6,
        ("a", "b", "list", 1): 6,
        ("a", "b", "list", 2, 1, 0): 7,
        ("a", "b", "list", 2, 1, 1): 8,
        ("a", "b", "list", 3, "l", "m"): 9,
        ("a", "b", "list", 3, "l", "m", 1): 10,
        ("a", "b", "text"): 12,
        ("a", "b", "raw"): 15,
        ("a", "b", "when"): 18,
        ("t",): 19,
        ("t", 0): 19,
        ("t", 0, "sub", "x"): 21,
        ("t", 1): 22,
        ("t", 1, "inner", 0, "y"): 24,
        ("t", 1, "inner", 1): 25,
        ("t", 1, "inner", 1, "z"): 26,
        ("t", 1, "sub", "x"): 28,
        ("t", 1, "sub", "missing"): 27,
        ("nowhere",): 1,
    }
    assert {path: positions.line(path) for path in expected} == expected
    crlf = Positions(DOCUMENT.replace("\n", "\r\n"))
    assert {path: crlf.line(path) for path in expected} == expected


keys = st.sampled_from(["a", "b-1", '"c d"', "'e.f'", '"\\u0041]"'])
scalars = st.sampled_from(
    ["1", "-1.5e3", "true", '"x"', "'y#]'", '"""m\n"]"""', "'''n\n'''", "1979-05-27 07:32:00", '""']
)
blanks = st.sampled_from(["", " ", "\n", " # ]\n", "\t\n\n"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(st.builds("{}{}{}".format, blanks, inner, blanks), max_size=3).map(
            lambda items: f"[{','.join(items)}]"
        )
        | st.dictionaries(keys, inner, max_size=2).map(
            lambda d: "{ " + ", ".join(f"{k} = {v}" for k, v in d.items()) + " }"
        )
    ),
    max_leaves=6,
)
statements = (
    st.builds("{} = {} # end".format, keys, values)
    | st.builds("{}.{} = {}".format, keys, keys, values)
    | keys.map("[{}]".format)
    | st.builds("[ {} . {} ]".format, keys, keys)
    | keys.map("[[{}]]".format)
    | st.builds("[[{}.{}]]".format, keys, keys)
    | st.just("")
)


@given(st.lists(statements, max_size=8))
def test_positions_know_what_tomllib_knows(lines: list[str]) -> None:
    kept: list[str] = []
    for line in lines:  # keep what makes a valid document
        try:
            tomllib.loads("\n".join([*kept, line]))
        except tomllib.TOMLDecodeError:
            continue
        kept.append(line)
    document = "\n".join(kept)
    assert Positions(document).paths() == tree_paths(tomllib.loads(document))
