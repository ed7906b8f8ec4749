"""Mutated captures through the whole path: no crash, no hang, no lost octet, bounded memory.

The mutants are run by processes of their own: one that dies leaves its mutant and its number.
`python tests/test_fuzz.py NUMBER 1 FOLDER` runs a single one again.
"""

from __future__ import annotations

import faulthandler
import gzip
import os
import random
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.job import peak_octets

MUTANTS = int(os.environ.get("TOLLSPLIT_FUZZ", "1000"))
PROCESSES = 2
SEED_OCTETS_MAX = 6_000  # so that a mutation is likely to hit something that matters
HANG_S = 60
SLOW_S = 10.0
# What the process may grow by after its first mutants: allocators' slack, no more.
GROWTH_OCTETS_MAX = 64 * 1024 * 1024
WARM_UP = 100

EVERYBODY = """
[[pools]]
prefixes = ["0.0.0.0/0", "::/0"]
ipv6_key = 128
"""
TAGGED = """
[meter]
window = "1s"
zone = "Europe/Berlin"

[[pools]]
prefixes = ["10.0.0.0/8", "2001:db8::/32"]

[sponsors.video]
account = "sponsor:video"
budget = "1 KiB"
per = "day"

[sponsors.shop]
account = "sponsor:shop"

[[rules]]
id = "quota"
precedence = 1
match = { server = ["203.0.113.0/24", "2001:db9::/32"], port = [443, "8000-8100"] }
split = [{ sponsor = "video", share = "30%", quota = "100 B", per = "day" },
         { sponsor = "shop", share = "33.3%" }]

[[rules]]
id = "tunnelled"
precedence = 2
match = { gtp_teid = [1, 2, 3], direction = "downlink" }
split = { sponsor = "shop", share = "50%" }

[[rules]]
id = "marked"
precedence = 3
match = { dscp = [0, 46], vlan = [100, 200], protocol = ["tcp", "udp"] }
unverified = true
split = { sponsor = "video", share = "100%" }

[[rules]]
id = "labelled"
precedence = 4
match = { mpls = [16, 100], vni = [5], gre_key = [7] }
split = { sponsor = "shop", share = "1%" }

[tariffs.standard]
currency = "CNY"
price = "0.29 CNY / MiB"
increment = "1 KiB"
rounding_per = "day"
"""

INTERESTING = (0, 1, 4, 5, 8, 14, 19, 20, 39, 40, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000,
               0xFFFF, 0x10000, 0x40000, 0x40001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


# --- seeds -----------------------------------------------------------------------------


def frames() -> list[bytes]:
    """Ethernet frames with every layer that the core follows."""
    from scapy.contrib.geneve import GENEVE
    from scapy.contrib.gtp import GTP_U_Header, GTPPDUSessionContainer
    from scapy.contrib.mpls import MPLS
    from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP, IPerror, UDPerror
    from scapy.layers.inet6 import (
        ICMPv6EchoRequest,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
    )
    from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
    from scapy.layers.ppp import PPP, PPPoE
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw

    station = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    up = IP(src="10.0.0.7", dst="203.0.113.9")
    up6 = IPv6(src="2001:db8::7", dst="2001:db9::9")
    load = Raw(b"payload" * 3)
    udp, tcp = UDP(sport=40000, dport=443) / load, TCP(sport=443, dport=40000, flags="A") / load
    outer = IP(src="192.0.2.1", dst="192.0.2.2")
    container = GTPPDUSessionContainer(type=0, QFI=9)
    packets = [
        station / up / udp,
        station / IP(src="203.0.113.9", dst="10.0.0.7", tos=46 << 2) / tcp,
        station / IP(src="10.0.0.7", dst="10.0.0.8") / udp,
        station / IP(src="10.0.0.7", dst="203.0.113.9", options=b"\x07\x07\x04\0\0\0\0\0") / udp,
        station / IP(src="10.0.0.7", dst="203.0.113.9", flags="MF") / udp,
        station / IP(src="10.0.0.7", dst="203.0.113.9", frag=3, proto=17) / load,
        station / up6 / tcp,
        station / up6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / udp,
        station / up6 / IPv6ExtHdrFragment(offset=2, nh=17) / load,
        station / up6 / ICMPv6EchoRequest(),
        station / IP(src="203.0.113.1", dst="10.0.0.7") / ICMP(type=3)
        / IPerror(src="10.0.0.7", dst="203.0.113.9") / UDPerror() / load,
        station / Dot1Q(vlan=100) / up / udp,
        station / Dot1AD(vlan=200) / Dot1Q(vlan=100) / up6 / udp,
        station / MPLS(label=16, s=0) / MPLS(label=100, s=1) / up / udp,
        station / PPPoE(sessionid=17) / PPP(proto=0x21) / up / udp,
        station / outer / up / udp,
        station / outer / up6 / udp,
        station / IPv6(src="2001:db8::1", dst="2001:db9::1") / up / udp,
        station / outer / GRE(key_present=1, key=7, seqnum_present=1) / up / udp,
        station / outer / GRE(proto=0x6558) / station / up / udp,
        station / outer / UDP(sport=1, dport=4789) / VXLAN(vni=5, flags=8) / station / up / udp,
        station / outer / UDP(sport=1, dport=6081) / GENEVE(vni=5, proto=0x6558) / station / up6,
        station / outer / UDP(dport=2152) / GTP_U_Header(teid=1, gtp_type=255) / up / udp,
        station / outer / UDP(dport=2152)
        / GTP_U_Header(teid=2, gtp_type=255, E=1, next_ex=0x85) / container / up6 / udp,
        station / outer / UDP(dport=2152) / GTP_U_Header(gtp_type=1, S=1, seq=9),
        station / outer / UDP(sport=1701, dport=1701)
        / Raw(b"\x00\x02\x00\x01\x00\x02\xff\x03\x00\x21" + bytes(up / udp)),
        station / IP(src="10.0.0.7", dst="203.0.113.9", proto=51)
        / Raw(b"\x11\x04\0\0\0\0\0\x01\0\0\0\x01" + bytes(12) + bytes(udp)),
        station / ARP(psrc="10.0.0.7", pdst="10.0.0.1"),
    ]
    return [bytes(packet) for packet in packets]


def pcap(link_type: int, packets: list[bytes], order: str = "<", magic: int = 0xA1B2C3D4) -> bytes:
    records = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65_535, link_type)]
    for number, packet in enumerate(packets):
        size = len(packet)
        records += [struct.pack(order + "IIII", 1_793_491_200 + number, 7, size, size), packet]
    return b"".join(records)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def pcapng(packets: list[bytes], order: str = "<") -> bytes:
    """A section with two interfaces, options, and enhanced and simple packet blocks."""
    resolution = struct.pack(order + "HHB3xHH", 9, 1, 9, 0, 0)
    comment = struct.pack(order + "HH20sHH", 1, 20, b"segments of 7 octets", 0, 0)
    blocks = [
        block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(order, 1, struct.pack(order + "HHI", 1, 0, 0) + resolution),
        block(order, 1, struct.pack(order + "HHI", 1, 0, 256)),
    ]
    for number, packet in enumerate(packets):
        size = len(packet)
        if number % 5 == 4:
            blocks.append(block(order, 3, struct.pack(order + "I", size) + packet))
            continue
        time_ns = (1_793_491_200 + number) * 1_000_000_000
        head = struct.pack(order + "IIIII", number % 2, time_ns >> 32, time_ns & 0xFFFFFFFF, size,
                           size)
        blocks.append(block(order, 6, head + packet + bytes(-size % 4) + comment * (number % 2)))
    return b"".join(blocks)


def seeds() -> list[bytes]:
    """Small captures of every format and link type; pieces of the real ones where they are."""
    ethernet = frames()
    ip = [frame[14:] for frame in ethernet if frame[12:14] in (b"\x08\x00", b"\x86\xdd")]
    found = [pcap(1, [frame]) for frame in ethernet]
    found += [
        pcap(1, ethernet),
        pcap(1, ethernet[:9], ">", 0xA1B23C4D),
        pcapng(ethernet),
        pcapng(ethernet[:9], ">"),
        pcapng(ethernet[:3], ">") + pcapng(ethernet[3:6]),
        pcap(101, ip),
        pcap(0, [b"\x02\0\0\0" + packet for packet in ip]),
        pcap(108, [b"\0\0\0\x02" + packet for packet in ip]),
        pcap(9, [b"\xff\x03\x00\x21" + packet for packet in ip]),
        pcap(50, [b"\xff\x03\x00\x21" + packet for packet in ip]),
        pcap(51, [b"\x11\0\0\x11" + struct.pack(">H", len(p) + 2) + b"\0\x21" + p for p in ip]),
        pcap(104, [b"\x0f\0\x08\0" + packet for packet in ip]),
        pcap(113, [bytes(14) + b"\x08\x00" + packet for packet in ip]),
        pcap(276, [b"\x08\x00" + bytes(18) + packet for packet in ip]),
        pcap(147, ethernet[:2]),
    ]
    folder = Path(os.environ.get("TOLLSPLIT_CORPUS", Path(__file__).parents[2] / "shared/corpus"))
    for path in sorted(folder.glob("*.pcap*")):
        octets = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found.append(octets[:SEED_OCTETS_MAX])
    return found


# --- mutations -------------------------------------------------------------------------


def flip(octets: bytearray, rng: random.Random, _: list[bytes]) -> None:
    for _ in range(rng.randint(1, 8)):
        octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)


def overwrite(octets: bytearray, rng: random.Random, _: list[bytes]) -> None:
    for _ in range(rng.randint(1, 4)):
        width = rng.choice((1, 2, 4))
        value = rng.choice((*INTERESTING, len(octets), rng.getrandbits(32)))
        at = rng.randrange(len(octets))
        order = rng.choice(("little", "big"))
        octets[at : at + width] = (value & (256**width - 1)).to_bytes(width, order)


def truncate(octets: bytearray, rng: random.Random, _: list[bytes]) -> None:
    del octets[rng.randrange(len(octets)) :]


def remove(octets: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = rng.randrange(len(octets))
    del octets[at : at + rng.randint(1, 32)]


def repeat(octets: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = rng.randrange(len(octets))
    octets[at:at] = octets[at : at + rng.randint(1, 200)] * rng.randint(1, 20)


def splice(octets: bytearray, rng: random.Random, others: list[bytes]) -> None:
    other = rng.choice(others)
    octets[rng.randrange(len(octets)) :] = other[rng.randrange(len(other)) :]


def noise(octets: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = rng.randrange(len(octets))
    octets[at : at + 64] = rng.randbytes(rng.randint(1, 64))


# What leaves the record structure whole comes more often: it reaches deeper.
MUTATIONS: list[Callable[[bytearray, random.Random, list[bytes]], None]] = [
    flip, flip, flip, overwrite, overwrite, overwrite, truncate, remove, repeat, splice, noise,
]


def snapped(rng: random.Random, packets: list[bytes]) -> bytes:
    """A sound capture whose one frame is mutated and cut: its header ends where memory ends."""
    packet = bytearray(rng.choice(packets))
    if rng.random() < 0.5:
        rng.choice((flip, overwrite))(packet, rng, packets)
    whole = pcap(1, [bytes(packet)])
    captured = rng.randint(0, len(packet))
    return whole[:32] + captured.to_bytes(4, "little") + whole[36 : 40 + captured]


def mutant(number: int, originals: list[bytes], packets: list[bytes]) -> bytes:
    rng = random.Random(number)
    if rng.random() < 0.3:
        return snapped(rng, packets)
    octets = bytearray(rng.choice(originals))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if octets:
            rng.choice(MUTATIONS)(octets, rng, originals)
    return bytes(octets)


# --- the process that runs them --------------------------------------------------------


def meter(number: int, octets: bytes, folder: Path) -> str:
    """Account one mutant; how it ended."""
    from tollsplit import CaptureError, account
    from tollsplit.capture import file

    rng = random.Random(-1 - number)
    path = folder / ("mutant.pcap.gz" if rng.random() < 0.7 else "mutant.pcap")
    # A mapped file ends inside a page, and a stream's buffer is large: ASan sees nothing that is
    # read beyond their octets. A buffer of their very size shows it; smaller ones have to grow.
    file.STREAM_CHUNK_OCTETS = max(1, len(octets) // rng.choice((1, 1, 1, 2, 50)))
    path.write_bytes(gzip.compress(octets, 1) if path.suffix == ".gz" else octets)
    rules = folder / rng.choice(("everybody.toml", "tagged.toml"))
    try:
        report = account(
            [str(path)], str(rules), workers=rng.choice((1, 1, 1, 2)),
            layer=rng.choice((None, "ip", "frame", "payload")), skip_links=rng.random() < 0.9,
            trust_ip_length=rng.random() < 0.2,
        )
    except CaptureError as error:
        assert path.name in str(error), str(error)
        return "refused"
    assert report.identity_holds, number
    records = list(report.usage)
    tally = report.tally
    assert sum(record.octets for record in records) == tally.metered.octets
    assert sum(r.uplink_packets + r.downlink_packets for r in records) == tally.metered.packets
    for record in records:
        paid = record.subscriber_octets, *record.sponsor_octets.values()
        assert min(paid) >= 0
        assert sum(paid) == record.octets
    assert report.seen.packets <= len(octets) // 12 + 1
    return "truncated" if report.truncated else "whole"


def run(first: int, count: int, folder: Path) -> dict[str, int]:
    """Account `count` mutants; how many ended in which way."""
    folder.mkdir(exist_ok=True)
    (folder / "everybody.toml").write_text(EVERYBODY)
    (folder / "tagged.toml").write_text(TAGGED)
    originals, packets, floor = seeds(), frames(), 0
    endings = {"whole": 0, "truncated": 0, "refused": 0}
    for number in range(first, first + count):
        (folder / "number").write_text(f"{number}\n")
        octets = mutant(number, originals, packets)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        start = time.monotonic()
        endings[meter(number, octets, folder)] += 1
        faulthandler.cancel_dump_traceback_later()
        assert time.monotonic() - start < SLOW_S, f"{number} is slow"
        resident = peak_octets()
        if number - first < WARM_UP:
            floor = resident
        assert resident - floor < GROWTH_OCTETS_MAX, f"{number}: {resident - floor} octets more"
    return endings


def test_fuzz_seeds_are_sound(tmp_path: Path) -> None:
    """A mutant says little if what it comes from was never understood."""
    from tollsplit import account

    (tmp_path / "everybody.toml").write_text(EVERYBODY)
    originals, packets = seeds(), frames()
    for octets in originals:
        (tmp_path / "seed.pcap").write_bytes(octets)
        report = account([tmp_path / "seed.pcap"], tmp_path / "everybody.toml", skip_links=True)
        assert report.identity_holds
        assert not report.truncated or len(octets) == SEED_OCTETS_MAX
    assert len({mutant(number, originals, packets) for number in range(200)}) > 190


def test_fuzz_mutated_captures_lose_nothing(tmp_path: Path) -> None:
    share = -(-MUTANTS // PROCESSES)
    folders = [tmp_path / str(part) for part in range(PROCESSES)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(part * share), str(share), str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for part, folder in enumerate(folders)
    ]
    results = [process.communicate() for process in processes]
    endings: Counter[str] = Counter()
    for folder, process, (output, errors) in zip(folders, processes, results, strict=True):
        number = (folder / "number").read_text() if (folder / "number").exists() else "none"
        assert process.returncode == 0, f"mutant {number} in {folder}:\n{errors[-8000:]}"
        endings.update({name: int(n) for name, n in (part.split("=") for part in output.split())})
    assert endings.total() >= MUTANTS
    # Mutants that are all refused would test nothing but the refusal.
    assert endings["whole"] > MUTANTS // 5
    assert endings["refused"] > MUTANTS // 50


if __name__ == "__main__":
    found = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(*(f"{name}={count}" for name, count in found.items()))
