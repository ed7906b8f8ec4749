"""The same traffic seen at two points of a network, metered by each party, and reconciled."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from packets import ETHERNET, RAW, SLL2
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinuxV2, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet
from scapy.packet import Raw as Payload

from tollsplit import account
from tollsplit.cli import main
from tollsplit.reconcile import Finding, reconcile

START_S = 1_793_664_000  # 2026-11-03 00:00 UTC
RULES = """
[meter]
window = "1h"
[[pools]]
prefixes = ["10.0.0.0/8", "2001:db8::/48"]
[sponsors.video-co]
[[rules]]
id = "video"
precedence = 100
match = { server = ["203.0.113.0/24", "2001:db8:ffff::/48"], port = 443 }
split = { sponsor = "video-co", share = "70%" }
[tariffs.standard]
currency = "CNY"
price = "0.29 CNY / MiB"
"""


class Sent(NamedTuple):
    """A packet, and what it has to be counted as."""

    time_s: float
    packet: Packet
    subscriber: str
    rule: str | None
    uplink: bool

    @property
    def octets(self) -> int:
        return len(bytes(self.packet))


def traffic(count: int = 600) -> list[Sent]:
    """Three hours of three subscribers, up and down, IPv4 and IPv6, video and other servers."""
    chance = random.Random(5)
    sent = []
    for _ in range(count):
        number = chance.randrange(1, 4)
        video, uplink, six = (chance.random() < 0.5 for _ in range(3))
        subscriber, server = (
            (f"2001:db8:0:{number}::7", "2001:db8:ffff::5" if video else "2001:4860::8") if six
            else (f"10.0.0.{number}", "203.0.113.5" if video else "192.0.2.8"))  # fmt: skip
        ends = (subscriber, server) if uplink else (server, subscriber)
        ports = (50_000, 443) if uplink else (443, 50_000)
        layer, transport = (IPv6 if six else IP), chance.choice((TCP, UDP))
        packet = (layer(src=ends[0], dst=ends[1]) / transport(sport=ports[0], dport=ports[1])
                  / Payload(b"x" * chance.randrange(1_200)))  # fmt: skip
        name = f"2001:db8:0:{number}::/64" if six else subscriber
        sent.append(Sent(START_S + chance.randrange(3 * 3600), packet, name,
                         "video" if video else None, uplink))  # fmt: skip
    return sorted(sent, key=lambda one: one.time_s)


def ethernet(packet: Packet) -> bytes:
    """At the operator's gateway: two VLAN tags, and the padding of short frames."""
    return bytes(Ether() / Dot1AD(vlan=100) / Dot1Q(vlan=7) / packet).ljust(64, b"\0")


def cooked(packet: Packet) -> bytes:
    """At the sponsor's server."""
    return bytes(CookedLinuxV2(proto=0x86DD if IPv6 in packet else 0x0800) / packet)


def capture(path: str, link: int, sent: Iterable[Sent], frame: Callable[[Packet], bytes]) -> None:
    with open(path, "wb") as stream:
        stream.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link))
        for one in sent:
            octets = frame(one.packet)
            head = int(one.time_s), 0, len(octets), len(octets)
            stream.write(struct.pack("<IIII", *head) + octets)


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """What was sent; the operator's capture of it, accounted into his ledger."""
    monkeypatch.chdir(tmp_path)
    Path("rules.toml").write_text(RULES)
    found = traffic()
    capture("gateway.pcap", ETHERNET, found, ethernet)
    report = account("gateway.pcap", "rules.toml", ledger="sqlite:///books.db")
    assert report.identity_holds
    Path("gateway.json").write_text(report.to_json())
    return found


def meter(name: str, link: int, sent: Iterable[Sent], frame: Callable[[Packet], bytes]) -> None:
    capture(f"{name}.pcap", link, sent, frame)
    report = account(f"{name}.pcap", "rules.toml")
    assert report.identity_holds
    Path(f"{name}.json").write_text(report.to_json())


@pytest.mark.parametrize(("link", "frame"), [(SLL2, cooked), (RAW, bytes)], ids=["cooked", "raw"])
@pytest.mark.parametrize("ours", ["gateway.json", "sqlite:///books.db"])
def test_reconcile_the_same_traffic_at_two_points_agrees(
    sent: list[Sent], ours: str, link: int, frame: Callable[[Packet], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    meter("server", link, sent, frame)
    assert Path("server.pcap").read_bytes() != Path("gateway.pcap").read_bytes()
    with reconcile(ours, "server.json") as found:
        assert found.agrees and found.notes == []
        octets = found.usage.totals
        assert octets["uplink_octets"] == [sum(s.octets for s in sent if s.uplink)] * 2
        assert octets["downlink_octets"] == [sum(s.octets for s in sent if not s.uplink)] * 2
        assert found.usage.counts["agreeing"] > 30 and found.charges.counts["agreeing"] > 3
    assert main(["reconcile", ours, "server.json"]) == 0


def test_reconcile_names_the_packets_that_one_side_lost(
    sent: list[Sent], capsys: pytest.CaptureFixture[str]
) -> None:
    lost = [sent[number] for number in (5, 211, 212, 400, 599)]
    meter("server", SLL2, [one for one in sent if one not in lost], cooked)
    expected: dict[tuple[object, ...], dict[str, int]] = {}
    for one in lost:
        key = (int(one.time_s) // 3600 * 3600, one.subscriber, one.rule)
        way = "uplink" if one.uplink else "downlink"
        figures = expected.setdefault(key, {})
        for name, less in ((f"{way}_packets", 1), (f"{way}_octets", one.octets)):
            figures[name] = figures.get(name, 0) - less
    with reconcile("sqlite:///books.db", "server.json") as found:
        lines = [f for f in found.findings() if f.kind == "usage"]
        assert not found.agrees
        assert found.usage.counts["differing"] == len(expected) == len(lines)
    got = {}
    for line in lines:
        apart = {f.name: f.difference for f in line.figures if f.difference}
        paid = {name: apart.pop(name) for name in [*apart] if name.endswith("subscriber_octets")
                or name.startswith("sponsor_octets")}  # fmt: skip
        # What the payers have less is what was lost.
        assert sum(paid.values()) == sum(n for name, n in apart.items() if "octets" in name)
        got[start_s(line), line.key["subscriber"], line.key["rule"]] = apart
    assert got == expected
    assert main(["reconcile", "gateway.json", "server.json", "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert len([one for one in document["lines"] if one["line"] == "usage"]) == len(expected)


def start_s(line: Finding) -> int:
    assert line.window[0] is not None
    return line.window[0] // 10**9


def test_reconcile_the_sponsors_own_capture_of_his_traffic_agrees(sent: list[Sent]) -> None:
    """He sees his servers' packets only, and does not know the operator's other rules."""
    meter("server", SLL2, [one for one in sent if one.rule == "video"], cooked)
    with reconcile("sqlite:///books.db", "server.json", sponsor="video-co") as found:
        assert found.agrees and found.usage.counts["agreeing"] > 15
        assert found.notes == ["amounts not compared: they are whole accounts'"]
    with reconcile("sqlite:///books.db", "server.json") as found:
        assert found.usage.counts["missing_theirs"] > 15
