"""What one run of accounting found: every bucket, every usage record, every charge."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from .errors import TollsplitError
from .model import Charge, UsageRecord, Volume

if TYPE_CHECKING:
    from .engine import Tally, Usage
    from .ledger import Receipt, Run

SCHEMA = "tollsplit.account/1"

_USAGE_COLUMNS = (
    "source", "epoch", "sequence", "window_start", "window_end", "subscriber", "account", "rule",
    "rating_group", "sponsor_identity", "asp_identity", "uplink_packets", "uplink_octets",
    "downlink_packets", "downlink_octets", "first_packet", "last_packet", "flags",
    "subscriber_octets",
)
_SUMS = ("uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets")
_ROWS = 16_384  # made into Python numbers at once
_CHARGE_COLUMNS = ("tariff", "currency", "amount_micros", "rated_octets", "period_start")


class Bucket(NamedTuple):
    """One line of the identity: where frames ended up, and with which sign they count."""

    name: str
    volume: Volume
    sign: int = 1


class Sums(Protocol):
    """Where all frames ended up: a tally's sums, or those of a snapshot of a live run."""

    @property
    def seen(self) -> Volume: ...
    @property
    def metered(self) -> Volume: ...
    @property
    def metered_twice(self) -> Volume: ...
    @property
    def unattributed(self) -> Volume: ...
    @property
    def non_ip(self) -> Volume: ...
    @property
    def control(self) -> Volume: ...
    @property
    def duplicate(self) -> Volume: ...
    @property
    def retransmitted(self) -> Volume: ...
    @property
    def faults(self) -> dict[str, Volume]: ...
    @property
    def coalesced(self) -> Volume: ...
    @property
    def mismatch(self) -> Volume: ...
    @property
    def overlapping(self) -> Volume: ...
    @property
    def untracked(self) -> Volume: ...
    @property
    def suspicious(self) -> Volume: ...
    @property
    def unsolicited(self) -> Volume: ...
    @property
    def refused_tokens(self) -> dict[str, Volume]: ...
    @property
    def tunnel_overhead_octets(self) -> int: ...
    @property
    def subscriber_octets(self) -> int: ...
    @property
    def sponsor_octets(self) -> dict[str, int]: ...


def buckets_of(sums: Sums) -> tuple[Bucket, ...]:
    """Every bucket with its sign; their sum is `seen` (accounting §2)."""
    return (
        Bucket("metered", sums.metered),
        Bucket("metered_twice", sums.metered_twice, -1),
        Bucket("unattributed", sums.unattributed),
        Bucket("non_ip", sums.non_ip),
        Bucket("control", sums.control),
        Bucket("duplicate", sums.duplicate),
        Bucket("retransmitted", sums.retransmitted),
        *(Bucket(f"fault:{kind}", volume) for kind, volume in sorted(sums.faults.items())),
    )


def volumes_of(
    sums: Sums, lost_kernel: int, lost_interface: int
) -> Iterator[tuple[str, Volume]]:
    """All that is counted in packets and octets, the sum of all first."""
    yield "seen", sums.seen
    for bucket in buckets_of(sums):
        yield bucket.name, bucket.volume
    yield "coalesced", sums.coalesced
    yield "mismatch", sums.mismatch
    yield "overlapping", sums.overlapping
    yield "untracked", sums.untracked
    yield "suspicious", sums.suspicious
    yield "unsolicited", sums.unsolicited
    for reason, volume in sorted(sums.refused_tokens.items()):
        yield f"refused_token:{reason}", volume
    yield "tunnel_overhead", Volume(0, sums.tunnel_overhead_octets)
    yield "lost:kernel", Volume(lost_kernel, 0)
    yield "lost:interface", Volume(lost_interface, 0)


@dataclass(frozen=True)
class Report:
    """The figures of one run; `document()` is its JSON form."""

    rules_version: str
    layer: str
    at: str
    tally: Tally
    charges: tuple[Charge, ...] = ()
    lost_kernel: int = 0
    lost_interface: int = 0
    truncated: tuple[str, ...] = ()  # one message per capture that ends inside a record
    receipt: Receipt | None = None  # what the ledger says; None: not booked
    captures: tuple[str, ...] = ()  # files or interfaces that were read, by name
    run: Run | None = None  # what the run is called; None: nobody asked
    elapsed_s: float = 0.0

    @property
    def usage(self) -> Usage:
        """Usage records, in order of window, subscriber and precedence."""
        return self.tally.usage

    @property
    def seen(self) -> Volume:
        return self.tally.seen

    @property
    def subscriber_octets(self) -> int:
        return self.tally.subscriber_octets

    @property
    def sponsor_octets(self) -> dict[str, int]:
        return self.tally.sponsor_octets

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Every bucket with its sign; their sum is `seen` (accounting §2)."""
        return buckets_of(self.tally)

    @property
    def identity_holds(self) -> bool:
        """Whether no octet was lost or made up: the buckets add up to `seen`, the payers to
        `metered`, each counted apart from the other."""
        return self.tally.identity_holds

    @property
    def packets_per_s(self) -> float:
        return self.seen.packets / self.elapsed_s if self.elapsed_s else 0.0

    def document(self) -> dict[str, Any]:
        """The document of interface "tollsplit.account/1", every usage record included."""
        return {**self._head(), "usage": list(usage_entries(self.usage)), **self._foot()}

    def to_json(self) -> str:
        """The document as JSON text."""
        from io import StringIO

        stream = StringIO()
        self.write_json(stream)
        return stream.getvalue()

    def to_csv(self) -> str:
        """Usage records, buckets and charges as CSV text."""
        from io import StringIO

        stream = StringIO(newline="")
        self.write_csv(stream)
        return stream.getvalue()

    def write_json(self, stream: IO[str]) -> None:
        """Write the document, one usage record a line, holding one record at a time."""
        encode = json.JSONEncoder(ensure_ascii=False).encode
        stream.write("{")
        for key, value in self._head().items():
            stream.write(f"{encode(key)}: {encode(value)},\n ")
        stream.write('"usage": [')
        separator = "\n  "
        for entry in usage_entries(self.usage):
            stream.write(separator + encode(entry))
            separator = ",\n  "
        stream.write("]")
        for key, value in self._foot().items():
            stream.write(f",\n {encode(key)}: {encode(value)}")
        stream.write("}\n")

    def write_csv(self, stream: IO[str]) -> None:
        """Write one line per usage record, then one per bucket and charge."""
        write_lines(stream, self.columns, self.lines())

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `lines`. The first one says of what a line is; those of usage are empty
        in all other lines, so that each of them adds up.
        """
        sponsors = [f"sponsor_octets.{name}" for name in self.sponsor_octets]
        taxes = dict.fromkeys(f"tax_micros.{part.tax}" for charge in self.charges
                              for part in charge.taxes)
        return ("line", *_USAGE_COLUMNS, *sponsors, "bucket", "packets", "octets",
                *_CHARGE_COLUMNS, *taxes)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every usage record, bucket and charge as a flat line."""
        for entry in usage_entries(self.usage):
            paid = entry.pop("sponsor_octets")
            entry["flags"] = ",".join(entry["flags"])
            entry.update((f"sponsor_octets.{name}", paid.get(name, 0))
                         for name in self.sponsor_octets)
            yield {"line": "usage", **entry}
        for name, volume in self.volumes():
            yield {"line": "bucket", "bucket": name, **_volume(volume)}
        for charge in self.charges:
            entry = charge_entry(charge)
            taxes = entry.pop("tax_micros")
            entry.update((f"tax_micros.{name}", amount) for name, amount in taxes.items())
            yield {"line": "charge", **entry}

    def to_parquet(self, path: str | IO[bytes]) -> None:
        """Write the usage records as Parquet; all other figures stand in its metadata.

        The key `tollsplit` of the file's metadata holds the JSON document without `usage`.
        """
        _, parquet = pyarrow_modules()
        table = self.usage.to_arrow()
        rest = json.dumps({**self._head(), **self._foot()}, ensure_ascii=False)
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), b"tollsplit": rest.encode()})
        parquet.write_table(table, path)

    def volumes(self) -> Iterator[tuple[str, Volume]]:
        """All that is counted in packets and octets, the sum of all first."""
        return volumes_of(self.tally, self.lost_kernel, self.lost_interface)

    def _head(self) -> dict[str, Any]:
        tally = self.tally
        return {
            "schema": SCHEMA,
            "rules_version": self.rules_version,
            "layer": self.layer,
            "at": self.at,
            "seen": _volume(self.seen),
            "metered": {
                **_volume(tally.metered),
                "subscriber_octets": self.subscriber_octets,
                "sponsor_octets": dict(self.sponsor_octets),
            },
            "metered_twice": _volume(tally.metered_twice),
            "unattributed": _volume(tally.unattributed),
            "non_ip": _volume(tally.non_ip),
            "control": _volume(tally.control),
            "duplicate": _volume(tally.duplicate),
            "retransmitted": _volume(tally.retransmitted),
            "faults": _volumes(tally.faults),
            "tunnel_overhead_octets": tally.tunnel_overhead_octets,
            "coalesced": _volume(tally.coalesced),
            "mismatch": _volume(tally.mismatch),
            "overlapping": _volume(tally.overlapping),
            "untracked": _volume(tally.untracked),
            "suspicious": _volume(tally.suspicious),
            "unsolicited": _volume(tally.unsolicited),
            "refused_tokens": _volumes(tally.refused_tokens),
            "lost": {"kernel": self.lost_kernel, "interface": self.lost_interface},
            "identity": {"holds": self.identity_holds},
            "truncated": list(self.truncated),
        }

    def _foot(self) -> dict[str, Any]:
        return {
            "charges": list(map(charge_entry, self.charges)),
            "ledger": None if self.receipt is None else {
                "booked": self.receipt.booked,
                "transaction": self.receipt.transaction,
                "booked_at": _instant(self.receipt.booked_at),
            },
            "elapsed_s": round(self.elapsed_s, 6),
            "packets_per_s": round(self.packets_per_s, 1),
        }


def usage_entries(usage: Usage) -> Iterator[dict[str, Any]]:
    """Every usage record as the document has it.

    Budget: 5 µs a record, a tenth of making each a UsageRecord first. What depends on window and
    rule alone comes from one record; the rest from columns, some rows at a time.
    """
    fields = ("cell", "rule", "subscriber", "flags", "first_ns", "last_ns", *_SUMS)
    columns = [*(usage.records[name] for name in fields), usage.subscriber_octets]
    own = (*_SUMS, "subscriber_octets")
    common: dict[tuple[int, int], dict[str, Any]] = {}
    flags: dict[int, list[str]] = {}
    who, name, account = -1, "", ""
    for start in range(0, len(usage), _ROWS):
        block = slice(start, start + _ROWS)
        rows = zip(*(column[block].tolist() for column in columns), strict=True)
        paid = usage.paid[block].tolist()
        for index, (cell, rule, subscriber, bits, first, last, *sums) in enumerate(rows, start):
            if (cell, rule) not in common:
                common[cell, rule] = usage_entry(usage.record(index))
            if bits not in flags:
                flags[bits] = list(usage.record(index).flags)
            if subscriber != who:
                who = subscriber
                name, account = usage.subscribers.name(who), usage.subscribers.account(who)
            entry = common[cell, rule].copy()
            entry["sequence"] = index
            entry["subscriber"] = name
            entry["account"] = account
            entry.update(zip(own, sums, strict=True))
            entry["first_packet"] = instant_text(first)
            entry["last_packet"] = instant_text(last)
            entry["flags"] = flags[bits]
            entry["sponsor_octets"] = _shares(usage, rule, paid[index - start])
            yield entry


def _shares(usage: Usage, rule: int, paid: list[int]) -> dict[str, int]:
    shares: dict[str, int] = {}
    if rule:
        for split, octets in zip(usage.rules.rules[rule - 1].splits, paid, strict=False):
            shares[split.sponsor] = shares.get(split.sponsor, 0) + octets
    return shares


def usage_entry(record: UsageRecord) -> dict[str, Any]:
    """One usage record as the document has it."""
    return {
        "source": record.source or None,  # only what is booked has one
        "epoch": record.epoch or None,
        "sequence": record.sequence,
        "window_start": _instant(record.window_start),
        "window_end": _instant(record.window_end),
        "subscriber": record.subscriber,
        "account": record.account,
        "rule": record.rule,
        "rating_group": record.rating_group,
        "sponsor_identity": record.sponsor_identity,
        "asp_identity": record.asp_identity,
        "uplink_packets": record.uplink_packets,
        "uplink_octets": record.uplink_octets,
        "downlink_packets": record.downlink_packets,
        "downlink_octets": record.downlink_octets,
        "first_packet": instant_text(record.first_packet_ns),
        "last_packet": instant_text(record.last_packet_ns),
        "flags": list(record.flags),
        "subscriber_octets": record.subscriber_octets,
        "sponsor_octets": dict(record.sponsor_octets),
    }


def charge_entry(charge: Charge) -> dict[str, Any]:
    """One charge as the document has it."""
    return {
        "account": charge.account,
        "currency": charge.currency,
        "amount_micros": charge.amount_micros,
        "tax_micros": {part.tax: part.amount_micros for part in charge.taxes},
        "tariff": charge.tariff,
        "octets": charge.octets,
        "rated_octets": charge.rated_octets,
        "period_start": _instant(charge.period_start),
    }


def instant_text(instant_ns: int) -> str:
    """An instant as ISO 8601 in UTC, to the nanosecond."""
    seconds, nanoseconds = divmod(instant_ns, 1_000_000_000)
    return f"{_second_text(seconds)}.{nanoseconds:09}Z"


@lru_cache(maxsize=4096)
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _instant(instant: datetime | None) -> str | None:
    if instant is None:
        return None
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _volume(volume: Volume) -> dict[str, int]:
    return {"packets": volume.packets, "octets": volume.octets}


def _volumes(volumes: dict[str, Volume]) -> dict[str, dict[str, int]]:
    return {kind: _volume(volume) for kind, volume in sorted(volumes.items())}


def write_lines(
    stream: IO[str], columns: Sequence[str], lines: Iterable[Mapping[str, Any]]
) -> None:
    """Write lines as CSV with a header; text that a spreadsheet would run is quoted."""
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: guarded(value) for name, value in line.items()} for line in lines)


def write_parquet(
    path: str | IO[bytes], columns: Sequence[str], lines: Iterable[Mapping[str, Any]]
) -> None:
    """Write lines as Parquet."""
    pyarrow, parquet = pyarrow_modules()
    table = pyarrow.Table.from_pylist([{name: line.get(name) for name in columns}
                                       for line in lines])
    parquet.write_table(table, path)


def pyarrow_modules() -> tuple[Any, Any]:
    """pyarrow and its parquet; TollsplitError where it is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise TollsplitError(
            "parquet: pyarrow is not installed; pip install 'tollsplit[parquet]'") from error
    return pyarrow, parquet


def guarded(value: Any) -> Any:
    """A CSV cell that is no formula, in full-width characters neither. What begins with an
    apostrophe gets another one: two names never become one.
    """
    if isinstance(value, str) and value.startswith(
        ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "'")
    ):
        return "'" + value
    return value
