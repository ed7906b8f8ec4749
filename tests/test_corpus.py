"""Real captures: our figures against tshark's, for every file of the corpus.

tshark is unsure of some frames and follows other rules for some; DIFFERENCES lists each
such case with its exact effect, so that ours is always tshark's plus what is written there.
"""

from __future__ import annotations

import gzip
import ipaddress
import json
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from judges import Frame, Judge, Rows, core_rows, reference_rows
from test_reference import assert_bill

from tollsplit.capture import open_capture
from tollsplit.engine import meter, reference
from tollsplit.rules.rule import Match, Pool, Prefix, Rule, RuleSet, Split, Sponsor

CORPUS = Path(os.environ.get(
    "TOLLSPLIT_CORPUS", Path(__file__).resolve().parents[2] / "shared" / "corpus"))
FILES = sorted(p.name for p in CORPUS.glob("[0-9]*") if p.is_file())
FIGURES = ("outer", "inner", "dscp_outer", "dscp_inner", "vlan", "mpls", "pppoe", "gre_key",
           "vxlan_vni", "gtp_tpdu_by_teid", "frag_outer", "l4", "flows", "nonip")
PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "icmpv6",
             132: "sctp"}
Usage = Callable[..., tuple[list[dict[str, Any]], int]]
METERED, NON_IP = 0, 2
FRAGMENT, LATER_FRAGMENT = 16, 32


class Difference(NamedTuple):
    """Ours minus tshark's, figure by figure."""

    reason: str
    figures: dict[str, dict[Any, Any]]


def both(figures: dict[Any, Any]) -> dict[str, dict[Any, Any]]:
    """The same gap in the outer and the inner addresses."""
    return {"outer": figures, "inner": figures}


DIFFERENCES: dict[str, list[Difference]] = {
    "13": [Difference(
        "tshark's l4 and flows stop at the GRE header of PPTP (its addresses do not)",
        {"l4": {"gre": [-1, -210], "udp": [1, 174]},
         "flows": {("192.52.166.154", "16.0.0.200", "gre", 0, 0): [-1, -210],
                   ("8.8.8.8", "172.16.44.3", "udp", 53, 40768): [1, 174]}})],
    "26": [Difference(
        "three GTP-U messages that are no T-PDU (echo request, response, error indication) are"
        " control, nobody's traffic; tshark counts them by address",
        {**both({
            "247.56.43.90": [-1, -52, -66, 0, 0, 0],
            "247.56.43.248": [0, 0, 0, -1, -52, -66],
            "237.56.101.238": [-1, -42, -60, -1, -40, -60],
            "247.56.43.214": [-1, -40, -60, -1, -42, -60]}),
         "dscp_outer": {"v4:46": -2, "v4:0": -1}, "dscp_inner": {"v4:46": -2, "v4:0": -1},
         "l4": {"udp": [-3, -134]},
         "flows": {("247.56.43.214", "237.56.101.238", "udp", 2152, 2152): [-1, -40],
                   ("237.56.101.238", "247.56.43.214", "udp", 2152, 2152): [-1, -42],
                   ("247.56.43.90", "247.56.43.248", "udp", 2152, 2152): [-1, -52]}})],
    "30": [Difference(
        "four PPPoE discovery frames (0x8863) are no session of anybody yet",
        {"pppoe": {"0x0000": -3, "0x0011": -1}})],
    "34": [Difference(
        "five atomic fragments (offset 0, nothing more to come) are whole packets (RFC 6946)",
        {"frag_outer": {"v6.first": -5}})],
    "44": [
        Difference(
            "two L2TP control messages are control; tshark counts them by address",
            {**both({
                "95.136.242.99": [-1, -48, -70, -1, -40, -62],
                "109.6.1.72": [-1, -40, -62, -1, -48, -70]}),
             "dscp_outer": {"v4:48": -1, "v4:45": -1},
             "dscp_inner": {"v4:48": -1, "v4:45": -1},
             "l4": {"udp": [-2, -88]},
             "flows": {("109.6.1.72", "95.136.242.99", "udp", 1701, 1701): [-1, -40],
                       ("95.136.242.99", "109.6.1.72", "udp", 1701, 1701): [-1, -48]}}),
        Difference(
            "tshark's l4, flows and inner DSCP do not look into L2TP (its addresses do)",
            {"dscp_inner": {"v4:0": -11, "v6:0": 10, "v6:56": 1},
             "l4": {"udp": [-11, -1691], "tcp": [10, 1199], "icmpv6": [1, 64]},
             "flows": {
                 ("109.6.1.72", "95.136.242.99", "udp", 1701, 1701): [-5, -941],
                 ("95.136.242.99", "109.6.1.72", "udp", 1701, 1701): [-6, -750],
                 ("2a00:5e80:101:212d:504:7b1:2572:db22", "2606:f200:0:7:bad:f00d:d00d:1", "tcp",
                  37034, 80): [6, 522],
                 ("2606:f200:0:7:bad:f00d:d00d:1", "2a00:5e80:101:212d:504:7b1:2572:db22", "tcp",
                  80, 37034): [4, 677],
                 ("fe80::ca4c:75ff:fe78:ed00", "ff02::1", "icmpv6", 0, 0): [1, 64]}})],
    "48": [
        Difference(
            "two frames end inside a link header: faults, where tshark says not IP",
            {"nonip": {"n": -2}}),
        Difference(
            "GRE version 1 with protocol 0x6400, which is not PPTP's 0x880b (RFC 2637 §4.1):"
            " metered as the GRE packet that it is; tshark takes it for Ethernet",
            {"inner": {"192.0.2.80": [1, 82, 96, 0, 0, 0], "198.51.100.80": [0, 0, 0, 1, 82, 96],
                       "10.80.0.10": [-1, -40, -96, 0, 0, 0],
                       "10.80.0.20": [0, 0, 0, -1, -40, -96]},
             "gre_key": {"0x00360019": -1},
             "l4": {"gre": [1, 82], "tcp": [-1, -40]},
             "flows": {("192.0.2.80", "198.51.100.80", "gre", 0, 0): [1, 82],
                       ("10.80.0.10", "10.80.0.20", "tcp", 49180, 443): [-1, -40]}}),
        Difference(
            "tshark's l4 and flows do not look into Geneve, nor is Geneve's VNI in its list",
            {"vxlan_vni": {"100": 1, "200": 1},
             "l4": {"udp": [-2, -184], "tcp": [2, 84]},
             "flows": {("203.0.113.50", "203.0.113.51", "udp", 54190, 6081): [-1, -92],
                       ("203.0.113.50", "203.0.113.51", "udp", 54191, 6081): [-1, -92],
                       ("10.50.0.10", "10.50.0.20", "tcp", 49550, 443): [2, 84]}}),
        Difference(
            "a PPPoE discovery frame is no session of anybody yet", {"pppoe": {"0x0000": -1}})],
}


# --- the captures ----------------------------------------------------------------------------


def pcap_frames(content: bytes) -> Iterator[Frame]:
    order = "<" if content[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1",
                                   b"\x34\xcd\xb2\xa1") else ">"
    number = struct.unpack(order + "I", content[:4])[0]
    link_type = struct.unpack(order + "I", content[20:24])[0] & 0xFFFF
    unit_ns = 1 if number == 0xA1B23C4D else 1000
    header_octets = 24 if number == 0xA1B2CD34 else 16  # the "modified" format has more fields
    at = 24
    while at < len(content):
        seconds, fraction, captured, original = struct.unpack_from(order + "IIII", content, at)
        at += header_octets
        yield Frame(content[at : at + captured], seconds * 10**9 + fraction * unit_ns, original,
                    link_type)
        at += captured


def pcapng_frames(content: bytes) -> Iterator[Frame]:
    at, order, interfaces = 0, "<", []
    while at < len(content):
        if content[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if content[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        kind, octets = struct.unpack_from(order + "II", content, at)
        body = content[at + 8 : at + octets - 4]
        at += octets
        if kind == 1:
            interfaces.append(struct.unpack_from(order + "HHI", body)[::2])
        elif kind == 2:  # the obsolete packet block
            index, _, _, _, captured, original = struct.unpack_from(order + "HHIIII", body)
            yield Frame(body[20 : 20 + captured], 0, original, interfaces[index][0])
        elif kind == 3:  # a simple packet: its captured length follows from the snap length
            original = struct.unpack_from(order + "I", body)[0]
            link_type, snap = interfaces[0]
            yield Frame(body[4 : 4 + min(original, snap or original)], 0, original, link_type)
        elif kind == 6:
            index, _, _, captured, original = struct.unpack_from(order + "IIIII", body)
            yield Frame(body[20 : 20 + captured], 0, original, interfaces[index][0])


def read(name: str) -> list[Frame]:
    content = (CORPUS / name).read_bytes()
    if name.endswith(".gz"):
        content = gzip.decompress(content)
    ng = content[:4] == b"\x0a\x0d\x0d\x0a"
    return list(pcapng_frames(content) if ng else pcap_frames(content))


def facts_of(name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((CORPUS / "facts" / f"{name}.json").read_text())
    return facts


# --- figures, from rows and from facts -------------------------------------------------------


def text(version: int, address: int) -> str:
    return str(ipaddress.IPv4Address(address) if version == 4 else ipaddress.IPv6Address(address))


def protocol_name(row: dict[str, int]) -> str:
    if row["flags"] & LATER_FRAGMENT:
        return "frag"
    return PROTOCOLS.get(row["protocol"], f"p{row['protocol']}")


def add(table: dict[Any, list[int]], key: Any, *amounts: int, at: int = 0, of: int = 0) -> None:
    """Add amounts to the numbers of one key, `of` in all, from the one at `at` on."""
    numbers = table.setdefault(key, [0] * (of or len(amounts)))
    for index, amount in enumerate(amounts, at):
        numbers[index] += amount


def address_figures(rows: Rows) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for row in rows:
        if row["bucket"] == METERED:
            volume = (1, row["ip_octets"], row["frame_octets"])
            add(table, text(row["version"], row["source"]), *volume, of=6)
            add(table, text(row["version"], row["destination"]), *volume, at=3, of=6)
    return table


def tag_figures(rows: Rows) -> dict[str, dict[Any, Any]]:
    """How often each tag was met, whatever became of the frame."""
    vlan: Counter[str] = Counter()
    counters: dict[str, Counter[str]] = {
        name: Counter() for name in ("mpls", "pppoe", "gre_key", "vxlan_vni")}
    teids: dict[str, list[int]] = {}
    for row in rows:
        tags = row["tags"]
        if tags & 1:
            vlan[f"{row['vlan']}/{row['vlan_inner']}" if tags & 2 else str(row["vlan"])] += 1
        if tags & 4:
            counters["mpls"][str(row["mpls"])] += 1
        if tags & 128:
            counters["pppoe"][f"0x{row['pppoe_session']:04x}"] += 1
        if tags & 32:
            counters["gre_key"][f"0x{row['gre_key']:08x}"] += 1
        if tags & 64:
            counters["vxlan_vni"][str(row["vni"])] += 1
        if tags & 8:
            add(teids, str(row["gtp_teid"]), 1, row["ip_octets"], row["frame_octets"])
    return {"vlan": vlan, "gtp_tpdu_by_teid": teids, **counters}


def figures_of_rows(outer: Rows, inner: Rows) -> dict[str, dict[Any, Any]]:
    l4: dict[str, list[int]] = {}
    flows: dict[tuple[Any, ...], list[int]] = {}
    fragments: Counter[str] = Counter()
    for row in inner:
        if row["bucket"] == METERED:
            name = protocol_name(row)
            add(l4, name, 1, row["ip_octets"])
            add(flows, (text(row["version"], row["source"]),
                        text(row["version"], row["destination"]), name, row["source_port"],
                        row["destination_port"]), 1, row["ip_octets"])
    for row in outer:
        if row["flags"] & FRAGMENT:
            kind = "later" if row["flags"] & LATER_FRAGMENT else "first"
            fragments[f"v{row['version']}.{kind}"] += 1
    return {
        "outer": address_figures(outer), "inner": address_figures(inner), "l4": l4,
        "flows": flows, "frag_outer": fragments, **tag_figures(inner),
        "dscp_outer": Counter(f"v{r['version']}:{r['dscp']}" for r in outer
                              if r["bucket"] == METERED),
        "dscp_inner": Counter(f"v{r['version']}:{r['dscp']}" for r in inner
                              if r["bucket"] == METERED),
        "nonip": {"n": sum(r["bucket"] == NON_IP for r in inner)},
    }


def figures_of_facts(facts: dict[str, Any]) -> dict[str, dict[Any, Any]]:
    def same(key: str) -> Any:
        value = facts[key]
        if isinstance(value, str):  # "=outer": as the figure of that name
            return same(key.replace("inner", "outer").replace("any", value[1:]))
        return value

    mpls: Counter[str] = Counter()
    for stack, count in facts.get("mpls", {}).items():
        mpls[stack.split("/")[0]] += count
    flows = {tuple(flow[:5]): flow[5:] for flow in facts["flows"]}
    return {
        "outer": same("outer")["addr"], "inner": same("any")["addr"],
        "dscp_outer": same("dscp_outer"), "dscp_inner": same("dscp_inner"),
        # "s" marks a service tag (0x88a8) there.
        "vlan": {ids.replace("s", ""): n for ids, n in facts.get("vlan", {}).items()},
        "mpls": mpls, "l4": facts["l4"], "flows": flows, "nonip": {"n": facts["nonip"]["n"]},
        **{key: facts.get(key, {}) for key in (
            "pppoe", "gre_key", "vxlan_vni", "gtp_tpdu_by_teid", "frag_outer")},
    }


def minus(ours: dict[Any, Any], theirs: dict[Any, Any]) -> dict[Any, Any]:
    """Ours minus theirs, without what is equal."""
    rest: dict[Any, Any] = {}
    for key in ours.keys() | theirs.keys():
        one, other = ours.get(key, 0), theirs.get(key, 0)
        if isinstance(one, list) or isinstance(other, list):
            one, other = one or [0] * len(other), other or [0] * len(one)
            gap: Any = [a - b for a, b in zip(one, other, strict=True)]
            if any(gap):
                rest[key] = gap
        elif one != other:
            rest[key] = one - other
    return rest


def differences(name: str, figure: str) -> dict[Any, Any]:
    """What DIFFERENCES explains of one figure of a file, summed."""
    total: dict[Any, Any] = {}
    for difference in DIFFERENCES.get(name[:2], []):
        for key, gap in difference.figures.get(figure, {}).items():
            if isinstance(gap, list):
                add(total, key, *gap)
            else:
                total[key] = total.get(key, 0) + gap
    return total


# --- the tests -------------------------------------------------------------------------------

needs_corpus = pytest.mark.skipif(
    not FILES, reason=f"no captures at {CORPUS}: set TOLLSPLIT_CORPUS")


@needs_corpus
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("judge", [reference_rows, core_rows])
def test_corpus_figures_equal_tshark(judge: Judge, name: str) -> None:
    frames, facts = read(name), facts_of(name)
    assert len(frames) == facts["packets"]
    assert sum(f.original for f in frames) == facts["frame_bytes"]
    assert sum(len(f.octets) for f in frames) == facts["cap_bytes"]
    ours = figures_of_rows(judge(frames, at="outer"), judge(frames, at="inner"))
    theirs = figures_of_facts(facts)
    for figure in FIGURES:
        assert minus(ours[figure], theirs[figure]) == differences(name, figure), figure


# Everybody is a subscriber and no rule matches: octets by source and by destination.
EVERYBODY = Pool((Prefix(4, 0, 0), Prefix(6, 0, 0)), ipv6_key=128)


def slow_usage(name: str, **options: Any) -> tuple[list[dict[str, Any]], int]:
    document = reference.account(
        ((f.timestamp_ns, f.octets, f.original, f.link_type, f.ingress, 0) for f in read(name)),
        RuleSet("everybody", "sha256:0", pools=(EVERYBODY,)), **options)
    assert document["identity"]["holds"]
    return document["usage"], document["seen"]["packets"]


def fast_usage(name: str, **options: Any) -> tuple[list[dict[str, Any]], int]:
    tally = meter([open_capture(str(CORPUS / name), ingresses={}, skip_links=False)],
                  RuleSet("everybody", "sha256:0", pools=(EVERYBODY,)), **options)
    assert tally.identity_holds
    return [asdict(record) for record in tally.usage], tally.seen.packets


@needs_corpus
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("usage", [slow_usage, fast_usage])
def test_corpus_bill_by_address_equals_tshark(usage: Usage, name: str) -> None:
    facts = facts_of(name)
    for at, figure in (("outer", "outer"), ("inner", "inner")):
        ours: dict[str, list[int]] = {}
        for layer, index in (("ip", 1), ("frame", 2)):
            records, seen = usage(name, at=at, layer=layer)
            assert seen == facts["packets"]
            for record in records:
                numbers = ours.setdefault(record["subscriber"], [0] * 6)
                for start, way in ((0, "uplink"), (3, "downlink")):
                    numbers[start] = record[f"{way}_packets"]
                    numbers[start + index] = record[f"{way}_octets"]
        gap = minus(ours, figures_of_facts(facts)[figure])
        assert gap == differences(name, figure)


# Everybody is a subscriber and a server. What is asked for needs more than one packet: fragments'
# ports, and tags that some packet of a flow carries.
TRACKED = RuleSet("tracked", "sha256:0", pools=(EVERYBODY,), sponsors={
    name: Sponsor(name, f"sponsor:{name}") for name in ("marked", "web", "names")}, rules=(
        Rule("marked", 10, Match(dscp=frozenset(range(1, 64)), sticky=True), (Split("marked"),)),
        Rule("web", 20, Match(port=((80, 80), (443, 443))), (Split("web", Fraction(2, 3)),)),
        Rule("names", 30, Match(protocol=frozenset({17, 132}), where="server_port < 1024"),
             (Split("names"),))))
SLOWLY_OCTETS_MAX = 1_000_000  # of a capture; the reference engine takes some ms for a packet


@needs_corpus
@pytest.mark.parametrize("name", FILES)
def test_corpus_bill_by_ports_and_flows_equals_the_references(name: str) -> None:
    if (CORPUS / name).stat().st_size > SLOWLY_OCTETS_MAX:
        pytest.skip(f"more than {SLOWLY_OCTETS_MAX:,} octets")
    source = open_capture(CORPUS / name, ingresses={}, skip_links=False)
    frames = [each for reader in source.chunks(False) for each in reader.frames(1 << 30)]
    judged = reference.account(
        ((at_ns, octets, *rest) for octets, at_ns, *rest in frames), TRACKED)
    assert judged["identity"]["holds"]
    for workers in (1, 3):
        assert_bill(meter([source], TRACKED, workers=workers), judged)


@needs_corpus
def test_corpus_differences_are_all_of_files_there() -> None:
    assert set(DIFFERENCES) <= {name[:2] for name in FILES}
    assert len(FILES) == 49
