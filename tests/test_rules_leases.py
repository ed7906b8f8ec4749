"""Directories of DHCP and RADIUS servers: who held which address when, and who is billed for it."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from collectors import wait
from gateways import HEADER, packet
from hypothesis import given
from hypothesis import strategies as st
from radius_parties import SECRET, FreeRadius

from tollsplit.cli import main
from tollsplit.errors import RulesError
from tollsplit.radius.client import Accountant
from tollsplit.radius.session import Counters, Report, Session
from tollsplit.rules import load
from tollsplit.rules.holders import Holders, settled
from tollsplit.rules.leases import read_holders
from tollsplit.rules.rule import Prefix, Tenure

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)
NOON_S = int(NOON.timestamp())
SECOND_NS = 10**9
RULES = """
[meter]
window = "1h"
[[pools]]
prefixes = ["10.0.0.0/8", "2001:db8::/32"]
directory = "held"
"""
SEVEN = Prefix(4, 0x0A000007, 32)
Held = list[tuple[str, str, int | None, int | None]]


def held(text: str, ipv6_key: int = 64) -> Held:
    """(prefix, account, from, to) in seconds after noon; nothing is wrong with the text."""
    tenures, findings = read_holders(text.encode(), "UTC", 32, ipv6_key)
    assert not findings, findings
    return [(str(ip_network((t.prefix.value, t.prefix.length))), t.account,
             _after(t.valid_from_ns), _after(t.valid_to_ns)) for t in tenures]


def _after(at_ns: int | None) -> int | None:
    return None if at_ns is None else at_ns // SECOND_NS - NOON_S


def billed(home: Path, text: str, packets: list[tuple[float, int]]) -> dict[str, int]:
    """Octets by account: packets of 10.0.0.7 at seconds after noon, so many octets each."""
    (home / "held").write_text(text)
    (home / "rules.toml").write_text(RULES)
    (home / "c.pcap").write_bytes(HEADER + b"".join(
        packet(NOON_S * SECOND_NS + int(at_s * SECOND_NS), octets) for at_s, octets in packets))
    assert main(["account", str(home / "c.pcap"), "--rules", str(home / "rules.toml"), "--format",
                 "json", "--output", str(home / "out.json")]) == 0  # fmt: skip
    document: dict[str, Any] = json.loads((home / "out.json").read_text())
    found: Counter[str] = Counter()
    for entry in document["usage"]:
        assert entry["window_start"] == "2026-11-03T12:00:00Z"  # all within one window
        found[entry["account"]] += entry["uplink_octets"]
    return dict(found)


# --- DHCP ------------------------------------------------------------------------------------


def test_leases_of_dnsmasq_hold_until_they_end() -> None:
    text = f"""{NOON_S + 600} 02:00:00:00:00:07 10.0.0.7 phone 01:02:00:00:00:00:07
0 02:00:00:00:00:08 10.0.0.8 * *
duid 00:01:00:01:2a:bb:cc:dd:02:00:00:00:00:01
{NOON_S + 60} 7 2001:db8:0:7::5 phone 00:01:00:01:2A:00:00:00:02:00:00:00:00:07
"""
    assert held(text) == [
        ("10.0.0.7/32", "mac:02:00:00:00:00:07", None, 600),
        ("10.0.0.8/32", "mac:02:00:00:00:00:08", None, None),
        ("2001:db8:0:7::/64", "duid:00:01:00:01:2a:00:00:00:02:00:00:00:00:07", None, 60)]


ISC = """# The format of this file is documented in the dhcpd.leases(5) manual page.
authoring-byte-order little-endian;
server-duid "\\000\\001";
lease 10.0.0.7 {
  starts 2 2026/11/03 12:00:00;
  ends 2 2026/11/03 12:10:00;
  cltt 2 2026/11/03 12:00:00;
  binding state active;
  next binding state free;
  rewind binding state free;
  hardware ethernet 02:00:00:00:00:07;
  uid "\\001\\002\\000\\000\\000\\000\\007";
  set vendor-class-identifier = "udhcp 1.35.0";
  client-hostname "alice; ends never";
}
lease 10.0.0.7 {
  starts 2 2026/11/03 12:05:00;
  ends 2 2026/11/03 12:15:00;
  binding state active;
  hardware ethernet 02:00:00:00:00:07;
}
lease 10.0.0.7 {
  starts 2 2026/11/03 12:05:00;
  ends 2 2026/11/03 12:06:40;
  tstp 2 2026/11/03 12:06:40;
  binding state free;
  hardware ethernet 02:00:00:00:00:07;
}
lease 10.0.0.7 {
  starts 2 2026/11/03 12:07:30;
  ends never;
  binding state active;
  hardware ethernet 02:00:00:00:00:08;
}
lease 10.0.0.9 {
  starts epoch 1793707200; # Tue Nov  3 12:00:00 2026
  ends epoch 1793707260;
  binding state backup;
}
"""


def test_leases_of_dhcpd_are_renewed_and_released() -> None:
    assert held(ISC) == [
        ("10.0.0.7/32", "mac:02:00:00:00:00:07", 0, 400),
        ("10.0.0.7/32", "mac:02:00:00:00:00:08", 450, None)]


def test_leases_of_kea_go_on_and_pass_to_others() -> None:
    text = ("address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,"
            "state,user_context\n"
            f"10.0.0.7,02:00:00:00:00:07,,600,{NOON_S + 600},1,0,0,alice,0,\n"
            f"10.0.0.7,02:00:00:00:00:07,,600,{NOON_S + 900},1,0,0,alice,0,\n"
            f"10.0.0.7,02:00:00:00:00:07,,0,{NOON_S + 300},1,0,0,alice,0,\n"
            f"10.0.0.7,02:00:00:00:00:08,,600,{NOON_S + 1000},1,0,0,bob,0,\n"
            f"10.0.0.9,02:00:00:00:00:09,,600,{NOON_S + 600},1,0,0,,1,\n")
    assert held(text) == [
        ("10.0.0.7/32", "mac:02:00:00:00:00:07", 0, 400),
        ("10.0.0.7/32", "mac:02:00:00:00:00:08", 400, 1000)]


def test_leases_of_kea_have_addresses_and_prefixes() -> None:
    text = ("address,duid,valid_lifetime,expire,subnet_id,pref_lifetime,lease_type,iaid,prefix_len,"
            "fqdn_fwd,fqdn_rev,hostname,hwaddr,state,user_context\n"
            f"2001:db8:0:7::5,00:01:0a,600,{NOON_S + 600},1,500,0,7,128,0,0,,,0,\n"
            f"2001:db8:1::,00:01:0a,600,{NOON_S + 600},1,500,2,8,48,0,0,,02:00:00:00:00:07,0,\n")
    assert held(text) == [("2001:db8:0:7::/64", "duid:00:01:0a", 0, 600),
                          ("2001:db8:1::/48", "mac:02:00:00:00:00:07", 0, 600)]


def test_leases_that_change_hands_within_a_window_are_billed_to_both(tmp_path: Path) -> None:
    found = billed(tmp_path, ISC, [(0, 100), (399.999999999, 200), (400, 300), (449, 400),
                                   (450, 500), (3599, 600)])  # fmt: skip
    assert found == {"mac:02:00:00:00:00:07": 300, "10.0.0.7": 700, "mac:02:00:00:00:00:08": 1100}


@pytest.mark.parametrize(("text", "finding"), [
    ("1 02:00:00:00:00:07 10.0.0.300 * *\n", "held:1: not a lease of dnsmasq: expected a prefix"),
    ("1 nonsense 10.0.0.3 * *\n", "held:1: not a lease of dnsmasq: expected octets"),
    ("address,hwaddr,valid_lifetime,expire\n10.0.0.7,02:00:00:00:00:07,x,1\n",
     "held:2: not a lease of Kea"),
    ("lease 10.0.0.7 {\n starts never;\n ends never;\n hardware ethernet 02:00:00:00:00:07;\n}\n",
     "held:5: not a lease of dhcpd: expected an instant"),
    ("Tue\n\tAcct-Status-Type = Start\n\tTimestamp = 5\n\n", "held:2: not a request"),
    ("whatever\n", 'held:1: expected a header with the column "prefix"')])
def test_leases_that_are_none_name_their_line(tmp_path: Path, text: str, finding: str) -> None:
    (tmp_path / "held").write_text(text)
    (tmp_path / "rules.toml").write_text(RULES)
    with pytest.raises(RulesError, match=finding.replace("(", r"\(")):
        load(tmp_path / "rules.toml")


# --- RADIUS ----------------------------------------------------------------------------------


def request(status: str, account: str, at_s: int, session: str = "1", **more: str) -> str:
    said = {"Acct-Status-Type": status, "Acct-Session-Id": f'"{session}"',
            "User-Name": f'"{account}"', "NAS-IP-Address": "192.0.2.1",
            "Framed-IP-Address": "10.0.0.7", "Timestamp": str(NOON_S + at_s)}
    said |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = "".join(f"\t{name} = {value}\n" for name, value in said.items() if value)
    return f"Tue Nov  3 12:00:00 2026\n{lines}\n"


def test_detail_has_sessions_from_start_to_stop() -> None:
    text = (request("Start", "alice", 0) + request("Interim-Update", "alice", 60)
            + request("Stop", "alice", 100) + request("Start", "bob", 150, "2"))
    assert held(text) == [("10.0.0.7/32", "alice", 0, 100), ("10.0.0.7/32", "bob", 150, None)]


def test_detail_counts_delays_and_what_the_nas_says_of_its_time() -> None:
    text = (request("Start", "alice", 7, Acct_Delay_Time="5")
            + request("Stop", "alice", 500, Event_Timestamp='"Nov  3 2026 12:01:40 UTC"'))
    assert held(text) == [("10.0.0.7/32", "alice", 2, 100)]


def test_detail_learns_from_whatever_comes_first() -> None:
    """A Start that was lost, a Stop alone, a NAS that begins anew, prefixes of IPv6."""
    text = (request("Interim-Update", "alice", 300, Acct_Session_Time="200")
            + request("Stop", "bob", 500, "2", Acct_Session_Time="40",
                      Framed_IP_Address="10.0.0.8")
            + request("Start", "carol", 600, "3", Framed_IP_Address="",
                      Framed_IPv6_Prefix="2001:db8:0:9::/64",
                      Delegated_IPv6_Prefix="2001:db8:9::/56")
            + request("Accounting-On", "", 700, "", User_Name="", Acct_Session_Id=""))
    assert sorted(held(text)) == [
        ("10.0.0.7/32", "alice", 100, 700), ("10.0.0.8/32", "bob", 460, 500),
        ("2001:db8:0:9::/64", "carol", 600, 700), ("2001:db8:9::/56", "carol", 600, 700)]


def test_detail_of_freeradius_is_a_directory(tmp_path: Path) -> None:
    """What Debian's FreeRADIUS wrote of a NAS's requests bills both holders of an address."""
    server = FreeRadius(tmp_path / "radius")
    sessions = [("alice", "1", 0, 100), ("bob", "2", 150, 400)]
    with server.running() as url:
        nas = Accountant(url, SECRET, "nas")
        for account, number, began_s, ended_s in sessions:
            session = Session(number, number, "10.0.0.7", account, "subscriber",
                              (NOON_S + began_s) * SECOND_NS, (NOON_S + ended_s) * SECOND_NS,
                              Counters())
            nas.send(Report("Start", session))
            nas.send(Report("Stop", session, "NAS-Request"))
        nas.close()
        wait(lambda: len(server.packets()) == 4, "not all is written")
    found = billed(tmp_path, server.detail.read_text(), [
        (0, 100), (99, 200), (100, 300), (149.5, 400), (150, 500), (399, 600), (400, 700)])
    assert found == {"alice": 300, "bob": 1100, "10.0.0.7": 1400}


# --- who holds what --------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 30),
                          st.none() | st.integers(0, 30)), max_size=8))
def test_holders_never_hold_one_prefix_together(told: list[tuple[str, Any, Any]]) -> None:
    tenures = settled(Tenure(SEVEN, *one) for one in told)
    for earlier, later in pairwise(tenures):
        assert earlier.valid_to_ns is not None and later.valid_from_ns is not None
        assert earlier.valid_to_ns <= later.valid_from_ns
    for tenure in tenures:
        assert tenure.valid_to_ns is None or (tenure.valid_from_ns or -1) < tenure.valid_to_ns
    for at in range(31):  # whoever began last, of those who did not end, holds it
        began = [(-1 if one[1] is None else one[1], number, one) for number, one in enumerate(told)
                 if (one[2] is None or one[2] > (-1 if one[1] is None else one[1]))
                 and (one[1] is None or one[1] <= at)]
        holder = next((t.account for t in tenures if (t.valid_from_ns or -1) <= at
                       and (t.valid_to_ns is None or at < t.valid_to_ns)), None)
        last = max(began)[2] if began else None
        goes_on = last is not None and (last[2] is None or at < last[2])
        assert holder == (last[0] if last is not None and goes_on else None)


def test_holders_go_on_from_what_was_known() -> None:
    known = [Tenure(SEVEN, "alice", 5, None), Tenure(SEVEN, "zoe", 1, 3)]
    holders = Holders(known)
    assert holders.goes_on(("nas", "1"), "alice", [SEVEN], 20)
    assert not holders.goes_on(("nas", "1"), "alice", [SEVEN], 20)
    assert holders.ends(("nas", "1"), "alice", [SEVEN], 20, 40)
    assert holders.tenures() == (Tenure(SEVEN, "zoe", 1, 3), Tenure(SEVEN, "alice", 5, 40))
    holders.forget(10)
    assert holders.tenures() == (Tenure(SEVEN, "alice", 5, 40),)
