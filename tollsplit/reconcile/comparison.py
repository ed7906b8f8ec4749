"""Two parties' lines side by side, summed up by key in a scratch database on the disk."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby
from operator import attrgetter, itemgetter
from types import TracebackType
from typing import Any, Literal

from ..errors import ReconcileError, UsageError
from ..limits import RECONCILE_BATCH_LINES, RECONCILE_CACHE_OCTETS
from .line import Amount, By, Line, Party
from .times import Window
from .windows import Calendar

Verdict = Literal["agreeing", "within_tolerance", "differing", "missing_ours", "missing_theirs"]
VERDICTS: tuple[Verdict, ...] = (
    "agreeing", "within_tolerance", "differing", "missing_ours", "missing_theirs",
)  # fmt: skip
AGREEING = frozenset({"agreeing", "within_tolerance"})
Kind = Literal["usage", "charge"]


@dataclass(frozen=True, slots=True)
class Figure:
    """What both sides say of one quantity; None: the side has no such line."""

    name: str  # "uplink_octets", "sponsor_octets.video-co", "amount_micros.CNY"
    ours: int | None
    theirs: int | None

    @property
    def difference(self) -> int:
        """By how much theirs is more than ours."""
        return (self.theirs or 0) - (self.ours or 0)

    @property
    def percent(self) -> float | None:
        """The difference, of ours; None: ours is nothing."""
        return 100 * self.difference / self.ours if self.ours else None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the comparison."""

    kind: Kind
    verdict: Verdict
    window: Window  # (None, None): not told by time
    key: dict[str, str | int | None]
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far figures may differ: all by a part of ours, octets also by a number of them."""

    octets: int = 0
    part: Fraction = Fraction(0)

    @classmethod
    def of(cls, text: str) -> Tolerance:
        """Read "100" (octets) or "0.5%". Raises UsageError."""
        if match := re.fullmatch(r"(\d{1,18})", text, re.ASCII):
            return cls(octets=int(match[1]))
        if match := re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?) ?%", text, re.ASCII):
            return cls(part=Fraction(match[1]) / 100)
        raise UsageError(f'tolerance: expected octets as "100" or a part as "0.5%", got "{text}"')

    def allows(self, figure: Figure) -> bool:
        apart = abs(figure.difference)
        octets = self.octets if "octets" in figure.name else 0
        return apart <= octets or apart <= self.part * abs(figure.ours or 0)


@dataclass(slots=True)
class Summary:
    """All findings of one kind, summed up."""

    totals: dict[str, list[int]] = field(default_factory=dict)  # figure → ours, theirs
    counts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))

    def add(self, figure: Figure) -> None:
        total = self.totals.setdefault(figure.name, [0, 0])
        total[0] += figure.ours or 0
        total[1] += figure.theirs or 0

    def figures(self) -> Iterator[Figure]:
        """The totals; those of sponsors and currencies by name, after the others."""
        for name, (ours, theirs) in sorted(self.totals.items(), key=_rank):
            yield Figure(name, ours, theirs)


def _rank(total: tuple[str, list[int]]) -> str:
    return total[0] if "." in total[0] else ""


class Comparison:
    """What two parties state, compared. Holds a temporary file until it is closed."""

    def __init__(
        self, ours: Party, theirs: Party, by: By, tolerance: Tolerance, calendar: Calendar,
        sponsor: str | None,
    ) -> None:  # fmt: skip
        self.ours, self.theirs, self.by, self.calendar = ours, theirs, by, calendar
        self.sponsor = sponsor
        self.notes: list[str] = []
        self._tolerance = tolerance
        self._figures = _common_figures(ours.states, theirs.states)
        self._sponsors = self._common_sponsors()
        self._has_usage = bool(self._figures) or self._sponsors != frozenset()
        if self._has_usage:
            self._expect_keys()
        self.notes += [
            f"{what} not compared: only {party.name} states them"
            for party, other in ((ours, theirs), (theirs, ours))
            for what in sorted(_stated(party.states) - _stated(other.states))
        ]
        self._scratch = sqlite3.connect("", isolation_level=None)
        try:
            with _explained():
                self._fill()
                totals = self._usage_totals()
            self.usage, self.charges = Summary(totals), Summary()
            for finding in self._usage_findings(self.usage):
                self.usage.counts[finding.verdict] += 1
            for finding in self._charge_findings():
                self.charges.counts[finding.verdict] += 1
                for figure in finding.figures:
                    self.charges.add(figure)
        except BaseException:
            self._scratch.close()
            raise

    def __enter__(self) -> Comparison:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scratch.close()

    @property
    def agrees(self) -> bool:
        """Whether no line differs beyond the tolerance or is missing."""
        return not any(
            count
            for summary in (self.usage, self.charges)
            for verdict, count in summary.counts.items()
            if verdict not in AGREEING
        )

    def findings(self, *, everything: bool = False) -> Iterator[Finding]:
        """Lines that do not agree, by window and key, charges last.

        everything  those that agree, too
        """
        if self.agrees and not everything:
            return
        agreeing = None if everything else Summary()
        for findings in (self._usage_findings(agreeing), self._charge_findings()):
            for finding in findings:
                if everything or finding.verdict not in AGREEING:
                    yield finding

    # --- what can be compared ---------------------------------------------------------------

    def _expect_keys(self) -> None:
        for party in (self.ours, self.theirs):
            wanted = (["window"] if self.by.time else []) + list(self.by.keys)
            for key in wanted:
                if key not in party.states:
                    raise ReconcileError(
                        f"{party.name}: says no {key}; leave it out of --by, or name its column "
                        "in a mapping file (--map)"
                    )

    def _common_sponsors(self) -> frozenset[str] | None:
        """Whose octets both state; None: every sponsor's."""
        if not ("sponsor_octets" in self.ours.states and "sponsor_octets" in self.theirs.states):
            return frozenset()
        if self.ours.sponsors is None or self.theirs.sponsors is None:
            return self.ours.sponsors or self.theirs.sponsors
        return self.ours.sponsors & self.theirs.sponsors

    # --- into the scratch database ----------------------------------------------------------

    def _fill(self) -> None:
        keys, figures = list(self.by.keys), list(self._figures)
        for pragma in (
            "journal_mode = OFF", "synchronous = OFF", "temp_store = FILE",
            f"cache_size = -{RECONCILE_CACHE_OCTETS // 1024}",
        ):  # fmt: skip
            self._scratch.execute(f"PRAGMA {pragma}")
        self._scratch.execute("BEGIN")
        for table, columns in (
            ("usage", ["side", "cell", *keys, *figures]),
            ("shares", ["side", "cell", *keys, "sponsor", "octets"]),
            ("amounts", ["side", "day", "account", "currency", "micros"]),
            ("days", ["day INTEGER PRIMARY KEY", "start", "end"]),
            ("commons", ["cell INTEGER PRIMARY KEY", "common"]),
        ):
            self._scratch.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        for side, party in enumerate((self.ours, self.theirs)):
            _Loader(self._scratch, self.by, self._figures, self._sponsors, self.calendar,
                    self.sponsor).load(side, party)  # fmt: skip
        ours, theirs = self.ours.layers, self.theirs.layers
        if ours and theirs and ours != theirs:
            raise ReconcileError(
                f"{self.ours.name} was metered at layer {', '.join(sorted(ours))}, "
                f"{self.theirs.name} at {', '.join(sorted(theirs))}: their octets are not "
                "comparable; meter both alike (--layer)"
            )
        self.windows, commons = self.calendar.commons()
        if self.by.time == "window" and len(self.windows) < len(self.calendar.cells):
            self.notes.append("windows differ in length: compared by the longer ones")
        self._scratch.executemany("INSERT INTO commons VALUES (?, ?)", commons.items())
        self._sum_up(keys, figures)
        self._expect_something()

    def _sum_up(self, keys: list[str], figures: list[str]) -> None:
        group = ", ".join(["common", *keys])
        sums = [
            f"sum(CASE side WHEN {side} THEN {name} END) AS {which}_{name}"
            for name in figures
            for side, which in enumerate(("ours", "theirs"))
        ]
        has = ["max(side = 0) AS ours", "max(side = 1) AS theirs"]
        source = "JOIN commons USING (cell)"
        self._scratch.execute(
            f"CREATE TABLE lines AS SELECT {', '.join([group, *has, *sums])} FROM usage {source} "
            f"GROUP BY {group} ORDER BY {group}"
        )
        self._scratch.execute(
            f"CREATE TABLE parts AS SELECT {group}, sponsor, {_SIDES.format('octets')} "
            f"FROM shares {source} GROUP BY {group}, sponsor ORDER BY {group}, sponsor"
        )
        # Without a day on either side, none tells charges apart.
        ((undated,),) = self._scratch.execute("SELECT count(*) FROM amounts WHERE day IS NULL")
        day = "NULL" if undated else "day"
        by_account = {"subscriber", "account"} & set(keys)
        account = "account" if by_account else "NULL"
        self._scratch.execute(
            f"CREATE TABLE money AS SELECT {day} AS day, {account} AS account, currency, "
            f"max(side = 0) AS ours, max(side = 1) AS theirs, {_SIDES.format('micros')} "
            "FROM amounts GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        )

    def _expect_something(self) -> None:
        """Nothing on both sides would agree."""
        ((usage,),) = self._scratch.execute("SELECT count(*) FROM lines")
        sides = {side for (side,) in self._scratch.execute("SELECT DISTINCT side FROM amounts")}
        self._has_money = sides == {0, 1} and self.sponsor is None
        if sides and not self._has_money:
            why = (
                "they are whole accounts'" if self.sponsor is not None
                else f"only {(self.theirs if 1 in sides else self.ours).name} states them"
            )
            self.notes.append(f"amounts not compared: {why}")
        if not (usage and self._has_usage) and not self._has_money:
            raise ReconcileError(
                f"{self.ours.name} and {self.theirs.name}: nothing to compare: no figure is stated "
                "by both, or no record is of the period and sponsor"
            )

    # --- out of it --------------------------------------------------------------------------

    def _usage_totals(self) -> dict[str, list[int]]:
        if not self._has_usage:
            return {}
        sums = ", ".join(f"sum(ours_{n}), sum(theirs_{n})" for n in self._figures) or "0"
        ((*totals,),) = self._scratch.execute(f"SELECT {sums} FROM lines")
        sides = zip(self._figures, totals[::2], totals[1::2], strict=False)
        parts = self._scratch.execute(
            "SELECT sponsor, sum(our), sum(their) FROM parts GROUP BY sponsor"
        )
        return {name: [ours or 0, theirs or 0] for name, ours, theirs in sides} | {
            f"sponsor_octets.{sponsor}": [ours, theirs] for sponsor, ours, theirs in parts
        }

    def _usage_findings(self, agreeing: Summary | None) -> Iterator[Finding]:
        """Lines; those that are the same on both sides are but counted where there is a place
        to. Budget: 2 µs for each of these.
        """
        if not self._has_usage:
            return
        keys = self.by.keys
        width = 1 + len(keys)
        parts = groupby(self._scratch.execute("SELECT * FROM parts"), itemgetter(slice(width)))
        key, part = next(parts, (None, iter(())))
        for row in self._scratch.execute("SELECT * FROM lines"):
            shares = []
            if row[:width] == key:
                shares = list(part)
                key, part = next(parts, (None, iter(())))
            ours, theirs = row[width : width + 2]
            ours_stated, theirs_stated = row[width + 2 :: 2], row[width + 3 :: 2]
            if (
                agreeing is not None and ours and theirs and ours_stated == theirs_stated
                and all(share[-2] == share[-1] for share in shares)
            ):
                agreeing.counts["agreeing"] += 1
                continue
            figures = list(map(Figure, self._figures, ours_stated, theirs_stated))
            for *_, sponsor, our, their in shares:
                figures.append(Figure(f"sponsor_octets.{sponsor}", our if ours else None,
                                      their if theirs else None))  # fmt: skip
            told = dict(zip(keys, row[1:width], strict=True))
            yield self._finding("usage", self.windows[row[0]], told, ours, theirs, figures)

    def _charge_findings(self) -> Iterator[Finding]:
        if not self._has_money:
            return
        days = {number: (start, end) for number, start, end in
                self._scratch.execute("SELECT * FROM days")}  # fmt: skip
        for day, account, currency, ours, theirs, our, their in self._scratch.execute(
            "SELECT * FROM money"
        ):
            figure = Figure(f"amount_micros.{currency}", our if ours else None,
                            their if theirs else None)  # fmt: skip
            key: dict[str, str | int | None] = {} if account is None else {"account": account}
            window = (None, None) if day is None else days[day]
            yield self._finding("charge", window, key, ours, theirs, [figure])

    def _finding(
        self, kind: Kind, window: Window, key: dict[str, str | int | None], ours: int, theirs: int,
        figures: list[Figure],
    ) -> Finding:  # fmt: skip
        verdict: Verdict
        if all(figure.difference == 0 for figure in figures):
            verdict = "agreeing"  # also what only one side lists, where it is nothing
        elif not ours:
            verdict = "missing_ours"
        elif not theirs:
            verdict = "missing_theirs"
        else:
            allowed = all(map(self._tolerance.allows, figures))
            verdict = "within_tolerance" if allowed else "differing"
        return Finding(kind, verdict, window, key, tuple(figures))


_SIDES = """coalesce(sum(CASE side WHEN 0 THEN {0} END), 0) AS our,
    coalesce(sum(CASE side WHEN 1 THEN {0} END), 0) AS their"""


class _Loader:
    """Puts one party's lines into the scratch database."""

    def __init__(
        self, scratch: sqlite3.Connection, by: By, figures: tuple[str, ...],
        sponsors: frozenset[str] | None, calendar: Calendar, sponsor: str | None,
    ) -> None:  # fmt: skip
        self._scratch = scratch
        self._keys = [Line._fields.index(key) for key in by.keys]
        self._figures = [_reader(name) for name in figures]
        self._sponsors, self._calendar, self._sponsor = sponsors, calendar, sponsor
        self._days: dict[Window, int | None] = {(None, None): None}
        self._usage: list[tuple[Any, ...]] = []
        self._shares: list[tuple[Any, ...]] = []
        self._amounts: list[tuple[Any, ...]] = []

    def load(self, side: int, party: Party) -> None:
        for line in party.lines():
            if isinstance(line, Line):
                self._add(side, line, party.name)
            else:
                self._add_amount(side, line, party.name)
            if max(len(self._usage), len(self._amounts)) >= RECONCILE_BATCH_LINES:
                self._flush()
        self._flush()

    def _add(self, side: int, line: Line, name: str) -> None:
        sponsor = self._sponsor
        shares = line.sponsor_octets
        if sponsor is not None and line.sponsor_identity != sponsor and not shares.get(sponsor):
            return
        cell = self._calendar.cell(line[:2], name)
        if cell is None:
            return
        key = (side, cell, *[line[index] for index in self._keys])
        self._usage.append((*key, *[read(line) for read in self._figures]))
        wanted = self._sponsors
        for identity, octets in shares.items():
            if wanted is None or identity in wanted:
                self._shares.append((*key, identity, octets))

    def _add_amount(self, side: int, amount: Amount, name: str) -> None:
        day = self._calendar.day(amount.start_ns, name)
        if day is None:
            return
        if day not in self._days:
            found = self._scratch.execute(
                "SELECT day FROM days WHERE start = ? AND end = ?", day
            ).fetchone()
            self._days[day] = found[0] if found else self._scratch.execute(
                "INSERT INTO days (start, end) VALUES (?, ?)", day
            ).lastrowid
        row = (side, self._days[day], amount.account, amount.currency, amount.amount_micros)
        self._amounts.append(row)

    def _flush(self) -> None:
        for table, rows in (
            ("usage", self._usage), ("shares", self._shares), ("amounts", self._amounts),
        ):  # fmt: skip
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                self._scratch.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
                rows.clear()


def _reader(name: str) -> Callable[[Line], int | None]:
    """Gives one figure of a line; a total also as the sum of both directions."""
    stated: Callable[[Line], int | None] = attrgetter(name)
    if name not in ("octets", "packets"):
        return stated
    ways: Callable[[Line], tuple[int, int]] = attrgetter(f"uplink_{name}", f"downlink_{name}")

    def total(line: Line) -> int:
        found = stated(line)
        return sum(ways(line)) if found is None else found

    return total


def _common_figures(ours: frozenset[str], theirs: frozenset[str]) -> tuple[str, ...]:
    """What both state, in the finest form that both have."""
    common: list[str] = []
    for what in ("packets", "octets"):
        ways = {f"uplink_{what}", f"downlink_{what}"}
        if not ways <= ours & theirs and all(
            what in states or ways <= states for states in (ours, theirs)
        ):
            common.append(what)
        else:
            common += sorted(ways & ours & theirs, reverse=True)
    return (*common, *sorted({"subscriber_octets"} & ours & theirs))


def _stated(states: frozenset[str]) -> set[str]:
    """The kinds of figures among what is stated."""
    whats = ("packets", "octets")
    kinds = {what for name in states for what in whats if name.endswith(f"link_{what}")}
    return kinds | (states & {"packets", "octets", "subscriber_octets", "sponsor_octets"})


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ReconcileError(
            f"the scratch database: {error}; TMPDIR names a folder with more room"
        ) from error
