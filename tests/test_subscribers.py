"""Who a packet belongs to, and under which account, end to end through the core."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.contrib.gtp import GTP_U_Header
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.utils import wrpcap

import tollsplit
from tollsplit.model import UsageRecord

RULES = """
[meter]
window = "1d"
zone = "UTC"
tunnel_endpoints = ["192.0.2.0/24"]

[[pools]]
prefixes = ["10.0.0.0/8"]
key = "{key}"
directory = "who.csv"

[sponsors.s]
account = "sponsor:s"

[[rules]]
id = "r"
precedence = 1
match = {{ server = ["203.0.113.0/24"] }}
split = {{ sponsor = "s", share = "100%", quota = 100, per = "day" }}
"""
HEADER = "prefix,account,valid_from,valid_to\n"
TIMED = HEADER + "10.0.0.7,alice,,2030-01-01T00:00:00Z\n"
STATIC = HEADER + "10.0.0.7,alice,,\n"
INNER = IP(src="10.0.0.7", dst="203.0.113.1") / UDP(sport=1, dport=2) / (b"x" * 12)
FRAMES = {
    "address": Ether(src="02:00:00:00:00:07") / INNER,
    "mac": Ether(src="02:00:00:00:00:07") / INNER,
    "vlan": Ether() / Dot1Q(vlan=100) / Dot1Q(vlan=7) / INNER,
    "gtp_teid": Ether() / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=2152, dport=2152)
    / GTP_U_Header(teid=0xBEEF) / INNER,
}  # fmt: skip
NAMES = {"address": "10.0.0.7", "mac": "mac:02:00:00:00:00:07", "vlan": "vlan:100.7",
         "gtp_teid": "teid:0x0000beef"}  # fmt: skip


def account(folder: Path, key: str, directory: str, times: list[float]) -> list[UsageRecord]:
    frames = []
    for time in times:
        frame = FRAMES[key].copy()
        frame.time = time
        frames.append(frame)
    wrpcap(str(folder / "c.pcap"), frames)
    (folder / "who.csv").write_text(directory)
    (folder / "rules.toml").write_text(RULES.format(key=key))
    report = tollsplit.account(folder / "c.pcap", folder / "rules.toml")
    assert report.identity_holds
    return list(report.usage)


@pytest.mark.parametrize("directory", [TIMED, STATIC])
@pytest.mark.parametrize("key", FRAMES)
def test_subscribers_of_every_key_have_the_holder_of_their_address(
    key: str, directory: str, tmp_path: Path
) -> None:
    [record] = account(tmp_path, key, directory, [1_700_000_000.0])
    assert (record.subscriber, record.account) == (NAMES[key], "alice")
    assert record.octets == 40


def test_subscribers_who_hold_an_address_twice_have_one_quota(tmp_path: Path) -> None:
    """Two rows of a directory that name one account, one after the other, are one subscriber."""
    rows = HEADER + ("10.0.0.7,alice,,2023-11-14T12:00:00Z\n"
                     "10.0.0.7,alice,2023-11-14T12:00:00Z,\n")  # fmt: skip
    day = 1_699_920_000.0
    [record] = account(tmp_path, "address", rows, [day, day + 1, day + 80_000, day + 80_001])
    assert (record.octets, record.sponsor_octets) == (160, {"s": 100})


def test_subscribers_change_hands_at_an_instant(tmp_path: Path) -> None:
    rows = HEADER + ("10.0.0.7,alice,,2023-11-14T12:00:00Z\n"
                     "10.0.0.7,bob,2023-11-14T12:00:00Z,2023-11-14T13:00:00Z\n"
                     "10.0.0.0/24,landlord,,\n")  # fmt: skip
    noon = 1_699_963_200.0
    records = account(tmp_path, "address", rows, [noon - 1, noon, noon + 3599, noon + 3600])
    assert {r.account: r.uplink_packets for r in records} == {
        "alice": 1, "bob": 2, "landlord": 1}
    assert {r.subscriber for r in records} == {"10.0.0.7"}
