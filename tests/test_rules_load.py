"""Valid rules files: the exact values, the version, the warnings."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tollsplit import rules
from tollsplit.rules.rule import (
    Budget,
    Ingress,
    Match,
    Meter,
    Pool,
    Prefix,
    Rule,
    Split,
    Sponsor,
    Tariff,
    Tax,
    Tenure,
    Tier,
    TimeBand,
)

ROOT = Path(__file__).resolve().parents[1]
ALICE = Prefix(4, 0x0A000007, 32)


def load(tmp_path: Path, document: str, **files: str) -> rules.RuleSet:
    (tmp_path / "rules.toml").write_text(document)
    for name, content in files.items():
        (tmp_path / f"{name}.txt").write_text(content)
    return rules.load(tmp_path / "rules.toml")


def test_the_example_gives_exact_values() -> None:
    found = rules.load(ROOT / "examples/rules.toml")
    november = int(datetime(2026, 11, 1, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()) * 10**9
    home = Prefix(6, 0x20010DB8_00000007 << 64, 64)
    assert found.meter == Meter(
        "ip", "inner", 3600, False, "Asia/Shanghai", (Prefix(4, 0xC0000200, 28),)
    )
    assert found.pools == (
        Pool(
            (Prefix(4, 0x0A000000, 8), Prefix(6, 0x20010DB8 << 96, 32)),
            32,
            64,
            "address",
            (
                Tenure(ALICE, "alice", None, november),
                Tenure(ALICE, "bob", november, None),
                Tenure(Prefix(4, 0x0A000100, 24), "school", None, None),
                Tenure(home, "alice", None, None),
            ),
            "standard",
            "subscribers.csv",
        ),
    )
    video = Sponsor(
        "video-co", "sponsor:video-co", "video.example", Budget(10 * 2**40, "month"), "standard"
    )
    shop = Sponsor("shop-co", "sponsor:shop-co", "shop.example", None, "standard")
    assert found.sponsors == {"video-co": video, "shop-co": shop}
    assert found.ingresses == {"gi": Ingress("gi", "gi0", True)}
    where = "octets > 100 and server_port != 53"
    listed = (
        Prefix(4, 0xC6336400, 24),
        Prefix(4, 0xC0000250, 32),
        Prefix(6, 0x20010DB9CAFE << 80, 48),
    )
    proxy = Match(
        server=(Prefix(4, 0xCB007100, 24),), port=((443, 443),), protocol=frozenset({6})
    )
    tagged = Match(server=listed, dscp=frozenset({46}), where=where)
    lane = Match(dscp=frozenset({34}), ingress="gi", direction="downlink")
    lines = {r.id: r.line for r in found.rules}
    assert found.rules == (
        Rule(
            "pay-proxy",
            100,
            proxy,
            (Split("video-co", Fraction(7, 10), 50 * 2**20),),
            "day",
            100,
            line=lines["pay-proxy"],
        ),
        Rule(
            "tagged",
            200,
            tagged,
            (Split("video-co", Fraction(1, 2)), Split("shop-co", Fraction(3, 10))),
            "window",
            200,
            line=lines["tagged"],
        ),
        Rule("shop-lane", 300, lane, (Split("shop-co"),), line=lines["shop-lane"]),
    )
    text = (ROOT / "examples/rules.toml").read_text().split("\n")
    assert all(text[line] == f'id = "{identity}"' for identity, line in lines.items())
    tier = Tier(None, Fraction(290_000, 2**20))
    assert found.tariffs == {"standard": Tariff("standard", "CNY", (tier,), 1024, "day")}
    assert found.warnings == ()


def test_every_condition_and_spelling(tmp_path: Path) -> None:
    document = """
        [meter]
        window = "1mo"
        tunnel_endpoints = ["192.0.2.1", "192.0.2.2"]
        retransmissions = "exempt_if_identical"
        duplicates = "500us"
        unsolicited = true
        [[pools]]
        prefixes = "pool.txt"
        key = "gtp_teid"
        tariff = "tiered"
        [sponsors.a]
        budget = 1_000
        tariff = "tiered"
        [sponsors.b]
        budget = "1.5 kB"
        per = "campaign"
        [ingress.any]
        interface = "*"
        [[rules]]
        id = "first"
        precedence = 0
        tariff = "standard"
        unverified = true
        [rules.match]
        port = [443, "8000-8100"]
        protocol = ["TCP", 17, "sctp"]
        direction = "uplink"
        dscp = ["ef", "AF41", 0]
        flow_label = 0xFFFFF
        vlan = [1, 2]
        vlan_inner = 3
        mpls = 16
        gtp_teid = 0xFFFF_FFFF
        qfi = 9
        gre_key = 0
        vni = 5
        ingress = "any"
        where = '''octets > 1
            and ttl < 9'''
        [[rules.split]]
        sponsor = "a"
        share = "33.333%"
        [[rules.split]]
        sponsor = "b"
        share = "1/3"
        per = "session"
        [[rules]]
        id = "all"
        precedence = 4294967295
        split = { sponsor = "b" }
        [tariffs.standard]
        currency = "EUR"
        price = "3 EUR / 100 MB"
        bands = [{ from = 22:00:00, to = "06:00", price = "0 EUR / octet" }]
        [taxes.vat]
        rate = "13%"
        [taxes.city]
        rate = "1/3"
        account = "tax:the city"
        [tariffs.tiered]
        currency = "CNY"
        rounding_per = "day"
        minimum = "0.10 CNY"
        minimum_per = "month"
        taxes = ["vat", "city"]
        prices = "gross"
        tiers = [{ up_to = "1 GiB", price = "1 CNY / GiB" }, { price = "0.5 CNY/GiB" }]
    """
    found = load(tmp_path, document, pool="10.0.0.0/8\n10.0.0.0/8 # again\n::/0\n")
    assert found.meter.window_s is None
    assert found.meter.window_month
    assert found.meter.retransmissions == "exempt_if_identical"
    assert (found.meter.duplicates_ns, found.meter.unsolicited) == (500_000, True)
    assert found.meter.tunnel_endpoints == (
        Prefix(4, 0xC0000201, 32),
        Prefix(4, 0xC0000202, 32),
    )
    assert found.pools == (
        Pool((Prefix(4, 0x0A000000, 8), Prefix(6, 0, 0)), key="gtp_teid", tariff="tiered"),
    )
    assert found.sponsors == {
        "a": Sponsor("a", "sponsor:a", None, Budget(1000), "tiered"),
        "b": Sponsor("b", "sponsor:b", None, Budget(1500), "standard"),
    }
    first, last = found.rules
    assert first == Rule(
        "first",
        0,
        Match(
            port=((443, 443), (8000, 8100)),
            protocol=frozenset({6, 17, 132}),
            direction="uplink",
            dscp=frozenset({46, 34, 0}),
            flow_label=frozenset({0xFFFFF}),
            vlan=frozenset({1, 2}),
            vlan_inner=frozenset({3}),
            mpls=frozenset({16}),
            gtp_teid=frozenset({0xFFFFFFFF}),
            qfi=frozenset({9}),
            gre_key=frozenset({0}),
            vni=frozenset({5}),
            ingress="any",
            where="octets > 1\n            and ttl < 9",
        ),
        (Split("a", Fraction(33333, 100_000)), Split("b", Fraction(1, 3))),
        "session",
        unverified=True,
        tariff="standard",
        line=first.line,
    )
    assert first.match.claims == ("dscp", "flow_label")
    assert last == Rule("all", 4294967295, Match(), (Split("b"),), line=last.line)
    night = TimeBand(22 * 3600, 6 * 3600, (Tier(None, Fraction(0)),))
    per_gib = Fraction(10**6, 2**30)
    assert found.tariffs == {
        "standard": Tariff(
            "standard", "EUR", (Tier(None, Fraction(3, 100)),), bands=(night,)
        ),
        "tiered": Tariff(
            "tiered", "CNY", (Tier(2**30, per_gib), Tier(None, per_gib / 2)), 1, "day", (),
            Fraction(100_000), "month", (
                Tax("vat", Fraction(13, 100), "tax:vat"),
                Tax("city", Fraction(1, 3), "tax:the city")), "gross"),
    }
    assert found.warnings == ()


def test_the_smallest_file(tmp_path: Path) -> None:
    found = load(tmp_path, '[[pools]]\nprefixes = ["0.0.0.0/0", "::/0"]\nipv6_key = 128')
    assert found.pools == (Pool((Prefix(4, 0, 0), Prefix(6, 0, 0)), ipv6_key=128),)
    assert (found.meter, found.rules, found.tariffs) == (Meter(), (), {})


def test_rules_come_in_order_of_precedence(tmp_path: Path) -> None:
    document = '[[pools]]\nprefixes = ["10.0.0.0/8"]\n' + "".join(
        f'[[rules]]\nid = "r{n}"\nprecedence = {n}\nmatch = {{ vlan = {n} }}\n' for n in (3, 1, 2)
    )
    found = load(tmp_path, document)
    assert [(r.id, r.line) for r in found.rules] == [("r1", 7), ("r2", 11), ("r3", 3)]


def test_pools_that_each_hold_whole_subscribers_may_nest(tmp_path: Path) -> None:
    """A prefix below the key is refused only where another pool has some of that subscriber."""
    document = (
        '[[pools]]\nprefixes = ["10.0.0.0/8", "2001:db8::/32"]\nipv4_key = 24\n'
        '[[pools]]\nprefixes = ["10.1.0.0/16", "10.1.0.128/25", "10.2.0.0/24"]\nipv4_key = 24\n'
        '[[pools]]\nprefixes = ["10.1.0.7"]\nkey = "gtp_teid"\nipv4_key = 24\n'
        '[[pools]]\nprefixes = ["192.0.2.128/25"]\nipv4_key = 24\n'
    )
    assert len(load(tmp_path, document).pools) == 4


def test_no_tunnel_endpoints_is_an_answer(tmp_path: Path) -> None:
    found = load(tmp_path, '[meter]\ntunnel_endpoints = []\n[[pools]]\nprefixes = ["10.0.0.0/8"]')
    assert (found.meter.tunnel_endpoints, found.warnings) == ((), ())


VERSIONED = '[[pools]]\nprefixes = "a.txt"\n'


def test_version_follows_every_octet_of_every_file(tmp_path: Path) -> None:
    version = load(tmp_path, VERSIONED, a="10.0.0.0/8\n").version
    assert version.startswith("sha256:") and len(version) == 71
    assert load(tmp_path, VERSIONED, a="10.0.0.0/8\n").version == version
    others = {
        load(tmp_path, VERSIONED + "# another\n", a="10.0.0.0/8\n").version,
        load(tmp_path, VERSIONED, a="10.0.0.0/8\n\n").version,
        load(tmp_path, VERSIONED.replace("a.txt", "b.txt"), b="10.0.0.0/8\n").version,
    }
    assert len(others | {version}) == 4


def test_version_does_not_follow_the_place_of_the_rules(tmp_path: Path) -> None:
    places = [tmp_path / "here", tmp_path / "there"]
    for place in places:
        place.mkdir()
    assert len({load(p, VERSIONED, a="10.0.0.0/8").version for p in places}) == 1


ENDPOINTS = (
    'meter: without "tunnel_endpoints" every tunnel is looked into, a subscriber\'s own too: '
    "what he writes inside could be sponsored, or pass for a tunnel's signalling; "
    "list the addresses between which the network itself tunnels ([]: none)"
)
WARNED = [
    (
        "sponsor, ingress and tariff that nobody uses",
        '[sponsors.a]\n[ingress.i]\ninterface = "x"\n[tariffs.standard]\ncurrency = "CNY"\n'
        'price = "1 CNY / MiB"\n[tariffs.other]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\n',
        [
            '1: sponsor "a": no rule names it',
            '2: ingress "i": no rule names it',
            '7: tariff "other": nobody pays by it',
        ],
    ),
    (
        "a tax that no tariff names, minimums that the first increment reaches or not",
        '[taxes.vat]\nrate = "13%"\n[tariffs.standard]\ncurrency = "CNY"\n'
        'price = "1 CNY / MB"\nincrement = "1 MB"\nminimum = "1 CNY"\n'
        '[[pools]]\nprefixes = ["12.0.0.0/8"]\ntariff = "night"\n'
        '[tariffs.night]\ncurrency = "CNY"\nincrement = "2 MB"\nminimum = "1.5 CNY"\n'
        'tiers = [{ up_to = "1 MB", price = "1 CNY / MB" }, { price = "0.50 CNY / MB" }]\n'
        'bands = [{ from = "22:00", to = "06:00", price = "1 CNY / MB" }]\n'
        '[[pools]]\nprefixes = ["11.0.0.0/8"]\ntariff = "day"\n'
        '[tariffs.day]\ncurrency = "CNY"\nincrement = "2 MB"\nminimum = "1.6 CNY"\n'
        'tiers = [{ up_to = "1 MB", price = "1 CNY / MB" }, { price = "0.50 CNY / MB" }]\n',
        [
            '1: tax "vat": no tariff names it',
            '7: tariff "standard": "minimum" adds nothing: the first increment costs as much',
            '14: tariff "night": "minimum" adds nothing: the first increment costs as much',
        ],
    ),
    (
        "a rule behind a broader one",
        '[[rules]]\nid = "wide"\nprecedence = 1\nmatch = { server = ["192.0.2.0/24"] }\n'
        '[[rules]]\nid = "narrow"\nprecedence = 2\n'
        'match = { server = ["192.0.2.1", "192.0.2.128/25"], port = 443 }\n'
        '[[rules]]\nid = "wider"\nprecedence = 3\nmatch = { server = ["192.0.2.0/23"] }\n',
        ['5: rule "narrow": it can never match: rule "wide" on line 1 comes first and takes '
         "all of it"],
    ),
    (
        "a rule behind one without a server, in the file before it",
        '[[rules]]\nid = "b"\nprecedence = 2\nmatch = { vlan = 7, protocol = "udp", port = 53 }\n'
        '[[rules]]\nid = "a"\nprecedence = 1\nmatch = { vlan = [7, 8], port = "1-99" }\n',
        ['1: rule "b": it can never match: rule "a" on line 5 comes first and takes all of it'],
    ),
    (
        "rules that differ in some condition are not shadowed",
        "".join(
            f'[[rules]]\nid = "r{n}"\nprecedence = {n}\nmatch = {{ {match} }}\n'
            for n, match in enumerate(
                [
                    'direction = "uplink"',
                    'where = "ttl > 1"',
                    'where = "ttl > 2"',
                    "vlan = 1",
                    "vlan = [1, 2]",
                    'port = ["1-9", 20]',
                    'port = "1-20"',
                    'server = ["192.0.2.0/24"], vni = 1',
                    'server = ["192.0.2.0/24"]',
                ]
            )
        ),
        [],
    ),
    (
        "tunnels that anybody can make, with nobody's split",
        '[meter]\n',
        ["1: " + ENDPOINTS],
    ),
    (
        "servers that are subscribers, protocols without ports, a quota without a period",
        '[sponsors.a]\n[[rules]]\nid = "r"\nprecedence = 1\nsplit = { sponsor = "a", quota = 9 }\n'
        'match = { server = ["10.1.0.0/16"], port = 1, protocol = ["tcp", "icmp"] }\n',
        [
            '2: rule "r": every server lies inside a pool and is a subscriber itself',
            '2: rule "r": "protocol" lists some that have no ports: they never match',
            '5: rule "r": a "quota" without "per" holds for each window anew',
        ],
    ),
    (
        "a pool narrower than its subscribers, a directory beyond it",
        '[[pools]]\nprefixes = ["2001:db8::1/128"]\ndirectory = "who.txt"\n',
        [
            "2: pool 1: 2001:db8::1/128 is less than one subscriber, who is 2001:db8::/64 "
            "(ipv6_key = 64)",
            "3: pool 1: the directory names 11.0.0.1/32, which is outside the pool (1 such rows)",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "expected"), [pytest.param(d, e, id=name) for name, d, e in WARNED]
)
def test_odd_rules_are_warned_of(document: str, expected: list[str], tmp_path: Path) -> None:
    document += '[[pools]]\nprefixes = ["10.0.0.0/8"]\n'
    document += "" if "[meter]" in document else "[meter]\ntunnel_endpoints = []\n"
    found = load(tmp_path, document, who="prefix,account\n11.0.0.1,x\n")
    assert list(found.warnings) == [f"{tmp_path / 'rules.toml'}:{text}" for text in expected]


def test_a_hundred_thousand_prefixes_load_fast(tmp_path: Path) -> None:
    lines = "".join(f"{n >> 16}.{n >> 8 & 255}.{n & 255}.0/24\n" for n in range(100_000))
    # Further rules with the file make no further work.
    document = '[[pools]]\nprefixes = ["100.64.0.0/10"]\n' + "".join(
        f'[[rules]]\nid = "r{n}"\nprecedence = {n}\nmatch = {{ server = "list.txt", vlan = {n} }}\n'
        for n in range(3)
    )
    load(tmp_path, document, list=lines)  # so that nothing is measured but loading
    start = time.process_time()
    found = rules.load(tmp_path / "rules.toml")
    # 0.3 s on a quiet machine; the margin is for a busy one.
    assert time.process_time() - start < 1.5
    assert len(found.rules[2].match.server or ()) == 100_000


def test_loading_rules_imports_neither_numpy_nor_numba() -> None:
    program = (
        "import sys; from tollsplit.rules import load; load(sys.argv[1]);"
        "sys.exit(bool({'numpy', 'numba'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", program, ROOT / "examples/rules.toml"], check=True)
