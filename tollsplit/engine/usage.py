"""Usage records as columns: what the counters of all workers add up to, split among payers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tollsplit.cext.layout import FLAG_NAMES
from tollsplit.engine.cells import Cells, moment, period_start
from tollsplit.engine.split import increments, parts, running, within_budget
from tollsplit.engine.subscribers import Subscribers, changes, plain, unify
from tollsplit.model import Quantity, UsageRecord
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import Rule, RuleSet

if TYPE_CHECKING:
    import pyarrow as pa

SUMS = ("uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets")
COLUMNS = ("cell", "subscriber", "rule", *SUMS, "flags", "first_ns", "last_ns")
BLOCK_RECORDS = 4096
# The flags that each value of a counter's octet names.
FLAG_SETS = tuple(
    tuple(name for bit, name in enumerate(FLAG_NAMES) if value >> bit & 1) for value in range(16)
)
# (subscriber, account, rule, start of the period in ns) → octets booked before this run
Prior = Mapping[tuple[str, str, str, int], int]
# (sponsor identity, start of the period in ns; 0: the campaign) → octets booked before
Spent = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What every record of one run says of where it came from."""

    source: str
    epoch: str
    layer: str


class Usage:
    """The usage records of one run, in order of (window, subscriber, rule).

    Columns are NumPy arrays; iterating gives one UsageRecord at a time.
    """

    def __init__(
        self,
        rules: RuleSet,
        cells: Cells,
        subscribers: Subscribers,
        rows: np.ndarray,
        provenance: Provenance,
        prior: Prior,
        spent: Spent,
    ) -> None:
        """rows   COUNTER[n], one per (cell, subscriber, rule), sorted so, none twice"""
        self.rules = rules
        self.subscribers = subscribers
        self.provenance = provenance
        self._cells = cells
        self._ordered = sorted(cells.known, key=lambda cell: cell.start_ns)
        self._rows = rows
        self._width = max((len(r.splits) for r in rules.rules), default=0)
        self._rows_of = _by_rule(rows, rules)
        self._paid = self._split(prior)
        self._record_of = self._group_windows()
        self._apply_budgets(spent)
        if self._record_of is None:
            self.records, self.paid, self._records_of = rows, self._paid, self._rows_of
        else:
            self.records = self._sum_records(self._record_of)
            self.paid = np.zeros((len(self.records), self._width), np.int64)
            np.add.at(self.paid, self._record_of, self._paid)
            self._records_of = _by_rule(self.records, rules)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[UsageRecord]:
        for start in range(0, len(self.records), BLOCK_RECORDS):
            yield from self._block(start, start + BLOCK_RECORDS)

    def record(self, index: int) -> UsageRecord:
        """One record."""
        return next(self._block(index, index + 1))

    def _block(self, start: int, stop: int) -> Iterator[UsageRecord]:
        """Records from `start` up to `stop`, their numbers made Python's at once."""
        columns = [self.records[name][start:stop].tolist() for name in COLUMNS]
        rows = zip(*columns, self.paid[start:stop].tolist(), strict=True)
        for sequence, row in enumerate(rows, start):
            yield self._record(sequence, *row)

    # --- columns -----------------------------------------------------------------------

    def columns(self) -> dict[str, np.ndarray]:
        """Numbers of every record by name; times in ns, `subscriber` a number, `rule` from 1."""
        result = {name: self.records[name] for name in COLUMNS if name != "cell"}
        result["subscriber_octets"] = self.subscriber_octets
        return result

    @cached_property
    def octets(self) -> np.ndarray:
        """i8[records], uplink and downlink."""
        return _sum(self.records, "uplink_octets", "downlink_octets")

    @cached_property
    def packets(self) -> np.ndarray:
        """i8[records], uplink and downlink."""
        return _sum(self.records, "uplink_packets", "downlink_packets")

    @cached_property
    def subscriber_octets(self) -> np.ndarray:
        """i8[records], what is left for the subscriber."""
        result: np.ndarray = self.octets - self.paid.sum(axis=1)
        return result

    def sponsor_totals(self) -> dict[str, int]:
        """Octets by sponsor over all records; every sponsor of the rules is named."""
        totals = dict.fromkeys(self.rules.sponsors, 0)
        for number, rule in enumerate(self.rules.rules, 1):
            if rule.splits:
                sums = self.paid[self._records_of[number]].sum(axis=0)
                for split, octets in zip(rule.splits, sums, strict=False):
                    totals[split.sponsor] += int(octets)
        return totals

    def _record(
        self,
        sequence: int,
        cell: int,
        who: int,
        number: int,
        uplink_packets: int,
        uplink_octets: int,
        downlink_packets: int,
        downlink_octets: int,
        flags: int,
        first_ns: int,
        last_ns: int,
        paid: list[int],
    ) -> UsageRecord:
        """The columns of one record, ready to be printed or booked."""
        rule = self.rules.rules[number - 1] if number else None
        window = self._ordered[cell].window
        sponsor = self.rules.sponsors[rule.splits[0].sponsor] if rule and rule.splits else None
        by_sponsor: dict[str, int] = {}
        for split, octets in zip(rule.splits if rule else (), paid, strict=False):
            by_sponsor[split.sponsor] = by_sponsor.get(split.sponsor, 0) + octets
        return UsageRecord(
            source=self.provenance.source,
            epoch=self.provenance.epoch,
            sequence=sequence,
            window_start=moment(window[0]) if window else None,
            window_end=moment(window[1]) if window else None,
            subscriber=self.subscribers.name(who),
            account=self.subscribers.account(who),
            rule=rule.id if rule else None,
            rules_version=self.rules.version,
            rating_group=rule.rating_group if rule else None,
            sponsor_identity=sponsor.identity if sponsor else None,
            asp_identity=sponsor.asp_identity if sponsor else None,
            layer=self.provenance.layer,
            uplink_packets=uplink_packets,
            uplink_octets=uplink_octets,
            downlink_packets=downlink_packets,
            downlink_octets=downlink_octets,
            subscriber_octets=uplink_octets + downlink_octets - sum(by_sponsor.values()),
            sponsor_octets=by_sponsor,
            first_packet_ns=first_ns,
            last_packet_ns=last_ns,
            flags=FLAG_SETS[flags],
        )

    def quantities(self) -> Iterator[Quantity]:
        """What each payer has to pay for in each record and time cell; nothing without tariffs."""
        if not self.rules.tariffs:
            return
        starts = [c.start_ns if self._cells.bounded else None for c in self._ordered]
        for first in range(0, len(self._rows), BLOCK_RECORDS):
            rows = self._rows[first : first + BLOCK_RECORDS]
            paid = self._paid[first : first + BLOCK_RECORDS].tolist()
            records = (
                np.arange(first, first + len(rows)) if self._record_of is None
                else self._record_of[first : first + len(rows)]
            ).tolist()  # fmt: skip
            columns = [rows[name].tolist() for name in ("cell", "subscriber", "rule")]
            octets = _sum(rows, "uplink_octets", "downlink_octets").tolist()
            for cell, who, number, left, shares, record in zip(
                *columns, octets, paid, records, strict=True
            ):
                rule = self.rules.rules[number - 1] if number else None
                own = rule.tariff if rule else None
                for split, share in zip(rule.splits if rule else (), shares, strict=False):
                    if share:
                        sponsor = self.rules.sponsors[split.sponsor]
                        tariff = self._tariff(own or sponsor.tariff)
                        yield Quantity(sponsor.account, tariff, record, starts[cell], share)
                        left -= share
                if left:
                    tariff = self._tariff(own or self.subscribers.tariff(who))
                    account = self.subscribers.account(who)
                    yield Quantity(account, tariff, record, starts[cell], left)

    def _tariff(self, named: str | None) -> str:
        if named is not None:
            return named
        if len(self.rules.tariffs) == 1:
            return next(iter(self.rules.tariffs))
        return "standard"

    def to_arrow(self) -> pa.Table:
        """The records as an Arrow table; needs pyarrow (pip install tollsplit[parquet])."""
        import pyarrow as pa

        rows = self.records
        windows = [c.window for c in self._ordered]
        names = [self.subscribers.name(i) for i in range(len(self.subscribers))]
        accounts = [self.subscribers.account(i) for i in range(len(self.subscribers))]
        rules: list[Rule | None] = [None, *self.rules.rules]
        sponsors = [
            self.rules.sponsors[r.splits[0].sponsor] if r and r.splits else None for r in rules
        ]
        utc = pa.timestamp("ns", tz="UTC")

        def by(field: str, values: Sequence[object], kind: pa.DataType) -> pa.Array:
            return pa.array(values, kind).take(pa.array(rows[field].astype(np.int64)))

        columns = {
            "window_start": by("cell", [w and w[0] for w in windows], utc),
            "window_end": by("cell", [w and w[1] for w in windows], utc),
            "subscriber": by("subscriber", names, pa.string()),
            "account": by("subscriber", accounts, pa.string()),
            "rule": by("rule", [r and r.id for r in rules], pa.string()),
            "rating_group": by("rule", [r and r.rating_group for r in rules], pa.int64()),
            "sponsor_identity": by("rule", [s and s.identity for s in sponsors], pa.string()),
            "asp_identity": by("rule", [s and s.asp_identity for s in sponsors], pa.string()),
            **{name: pa.array(rows[name].astype(np.int64)) for name in SUMS},
            "subscriber_octets": pa.array(self.subscriber_octets),
            **{f"sponsor_octets.{s}": pa.array(self._paid_by(s)) for s in self.rules.sponsors},
            "first_packet": pa.array(rows["first_ns"].astype(np.int64), utc),
            "last_packet": pa.array(rows["last_ns"].astype(np.int64), utc),
            "flags": by("flags", [",".join(names) for names in FLAG_SETS], pa.string()),
        }
        return pa.table(
            columns,
            metadata={
                "schema": "tollsplit.usage/1",
                "source": self.provenance.source,
                "epoch": self.provenance.epoch,
                "layer": self.provenance.layer,
                "rules_version": self.rules.version,
            },
        )

    def _paid_by(self, sponsor: str) -> np.ndarray:
        """i8[records], what one sponsor pays."""
        result = np.zeros(len(self.records), np.int64)
        for number, column in self._splits_of(sponsor):
            mine = self._records_of[number]
            result[mine] += self.paid[mine, column]
        return result

    def _splits_of(self, sponsor: str) -> Iterator[tuple[int, int]]:
        """Where a sponsor pays: (number of the rule, column of `paid`)."""
        for number, rule in enumerate(self.rules.rules, 1):
            for column, split in enumerate(rule.splits):
                if split.sponsor == sponsor:
                    yield number, column

    # --- how it is made ----------------------------------------------------------------

    def _split(self, prior: Prior) -> np.ndarray:
        """What each sponsor of its rule pays of each row: i8[rows, width]."""
        rows = self._rows
        result = np.zeros((len(rows), self._width), np.int64)
        if not self._width:
            return result
        octets = _sum(rows, "uplink_octets", "downlink_octets")
        for number, rule in enumerate(self.rules.rules, 1):
            if not rule.splits:
                continue
            starts = np.array([period_start(c, rule.per) for c in self._ordered], np.uint64)
            mine = self._rows_of[number]
            cell, who = rows["cell"][mine], rows["subscriber"][mine]
            period = starts[cell]
            if len(starts) > 1:  # rows come by cell; a running total goes by subscriber
                order = np.lexsort((cell, period, who))
                mine, period, who = mine[order], period[order], who[order]
            new = changes(who, period)
            before = self._before(rule, prior, who, period, new)
            paid = increments(new, octets[mine], before, parts(rule.splits))
            result[mine, : len(rule.splits)] = paid.T
        return result

    def _before(
        self,
        rule: Rule,
        prior: Prior,
        who: np.ndarray,
        period: np.ndarray,
        new: np.ndarray,
    ) -> np.ndarray:
        """What was booked earlier of each row's running total."""
        if not prior:
            return np.zeros(len(who), np.int64)
        first = [
            prior.get(
                (self.subscribers.name(w), self.subscribers.account(w), rule.id, int(p)), 0
            )
            for w, p in zip(who[new].tolist(), period[new], strict=True)
        ]
        before: np.ndarray = np.array(first, np.int64)[np.cumsum(new) - 1]
        return before

    def _group_windows(self) -> np.ndarray | None:
        """For each row the number of the record it belongs to; None: each is one."""
        rows = self._rows
        numbers: dict[tuple[int, int] | None, int] = {}
        window = np.array([numbers.setdefault(c.window, len(numbers)) for c in self._ordered])
        if len(numbers) == len(self._ordered):
            return None
        of_row = window[rows["cell"]]
        order = np.lexsort((_rule_order(rows["rule"]), rows["subscriber"], of_row))
        new = changes(of_row[order], rows["subscriber"][order], rows["rule"][order])
        result = np.empty(len(rows), np.int64)
        result[order] = np.cumsum(new) - 1
        return result

    def _sum_records(self, record: np.ndarray) -> np.ndarray:
        """One row per record; `cell` is its first one."""
        order = np.argsort(record, kind="stable")
        return _merge(self._rows[order], changes(record[order]))

    def _apply_budgets(self, spent: Spent) -> None:
        """Cut what sponsors pay to their budgets, window by window."""
        for sponsor in self.rules.sponsors.values():
            budget = sponsor.budget
            if budget is None:
                continue
            demand = np.zeros(self._paid.shape, np.int64)
            for number, column in self._splits_of(sponsor.identity):
                mine = self._rows_of[number]
                demand[mine, column] = self._paid[mine, column]
            asked = demand.sum(axis=1)
            granted = self._grant(asked, budget.per, budget.octets, sponsor.identity, spent)
            for column in range(self._width):
                take = np.minimum(demand[:, column], granted)
                self._paid[:, column] -= demand[:, column] - take
                granted = granted - take

    def _grant(
        self, asked: np.ndarray, per: str | None, octets: int, sponsor: str, spent: Spent
    ) -> np.ndarray:
        """What a budget grants of each row's demand: i8[rows]."""
        rows = self._rows
        records = np.arange(len(rows)) if self._record_of is None else self._record_of
        starts = [0 if per is None else (c.day if per == "day" else c.month) or 0
                  for c in self._ordered]  # fmt: skip
        period = np.array(starts, np.uint64)[rows["cell"]]
        windows = np.array([c.window[0] if c.window else 0 for c in self._ordered], np.uint64)
        window = windows[rows["cell"]]
        granted = np.zeros(len(rows), np.int64)
        for start in sorted(set(starts)):
            mine = np.flatnonzero((period == start) & (asked > 0))
            if not len(mine):
                continue
            # a record's rows of one period ask together; in order of window, then record
            mine = mine[np.lexsort((rows["cell"][mine], records[mine], window[mine]))]
            first = np.flatnonzero(changes(records[mine]))
            sums = np.add.reduceat(asked[mine], first)
            used = spent.get((sponsor, int(start)), 0)
            allowed = within_budget(window[mine][first], sums, octets, used)
            # inside a record the earlier cells are served first
            sizes = np.diff(np.append(first, len(mine)))
            before = running(changes(records[mine]), asked[mine]) - asked[mine]
            granted[mine] = np.clip(np.repeat(allowed, sizes) - before, 0, asked[mine])
        return granted


def _sum(rows: np.ndarray, one: str, other: str) -> np.ndarray:
    """i8[n]"""
    result: np.ndarray = (rows[one] + rows[other]).view(np.int64)
    return result


def _by_rule(rows: np.ndarray, rules: RuleSet) -> list[np.ndarray]:
    """For no rule and for each rule, from 1 on, the indices of its rows in ascending order."""
    order = np.argsort(rows["rule"], kind="stable")
    ends = np.cumsum(np.bincount(rows["rule"], minlength=len(rules.rules) + 1))
    return np.split(order, ends[:-1])


def _rule_order(rule: np.ndarray) -> np.ndarray:
    """By precedence, no rule last."""
    return (rule - np.uint16(1)).astype(np.uint16)


def _merge(rows: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Add up rows with those before them, up to the last one that is new."""
    if new.all():
        return rows
    first = np.flatnonzero(new)
    result = rows[first].copy()
    for name in SUMS:
        result[name] = np.add.reduceat(rows[name], first)
    result["flags"] = np.bitwise_or.reduceat(rows["flags"], first)
    result["first_ns"] = np.minimum.reduceat(rows["first_ns"], first)
    result["last_ns"] = np.maximum.reduceat(rows["last_ns"], first)
    return result


def gather(
    compiled: Compiled, cells: Cells, rows: np.ndarray, interned: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What was counted, by position instead of number: SUBSCRIBER[k], and COUNTER[n] sorted.

    rows, interned   COUNTER[n] and SUBSCRIBER[m] as the core gives them; rows is used up
    In the result `subscriber` and `cell` are positions in the subscribers' and cells' order,
    and no key comes twice.
    """
    starts = [c.start_ns for c in cells.known]
    ordered = len(starts) <= 1 << 16 and not len(interned)
    if starts != sorted(starts):
        ranks = np.empty(len(starts), np.uint32)
        ranks[np.argsort(starts, kind="stable")] = np.arange(len(starts))
        rows["cell"] = ranks[rows["cell"]]
        ordered = False
    if len(interned):
        subscribers, rows["subscriber"] = unify(compiled, rows, interned)
    if not ordered:
        rows = rows[_order_of(rows, len(starts))]
    if not len(interned):  # plain IPv4 addresses: their order is their numbers'
        addresses = np.ascontiguousarray(rows["subscriber"])
        if len(starts) == 1:
            new = changes(addresses)
            met = addresses[new]
            rows["subscriber"] = np.cumsum(new, dtype=np.uint32) - np.uint32(1)
        else:
            met = np.sort(addresses)
            met = met[changes(met)]
            rows["subscriber"] = np.searchsorted(met, addresses)
        subscribers = plain(compiled, met)
    return subscribers, _merge(rows, changes(rows["cell"], rows["subscriber"], rows["rule"]))


def _order_of(rows: np.ndarray, cells: int) -> np.ndarray:
    """By cell, subscriber and precedence."""
    rule = _rule_order(rows["rule"])
    if cells > 1 << 16:
        return np.lexsort((rule, rows["subscriber"], rows["cell"]))
    key = rows["cell"].astype(np.uint64) << np.uint64(48)
    key |= rows["subscriber"].astype(np.uint64) << np.uint64(16)
    key |= rule
    return np.argsort(key)
