"""Marks reach a running engine: at an instant, without a packet lost, charged as agreed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from gateways import Running, packet, running, wait

from tollsplit.errors import RulesError, UsageError
from tollsplit.rules import load
from tollsplit.rules.marks import Mark, Tag
from tollsplit.rules.prefixes import prefix
from tollsplit.services.marks import Publication

PROXY, PAYMENT = 0xCB00710A, 0xCB00710B  # 203.0.113.10, 203.0.113.11
EF = 46
TAGGED = [Mark(prefix("203.0.113.10"), Tag("dscp", EF))]
PRESET = [Mark(prefix("203.0.113.11"))]
HEAD = """
[meter]
window = "1h"
[[pools]]
prefixes = ["10.0.0.0/8"]
[sponsors.shop-co]
"""
RULE = """
[[rules]]
id = "{id}"
precedence = {precedence}
match = {{ marks = "{marks}.marks"{condition} }}
split = {{ sponsor = "shop-co"{split} }}
"""


def rule(id: str, precedence: int = 1, marks: str = "tags", condition: str = "",
         split: str = "") -> str:  # fmt: skip
    return RULE.format(id=id, precedence=precedence, marks=marks, condition=condition, split=split)


def publication(home: Path, *rules: str) -> Publication:
    (home / "rules.toml").write_text(HEAD + "".join(rules))
    found = Publication(home / "rules.toml", home / "control")
    found.prepare(["tags.marks", "addresses.marks"])
    return found


def sent(
    run: Running, octets: int, server: int = PROXY, dscp: int = EF, up: bool = True,
    subscriber: int = 0x0A000007,
) -> None:  # fmt: skip
    run.frames.lanes[0].give(packet(time.time_ns(), octets, subscriber, server, up, dscp))


def paid(run: Running) -> int:
    """What the sponsor has paid by the end."""
    return run.last.sponsor_octets["shop-co"]


@pytest.mark.parametrize(("mark", "server", "dscp", "strange"), [
    ({"tags.marks": TAGGED}, PROXY, EF, [(PROXY, 0), (PROXY, 45), (PAYMENT, EF)]),
    ({"addresses.marks": PRESET}, PAYMENT, 0, [(PROXY, 0), (PROXY, EF)]),
], ids=["tag", "preset address"])  # fmt: skip
def test_mark_sponsors_from_its_instant_until_it_is_withdrawn(
    home: Path, mark: dict[str, list[Mark]], server: int, dscp: int,
    strange: list[tuple[int, int]],
) -> None:  # fmt: skip
    published = publication(home, rule("tags"), rule("addresses", 2, "addresses"))
    with running(home, booked=False, control=home / "control") as run:
        sent(run, 1000, server, dscp)
        published.publish(mark)
        sent(run, 100, server, dscp)
        sent(run, 200, server, dscp, up=False)
        for other, tag in strange:
            sent(run, 40, other, tag)
        published.publish({name: [] for name in mark})
        sent(run, 1000, server, dscp)
        wait(lambda: run.last.seen.packets == 4 + len(strange))
    assert paid(run) == 300
    assert run.last.identity_holds


@pytest.mark.parametrize(("rules", "expected"), [
    ([rule("ratio", split=', share = "70%"')], (1000 + 600) * 70 // 100),
    ([rule("amount", split=', quota = "1 kB", per = "session"')], 1000),
    ([rule("content", condition=', port = 443, where = "octets > 800"')], 1000),
    ([rule("requests", condition=', direction = "uplink"')], 1000),
    ([rule("answers", condition=', direction = "downlink"')], 600),
    ([rule("requests", 1, condition=', direction = "uplink"', split=', share = "10%"'),
      rule("answers", 2, condition=', direction = "downlink"',
           split=', share = "50%", quota = "250 B", per = "day"')], 100 + 250),
], ids=["ratio", "amount", "content", "requests", "answers", "each its own"])  # fmt: skip
def test_marked_traffic_is_charged_as_agreed(
    home: Path, rules: list[str], expected: int
) -> None:
    """The request's mark and the answer's are charged each by rules of its own."""
    published = publication(home, *rules, rule("unused", 9, "addresses"))
    with running(home, booked=False, control=home / "control") as run:
        published.publish({"tags.marks": TAGGED})
        sent(run, 1000)
        sent(run, 600, up=False)
        sent(run, 500, dscp=0)  # what else is done beside it
        sent(run, 500, dscp=0, up=False)
        wait(lambda: run.last.seen.packets == 4)
    assert paid(run) == expected
    assert run.last.subscriber_octets == 2600 - expected


@pytest.mark.parametrize("tag", [None, Tag("dscp", EF)], ids=str)
def test_mark_of_a_subscriber_sponsors_nobody_else(home: Path, tag: Tag | None) -> None:
    """Whoever sends such packets too, to be refused or to do harm, pays for them."""
    published = publication(home, rule("tags"), rule("addresses", 2, "addresses"))
    file = "tags.marks" if tag else "addresses.marks"
    mine = Mark(prefix("203.0.113.10"), tag, prefix("10.0.0.7"))
    with running(home, booked=False, control=home / "control") as run:
        published.publish({file: [mine]})
        for up in (True, False):
            sent(run, 100, up=up)
            sent(run, 1000, up=up, subscriber=0x0A000008)
        wait(lambda: run.last.seen.packets == 4)
    assert paid(run) == 200
    assert run.last.subscriber_octets == 2000


def test_marks_that_come_and_go_lose_no_packet(home: Path) -> None:
    """While somebody sends without a pause every packet is metered once, by the marks of its
    timestamp.
    """
    published = publication(home, rule("tags"), rule("addresses", 2, "addresses"))
    given: list[int] = []
    stop = threading.Event()

    def feed() -> None:
        while not stop.wait(0.0005):
            given.append(time.time_ns())
            run.frames.lanes[0].give(packet(given[-1], server=PROXY, dscp=EF))

    with running(home, booked=False, control=home / "control") as run:
        feeding = threading.Thread(target=feed)
        feeding.start()
        changes = []
        for turn in range(4):
            changes.append(published.publish({"tags.marks": [] if turn % 2 else TAGGED}))
        stop.set()
        feeding.join()
        wait(lambda: run.last.seen.packets == len(given))
    on, off, again, end = changes
    marked = sum(on <= at < off or again <= at < end for at in given)
    assert 0 < marked < len(given)
    assert paid(run) == 128 * marked
    assert run.last.seen.packets == len(given)


def test_marks_outlive_an_engine(home: Path) -> None:
    """What could not be put in force is read by the engine that starts next."""
    published = publication(home, rule("tags"), rule("addresses", 2, "addresses"))
    assert published.rules_of("tags.marks") == ("tags",)
    with pytest.raises(UsageError, match="no gateway answers"):
        published.publish({"tags.marks": TAGGED})
    with running(home, booked=False, control=home / "control") as run:
        sent(run, 100)
        published.publish({"tags.marks": TAGGED})  # nothing changes, and it is in force
    assert paid(run) == 100


def test_marks_that_nobody_pays_for_are_refused(home: Path) -> None:
    published = publication(home, rule("tags"))
    with pytest.raises(RulesError, match=r'no rule has marks = "addresses\.marks"'):
        published.publish({"addresses.marks": PRESET})


def test_marks_file_is_never_half_there(home: Path) -> None:
    """Whoever reads it meanwhile reads all marks of one publication."""
    published = publication(home, rule("tags"))
    many = [[Mark(prefix(f"203.0.113.{n}"), Tag("dscp", tag)) for n in range(200)]
            for tag in (1, 2)]  # fmt: skip
    stop = threading.Event()
    found = set()

    def read() -> None:
        while not stop.is_set():
            match = load(home / "rules.toml").rules[0].match
            found.add((len(match.server or ()), match.dscp))

    reading = threading.Thread(target=read)
    reading.start()
    try:
        for turn in range(40):
            with pytest.raises(UsageError):
                published.publish({"tags.marks": many[turn % 2]})
    finally:
        stop.set()
        reading.join()
    assert found <= {(0, None), (200, frozenset({1})), (200, frozenset({2}))}
    assert {name for name in os.listdir(home) if "marks" in name} == {
        "tags.marks", "addresses.marks"}
