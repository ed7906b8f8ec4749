"""One worker's meter: what it reads, who succeeds it, and what it leaves to others."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judges import Frame
from strategies import capture, prefix
from test_columns import SECOND_NS, SPONSORS, START_NS, frame, rule
from test_ring import BLOCK, Packet, block

from tollsplit.cext.dissect import Dissection
from tollsplit.cext.meter import Meter as Core
from tollsplit.cext.reader import Reader
from tollsplit.cext.ring import Ring
from tollsplit.engine.cells import Cells
from tollsplit.engine.pipeline import Tally, tally
from tollsplit.engine.usage import Provenance
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import Meter, Pool, RuleSet, Split, Tenure

Source = Reader | Ring
RULES = RuleSet(
    "rules", "v", Meter(window_s=60), (
        Pool((prefix("10.0.0.0/16"),)), Pool((prefix("10.1.0.0/16"),), ipv4_key=24),
        Pool((prefix("10.2.0.0/16"),), tenures=(
            Tenure(prefix("10.2.0.0/16"), "x", None, START_NS + 90 * SECOND_NS),)),
        Pool((prefix("2001:db8::/32"),))),
    SPONSORS, (rule(80, Split("a", quota_octets=900)), rule(81, Split("b"))))
HOSTS = ("10.0.0.7", "10.0.0.8", "10.1.1.1", "10.1.2.2", "10.2.0.1", "2001:db8::1", "192.0.2.9")


class Counted:
    """A meter, and what it takes to read its counters."""

    def __init__(self, rules: RuleSet = RULES, cells: Cells | None = None) -> None:
        self.rules = rules
        self.compiled = Compiled(rules)
        self.cells = cells or Cells(rules)
        self.core = Core(Dissection(), self.compiled.classifier, self.cells.at)

    def tally(self) -> Tally:
        """Its figures; its counters are taken out."""
        found = tally(self.rules, self.compiled, self.cells, self.core, None,
                      Provenance("", "", "ip"))
        assert found.identity_holds
        return found


def traffic(count: int, seed: int = 1) -> list[Frame]:
    """Frames of all kinds of subscribers, over three minutes, in no order."""
    draw = random.Random(seed)
    return [frame(draw.choice(HOSTS), START_NS + draw.randrange(180 * SECOND_NS),
                  draw.randrange(60), draw.randrange(80, 83)) for _ in range(count)]


def reader_of(frames: Iterable[Frame]) -> Reader:
    found = Reader()
    found.feed(capture(frames), True)
    return found


def blocks_of(frames: list[Frame]) -> bytes:
    """Blocks of a ring, 15 frames in each."""
    packets = [Packet(f.octets, f.original, seconds=f.timestamp_ns // SECOND_NS,
                      nanoseconds=f.timestamp_ns % SECOND_NS) for f in frames]
    return b"".join(block(packets[at : at + 15]) for at in range(0, len(packets), 15))


def ring_of(frames: list[Frame]) -> Ring:
    return Ring(bytearray(blocks_of(frames)), BLOCK, 1)


sources = pytest.mark.parametrize("source", [reader_of, ring_of])


# --- what it reads ---------------------------------------------------------------------------


def test_meter_counts_a_ring_as_it_counts_a_file() -> None:
    frames = traffic(500)
    file, live = Counted(), Counted()
    assert file.core.run(reader_of(frames)) == live.core.run(ring_of(frames)) == 500
    assert file.core.sums() == live.core.sums()
    assert list(file.tally().usage) == list(live.tally().usage)


@sources
def test_meter_stops_at_the_limit_and_goes_on(source: Callable[[list[Frame]], Source]) -> None:
    counted, frames = Counted(), source(traffic(100))
    assert [counted.core.run(frames, limit) for limit in (0, 7, 64, 64, 64)] == [0, 7, 64, 29, 0]
    assert counted.core.seen[0] == counted.tally().seen.packets == 100


def test_meter_stops_where_no_frame_is_ready() -> None:
    counted, frames = Counted(), traffic(45)
    memory = bytearray(2 * BLOCK)
    live = Ring(memory, BLOCK, 1)
    for number in range(3):
        assert counted.core.run(live) == 0
        at = number % 2 * BLOCK
        memory[at : at + BLOCK] = blocks_of(frames[15 * number : 15 * (number + 1)])
        assert live.ready()
        assert counted.core.run(live) == 15
    other = Counted()
    other.core.run(reader_of(frames))
    assert list(counted.tally().usage) == list(other.tally().usage)


@pytest.mark.parametrize("nothing", [None, b"", iter(())])
def test_meter_refuses_what_hands_out_no_frames(nothing: Any) -> None:
    with pytest.raises(TypeError):
        Counted().core.run(nothing)


def test_meter_says_what_it_has_seen() -> None:
    counted, frames = Counted(), [*traffic(99), Frame(b"\xff" * 60, START_NS, 70, 1)]
    assert counted.core.seen == (0, 0)
    counted.core.run(reader_of(frames))
    assert counted.core.seen == counted.core.sums()["seen"]
    assert counted.core.seen == (100, 56 + sum(f.original - 14 for f in frames[:-1]))


# --- who succeeds it -------------------------------------------------------------------------


def expected(frames: list[Frame], start_ns: int, end_ns: int) -> Counted:
    counted = Counted()
    counted.core.run(reader_of(f for f in frames if start_ns <= f.timestamp_ns < end_ns))
    return counted


@sources
@pytest.mark.parametrize("count", [1, 2, 64, 65, 700])
@pytest.mark.parametrize("order", ["any", "ascending", "descending"])
def test_meter_succeeded_counts_up_to_the_instant_and_no_further(
    source: Callable[[list[Frame]], Source], count: int, order: str
) -> None:
    """Out of order by any amount; one frame on the instant, and one a nanosecond before it."""
    until_ns = START_NS + 77 * SECOND_NS
    frames = traffic(count)
    frames[-1] = frames[-1]._replace(timestamp_ns=until_ns)
    frames[0] = frames[0]._replace(timestamp_ns=until_ns - 1)
    if order != "any":
        frames.sort(key=lambda f: f.timestamp_ns, reverse=order == "descending")
    first, second = Counted(), Counted()
    first.core.succeed(second.core, until_ns)
    assert first.core.run(source(frames)) == count
    for found, wanted in ((first, expected(frames, 0, until_ns)),
                          (second, expected(frames, until_ns, 2**63))):
        assert found.core.sums() == wanted.core.sums()
        assert list(found.tally().usage) == list(wanted.tally().usage)


@sources
def test_meter_succeeded_while_it_runs_divides_its_next_batch(
    source: Callable[[list[Frame]], Source]
) -> None:
    """Its first batch is all its own, as the call came after it; one call for one cell."""
    frames = [f._replace(timestamp_ns=START_NS + n) for n, f in enumerate(traffic(300))]
    first, second = Counted(), Counted()

    def cell_at(timestamp_ns: int) -> tuple[int, int, int] | None:
        first.core.succeed(second.core, START_NS + 10)
        return first.cells.at(timestamp_ns)

    first.core = Core(Dissection(), first.compiled.classifier, cell_at)
    handed_out = 64 if source is reader_of else 15
    assert first.core.run(source(frames)) == 300
    assert first.core.seen[0] == handed_out
    assert second.core.sums() == expected(frames, START_NS + handed_out, 2**63).core.sums()


def test_meter_successors_are_succeeded_in_turn() -> None:
    frames = traffic(400)
    instants = [0, *(START_NS + second * SECOND_NS for second in (20, 50, 50, 120)), 2**63]
    meters = [Counted() for _ in instants[1:]]
    for (one, next_one), until_ns in zip(pairwise(meters), instants[1:], strict=False):
        one.core.succeed(next_one.core, until_ns)
    assert meters[0].core.run(reader_of(frames)) == 400
    for found, (start_ns, end_ns) in zip(meters, pairwise(instants), strict=True):
        assert found.core.sums() == expected(frames, start_ns, end_ns).core.sums()
    assert meters[2].core.seen == (0, 0)


def test_meter_is_succeeded_once_and_by_another() -> None:
    one, two, three = Counted().core, Counted().core, Counted().core
    one.succeed(two, START_NS)
    two.succeed(three, START_NS)
    for again, successor in ((one, three), (three, three), (three, one)):
        with pytest.raises(ValueError, match="succeeded once, and by another"):
            again.succeed(successor, START_NS)
    with pytest.raises(TypeError):
        three.succeed(None, START_NS)  # type: ignore[arg-type]


# --- what it leaves to others ----------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 700, 60_000])
def test_meter_that_forgets_counts_as_if_it_had_counted_nothing(count: int) -> None:
    first, second = traffic(count), traffic(700, seed=2)
    fresh, used = Counted(), Counted()
    fresh.core.run(reader_of(second))
    used.core.run(reader_of(first))
    used.core.forget()
    assert used.core.seen == (0, 0)
    assert len(used.core.export()[0]) == len(used.core.subscribers.subscribers()) == 0
    used.core.run(ring_of(second))
    ours, theirs = used.tally(), fresh.tally()
    assert list(ours.usage) == list(theirs.usage)
    assert (ours.seen, ours.faults) == (theirs.seen, theirs.faults)


def test_meter_forgets_into_a_smaller_table_where_little_was_counted() -> None:
    meter = Counted().core
    meter.run(reader_of([frame(f"10.0.{n >> 8}.{n & 255}", START_NS, 0, 80)
                         for n in range(12_000)]))
    octets = [meter.table.octets]
    for _ in range(4):
        meter.forget()
        octets.append(meter.table.octets)
    # It has grown twice, is as large as what was counted first, and then half and half again.
    assert octets[0] == octets[1] > 1.5 * octets[2] > 2 * octets[3]
    assert octets[3] == octets[4] == Counted().core.table.octets


def test_meter_that_has_a_successor_or_an_annex_does_not_forget() -> None:
    succeeded, annexing = Counted().core, Counted().core
    succeeded.succeed(Counted().core, 1)
    annexing.annex(Counted().core)
    for meter in (succeeded, annexing):
        with pytest.raises(ValueError, match="does not begin anew"):
            meter.forget()


def on_disk(array: np.ndarray) -> np.ndarray:
    """An array as it comes back from a file."""
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    found: np.ndarray = np.load(file)
    return found


@pytest.mark.parametrize("count", [0, 1, 900])
def test_meter_loads_what_another_exported_as_it_absorbs_it(count: int) -> None:
    """Plain and interned subscribers, large counters and small ones, in two pieces."""
    cells, parts = Cells(RULES), [traffic(count, 1), traffic(count, 2), traffic(900, 3)]
    parts[0] = [f._replace(original=2**31) for f in parts[0]]
    whole, loaded = Counted(cells=cells), Counted(cells=cells)
    for part in parts:
        piece = Counted(cells=cells)
        piece.core.run(reader_of(part))
        exported = [on_disk(array) for array in piece.core.export()]
        loaded.core.load(*exported, len(cells.known))
        whole.core.absorb(piece.core)
        again = [array.tobytes() for array in piece.core.export()]
        assert again == [array.tobytes() for array in exported]   # export takes nothing out
    once = Counted(cells=cells)
    once.core.run(reader_of(f for part in parts for f in part))
    assert once.core.sums() == loaded.core.sums() == whole.core.sums()
    found = [list(c.tally().usage) for c in (once, loaded, whole)]
    assert found[0] == found[1] == found[2]
    assert sum(r.octets for r in found[0])


def exported(frames: list[Frame]) -> tuple[list[Any], int]:
    counted = Counted()
    counted.core.run(reader_of(frames))
    return list(counted.core.export()), len(counted.cells.known)


COUNTERS, SUBSCRIBERS, TOTALS = range(3)
HOSTILE: list[tuple[int, Callable[[np.ndarray], Any], str]] = [
    (COUNTERS, lambda a: a.tobytes(), "counters: expected an array of one dimension"),
    (COUNTERS, lambda a: a.view(np.uint8), "counters: expected an array of one dimension"),
    (COUNTERS, lambda a: a.reshape(1, -1), "counters: expected an array of one dimension"),
    (COUNTERS, lambda a: None, "counters: expected an array of one dimension"),
    (SUBSCRIBERS, lambda a: a.view(np.uint64), "subscribers: expected an array of one dim"),
    (SUBSCRIBERS, lambda a: a[:-1], r"counter \d+: subscriber \d+: expected one below \d+"),
    (SUBSCRIBERS, lambda a: a[:0], r"counter \d+: subscriber \d+: expected one below 0"),
    (TOTALS, lambda a: a[:-1], r"totals: \d+ of them, expected \d+"),
    (TOTALS, lambda a: np.append(a, a[:1]), r"totals: \d+ of them, expected \d+"),
    (TOTALS, lambda a: a.astype(np.int64), "totals: expected an array of one dimension"),
]
# Of one row: the array, the field, its value, and what is said of it.
HOSTILE_ROWS: list[tuple[int, str, int, str]] = [
    (COUNTERS, "interned", 2, r"interned 2, flags 0: expected 0 or 1, 0 to 15"),
    (COUNTERS, "flags", 16, r"interned \d, flags 16: expected 0 or 1, 0 to 15"),
    (COUNTERS, "cell", 3, r"rule \d, cell 3: expected 0 to 2, one below 3"),
    (COUNTERS, "cell", 2**32 - 1, r"rule \d, cell 4294967295: expected 0 to 2, one below 3"),
    (COUNTERS, "rule", 3, r"rule 3, cell \d: expected 0 to 2, one below 3"),
    (COUNTERS, "rule", 0xFFFF, r"rule 65535, cell \d: expected 0 to 2, one below 3"),
    (COUNTERS, "first_ns", 2**63, r"from 9223372036854775808 to \d+ ns: expected times in order"),
    (COUNTERS, "last_ns", 0, r"from \d+ to 0 ns: expected times in order"),
    (COUNTERS, "last_ns", 2**64 - 1, r"from \d+ to 18446744073709551615 ns"),
    (COUNTERS, "uplink_octets", 2**63, r"a sum of 2\^63 or more"),
    (COUNTERS, "downlink_packets", 2**63, r"a sum of 2\^63 or more"),
    (SUBSCRIBERS, "kind", 6, r"no key of kind 6"),
    (SUBSCRIBERS, "hi", 2**63, r"no key of kind 0"),
    (SUBSCRIBERS, "lo", 2**32, r"no key of kind 0"),
    (SUBSCRIBERS, "pool", 0, r"pool 0, tenure \d: expected 1 to 4, 0 to 1"),
    (SUBSCRIBERS, "pool", 5, r"pool 5, tenure \d: expected 1 to 4, 0 to 1"),
    (SUBSCRIBERS, "tenure", 2, r"pool \d, tenure 2: expected 1 to 4, 0 to 1"),
]


def refuse(arrays: list[Any], cells: int, finding: str) -> None:
    """They are refused, and nothing of them is added."""
    counted = Counted()
    with pytest.raises(ValueError, match=finding):
        counted.core.load(*arrays, cells)
    assert counted.core.seen == (0, 0)
    assert [len(array) for array in counted.core.export()[:2]] == [0, 0]


@pytest.mark.parametrize(("which", "change", "finding"), HOSTILE)
def test_meter_refuses_arrays_that_are_no_export(
    which: int, change: Callable[[np.ndarray], Any], finding: str
) -> None:
    arrays, cells = exported(traffic(200))
    arrays[which] = change(arrays[which])
    refuse(arrays, cells, finding)


@pytest.mark.parametrize(("which", "field", "value", "finding"), HOSTILE_ROWS)
def test_meter_refuses_a_row_that_cannot_be(
    which: int, field: str, value: int, finding: str
) -> None:
    arrays, cells = exported(traffic(200))
    at = int(np.flatnonzero(arrays[SUBSCRIBERS]["kind"] == 0)[-1]) if which else 50
    arrays[which][field][at] = value
    refuse(arrays, cells, f"^{('counter', 'subscriber')[which]} {at}: .*{finding}")


def test_meter_refuses_a_counter_of_nobody() -> None:
    """A plain address that lies in no pool, or an interned subscriber that is none."""
    arrays, cells = exported(traffic(200))
    plain = int(np.flatnonzero(arrays[COUNTERS]["interned"] == 0)[0])
    arrays[COUNTERS]["subscriber"][plain] = 0xC0000209
    refuse(arrays, cells, f"^counter {plain}: address 0xc0000209 is in no pool")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_meter_loads_or_refuses_whatever_the_arrays_hold(data: st.DataObject) -> None:
    """Any octets; the sanitizer build sees to it that nothing outside of a table is touched."""
    arrays, cells = exported(traffic(40))
    for array in arrays[:2]:
        octets = array.view(np.uint8)
        for at, value in data.draw(st.lists(st.tuples(
                st.integers(0, len(octets) - 1), st.integers(0, 255)), max_size=3)):
            octets[at] = value
    counted = Counted()
    try:
        counted.core.load(*arrays, cells)
    except ValueError:
        return
    found = counted.core.export()
    for name in ("uplink_octets", "downlink_packets"):
        assert found[0][name].sum() == arrays[0][name].sum()
