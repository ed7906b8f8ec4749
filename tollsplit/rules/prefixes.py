"""Address prefixes: one as text, a file of many, and who holds which when."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tollsplit.rules.rule import Pool, Prefix, Tenure
from tollsplit.rules.units import nearest, shown

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BITS = {4: 32, 6: 128}
_LENGTHS = {str(n): n for n in range(129)}  # a dict refuses "+8", "08" and " 8" by itself
_HOST_MASKS = {v: [(1 << bits - n) - 1 for n in range(bits + 1)] for v, bits in _BITS.items()}
_COLUMNS = ("prefix", "account", "valid_from", "valid_to")


class Finding(NamedTuple):
    """Something wrong with a line of a file."""

    line: int
    message: str


def prefix(text: object) -> Prefix:
    """The prefix or single address that the text names.

    Raises ValueError with the remedy: host bits set, a length out of range, no address.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected a prefix such as 203.0.113.0/24, got {shown(text)}")
    try:
        return _prefix(text)
    except (OSError, ValueError, LookupError):
        raise ValueError(_complaint(text)) from None


def _prefix(text: str) -> Prefix:
    # inet_pton is several times faster than ipaddress; files have 100,000 of these.
    address, slash, length_text = text.partition("/")
    if ":" in address:
        version, packed = 6, inet_pton(AF_INET6, address)
    else:
        version, packed = 4, inet_pton(AF_INET, address)
    masks = _HOST_MASKS[version]
    length = _LENGTHS[length_text] if slash else len(masks) - 1
    value = int.from_bytes(packed, "big")
    if value & masks[length]:
        raise ValueError
    return Prefix(version, value, length)


def _complaint(text: str) -> str:
    address, _, length = text.partition("/")
    try:
        version = ip_address(address).version
    except ValueError:
        return f"expected a prefix such as 203.0.113.0/24, got {shown(text)}"
    if length not in _LENGTHS or _LENGTHS[length] > _BITS[version]:
        return f"expected a prefix length 0..{_BITS[version]}, got {shown(text)}"
    try:
        network = ip_network(text, strict=False)
    except ValueError:  # a scope such as %eth0
        return f"expected a prefix such as 203.0.113.0/24, got {shown(text)}"
    return f"expected a prefix without host bits, got {shown(text)}; did you mean {network}?"


def prefix_text(item: Prefix) -> str:
    """The prefix as text, its length included."""
    family = AF_INET if item.version == 4 else AF_INET6
    packed = item.value.to_bytes(_BITS[item.version] // 8, "big")
    return f"{inet_ntop(family, packed)}/{item.length}"


def read_prefixes(content: bytes) -> tuple[tuple[Prefix, ...], list[Finding]]:
    """The prefixes of a file, one a line with # comments, in order and each once."""
    found: dict[Prefix, None] = {}
    findings: list[Finding] = []
    text, undecodable = text_of(content)
    if undecodable:
        return (), [undecodable]
    for number, line in enumerate(text.split("\n"), 1):
        word = line.strip()
        if "#" in word:
            word = word.partition("#")[0].rstrip()
        if word:
            try:
                found[_prefix(word)] = None
            except (OSError, ValueError, LookupError):
                findings.append(Finding(number, _complaint(word)))
    if not found and not findings:
        findings.append(Finding(1, "expected one prefix a line, got an empty file"))
    return tuple(found), findings


class Cover:
    """A set of prefixes that answers whether a prefix lies inside one of them."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._prefixes = frozenset(prefixes)
        self._lengths = sorted({(p.version, p.length) for p in self._prefixes})

    def holder(self, item: Prefix) -> Prefix | None:
        """The widest prefix of the set that `item` lies inside of."""
        for version, length in self._lengths:
            if version == item.version and length <= item.length:
                candidate = shortened(item, length)
                if candidate in self._prefixes:
                    return candidate
        return None

    def covers(self, prefixes: Iterable[Prefix]) -> bool:
        """Whether every one of them lies inside a prefix of the set."""
        return all(self.holder(p) is not None for p in prefixes)


def shortened(item: Prefix, length: int) -> Prefix:
    """The prefix of that length that `item` lies inside of."""
    return Prefix(item.version, item.value & ~_HOST_MASKS[item.version][length], length)


def shared_subscribers(
    pools: Sequence[Pool],
) -> Iterator[tuple[int, Prefix, Prefix, int, Prefix]]:
    """Subscribers of whom two pools have a part each; they would be metered as two.

    Index of a pool, its prefix that is longer than its key, the subscriber that the prefix is a
    part of, index of the other pool and its prefix; every two pools once.
    """
    owners = {
        item: number
        for number, pool in enumerate(pools)
        for item in (pool.prefixes if pool.key == "address" else ())
    }
    parts: dict[Prefix, dict[int, Prefix]] = {}  # subscriber → pool → prefix
    for item, number in owners.items():
        pool = pools[number]
        key = pool.ipv4_key if item.version == 4 else pool.ipv6_key
        if item.length > key:
            parts.setdefault(shortened(item, key), {}).setdefault(number, item)
    rivals: dict[Prefix, list[Prefix]] = {}
    for subscriber in parts:
        # Of the prefixes around the whole subscriber the longest has what the parts leave.
        around = (shortened(subscriber, n) for n in range(subscriber.length, -1, -1))
        rivals[subscriber] = [item for item in around if item in owners][:1]
    lengths = {(subscriber.version, subscriber.length) for subscriber in parts}
    for item in owners:
        for version, length in lengths:
            if version == item.version and length < item.length:
                subscriber = shortened(item, length)
                if subscriber in rivals:
                    rivals[subscriber].append(item)
    seen = set()
    for subscriber, several in parts.items():
        for number, part in several.items():
            for rival in rivals[subscriber]:
                pair = frozenset((number, owners[rival]))
                if len(pair) == 2 and pair not in seen:
                    seen.add(pair)
                    yield number, part, subscriber, owners[rival], rival


def read_directory(
    content: bytes, zone: str, ipv4_key: int, ipv6_key: int
) -> tuple[tuple[Tenure, ...], list[Finding]]:
    """The tenures of a CSV file with the columns prefix, account, valid_from, valid_to.

    Instants are ISO 8601; without an offset they are wall time of `zone`. The validity is
    half-open, and an empty instant means without limit. Tenures of one prefix must not overlap.
    """
    text, undecodable = text_of(content)
    if undecodable:
        return (), [undecodable]
    rows, findings = _rows(text)
    header = rows.pop(0) if rows else (1, [])
    findings += _header_findings(*header)
    if findings:
        return (), findings
    columns = header[1]
    places = [columns.index(c) if c in columns else None for c in _COLUMNS]
    instants = Instants(zone)
    keys = {4: ipv4_key, 6: ipv6_key}
    held: dict[Prefix, list[tuple[Tenure, int]]] = {}
    tenures: list[Tenure] = []
    for number, cells in rows:
        try:
            if len(cells) != len(columns):
                raise ValueError(f"expected {len(columns)} cells, got {len(cells)}")
            tenure = _tenure([cells[p] if p is not None else "" for p in places], instants, keys)
        except ValueError as error:
            findings.append(Finding(number, str(error)))
            continue
        tenures.append(tenure)
        held.setdefault(tenure.prefix, []).append((tenure, number))
    for several in held.values():
        if len(several) > 1:
            findings += _overlaps(several)
    return tuple(tenures), findings


def _rows(text: str) -> tuple[list[tuple[int, list[str]]], list[Finding]]:
    """(line, cells) of every row that is not empty."""
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    rows = []
    try:
        for cells in reader:
            if cells:
                rows.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        return rows, [Finding(line, f"not valid CSV: {error}")]
    return rows, []


def _header_findings(line: int, columns: list[str]) -> list[Finding]:
    findings = [
        Finding(line, f"unknown column {shown(c)}{nearest(c, _COLUMNS)}")
        for c in columns
        if c not in _COLUMNS
    ]
    findings += [
        Finding(line, f'expected a header with the column "{c}": {",".join(_COLUMNS)}')
        for c in _COLUMNS[:2]
        if c not in columns
    ]
    if len(set(columns)) != len(columns):
        findings.append(Finding(line, "expected each column once"))
    return findings


def _tenure(cells: list[str], instants: Instants, keys: dict[int, int]) -> Tenure:
    """The tenure of a row; its cells stand in the order of _COLUMNS."""
    text, account, valid_from, valid_to = cells
    item = prefix(text)
    if not account:
        raise ValueError("expected an account, got none")
    key = keys[item.version]
    if item.length > key:
        raise ValueError(
            f"{prefix_text(item)} is less than one subscriber (ipv{item.version}_key = {key}); "
            f"did you mean {prefix_text(shortened(item, key))}?"
        )
    start, end = instants.read(valid_from), instants.read(valid_to)
    if start is not None and end is not None and start >= end:
        raise ValueError("expected valid_from before valid_to")
    return Tenure(item, account, start, end)


def _overlaps(tenures: list[tuple[Tenure, int]]) -> list[Finding]:
    """A finding for each tenure of one prefix that begins before an earlier one ends."""
    findings = []
    last: tuple[Tenure, int] | None = None  # of those so far, the one that ends last
    for tenure, line in sorted(tenures, key=lambda t: (t[0].valid_from_ns or -(2**63), t[1])):
        if last is not None:
            end = last[0].valid_to_ns
            if end is None or tenure.valid_from_ns is None or tenure.valid_from_ns < end:
                later, earlier = max(line, last[1]), min(line, last[1])
                message = f"{prefix_text(tenure.prefix)} is held twice at the same time"
                findings.append(Finding(later, f"{message}: see line {earlier}"))
                if end is None or (tenure.valid_to_ns is not None and tenure.valid_to_ns < end):
                    continue
        last = (tenure, line)
    return findings


class Instants:
    """Reads instants; those without an offset are wall time of one zone."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self._name = zone
        self._known: dict[str, int | None] = {"": None}  # directories repeat their instants

    def read(self, text: str) -> int | None:
        """Nanoseconds since 1970-01-01 UTC; None for an empty text."""
        if text not in self._known:
            self._known[text] = self._read(text)
        return self._known[text]

    def _read(self, text: str) -> int:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"expected an instant such as 2026-11-01T00:00:00Z, got {shown(text)}"
            ) from None
        if moment.tzinfo is None:
            moment = self._placed(moment, text)
        return (moment - _EPOCH) // timedelta(microseconds=1) * 1000

    def _placed(self, wall: datetime, text: str) -> datetime:
        """The wall time in the zone; refused when the zone's clock shows it twice or never."""
        first = wall.replace(tzinfo=self._zone)
        if first.utcoffset() != first.replace(fold=1).utcoffset():
            is_real = first.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None) == wall
            often = "twice" if is_real else "never"
            raise ValueError(
                f"{shown(text)} happens {often} in {self._name}; add an offset such as +08:00"
            )
        return first


def text_of(content: bytes) -> tuple[str, Finding | None]:
    """A file's text, or what is wrong with it."""
    try:
        return content.decode("utf-8-sig"), None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return "", Finding(line, f"expected UTF-8 text, got the octet {content[error.start]:#04x}")
