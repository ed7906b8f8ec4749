"""Names that rules list: found by whole labels from the end, whatever their case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollsplit.cext.suffixes import Suffixes
from tollsplit.rules.facts import Facts
from tollsplit.rules.names import name, read_names
from tollsplit.rules.rule import Match, Rule

LISTED = Facts.of([
    Rule("video", 1, Match(sni=("video.example", "*.cdn.example")), ()),
    Rule("host", 2, Match(host=("a.video.example",), sni=("example.org",)), ()),
])
VIDEO, HOST, ORG = 1, 4, 2  # a fact for each condition, in the order of SPOKEN


@pytest.mark.parametrize(("said", "facts"), [
    (b"video.example", VIDEO),
    (b"VIDEO.Example.", VIDEO),
    (b"x.video.example", VIDEO),
    (b"a.video.example", VIDEO | HOST),
    (b"b.A.video.example", VIDEO | HOST),
    (b"myvideo.example", 0),
    (b"video.example.com", 0),
    (b"cdn.example", 0),
    (b"1.cdn.example", VIDEO),
    (b"example.org", ORG),
    (b"example", 0),
    (b"", 0),
    (b".", 0),
    (b".video.example", 0),
    (b"x..video.example", 0),
    (b"video.example..", 0),
    (b"x\0.video.example", 0),
    (b"x y.video.example", 0),
    (b"x/.video.example", 0),
    (b"\xc3\xbc.video.example", 0),
    (b"_x-1.video.example", VIDEO),
    (b"x" * 63 + b".video.example", VIDEO),
    (b"x" * 64 + b".video.example", 0),
    (b"x." * 119 + b"xx.video.example", 0),  # 254 octets
    (b"x." * 119 + b"x.video.example", VIDEO),
])
def test_suffixes_find_names_by_whole_labels(said: bytes, facts: int) -> None:
    assert Suffixes(LISTED.names).look_up(said) == facts


labels = st.sampled_from(["a", "b", "aa", "x-1"])
listed = st.lists(st.lists(labels, min_size=1, max_size=4).map(".".join), max_size=12, unique=True)


@given(listed, st.lists(labels, min_size=1, max_size=5))
def test_suffixes_equal_a_search_through_all(names: list[str], said: list[str]) -> None:
    found = Suffixes({name: (1 << n, 1 << 32 + n) for n, name in enumerate(names)}).look_up(
        ".".join(said).upper().encode())
    expected = 0
    for n, text in enumerate(names):
        if text.split(".") == said:
            expected |= 1 << n
        elif text.split(".") == said[-len(text.split(".")):]:
            expected |= 1 << 32 + n
    assert found == expected


def test_names_are_as_packets_carry_them() -> None:
    assert name("Video.Example.") == "video.example"
    assert name("*.xn--bcher-kva.example") == "*.xn--bcher-kva.example"
    assert read_names("\ufeffa.example\n\n# none\nA.example. # again\n*.b\n".encode()) == (
        ("a.example", "*.b"), [])
    assert [f.message for f in read_names(b"# none\n")[1]] == [
        "expected one name a line, got an empty file"]
