"""Directories that other programs write: DHCP servers' leases, and RADIUS servers' detail files.

Whose an address is says the client's hardware address ("mac:02:00:00:00:00:07") or DUID
("duid:0001…") of a lease, and the User-Name of a session. Names that a client gives itself count
for nothing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from .holders import Holders, settled
from .prefixes import Finding, prefix, read_directory, shortened
from .rule import Prefix, Tenure

SECOND_NS = 1_000_000_000


class Keys(NamedTuple):
    """How long the prefixes of subscribers are."""

    ipv4: int
    ipv6: int

    def of(self, text: str) -> Prefix:
        """The subscriber's prefix that an address or prefix lies in. Raises ValueError."""
        found = prefix(text.strip())
        return shortened(found, min(found.length, self.ipv4 if found.version == 4 else self.ipv6))


Reader = Callable[[list[str], Keys], Iterator["Tenure | Finding"]]


def read_holders(
    content: bytes, zone: str, ipv4_key: int, ipv6_key: int
) -> tuple[tuple[Tenure, ...], list[Finding]]:
    """The tenures of a directory, whichever of these forms it has, or the one of our own."""
    reader = reader_of(content.decode("utf-8-sig", errors="replace"))
    if reader is None:
        return read_directory(content, zone, ipv4_key, ipv6_key)
    return read_leases(content.decode("utf-8-sig", errors="replace"), reader, ipv4_key, ipv6_key)


def reader_of(text: str) -> Reader | None:
    """Who reads a directory of this form; None: it is none of theirs."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if any(line.startswith("address,") and "valid_lifetime" in line.split(",")
           for line in lines[:1]):  # fmt: skip
        return _kea
    if any(re.match(r"(lease|ia-na|ia-pd) \S+ \{", line) for line in lines):
        return _isc
    if any(line.startswith("\t") and " = " in line for line in lines[1:2]):
        return _detail
    if lines and all(re.match(r"(\d+ \S+ \S+ \S+ \S+|duid \S+)$", line) for line in lines):
        return _dnsmasq
    return None


def read_leases(
    text: str, reader: Reader, ipv4_key: int, ipv6_key: int
) -> tuple[tuple[Tenure, ...], list[Finding]]:
    """The tenures of a file in one of these forms; prefixes are those of whole subscribers."""
    tenures, findings = [], []
    for found in reader(text.splitlines(), Keys(ipv4_key, ipv6_key)):
        if isinstance(found, Finding):
            findings.append(found)
        else:
            tenures.append(found)
    return settled(tenures), findings


# --- DHCP ------------------------------------------------------------------------------------


def _dnsmasq(lines: list[str], keys: Keys) -> Iterator[Tenure | Finding]:
    """Leases as they are now: end, hardware address, address, name, client's id.

    When they began is not in the file: they have always been.
    """
    version6 = False
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if words[0] == "duid":  # from here on leases are DHCPv6's, which have DUIDs
            version6 = True
            continue
        try:
            account = f"duid:{_octets(words[4])}" if version6 else f"mac:{_octets(words[1][-17:])}"
            ends = int(words[0])
            yield Tenure(keys.of(words[2]), account, None, ends * SECOND_NS if ends else None)
        except (ValueError, IndexError) as error:
            yield Finding(number, f"not a lease of dnsmasq: {error}")


def _kea(lines: list[str], keys: Keys) -> Iterator[Tenure | Finding]:
    """Leases since the file was begun, a line for each change of one.

    A line with no lifetime takes a lease out and does not say when, so it says nothing here: the
    lease ends as it was granted, or where another one begins.
    """
    rows = csv.DictReader(lines)
    for number, row in enumerate(rows, 2):
        try:
            lifetime, ends = int(row["valid_lifetime"]), int(row["expire"])
            if not lifetime or row.get("state", "0") == "1":  # declined: nobody's
                continue
            length = f"/{row['prefix_len']}" if row.get("lease_type") == "2" else ""
            # What a client says of its hardware comes before what else it calls itself.
            known = row.get("hwaddr") or ""
            account = f"mac:{_octets(known)}" if known else f"duid:{_octets(row['duid'])}"
            start, end = (ends - lifetime) * SECOND_NS, ends * SECOND_NS
            yield Tenure(keys.of(row["address"] + length), account, start, end)
        except (ValueError, KeyError, TypeError) as error:
            yield Finding(number, f"not a lease of Kea: {error}")


_ISC_INSTANT = re.compile(r"\d (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d)")


def _isc(lines: list[str], keys: Keys) -> Iterator[Tenure | Finding]:
    """Leases of ISC dhcpd, each as often as it changed; the last word on a start counts."""
    known: dict[tuple[str, str, str], tuple[int, str]] = {}  # address, start, client → line, end
    address = start = end = client = ""
    for number, line in enumerate(lines, 1):
        words = line.strip().rstrip(";").split(None, 1)
        if not words:
            continue
        if words[0] == "lease" and line.endswith("{"):
            address, start, end, client = words[1].split()[0], "", "", ""
        elif words[0] == "starts":
            start = words[1]
        elif words[0] == "ends":
            end = words[1]
        elif words[0] == "hardware":
            client = words[1].split()[-1]
        elif line.startswith("}") and address:
            if start and end and client:
                known[address, start, client] = (number, end)
            address = ""
    for (address, start, client), (number, end) in known.items():
        try:
            yield Tenure(keys.of(address), f"mac:{_octets(client)}", _isc_ns(start),
                         None if end == "never" else _isc_ns(end))
        except ValueError as error:
            yield Finding(number, f"not a lease of dhcpd: {error}")


def _isc_ns(text: str) -> int:
    """"4 2026/11/05 10:00:00", in UTC, or "epoch 1793664000"."""
    if text.startswith("epoch "):
        return int(text.split()[1]) * SECOND_NS
    match = _ISC_INSTANT.match(text)
    if match is None:
        raise ValueError(f"expected an instant in UTC, got {text!r}")
    moment = datetime.strptime(match[1], "%Y/%m/%d %H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * SECOND_NS


def _octets(text: str) -> str:
    """Octets with colons between, lower case. Raises ValueError."""
    if not re.fullmatch(r"[0-9A-Fa-f]{1,2}([:-][0-9A-Fa-f]{1,2})+", text):
        raise ValueError(f"expected octets such as 02:00:00:00:00:07, got {text!r}")
    return ":".join(f"{int(octet, 16):02x}" for octet in re.split("[:-]", text))


# --- RADIUS ----------------------------------------------------------------------------------

_PAIR = re.compile(r"\t([\w.-]+) = (.*)")
_ADDRESSES = ("Framed-IP-Address", "Framed-IPv6-Address", "Framed-IPv6-Prefix",
              "Delegated-IPv6-Prefix")  # fmt: skip


def _detail(lines: list[str], keys: Keys) -> Iterator[Tenure | Finding]:
    """Accounting requests as a server keeps them, in the order in which they came."""
    holders = Holders()
    said: dict[str, list[str]] = {}
    began = 0
    for number, line in enumerate([*lines, ""], 1):
        pair = _PAIR.match(line)
        if pair is not None:
            began = began or number
            said.setdefault(pair[1], []).append(pair[2].strip('"'))
        elif said and not line.strip():
            try:
                tell(holders, said, _detail_ns(said), keys)
            except ValueError as error:
                yield Finding(began, f"not a request for accounting: {error}")
            said, began = {}, 0
    yield from holders.tenures()


def tell(holders: Holders, said: dict[str, list[str]], at_ns: int, keys: Keys) -> bool:
    """Take in what an accounting request says, by its attributes' names. Returns whether that is
    news. Raises ValueError.

    at_ns   when it was so
    """
    teller = next((said[name][0] for name in ("NAS-Identifier", "NAS-IP-Address",
                                              "NAS-IPv6-Address") if name in said), "?")
    [status] = said.get("Acct-Status-Type", ["none"])
    if status in ("Accounting-On", "Accounting-Off"):
        return holders.all_end(teller, at_ns)
    if status not in ("Start", "Interim-Update", "Stop"):
        return False
    if "Acct-Session-Id" not in said or "User-Name" not in said:
        raise ValueError("expected Acct-Session-Id and User-Name")
    session, account = (teller, said["Acct-Session-Id"][0]), said["User-Name"][0]
    prefixes = [keys.of(text) for name in _ADDRESSES for text in said.get(name, ())]
    since_ns = at_ns - int(said.get("Acct-Session-Time", ["0"])[0]) * SECOND_NS
    if status == "Stop":
        return holders.ends(session, account, prefixes, since_ns, at_ns)
    return holders.goes_on(session, account, prefixes, since_ns)


def _detail_ns(said: dict[str, list[str]]) -> int:
    """When a request's event was: as its NAS says, else as it came, less its delay."""
    told = said.get("Event-Timestamp", [""])[0]
    if told.endswith((" UTC", " GMT")):
        moment = datetime.strptime(told[:-4], "%b %d %Y %H:%M:%S").replace(tzinfo=UTC)
        return int(moment.timestamp()) * SECOND_NS
    if "Timestamp" not in said:
        raise ValueError("expected Timestamp, or Event-Timestamp in UTC")
    return (int(said["Timestamp"][0]) - int(said.get("Acct-Delay-Time", ["0"])[0])) * SECOND_NS
