"""What one writes with Python's packet libraries: octets per source address, and totals.

    python loops.py LOOP CAPTURE

Runs in any interpreter that has the library, so it imports nothing of this project. The capture is
Ethernet and untagged IPv4. Prints packets and IP octets.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator

ETHERNET_OCTETS = 14


def sliced(frames: Iterator[bytes]) -> tuple[int, int]:
    """Without parsing: the two fields by their place."""
    octets: Counter[bytes] = Counter()
    packets = 0
    for frame in frames:
        packets += 1
        octets[frame[26:30]] += int.from_bytes(frame[16:18], "big")
    return packets, octets.total()


def dpkt_slices(capture: str) -> tuple[int, int]:
    import dpkt

    with open(capture, "rb") as file:
        return sliced(frame for _, frame in dpkt.pcap.Reader(file))


def dpkt_parse(capture: str) -> tuple[int, int]:
    import dpkt

    octets: Counter[bytes] = Counter()
    packets = 0
    with open(capture, "rb") as file:
        for _, frame in dpkt.pcap.Reader(file):
            packets += 1
            ip = dpkt.ethernet.Ethernet(frame).data
            octets[ip.src] += ip.len
    return packets, octets.total()


def pypacker_parse(capture: str) -> tuple[int, int]:
    from pypacker import ppcap
    from pypacker.layer3 import ip
    from pypacker.layer12 import ethernet

    octets: Counter[bytes] = Counter()
    packets = 0
    for _, frame in ppcap.Reader(filename=capture):
        packets += 1
        packet = ethernet.Ethernet(frame)[ip.IP]
        octets[packet.src] += packet.len
    return packets, octets.total()


def scapy_slices(capture: str) -> tuple[int, int]:
    from scapy.utils import RawPcapReader

    with RawPcapReader(capture) as reader:
        return sliced(frame for frame, _ in reader)


def scapy_parse(capture: str) -> tuple[int, int]:
    from scapy.layers.inet import IP
    from scapy.utils import PcapReader

    octets: Counter[str] = Counter()
    packets = 0
    with PcapReader(capture) as reader:
        for packet in reader:
            packets += 1
            octets[packet[IP].src] += packet[IP].len
    return packets, octets.total()


def nfstream_flows(capture: str) -> tuple[int, int]:
    from nfstream import NFStreamer

    packets = octets = 0
    # Without deep inspection; accounting mode 1 counts IP octets.
    for flow in NFStreamer(source=capture, n_dissections=0, accounting_mode=1, n_meters=1):
        packets += flow.bidirectional_packets
        octets += flow.bidirectional_bytes
    return packets, octets


LOOPS: dict[str, Callable[[str], tuple[int, int]]] = {
    "dpkt-slices": dpkt_slices,
    "dpkt": dpkt_parse,
    "pypacker": pypacker_parse,
    "scapy-slices": scapy_slices,
    "scapy": scapy_parse,
    "nfstream": nfstream_flows,
}


if __name__ == "__main__":
    print(*LOOPS[sys.argv[1]](sys.argv[2]))
