"""What the story's judge makes of packets, worked by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from tollsplit.cli.demo.live.books import Books
from tollsplit.cli.demo.live.judge import Seen
from tollsplit.cli.demo.live.octets import Due, MarkInForce, due
from tollsplit.cli.demo.live.program import StoryError
from tollsplit.cli.demo.live.story import Chapter, Story

ALICE, PROXY, FILMS = "10.77.1.2", "203.0.113.2", "198.18.0.2"
DAY_NS = 86_400 * 10**9
MARK = MarkInForce(IPv4Address(ALICE), 46, 1000, 2000)


def seen(
    source: str, destination: str, octets: int, at_ns: int = 1500, dscp: int = 46,
    ethertype: int = 0x0800,
) -> Seen:  # fmt: skip
    header = struct.pack("!BBH8x4s4s", 0x45, dscp << 2, octets, IPv4Address(source).packed,
                         IPv4Address(destination).packed)  # fmt: skip
    frame = bytes(12) + struct.pack("!H", ethertype) + header
    return Seen(frame.ljust(60, b"\0"), max(60, 14 + octets), 0, at_ns)


@pytest.mark.parametrize(("frames", "expected"), [
    ([seen(ALICE, PROXY, 101)], Due(101, 0, 101, 0, 70)),
    ([seen(ALICE, PROXY, 101), seen(ALICE, PROXY, 102)], Due(203, 0, 203, 0, 142)),
    ([seen(PROXY, ALICE, 101)], Due(0, 101, 0, 101, 101)),
    ([seen(PROXY, ALICE, 1500)] * 200, Due(0, 300_000, 0, 300_000, 262_144)),
    ([seen(ALICE, FILMS, 101)], Due(101, 0, 0, 0, 0)),
    ([seen(ALICE, PROXY, 101, dscp=34)], Due(101, 0, 0, 0, 0)),
    ([seen(ALICE, PROXY, 40, at_ns) for at_ns in (999, 1000, 1999, 2000)],
     Due(160, 0, 80, 0, 56)),
    ([seen("10.77.2.2", PROXY, 101), seen(ALICE, PROXY, 46, ethertype=0x0806)],
     Due(0, 0, 0, 0, 0)),
])  # fmt: skip
def test_judge_says_what_is_due(frames: list[Seen], expected: Due) -> None:
    assert due(frames, [ALICE], [MARK]) == expected


def test_judge_takes_a_share_of_each_days_sum() -> None:
    mark = MarkInForce(IPv4Address(ALICE), 46, 0, 3 * DAY_NS)
    frames = [seen(ALICE, PROXY, 41, day * DAY_NS) for day in (0, 0, 1)]
    assert due(frames, [ALICE], [mark]).sponsor == 57 + 28  # of 82 and of 41


class _Stage:
    """Its books have one transfer of 5 from bank to shop."""

    ledger = ""

    def tollsplit(self, *arguments: object) -> str:
        return """{"transactions": [{"transaction": 1, "kind": "payment"},
            {"transaction": 2, "kind": "usage"}], "accounts": [], "usage": [], "postings": [
            {"transaction": 1, "account": "bank", "unit": "octet", "amount": -5},
            {"transaction": 1, "account": "shop", "unit": "octet", "amount": 5},
            {"transaction": 2, "account": "shop", "unit": "octet", "amount": 7}]}"""


def test_story_ends_where_the_books_say_something_else() -> None:
    def chapter(amount: int) -> Callable[[Story], dict[tuple[str, str], int]]:
        return lambda story: {("bank", "octet"): -amount, ("shop", "octet"): amount}

    stage: object = _Stage()
    Story(stage, print).play(Chapter("five", chapter(5)))  # type: ignore[arg-type]
    with pytest.raises(StoryError, match="six: the books say"):
        Story(stage, print).play(Chapter("six", chapter(6)))  # type: ignore[arg-type]
    assert Books(stage).moved() == {("bank", "octet"): -5, ("shop", "octet"): 5}  # type: ignore[arg-type]
