"""What packets can be asked beyond themselves, stage by stage: traffic that each stage works on.

A capture has flows that are all sponsored, each by what its stage asks for, so that the right
answer is known: every octet is the sponsor's. The same packets under rules that ask for nothing
but the server are what a stage is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.agreement import rule_name
from benchmarks.frames import ETHERNET, IPV4, PCAP_HEADER, RECORD, START_S, set_ipv4
from benchmarks.network import FLOWS_PER_SUBSCRIBER, Array
from benchmarks.openings import KEYS, NAME, SYN, Step, quic, request, tls, token, write_keys
from benchmarks.traffic import Case, Traffic, Truth
from tollsplit.limits import FLOWS_MAX, HELD_COUNTERS_MAX, REQUESTS_MAX

TCP, UDP = 6, 17
DURATION_S = 4  # whatever waits may wait to the end
PAYLOAD_OCTETS = 6  # of all packets but the first ones of a flow
FILLER = Step(bytes(PAYLOAD_OCTETS))
FRAGMENT_OCTETS = 24
SUBSCRIBERS, SERVERS = 0x0A000000, 0xCB007100  # each stage's servers are a /28 of their own
SEGMENT = [
    ("source_port", ">u2"), ("destination_port", ">u2"), ("sequence", ">u4"),
    ("acknowledgment", ">u4"), ("offset", "u1"), ("flags", "u1"), ("window", ">u2"),
    ("sum", ">u2"), ("urgent", ">u2"),
]
DATAGRAM = [("source_port", ">u2"), ("destination_port", ">u2"), ("length", ">u2"),
            ("sum", ">u2")]


@dataclass(frozen=True)
class Stage:
    """What a rule asks for beside its server, and how a flow shows it."""

    name: str
    match: str = ""
    opening: tuple[Step, ...] = (FILLER,)  # a flow's first packets
    tagged: int = -1  # which of a flow's packets has DSCP 46
    protocol: int = TCP
    fragments: bool = False  # each packet comes as two
    settings: str = ""  # further lines of [meter]
    keys: str = ""  # a file of keys for tokens, beside the rules
    duration_s: int = DURATION_S
    flows_most: int = FLOWS_MAX  # whose packets are all decided as the truth has it


STAGES = (
    Stage("server"),
    Stage("port", "port = 443"),
    # so many datagrams are known for half a minute; of more, some have to go
    Stage("port, in fragments", "port = 443", protocol=UDP, fragments=True, duration_s=1_000),
    Stage("sticky", "dscp = 46, sticky = true", tagged=0),
    Stage("sticky, shown late", "dscp = 46, sticky = true", tagged=2,
          flows_most=HELD_COUNTERS_MAX),
    Stage("retransmissions", settings='retransmissions = "exempt_if_identical"'),
    Stage("duplicates", settings='duplicates = "1ms"'),
    Stage("unsolicited", settings="unsolicited = true"),
    Stage("sni", f'sni = ["{NAME}"]', (Step(tls()),)),
    Stage("sni, in QUIC", f'sni = ["{NAME}"]', (Step(quic()),), protocol=UDP),
    Stage("host", f'host = ["{NAME}"]', request(), flows_most=REQUESTS_MAX),
    Stage("token", 'token = "shop"', (token(),), keys=KEYS),
)


# --- packets -----------------------------------------------------------------------------


def ends(flows: Array, stage: int) -> tuple[Array, Array]:
    """Subscribers and servers: a subscriber has eight flows, each to another server."""
    return (SUBSCRIBERS + flows // FLOWS_PER_SUBSCRIBER,
            SERVERS + 16 * stage + flows % FLOWS_PER_SUBSCRIBER)


def set_ends(rows: Array, near: Array, far: Array, flows: Array, uplink: Array) -> None:
    """Addresses, and ports where there are some."""
    rows["source"], rows["destination"] = np.where(uplink, near, far), np.where(uplink, far, near)
    if "source_port" in (rows.dtype.names or ()):
        port = 1024 + flows % 60_000
        rows["source_port"] = np.where(uplink, port, 443)
        rows["destination_port"] = np.where(uplink, 443, port)


def packets(stage: Stage, number: int, flows: Array, turn: int) -> Array:
    """Each flow's packet of one turn; times are left out."""
    opening = stage.opening
    later = max(turn - len(opening), 0)  # packets since then, in both directions
    step = opening[turn] if turn < len(opening) else FILLER
    uplink = np.full(len(flows), step.uplink) if turn < len(opening) else (flows + turn) % 2 == 0
    near, far = ends(flows, number)
    payload = step.payloads(near, far)
    transport = SEGMENT if stage.protocol == TCP else DATAGRAM
    rows = np.zeros(len(flows), np.dtype(
        [*RECORD, *ETHERNET, *IPV4, *transport, ("payload", "u1", payload.shape[1:])]))
    header = np.dtype([*IPV4, *transport]).itemsize
    octets = payload.shape[1]
    finish(rows, header + octets, turn, stage.protocol, 46 if stage.tagged == turn else 0)
    set_ends(rows, near, far, flows, uplink)
    rows["payload"] = payload
    if stage.protocol == TCP:
        said = [1 + sum(each.sent for each in opening[:turn] if each.uplink is up)
                - any(each.flags & SYN and each.uplink is up for each in opening)
                for up in (False, True)]
        mine, other = np.where(uplink, said[1], said[0]), np.where(uplink, said[0], said[1])
        rows["sequence"] = mine + PAYLOAD_OCTETS * (later // 2)
        rows["acknowledgment"] = other + PAYLOAD_OCTETS * ((later + 1) // 2)
        rows["offset"], rows["flags"], rows["window"] = 0x50, step.flags, 0x2000
    else:
        rows["length"] = 8 + octets
    return rows


def fragments(stage: Stage, number: int, flows: Array, turn: int) -> Array:
    """Each flow's datagram of one turn in two fragments, one right after the other."""
    uplink = (flows + turn) % 2 == 0
    rows = np.zeros((len(flows), 2), np.dtype(
        [*RECORD, *ETHERNET, *IPV4, ("content", "u1", (FRAGMENT_OCTETS,))]))
    whole = np.zeros(len(flows), np.dtype([*DATAGRAM, ("source", ">u4"), ("destination", ">u4")]))
    near, far = ends(flows, number)
    set_ends(whole, near, far, flows, uplink)
    whole["length"] = 2 * FRAGMENT_OCTETS
    for part in range(2):
        finish(rows[:, part], 20 + FRAGMENT_OCTETS, turn, UDP, 0)
        set_ends(rows[:, part], near, far, flows, uplink)
    rows["fragment"] = [1 << 13, FRAGMENT_OCTETS // 8]
    rows["content"][:, 0, :8] = whole.view(np.uint8).reshape(-1, whole.dtype.itemsize)[:, :8]
    return rows.ravel()


def finish(rows: Array, octets: int, turn: int, protocol: int, dscp: int) -> None:
    """What is the same in all packets of one turn; checksums are left to offload."""
    rows["station_to"], rows["station_from"] = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
    rows["ethertype"] = 0x0800
    rows["captured"] = rows["original"] = octets + np.dtype(ETHERNET).itemsize
    set_ipv4(rows, "", np.array(octets), np.array(turn & 0xFFFF))
    rows["protocol"], rows["tos"] = protocol, dscp << 2


def turns(
    stages: Sequence[Stage], flows: int, count: int, seed: int
) -> Iterator[tuple[int, Array]]:
    """Which rule, and some packets, until there are `count` or a few more: each flow one in turn,
    in an order that changes."""
    rng = np.random.default_rng(seed)
    done, turn = 0, 0
    while done < count:
        for number, stage in enumerate(stages):
            mine = rng.permutation(np.arange(number, flows, len(stages)))
            build = fragments if stage.fragments else packets
            rows = build(stage, number, mine, turn)
            done += len(rows)
            yield number, rows
        turn += 1


# --- captures ----------------------------------------------------------------------------


def rules_text(stages: Sequence[Stage], asked: bool) -> str:
    """A rule for each stage; with `asked` for what the stage wants, else for its server alone."""
    settings = sorted({stage.settings for stage in stages}) if asked else []
    lines = ["[meter]", 'window = "all"', *settings, "", "[[pools]]", 'prefixes = ["10.0.0.0/8"]',
             "", "[sponsors.shop]", 'account = "sponsor:shop"']
    if asked and (keys := {stage.keys for stage in stages} - {""}):
        lines += ["", "[tokens]", f'keys = "{keys.pop()}"']
    for number, stage in enumerate(stages):
        match = f'server = ["203.0.113.{16 * number}/28"]'
        if asked and stage.match:
            match += f", {stage.match}"
        lines += ["", "[[rules]]", f'id = "{rule_name(number)}"', f"precedence = {100 + number}",
                  f"match = {{ {match} }}", 'split = { sponsor = "shop", share = "100%" }']
    return "\n".join(lines) + "\n"


def generate(
    stages: Sequence[Stage], flows: int, count: int, folder: Path, seed: int = 1
) -> tuple[Case, Case]:
    """A capture under the rules of its stages, and under rules that ask for the server alone.

    stages   that last equally long
    """
    capture, truth, at = folder / "stages.pcap", Truth(), 0
    write_keys(folder)
    with capture.open("wb", buffering=0) as file:
        PCAP_HEADER.tofile(file)
        for number, rows in turns(stages, flows, count, seed):
            at_us = (at + np.arange(len(rows))) * (stages[0].duration_s * 1_000_000) // count
            rows["seconds"] = START_S + at_us // 1_000_000
            rows["microseconds"] = at_us % 1_000_000
            rows.tofile(file)
            at += len(rows)
            add_truth(truth, number, rows)
    cases = []
    for asked in (True, False):
        rules = folder / ("asked.toml" if asked else "plain.toml")
        rules.write_text(rules_text(stages, asked))
        name = " + ".join(stage.name for stage in stages)
        traffic = Traffic(name, truth.packets, 1 + (flows - 1) // FLOWS_PER_SUBSCRIBER, seed=seed)
        cases.append(Case(traffic, capture, rules, truth))
    return cases[0], cases[1]


def add_truth(truth: Truth, number: int, rows: Array) -> None:
    octets = rows["total_octets"].astype(np.int64)
    up = rows["source"] >> 24 == SUBSCRIBERS >> 24
    figures = truth.rules.setdefault(rule_name(number), [0, 0, 0, 0])
    for place, some in ((0, up), (2, ~up)):
        figures[place] += int(some.sum())
        figures[place + 1] += int(octets[some].sum())
    truth.packets += len(rows)
    truth.ip_octets += int(octets.sum())
    truth.wire_octets += int(rows["original"].sum(dtype=np.int64))
    truth.captured_octets += int(rows["captured"].sum(dtype=np.int64))
