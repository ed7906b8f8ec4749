"""Usage records as columns: what the counters of all workers add up to, split among payers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from tollsplit.cext.columns import Columns
from tollsplit.cext.layout import FLAG_NAMES
from tollsplit.cext.meter import Meter
from tollsplit.cext.shares import divide
from tollsplit.engine.cells import Cell, Cells, budget_start, moment, period_start
from tollsplit.engine.split import running, within_budget
from tollsplit.engine.subscribers import Subscribers, changes, intern
from tollsplit.engine.terms import Terms
from tollsplit.model import Quantities, UsageRecord, Volume
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
    first_sequence: int = 0  # of this run's records among those of the epoch


class Usage:
    """The usage records of one run, in order of (window, subscriber, rule).

    Columns are NumPy arrays; iterating gives one UsageRecord at a time.
    """

    def __init__(
        self,
        rules: RuleSet,
        terms: Terms,
        bounded: bool,
        subscribers: Subscribers,
        counted: Columns,
        provenance: Provenance,
        prior: Prior,
        spent: Spent,
    ) -> None:
        """bounded   whether time is cut into cells at all
        counted   one row per (window, subscriber, rule, cell), sorted so, none twice
        """
        self.rules = rules
        self.subscribers = subscribers
        self.provenance = provenance
        self.metered = Volume(counted.packets, counted.octets)
        self._bounded = bounded
        self._ordered = terms.cells
        self._rows = counted.columns
        self._terms = terms
        self._paid = np.zeros((self._terms.width, len(self._rows["rule"])), np.int64)
        self._sums, self.subscriber_total, self._least = divide(
            self._rows, self._terms.steps, self._terms.first, self._terms.period,
            self._terms.per, counted.pair, counted.pairs, self._before(prior), self._paid,
        )
        new = self._new_records()
        self._record_of = None if new is None else np.cumsum(new) - 1
        self._apply_budgets(spent)
        self.records, self._records_paid = self._rows, self._paid
        if new is not None:
            self.records, self._records_paid = self._sum_records(np.flatnonzero(new))

    def __len__(self) -> int:
        return len(self.records["rule"])

    def __iter__(self) -> Iterator[UsageRecord]:
        for start in range(0, len(self), BLOCK_RECORDS):
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

    @property
    def paid(self) -> np.ndarray:
        """i8[records, width], what the sponsor of each split of its rule pays of a record."""
        return self._records_paid.T

    @cached_property
    def subscriber_octets(self) -> np.ndarray:
        """i8[records], what is left for the subscriber."""
        result = _sum(self.records, "uplink_octets", "downlink_octets")
        for paid in self._records_paid:
            result -= paid
        return result

    @property
    def owes_nobody(self) -> bool:
        """Whether no payer has less than 0 octets of a record."""
        return self._least >= 0

    @property
    def windows(self) -> list[tuple[int, int] | None]:
        """Of each time cell in order, its window's start and end in ns; None: all time."""
        return [cell.window for cell in self._ordered]

    def sponsor_totals(self) -> dict[str, int]:
        """Octets by sponsor over all records; every sponsor of the rules is named."""
        totals = dict.fromkeys(self.rules.sponsors, 0)
        splits = (split for rule in self.rules.rules for split in rule.splits)
        for split, octets in zip(splits, self._sums.tolist(), strict=True):
            totals[split.sponsor] += octets
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
            sequence=self.provenance.first_sequence + sequence,
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

    def quantities(self) -> Quantities:
        """What each payer has to pay for in each record and time cell."""
        accounts: dict[str, int] = {}
        tariffs: dict[str, int] = {}

        def numbered(numbers: dict[str, int], names: Iterable[str]) -> np.ndarray:
            return np.array([numbers.setdefault(n, len(numbers)) for n in names], np.uint32)

        who = self._rows["subscriber"]
        account = numbered(accounts, self.subscribers.accounts())[who]
        by_pool = numbered(tariffs, (self._tariff(pool.tariff) for pool in self.rules.pools))
        tariff = by_pool[self.subscribers.pools() - 1][who]
        left = _sum(self._rows, "uplink_octets", "downlink_octets")
        parts = [(np.arange(len(left)), account, tariff, left)]
        for number, rule in enumerate(self.rules.rules, 1):
            rows = self._rows_of[number]
            if rule.tariff:
                tariff[rows] = numbered(tariffs, [rule.tariff])
            for column, split in enumerate(rule.splits):
                share = self._paid[column, rows]
                left[rows] -= share
                sponsor = self.rules.sponsors[split.sponsor]
                ours = numbered(accounts, [sponsor.account])
                by = numbered(tariffs, [self._tariff(rule.tariff or sponsor.tariff)])
                parts.append((rows, np.repeat(ours, len(rows)), np.repeat(by, len(rows)), share))
        row, account, tariff, octets = (np.concatenate(part) for part in zip(*parts, strict=True))
        starts = [c.start_ns if self._bounded else None for c in self._ordered]
        return Quantities(
            list(accounts), list(tariffs), starts, account, tariff, self._rows["cell"][row],
            row if self._record_of is None else self._record_of[row], octets,
        )  # fmt: skip

    def _tariff(self, named: str | None) -> str:
        if named is not None:
            return named
        if len(self.rules.tariffs) == 1:
            return next(iter(self.rules.tariffs))
        return "standard"

    def to_arrow(self) -> pa.Table:
        """The records as an Arrow table; needs pyarrow (pip install 'tollsplit[parquet]')."""
        import pyarrow as pa

        rows = self.records
        windows = self.windows
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
            **{f"sponsor_octets.{s}": pa.array(self.paid_by(s)) for s in self.rules.sponsors},
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

    def paid_by(self, sponsor: str) -> np.ndarray:
        """i8[records], what one sponsor pays."""
        result = np.zeros(len(self), np.int64)
        for number, column in self._splits_of(sponsor):
            mine = self._records_of[number]
            result[mine] += self._records_paid[column, mine]
        return result

    def _splits_of(self, sponsor: str) -> Iterator[tuple[int, int]]:
        """Where a sponsor pays: (number of the rule, column of `paid`)."""
        for number, rule in enumerate(self.rules.rules, 1):
            for column, split in enumerate(rule.splits):
                if split.sponsor == sponsor:
                    yield number, column

    # --- what a later run goes on from --------------------------------------------------

    def running_totals(
        self, goes_on: Callable[[Rule, Cell], bool]
    ) -> Iterator[tuple[tuple[str, str, str, int], int]]:
        """What running totals grew by: (subscriber, account, rule, start of the period in ns),
        octets; a key may come more than once.

        goes_on   whether more may come of a rule's total in a cell; the others are left out
        """
        for number, rule in enumerate(self.rules.rules, 1):
            if not rule.splits:
                continue
            starts = [period_start(cell, rule.per) for cell in self._ordered]
            wanted = np.array([goes_on(rule, cell) for cell in self._ordered], bool)
            mine = self._rows_of[number]
            mine = mine[wanted[self._rows["cell"][mine]]]
            octets = self._rows["uplink_octets"][mine] + self._rows["downlink_octets"][mine]
            who, cells = (self._rows[name][mine].tolist() for name in ("subscriber", "cell"))
            for w, c, total in zip(who, cells, octets.tolist(), strict=True):
                name, account = self.subscribers.name(w), self.subscribers.account(w)
                yield (name, account, rule.id, starts[c]), total

    def spent(self) -> Iterator[tuple[tuple[str, int], int]]:
        """What sponsors spent of their budgets: (identity, start of the period in ns), octets."""
        for sponsor in self.rules.sponsors.values():
            if sponsor.budget is None:
                continue
            by_cell = np.zeros(len(self._ordered), np.int64)
            for number, column in self._splits_of(sponsor.identity):
                mine = self._rows_of[number]
                np.add.at(by_cell, self._rows["cell"][mine], self._paid[column, mine])
            for cell, octets in zip(self._ordered, by_cell.tolist(), strict=True):
                yield (sponsor.identity, budget_start(cell, sponsor.budget.per)), octets

    # --- how it is made ----------------------------------------------------------------

    @cached_property
    def _rows_of(self) -> list[np.ndarray]:
        return _by_rule(self._rows["rule"], len(self.rules.rules))

    @cached_property
    def _records_of(self) -> list[np.ndarray]:
        return _by_rule(self.records["rule"], len(self.rules.rules))

    def _before(self, prior: Prior) -> np.ndarray | None:
        """What was booked earlier of each row's running total: i8[rows]; None: nothing."""
        if not prior:
            return None
        result = np.zeros(len(self._rows["rule"]), np.int64)
        known = {key[2] for key in prior}
        for number, rule in enumerate(self.rules.rules, 1):
            if not rule.splits or rule.id not in known:
                continue
            starts = [period_start(cell, rule.per) for cell in self._ordered]
            mine = self._rows_of[number]
            who, cell = (self._rows[name][mine].tolist() for name in ("subscriber", "cell"))
            result[mine] = [
                prior.get(
                    (self.subscribers.name(w), self.subscribers.account(w), rule.id, starts[c]), 0
                )
                for w, c in zip(who, cell, strict=True)
            ]
        return result

    def _new_records(self) -> np.ndarray | None:
        """b1[rows], where another record begins; None: each row is one."""
        if len(self._terms.window_first) == len(self._ordered):
            return None
        rows = self._rows
        return changes(self._terms.window[rows["cell"]], rows["subscriber"], rows["rule"])

    def _sum_records(self, first: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns with one row per record, from where each begins; `cell` is its first one."""
        how = dict.fromkeys(SUMS, np.add) | {
            "flags": np.bitwise_or, "first_ns": np.minimum, "last_ns": np.maximum}
        records = {name: how[name].reduceat(column, first) if name in how else column[first]
                   for name, column in self._rows.items()}
        return records, np.add.reduceat(self._paid, first, axis=1)

    def _apply_budgets(self, spent: Spent) -> None:
        """Cut what sponsors pay to their budgets, window by window."""
        for sponsor in self.rules.sponsors.values():
            budget = sponsor.budget
            if budget is None:
                continue
            demand = np.zeros(self._paid.shape, np.int64)
            for number, column in self._splits_of(sponsor.identity):
                mine = self._rows_of[number]
                demand[column, mine] = self._paid[column, mine]
            asked = demand.sum(axis=0)
            granted = self._grant(asked, budget.per, budget.octets, sponsor.identity, spent)
            for column in range(self._terms.width):
                take = np.minimum(demand[column], granted)
                self._paid[column] -= demand[column] - take
                self.subscriber_total += int((demand[column] - take).sum())
                self._least = min(self._least, int(take.min(initial=0)))
                granted = granted - take
            for number, column in self._splits_of(sponsor.identity):
                step = self._terms.first[number] + column
                self._sums[step] = self._paid[column, self._rows_of[number]].sum()

    def _grant(
        self, asked: np.ndarray, per: Literal["day", "month"] | None, octets: int, sponsor: str,
        spent: Spent,
    ) -> np.ndarray:
        """What a budget grants of each row's demand: i8[rows]."""
        cell = self._rows["cell"]
        records = np.arange(len(cell)) if self._record_of is None else self._record_of
        starts = [budget_start(cell, per) for cell in self._ordered]
        period = np.array(starts, np.uint64)[cell]
        windows = np.array([c.window[0] if c.window else 0 for c in self._ordered], np.uint64)
        window = windows[cell]
        granted = np.zeros(len(cell), np.int64)
        for start in sorted(set(starts)):
            mine = np.flatnonzero((period == start) & (asked > 0))
            if not len(mine):
                continue
            # a record's rows of one period ask together
            first = np.flatnonzero(changes(records[mine]))
            sums = np.add.reduceat(asked[mine], first)
            used = spent.get((sponsor, int(start)), 0)
            allowed = within_budget(window[mine][first], sums, octets, used)
            # inside a record the earlier cells are served first
            sizes = np.diff(np.append(first, len(mine)))
            before = running(changes(records[mine]), asked[mine]) - asked[mine]
            granted[mine] = np.clip(np.repeat(allowed, sizes) - before, 0, asked[mine])
        return granted


def _sum(columns: Mapping[str, np.ndarray], one: str, other: str) -> np.ndarray:
    """i8[n]"""
    result: np.ndarray = (columns[one] + columns[other]).view(np.int64)
    return result


def _by_rule(rule: np.ndarray, rules: int) -> list[np.ndarray]:
    """For no rule and for each rule, from 1 on, the indices of its rows in ascending order."""
    order = np.argsort(rule, kind="stable")
    ends = np.cumsum(np.bincount(rule, minlength=rules + 1))
    return np.split(order, ends[:-1])


def gather(
    rules: RuleSet, compiled: Compiled, cells: Cells, counted: Meter
) -> tuple[Terms, Columns, Subscribers]:
    """What was counted, in order of (window, subscriber, rule, cell), none last of the rules.

    In the columns `subscriber` and `cell` are positions in the subscribers' and terms' order.
    """
    order = sorted(range(len(cells.known)), key=lambda number: cells.known[number].start_ns)
    terms = Terms(rules, [cells.known[number] for number in order])
    rank = np.empty(len(order), np.uint32)
    rank[order] = np.arange(len(order))
    interned = counted.subscribers.subscribers()
    with ThreadPoolExecutor(len(counted.tables)) as pool:  # a thread begins when it is needed
        columns = Columns(
            counted.tables, rank, terms.window, terms.window_first, *intern(compiled, interned),
            pool.map, paired=terms.spanning,
        )
    return terms, columns, Subscribers(rules, compiled, columns.subscribers, interned)
