"""Which column of a party's file means what: as a mapping file says, or by recognised names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..errors import ReconcileError
from .line import FIGURES, KEYS

# Names that a column is recognised by, whatever their case; spaces, dots and hyphens are "_".
RECOGNISED: dict[str, tuple[str, ...]] = {
    "window_start": ("window_start", "start_time", "period_start"),
    "window_end": ("window_end", "end_time", "period_end"),
    "day": ("day", "date"),
    "subscriber": ("subscriber", "subscriber_id", "msisdn", "imsi"),
    "account": ("account", "account_id"),
    "rule": ("rule", "rule_id"),
    "rating_group": ("rating_group", "ratinggroup"),
    "uplink_packets": ("uplink_packets", "packets_up", "ul_packets"),
    "uplink_octets": ("uplink_octets", "uplink_bytes", "octets_up", "bytes_up", "ul_bytes"),
    "downlink_packets": ("downlink_packets", "packets_down", "dl_packets"),
    "downlink_octets": (
        "downlink_octets", "downlink_bytes", "octets_down", "bytes_down", "dl_bytes"),
    "packets": ("packets", "total_packets"),
    "octets": ("octets", "bytes", "total_octets", "total_bytes"),
    "subscriber_octets": ("subscriber_octets", "subscriber_bytes"),
    "sponsor_identity": ("sponsor_identity", "sponsor"),
    "sponsor_octets": ("sponsor_octets", "sponsor_bytes"),
    "currency": ("currency",),
    "amount": ("amount",),
    "amount_micros": ("amount_micros",),
}  # fmt: skip
# One sponsor's part has a column of its own: "sponsor_octets.video-co".
SPONSOR = "sponsor_octets."


@dataclass(frozen=True)
class Columns:
    """How the rows of a file are read. Columns have the names that the file gives them."""

    names: Mapping[str, str] = field(default_factory=dict)  # what it is → column
    sponsors: Mapping[str, str] = field(default_factory=dict)  # identity → column
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # their rule → ours
    zone: str = "UTC"  # of times without an offset
    window: tuple[int | None, bool] | None = None  # as rules.units.window has it
    time_format: str | None = None  # as strptime has it; None: ISO 8601 or Unix seconds
    delimiter: str | None = None
    records: str | None = None  # path of the array in a JSON document
    currency: str | None = None

    def of(self, header: Iterable[str], name: str) -> Columns:
        """These columns in a file that has that header; recognised ones where none were named.

        Raises ReconcileError, in one message, where columns are missing or doubtful.
        """
        known = list(header)
        twice = sorted({column for column in known if known.count(column) > 1})
        if twice:
            raise ReconcileError(f'{name}: two columns are called "{twice[0]}"')
        found = self if self.names or self.sponsors else self._recognised(known, name)
        faults = [
            f'no column "{column}" for {what}'
            for what, column in found.named()
            if column not in known
        ] or found.faults()
        if faults:
            raise ReconcileError(
                f"{name}: {'; '.join(faults)}; it has: {', '.join(known) or 'nothing'}"
            )
        return found

    def named(self) -> Iterable[tuple[str, str]]:
        yield from self.names.items()
        for identity, column in self.sponsors.items():
            yield f"{SPONSOR}{identity}", column

    def faults(self) -> list[str]:
        """What is missing to read anything by them."""
        faults = []
        if not self.states & {*FIGURES, "sponsor_octets", "amount"}:
            faults.append("no column for octets, packets or amounts")
        if "window_start" in self.names and "window_end" not in self.names and not self.window:
            faults.append('no column for window_end (or say how long windows are: window = "1h")')
        if {"amount", "amount_micros"} & self.names.keys() and not (
            self.currency or "currency" in self.names
        ):
            faults.append('no column for currency (or say which it is: currency = "CNY")')
        if "sponsor_octets" in self.names and "sponsor_identity" not in self.names:
            faults.append("no column for sponsor_identity, whose sponsor_octets are")
        if faults:
            faults.append("name columns in a mapping file (--map)")
        return faults

    @property
    def states(self) -> frozenset[str]:
        stated = {name for name in (*KEYS, *FIGURES) if name in self.names}
        if {"day", "window_start"} & self.names.keys():
            stated.add("window")
        if self.sponsors or "sponsor_octets" in self.names:
            stated.add("sponsor_octets")
        if {"amount", "amount_micros"} & self.names.keys():
            stated.add("amount")
        return frozenset(stated)

    def _recognised(self, header: list[str], name: str) -> Columns:
        by_word = {word: what for what, words in RECOGNISED.items() for word in words}
        names: dict[str, str] = {}
        sponsors: dict[str, str] = {}
        for column in header:
            if column.startswith(SPONSOR):
                sponsors[column.removeprefix(SPONSOR)] = column
                continue
            what = by_word.get(re.sub(r"[\s.-]+", "_", column.strip().casefold()))
            if what is None:
                continue
            if what in names:
                raise ReconcileError(
                    f'{name}: "{names[what]}" and "{column}" may both be {what}; say which in a '
                    "mapping file (--map)"
                )
            names[what] = column
        if "day" in names and "window_start" in names:
            del names["day"]
        return replace(self, names=names, sponsors=sponsors)


# As `tollsplit account` writes its usage records and charges.
USAGE = Columns({name: name for name in (
    "window_start", "window_end", *KEYS, *FIGURES[:4], "subscriber_octets", "sponsor_identity",
    "sponsor_octets",
)})  # fmt: skip
CHARGES = Columns({
    "window_start": "period_start", "account": "account", "currency": "currency",
    "amount_micros": "amount_micros",
}, window=(None, False))  # fmt: skip


def load_columns(path: str | os.PathLike[str]) -> Columns:
    """Read a mapping file (TOML). Raises RulesError, every fault with its line."""
    from ..rules import units
    from ..rules.document import Document

    document = Document(path)
    root = document.root
    zone = root.read("zone", units.zone, "UTC")
    window = root.read("window", units.window, None)
    time_format = root.read("time_format", units.string, None)
    delimiter = root.read("delimiter", _delimiter, None)
    records = root.read("records", units.string, None)
    currency = root.read("currency", units.currency, None)
    columns = root.table("columns", "columns")
    names = {}
    sponsors = {}
    for what in RECOGNISED:
        if what == "sponsor_octets" and isinstance(columns.peek(what), dict):
            parts = columns.table(what, what)
            for identity in parts:
                sponsors[identity] = parts.read(identity, units.string, "")
        elif (column := columns.read(what, units.string, None)) is not None:
            names[what] = column
    columns.close()
    values = {}
    table = root.table("values", "values")
    for key in ("subscriber", "account", "rule", "rating_group", "sponsor_identity"):
        renamed = table.table(key, f"values.{key}")
        values[key] = {theirs: renamed.read(theirs, units.string, "") for theirs in renamed}
    table.close()
    root.close()
    document.finish()
    return Columns(names, sponsors, values, zone, window, time_format, delimiter, records, currency)


def _delimiter(value: object) -> str:
    if not isinstance(value, str) or len(value) != 1:
        raise ValueError(f"expected one character, got {value!r}")
    return value
