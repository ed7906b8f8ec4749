"""Counters as columns: their order, whatever their number, kind and time."""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import ip_address, ip_network

import numpy as np
import pytest
from judges import Frame
from strategies import capture, ethernet, ip_type, ipv4, ipv6, udp
from test_reference import assert_same, fast

from tollsplit.cext.columns import counters
from tollsplit.cext.dissect import Dissection
from tollsplit.cext.layout import SUBSCRIBER
from tollsplit.cext.meter import Meter as Core
from tollsplit.cext.reader import Reader
from tollsplit.cext.subscribers import order_of
from tollsplit.engine.cells import Cells
from tollsplit.engine.pipeline import Tally, tally
from tollsplit.engine.usage import Provenance
from tollsplit.model import UsageRecord
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import Match, Meter, Pool, Prefix, Rule, RuleSet, Split, Sponsor, Tenure

START_NS = 1_793_505_600_000_000_000
SECOND_NS = 10**9
SPONSORS = {name: Sponsor(name, f"sponsor:{name}") for name in "ab"}


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.version, int(network.network_address), network.prefixlen)


def frame(source: str, at_ns: int, size: int = 20, port: int = 80) -> Frame:
    datagram = udp(1000, port, bytes(size))
    if ip_address(source).version == 4:
        packet = ipv4(17, datagram, source, "203.0.113.5", tos=port % 64 << 2)
    else:
        packet = ipv6(17, datagram, source, "2001:db8:ffff::5", tos=port % 64 << 2)
    octets = ethernet(ip_type(packet), packet)
    return Frame(octets, at_ns, len(octets), 1)


def rule(number: int, *splits: Split, per: str = "day") -> Rule:
    """A rule for a port, told by the DSCP: with ports the order of packets would matter."""
    return Rule(f"r{number}", number, Match(dscp=frozenset({number % 64})), splits, per)  # type: ignore


def test_columns_sort_keys_wider_than_a_word() -> None:
    """70,000 windows of subscribers from all of IPv4: with the slot's, more than 64 bits."""
    draw = random.Random(1)
    rules = RuleSet("r", "v", Meter(layer="frame", window_s=1),
                    (Pool((prefix("0.0.0.0/1"), prefix("224.0.0.0/3"))),))
    packets = [(draw.getrandbits(31) | draw.choice([0, 7 << 29]), draw.randrange(70_000),
                draw.randrange(99)) for _ in range(2_000)]
    packets += [(7, second, 1) for second in range(70_000)]
    # Windows that begin in their order cost least to keep; a few packets are late.
    packets.sort(key=lambda packet: packet[1])
    packets += packets[:300]
    wanted: Counter[tuple[int, int]] = Counter()
    for who, second, size in packets:
        wanted[second, who] += size + 42
    framed = {who_size: frame(str(ip_address(who_size[0])), 0, who_size[1])
              for who_size in {(who, size) for who, _, size in packets}}
    found = fast([framed[who, size]._replace(timestamp_ns=START_NS + second * SECOND_NS)
                  for who, second, size in packets], rules, workers=2)
    assert found.identity_holds
    assert [(int(r.window_start.timestamp()) - START_NS // SECOND_NS, r.subscriber, r.octets)
            for r in found.usage if r.window_start is not None] == [
        (second, str(ip_address(who)), octets)
        for (second, who), octets in sorted(wanted.items())]


def test_columns_order_plain_and_interned_subscribers_together() -> None:
    """IPv6 behind IPv4; networks, and addresses with changing holders, between plain addresses.

    10.1.2.0 is a subscriber by itself, in the later pool, and the key of the network around it.
    """
    draw = random.Random(2)
    tenures = tuple(Tenure(prefix("10.2.0.0/24"), account, since, until) for account, since, until
                    in (("x", None, START_NS), ("y", START_NS, START_NS + 5 * SECOND_NS)))
    pools = (Pool((prefix("10.0.0.0/16"), prefix("172.16.0.0/12"))),
             Pool((prefix("10.1.0.0/16"),), ipv4_key=24),
             Pool((prefix("10.1.2.0/32"), prefix("10.1.3.0/32"))),
             Pool((prefix("10.2.0.0/16"),), tenures=tenures),
             Pool((prefix("2001:db8::/32"),)), Pool((prefix("2001:db9::/32"),), ipv6_key=128))
    hosts = ["10.0.0.7", "10.0.255.1", "172.16.0.1", "10.1.2.0", "10.1.2.9", "10.1.3.0",
             "10.1.0.1", "10.1.255.1", "10.2.0.1", "10.2.0.2", "10.2.9.1", "2001:db8:1::1",
             "2001:db8::7", "2001:db8::8", "2001:db9::7", "2001:db9::8", "2001:db9:f::7"]
    rules = RuleSet("r", "v", Meter(window_s=3600), pools, SPONSORS, (
        rule(80, Split("a", quota_octets=90)), rule(81, Split("b")), rule(82)))
    frames = [frame(draw.choice(hosts), START_NS + draw.randrange(-9, 9) * 600 * SECOND_NS,
                    port=draw.randrange(80, 84)) for _ in range(600)]
    assert_same(frames, rules)
    assert_same(frames, rules, files=3, workers=3)
    names = list(dict.fromkeys(r.subscriber for r in fast(frames, rules).usage))
    assert names.index("10.1.2.0/24") + 1 == names.index("10.1.2.0")


@pytest.mark.parametrize("window_s", [None, 60, 3600, 86_400])
@pytest.mark.parametrize("per", ["window", "day", "session"])
def test_columns_hold_cells_and_periods_of_any_length(window_s: int | None, per: str) -> None:
    """Windows of one cell or several, and totals that run on from window to window."""
    draw = random.Random(3)
    rules = RuleSet("r", "v", Meter(window_s=window_s, zone="Asia/Shanghai"),
                    (Pool((prefix("10.0.0.0/8"),)),), SPONSORS, (
        rule(80, Split("a", quota_octets=500), per=per), rule(81, Split("b"), per="day")))
    frames = [frame(f"10.0.0.{draw.randrange(9)}",
                    START_NS + draw.randrange(100) * 3700 * SECOND_NS,
                    draw.randrange(99), draw.randrange(80, 83)) for _ in range(400)]
    assert_same(frames, rules, files=2)


@pytest.mark.parametrize("tables", [2, 3, 7])
@pytest.mark.parametrize("window_s", [None, 3600])
def test_columns_of_several_tables_are_those_of_one(tables: int, window_s: int | None) -> None:
    """Subscribers of all kinds, in parts that threads make rows of; sums and times that fit no
    small counter when they are added up, and a table that counted nothing."""
    draw = random.Random(tables)
    pools = (Pool((prefix("10.0.0.0/16"),)), Pool((prefix("10.1.0.0/16"),), ipv4_key=24),
             Pool((prefix("2001:db8::/32"),)))
    rules = RuleSet("r", "v", Meter(layer="frame", window_s=window_s), pools, SPONSORS, (
        rule(80, Split("a", quota_octets=9000), per="window"), rule(81, Split("b"), per="window")))
    compiled = Compiled(rules)

    def frames(far: int) -> list[Frame]:
        hosts = [f"10.0.{draw.randrange(3)}.{draw.randrange(40)}" for _ in range(300)]
        hosts += [f"10.1.{draw.randrange(40)}.7" for _ in range(200)]
        hosts += [f"2001:db8:0:{draw.randrange(60):x}::1" for _ in range(200)]
        some = [frame(host, START_NS + far * 60 * 3600 * SECOND_NS + draw.randrange(10**9),
                      port=draw.randrange(80, 83)) for host in hosts]
        many = frame("10.0.0.7", START_NS + far * 60 * 3600 * SECOND_NS)
        return [*some, *[many] * 30_000, many._replace(original=2**31)]

    dealt = [frames(n) for n in range(tables - 1)] + [[]]

    def counted(parts: list[list[Frame]]) -> tuple[list[UsageRecord], Tally]:
        cells = Cells(rules)
        cores = [Core(Dissection("frame", "inner", False, None), compiled.classifier, cells.at)
                 for _ in parts]
        for core, part in zip(cores, parts, strict=True):
            reader = Reader()
            reader.feed(capture(part), True)
            core.run(reader)
        for core in cores[1:]:
            cores[0].annex(core)
        found = tally(rules, compiled, cells, cores[0], None, Provenance("", "", "frame"))
        return list(found.usage), found

    wanted, whole = counted([[frame for part in dealt for frame in part]])
    for order in (dealt, dealt[::-1]):
        records, found = counted(order)
        assert records == wanted
        assert found.identity_holds and found.metered == whole.metered


def test_columns_take_the_counters_out_of_the_table() -> None:
    rules = RuleSet("r", "v", pools=(Pool((prefix("10.0.0.0/8"),)),))
    compiled, cells = Compiled(rules), Cells(rules)
    core = Core(Dissection("ip", "inner", False, None), compiled.classifier, cells.at)
    assert len(counters(core.table)) == 0
    empty = core.table.octets
    whole = tally(rules, compiled, cells, core, None, Provenance("", "", "ip"))
    assert (len(whole.usage), whole.identity_holds, whole.metered.packets) == (0, True, 0)
    assert list(whole.usage) == [] and core.table.octets == empty
    assert {name: len(column) for name, column in whole.usage.columns().items()} == dict.fromkeys(
        whole.usage.columns(), 0)


@pytest.mark.parametrize("bits", [1, 12, 33, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 5000])
def test_subscribers_are_ordered_by_kind_key_pool_and_tenure(bits: int, count: int) -> None:
    draw = np.random.default_rng(bits)
    rows = np.zeros(count, SUBSCRIBER)
    for name in ("hi", "lo"):
        rows[name] = draw.integers(0, 2**bits, count, np.uint64, endpoint=False)
    for name, many in (("kind", 6), ("pool", 4000), ("tenure", 2**32)):
        rows[name] = draw.integers(0, many, count)
    rows[count // 2 :] = rows[: count - count // 2]  # equal ones stay in their order
    wanted = np.lexsort([rows[name] for name in ("tenure", "pool", "lo", "hi", "kind")])
    assert order_of(rows).tolist() == wanted.tolist()
