"""The fast engine against the slow one, over generated captures and generated rules."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from judges import Frame, core_rows, reference_rows
from packets import CASES, METERED
from strategies import capture, examples, frames, prefix, prefixes, rule_sets, traffic

from tollsplit.engine import Tally, meter, reference
from tollsplit.engine.reference.bill import grant, shares
from tollsplit.engine.reference.calendar import span
from tollsplit.rules.rule import Budget, Match, Meter, Pool, Rule, RuleSet, Split, Sponsor

Reader = pytest.importorskip("tollsplit.cext.reader").Reader

# Without Phase.explain, which traces every line for minutes.
generated = settings(
    max_examples=examples(150), deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class Memory:
    """A source whose capture lies in memory, handed out in one piece."""

    name = "memory"
    truncated = None

    def __init__(self, content: bytes, rules: RuleSet) -> None:
        self.content = content
        self.size = self.done = len(content)
        self.ingresses = {item.interface: n for n, item in enumerate(rules.ingresses.values(), 1)}

    def chunks(self, parallel: bool) -> Iterator[Any]:
        reader = Reader(self.ingresses)
        reader.feed(self.content, True)
        yield reader

    def again(self) -> Memory:
        return self

    def fail(self, error: ValueError) -> NoReturn:
        raise error


def fast(content: list[Frame], rules: RuleSet, *, files: int = 1, **options: Any) -> Tally:
    """The engine's figures; `files`: over how many captures the frames are dealt out."""
    parts = [content[n::files] for n in range(files)]
    return meter([Memory(capture(part), rules) for part in parts], rules, **options)


def slow(content: list[Frame], rules: RuleSet, **options: Any) -> dict[str, Any]:
    return reference.account(
        ((f.timestamp_ns, f.octets, f.original, f.link_type, f.ingress, f.segment_octets)
         for f in content), rules, **options)


def document(tally: Tally) -> dict[str, Any]:
    """The fast engine's figures in the reference's shape."""
    def volume(name: str) -> dict[str, int]:
        counted = getattr(tally, name)
        return {"packets": counted.packets, "octets": counted.octets}

    figures: dict[str, Any] = {name: volume(name) for name in (
        "seen", "metered_twice", "unattributed", "non_ip", "control", "duplicate",
        "retransmitted", "coalesced", "mismatch", "overlapping", "untracked", "suspicious",
        "unsolicited")}
    figures["metered"] = {
        **volume("metered"), "subscriber_octets": tally.subscriber_octets,
        "sponsor_octets": {s: n for s, n in tally.sponsor_octets.items() if n}}
    figures["faults"] = {kind: {"packets": v.packets, "octets": v.octets}
                         for kind, v in tally.faults.items() if v.packets}
    figures["tunnel_overhead_octets"] = tally.tunnel_overhead_octets
    figures["usage"] = [{
        **{name: getattr(r, name) for name in (
            "subscriber", "account", "rule", "rating_group", "sponsor_identity", "asp_identity",
            "uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets",
            "subscriber_octets", "first_packet_ns", "last_packet_ns")},
        "window_start": r.window_start and r.window_start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "window_end": r.window_end and r.window_end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sponsor_octets": {s: n for s, n in r.sponsor_octets.items() if n},
        "flags": sorted(r.flags)} for r in tally.usage]
    return figures


def expected(slow_document: dict[str, Any]) -> dict[str, Any]:
    figures = {k: v for k, v in slow_document.items() if k not in (
        "rules_version", "layer", "at", "lost", "identity")}
    figures["metered"] = {**figures["metered"], "sponsor_octets": {
        s: n for s, n in figures["metered"]["sponsor_octets"].items() if n}}
    figures["usage"] = [{**r, "flags": sorted(r["flags"])} for r in figures["usage"]]
    return figures


def assert_same(
    content: list[Frame], rules: RuleSet, *, files: int = 1, workers: int = 1, **options: Any
) -> None:
    # one after the other as the engine takes them, where that matters
    in_order = list(heapq.merge(
        *(content[n::files] for n in range(files)), key=lambda f: f.timestamp_ns))
    judged = slow(in_order, rules, **options)
    assert judged["identity"]["holds"]
    assert_bill(fast(content, rules, files=files, workers=workers, **options), judged)


def assert_bill(tally: Tally, judged: dict[str, Any]) -> None:
    """The fast engine's figures are the reference engine's."""
    assert tally.identity_holds
    ours, theirs = document(tally), expected(judged)
    for name in theirs:
        if name != "usage":
            assert ours[name] == theirs[name], name
    assert ours["usage"] == theirs["usage"]


# --- frames, one by one ----------------------------------------------------------------------


@generated
@given(st.lists(frames(), min_size=1, max_size=8), st.sampled_from(["inner", "outer"]),
       st.sampled_from(["ip", "frame", "payload"]), st.booleans(),
       st.none() | prefixes(min_size=1, max_size=2))
def test_dissect_core_equals_reference_on_generated_frames(
    content: list[Frame], at: str, layer: str, trust: bool, endpoints: Any
) -> None:
    options = {"at": at, "layer": layer, "trust_ip_length": trust, "endpoints": endpoints}
    for fast_row, slow_row in zip(
            core_rows(content, **options), reference_rows(content, **options), strict=True):
        names = slow_row if slow_row["bucket"] == METERED else (
            "bucket", "fault", "octets", "frame_octets", "tunnel_octets")
        assert {n: fast_row[n] for n in names} == {n: slow_row[n] for n in names}


def test_dissect_authentication_header_that_the_wire_has_no_room_for() -> None:
    """Its fixed fields are 12 octets (RFC 4302 §2): with 8 on the wire it is none, whatever a
    longer capture would have shown, and the packet ends there, metered as a whole."""
    header = bytes.fromhex("60000000 0008 33 40") + bytes(15) + b"\x07" + bytes(15) + b"\x07"
    cut = Frame(bytes(12) + b"\x86\xdd" + header, 0, 14 + 40 + 8, 1, 0)
    [fast_row], [slow_row] = core_rows([cut]), reference_rows([cut])
    for row in (fast_row, slow_row):
        assert (row["octets"], row["protocol"], row["flags"]) == (48, 51, 0)


# --- whole runs ------------------------------------------------------------------------------


@generated
@given(st.data())
def test_engine_equals_reference_on_generated_captures_and_rules(data: st.DataObject) -> None:
    rules, start_s = data.draw(rule_sets())
    files, workers = data.draw(st.sampled_from([(1, 1), (1, 1), (3, 1), (3, 2)]))
    assert_same(data.draw(traffic(start_s)), rules, files=files, workers=workers)


def test_engine_equals_reference_on_the_table_of_packets() -> None:
    rules = RuleSet("table", "sha256:0", Meter(window_s=3600), (
        Pool((prefix("10.0.0.0/8"), prefix("2001:db8::/48"), prefix("203.0.113.0/24"))),))
    content = [Frame(c.octets, n * 60 * 10**9, c.original, c.link_type) for n, c in enumerate(
        c for c in CASES if not c.trust and c.link_type != 0xFFFF)]
    for at in ("inner", "outer"):
        for layer in ("ip", "frame", "payload"):
            assert_same(content, rules, at=at, layer=layer)


def test_engine_equals_reference_where_expressions() -> None:
    rules = RuleSet("where", "sha256:0", Meter(), (
        Pool((prefix("10.0.0.0/8"), prefix("2001:db8::/48"))),), SPONSORS, tuple(
            Rule(f"w{n}", n, Match(where=text), (Split("a", Fraction(1, 2)),))
            for n, text in enumerate([
                "octets > 100 and server_port != 443", "vlan == 100 or not gtp_teid != 0xbeef",
                "protocol == tcp and tcp_flags & 0x08", "depth > 1 and direction == uplink"])))
    content = [Frame(c.octets, n * 60 * 10**9, c.original, c.link_type) for n, c in enumerate(
        c for c in CASES if not c.trust and c.link_type != 0xFFFF)]
    assert_same(content, rules)


# --- the slow judge's own values, worked out by hand -----------------------------------------

SPONSORS = {name: Sponsor(name, f"sponsor:{name}") for name in "ab"}
UDP = next(c for c in CASES if c.description == "IPv4, UDP")
POOLS = (Pool((prefix("10.0.0.0/8"),)),)


def packets(*seconds: int) -> list[Frame]:
    """As many packets of 48 octets, at these instants."""
    return [Frame(UDP.octets, s * 10**9, UDP.original, UDP.link_type) for s in seconds]


def rule(*splits: Split, per: Any = "session") -> Rule:
    return Rule("r", 1, Match(), splits, per)


@pytest.mark.parametrize(("splits", "total", "paid"), [
    ((Split("a", Fraction(7, 10)),), 99, [69]),  # ⌊69.3⌋
    ((Split("a", Fraction(1, 3)), Split("b", Fraction(1, 3))), 100, [33, 33]),  # 33 of 67, by half
    ((Split("a", Fraction(1, 2)), Split("b", Fraction(1, 2))), 99, [49, 50]),  # b takes the rest
    ((Split("a", Fraction(1), 50),), 99, [50]),
    ((Split("a", Fraction(1, 2), 10), Split("b", Fraction(1, 2))), 99, [10, 50]),
])
def test_shares_by_hand(splits: tuple[Split, ...], total: int, paid: list[int]) -> None:
    assert shares(rule(*splits), total) == paid


@given(st.integers(0, 10**6), st.data())
def test_shares_are_monotone_and_never_exceed_the_total(total: int, data: st.DataObject) -> None:
    rules, _ = data.draw(rule_sets())
    for item in rules.rules:
        before, after = shares(item, total), shares(item, total + 1)
        assert all(b <= a for b, a in zip(before, after, strict=True))
        assert sum(after) <= total + 1


def test_grant_by_largest_remainder() -> None:
    # 10 of 7 : 7 : 6 is 3.5, 3.5, 3: the first of the equal remainders gets the octet.
    assert grant({"x": 7, "y": 7, "z": 6}, 10) == {"x": 4, "y": 3, "z": 3}
    assert grant({"x": 7}, 7) == {"x": 7}


def test_quota_cuts_inside_the_crossing_packet() -> None:
    rules = RuleSet("q", "sha256:0", Meter(), POOLS, SPONSORS, (
        rule(Split("a", quota_octets=100), per="day"),))
    figures = slow(packets(0, 1, 2), rules)
    assert figures["metered"] == {
        "packets": 3, "octets": 144, "subscriber_octets": 44, "sponsor_octets": {"a": 100}}
    # The next day brings a new quota; what was booked before this run uses it up.
    assert slow(packets(0, 1, 2, 86_400), rules)["metered"]["sponsor_octets"] == {"a": 148}
    assert slow(packets(0, 1, 2), rules, prior={("10.0.0.7", "10.0.0.7", "r", 0): 90})["metered"][
        "sponsor_octets"] == {"a": 10}


def test_engine_equals_reference_after_earlier_runs() -> None:
    sponsors = {"a": replace(SPONSORS["a"], budget=Budget(100, "day")), "b": SPONSORS["b"]}
    splits = Split("a", Fraction(1, 2), 70), Split("b", Fraction(1, 3), 40)
    rules = RuleSet("p", "sha256:0", Meter(window_s=3600), POOLS, sponsors, (
        rule(*splits, per="day"),))
    content = packets(0, 1, 3600, 86_399, 86_400)
    prior, spent = {("10.0.0.7", "10.0.0.7", "r", 0): 55}, {("a", 86_400 * 10**9): 90}
    judged = expected(slow(content, rules, prior=prior, spent=spent))
    assert document(fast(content, rules, prior=lambda cells: (prior, spent))) == judged
    # a: ⌊247 / 2⌋ = 123 is cut at 70, 27 were booked; on the next day 10 of 24 are left.
    assert judged["metered"]["sponsor_octets"] == {"a": 70 - 27 + 10, "b": 40 - 18 + 16}


def test_budget_goes_window_by_window() -> None:
    sponsors = {"a": replace(SPONSORS["a"], budget=Budget(100, "day"))}
    rules = RuleSet("b", "sha256:0", Meter(window_s=3600), POOLS, sponsors, (rule(Split("a")),))
    figures = slow(packets(0, 3600, 7200, 86_400), rules)
    assert [r["sponsor_octets"] for r in figures["usage"]] == [
        {"a": 48}, {"a": 48}, {"a": 4}, {"a": 48}]
    assert slow(packets(0), rules, spent={("a", 0): 90})["usage"][0]["sponsor_octets"] == {"a": 10}


@pytest.mark.parametrize(("zone", "unit", "instant_s", "start_s", "length_s"), [
    ("UTC", 3600, 3599, 0, 3600),
    # 2026-10-25 in Berlin has 25 hours, 2026-03-29 has 23.
    ("Europe/Berlin", 86_400, 1_792_886_400, 1_792_879_200, 90_000),
    ("Europe/Berlin", 86_400, 1_774_742_400, 1_774_738_800, 82_800),
    # Six hours from midnight are seven of a day on which an hour is repeated.
    ("Europe/Berlin", 21_600, 1_792_886_400, 1_792_879_200, 25_200),
    # Havana's clocks go from 01:00 back to 00:00: one day, which begins at the first midnight.
    ("America/Havana", 86_400, 1_793_514_000, 1_793_505_600, 90_000),
    # Lord Howe's go from 02:00 to 01:30: an hour and a half between 01:00 and 02:00.
    ("Australia/Lord_Howe", 3600, 1_775_314_800, 1_775_311_200, 5400),
    ("Asia/Shanghai", "month", 1_795_966_200, 1_793_462_400, 30 * 86_400),
])
def test_span_by_hand(zone: str, unit: Any, instant_s: int, start_s: int, length_s: int) -> None:
    start_ns, end_ns = span(zone, unit, instant_s * 10**9)
    assert (start_ns, end_ns) == (start_s * 10**9, (start_s + length_s) * 10**9)
