"""What earlier runs used up, which the next one goes on from; asked anew before it is posted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from fractions import Fraction
from functools import partial
from typing import TypeVar

from ..errors import StaleError
from .booking import booked
from .rating import Day, Paid, Period
from .store import Row, Run, Store, unit_of

_Item = TypeVar("_Item")
# (subscriber, account, rule, start of the period in ns) → octets
Prior = dict[tuple[str, str, str, int], int]

_NEVER_NS, _ALWAYS_NS = -(1 << 63), (1 << 63) - 1


class EarlierRuns:
    """Answers from the book for the run that is being worked out.

    They must still hold when it is posted, or two runs at once could use up the same quota twice.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: list[tuple[Row, Callable[[], object], object]] = []

    def prior(self, periods: Iterable[tuple[str, int, int]], before: Run | None) -> Prior:
        """See Ledger.prior."""
        return self._ask(partial(self._prior, tuple(periods), before))

    def _prior(self, periods: Sequence[tuple[str, int, int]], before: Run | None) -> Prior:
        limits = self._limits(before)
        return {
            (subscriber, account, rule, start): octets
            for rule, start, end in periods
            for subscriber, account, octets in self._store.rows(_PRIOR, rule, start, end, *limits)
        }

    def spent(
        self, sponsor: str, start_ns: int | None, end_ns: int | None, before: Run | None
    ) -> int:
        """See Ledger.spent."""
        start = _NEVER_NS if start_ns is None else start_ns
        end = _ALWAYS_NS if end_ns is None else end_ns
        return self._ask(partial(self._spent, sponsor, start, end, before))

    def _spent(self, sponsor: str, start: int, end: int, before: Run | None) -> int:
        ((octets,),) = self._store.rows(
            _SPENT, sponsor, start, end, *self._limits(before)
        )
        return int(octets)

    def rated(self, charges: Set[Day], before: Run | None) -> dict[Day, int]:
        """See Ledger.rated."""
        return self._ask(partial(self._rated, charges, before))

    def _rated(self, charges: Set[Day], before: Run | None) -> dict[Day, int]:
        limits = self._limits(before)
        return {
            (account, tariff, start): octets
            for tariff, start in sorted({charge[1:] for charge in charges})
            for account, octets in self._store.rows(_RATED, tariff, start, *limits)
            if (account, tariff, start) in charges
        }

    def paid(self, periods: Set[Period], before: Run | None) -> dict[Period, Paid]:
        """See Ledger.paid."""
        return self._ask(partial(self._paid, periods, before))

    def _paid(self, periods: Set[Period], before: Run | None) -> dict[Period, Paid]:
        limits = self._limits(before)
        sums: dict[Period, list[Fraction]] = {}
        for currency, *asked in sorted({period[1:] for period in periods}):
            for account, octets, amount, remainder, times in self._store.rows(
                _PAID, unit_of(currency), *asked, *limits
            ):
                period = (account, currency, *asked)
                if period in periods:
                    sums.setdefault(period, [Fraction(0), Fraction(0)])[not octets] += (
                        amount + times * Fraction(remainder))
        return {period: Paid(*both) for period, both in sums.items()}

    def _limits(self, before: Run | None) -> tuple[int, int]:
        """Runs below the first number count, but for those that a transaction below the second
        one reversed.
        """
        known = None if before is None else booked(self._store, before)
        return (_ALWAYS_NS, _ALWAYS_NS) if known is None else (
            known[0].run, known[0].transaction
        )

    def _ask(self, ask: Callable[[], _Item]) -> _Item:
        with self._store.reading():
            answer = ask()
            self._asked.append((self._head(), ask, answer))
        return answer

    def _head(self) -> Row:
        """The latest run and the latest reversal."""
        (head,) = self._store.rows(_HEAD)
        return head

    def expect_same(self) -> None:
        """Raises StaleError where an answer is another one by now."""
        head = self._head()
        for asked_at, ask, answer in self._asked:
            if asked_at != head and ask() != answer:
                self.forget()  # what follows is worked out anew
                raise StaleError(
                    f"{self._store.url}: another run was booked against the same quotas, budgets "
                    "or days of a tariff meanwhile; nothing was booked, run it again"
                )

    def forget(self) -> None:
        """The run was posted: what comes next asks for itself."""
        self._asked.clear()


_HEAD = """
    SELECT (SELECT coalesce(max(id), 0) FROM runs),
        (SELECT coalesce(max(id), 0) FROM transactions WHERE reverses IS NOT NULL)"""
_REVERSED = """
    SELECT q.id FROM transactions t JOIN runs q ON q.transaction_id = t.reverses
    WHERE t.reverses IS NOT NULL AND t.id < ?"""
_PRIOR = f"""
    SELECT u.subscriber, a.name, sum(u.uplink_octets + u.downlink_octets)
    FROM usage_records u JOIN accounts a ON a.id = u.account_id
    WHERE u.rule = ? AND u.last_packet_ns >= ? AND u.first_packet_ns < ? AND u.run_id < ?
        AND u.run_id NOT IN ({_REVERSED})
    GROUP BY u.subscriber, a.name"""
_SPENT = f"""
    SELECT coalesce(sum(u.octets), 0)
    FROM sponsors s JOIN usage_shares u ON u.sponsor_id = s.id
    JOIN usage_records r ON r.run_id = u.run_id AND r.sequence = u.sequence
    WHERE s.identity = ? AND r.last_packet_ns >= ? AND r.first_packet_ns < ? AND u.run_id < ?
        AND u.run_id NOT IN ({_REVERSED})"""
_RATED = f"""
    SELECT a.name, sum(c.octets) FROM charges c JOIN accounts a ON a.id = c.account_id
    WHERE c.tariff = ? AND c.period_start_ns = ? AND c.run_id < ?
        AND c.run_id NOT IN ({_REVERSED})
    GROUP BY a.name"""
_PAID = f"""
    SELECT a.name, c.octets > 0, sum(c.amount_micros), c.remainder, count(*)
    FROM charges c JOIN accounts a ON a.id = c.account_id
    WHERE a.unit = ? AND c.tariff = ? AND c.period_start_ns >= ? AND c.period_start_ns < ?
        AND c.run_id < ? AND c.run_id NOT IN ({_REVERSED})
    GROUP BY a.name, c.octets > 0, c.remainder"""
