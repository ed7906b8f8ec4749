"""The book of record: runs and transfers are posted here, and read back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType

from ..errors import UnbookableError
from ..limits import RESERVE_LIFETIME_S
from ..model import Charge, Event, Posting, UsageRecord
from . import account as accounts
from . import event, hold, proof, reserve, transfer
from . import period as periods
from .account import AccountKind, Key
from .annex import Annex
from .booking import Booking, booked
from .chain import Chain
from .earlier import EarlierRuns, Prior
from .hold import Held, Hold
from .journal import Journal
from .period import SignedHead, Signs
from .proof import Proof
from .rating import Day, Earlier, Paid, Period
from .statement import Statement, state
from .store import Balance, Missing, Receipt, Run, Store, instant_at
from .transfer import NO_PROVENANCE, Posted, Provenance, Transfer
from .verify import Verification, verify


class Ledger:
    """Accounts, transactions and the usage behind them, in one store."""

    def __init__(self, store: Store, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._clock_ns = clock_ns
        self._chain = Chain(store)
        self._is_writing = False
        self._earlier = EarlierRuns(store)

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def store(self) -> Store:
        """Where other parts keep tables of their own (see `define`), in the same transactions."""
        return self._store

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    def atomic(self) -> AbstractContextManager[None]:
        """What is done inside is one transaction: all of it or nothing."""
        return self._writing()

    def reading(self) -> AbstractContextManager[None]:
        """What is read inside is one state of the book."""
        return self._store.reading()

    def define(self, annexes: Sequence[Annex]) -> None:
        """Make other parts' tables in the ledger's store, or bring them to their newest version."""
        self._store.define(annexes)

    @contextmanager
    def _writing(self, *, sweeps: bool = True) -> Iterator[None]:
        """A transaction; what is written in it is chained when the outermost one ends.

        sweeps  holds whose time is over are released before it, so that they stand in nobody's way
        """
        if self._is_writing:
            mark = self._chain.mark()
            try:
                with self._store.writing():
                    yield
            except BaseException:
                self._chain.undo(mark)
                raise
            return
        if sweeps and hold.any_over(self._store, self._clock_ns()):
            # Apart from what follows, which may lock other accounts, in their order.
            with self._writing(sweeps=False):
                hold.expire(self._store, self._chain, self._clock_ns())
        with self._store.writing():
            self._is_writing = True
            try:
                yield
                self._chain.write()
            finally:
                self._is_writing = False
                self._chain.clear()

    # --- what earlier runs used up ------------------------------------------------------

    def prior(self, periods: Iterable[tuple[str, int, int]], *, before: Run | None) -> Prior:
        """Octets (uplink + downlink) booked per subscriber, holder, rule and period: the running
        totals that quotas and shares go on from.

        periods  (rule, start, end) of each period, in ns, half-open
        before   the run that is being worked out: where it was booked already, only what was
                 booked before it counts, so that it comes out the same again

        A record with packets on both sides of a boundary counts in full on both: a sponsor's
        quota is never exceeded. Windows that divide the period have no such records.
        """
        return self._earlier.prior(periods, before)

    def spent(
        self, sponsor: str, start_ns: int | None, end_ns: int | None, *, before: Run | None
    ) -> int:
        """Octets that a sponsor (by its identity) has paid for in [start, end): what is gone of
        its budget. None: no bound. `before` and boundaries as for `prior`.
        """
        return self._earlier.spent(sponsor, start_ns, end_ns, before)

    def rated(self, charges: Set[Day], *, before: Run | None) -> dict[Day, int]:
        """Octets rated per account, tariff and start of a charge in ns, where there are some: what
        the increments and tiers of a day go on from. `before` as for `prior`.
        """
        return self._earlier.rated(charges, before)

    def paid(self, periods: Set[Period], *, before: Run | None) -> dict[Period, Paid]:
        """What accounts were charged in periods, taxes left out, where they were: what the
        minimum of a day or a month goes on from. `before` as for `prior`.
        """
        return self._earlier.paid(periods, before)

    def earlier(self, run: Run) -> Earlier:
        """What the charges of a run go on from (see rate)."""
        return Earlier(partial(self.rated, before=run), partial(self.paid, before=run))

    # --- posting ------------------------------------------------------------------------

    def post(
        self, run: Run, records: Iterable[UsageRecord], charges: Iterable[Charge]
    ) -> Receipt:
        """Book a run in one transaction, all of it or nothing. The same run again changes
        nothing; its receipt says when it was booked.

        records  in the order of their sequences, without gaps

        Each payer's octets go from its account to the operator's traffic, each payer's charges
        to the operator's revenue, taxes to theirs. What an account's balance does not cover, down
        to its floor, is the operator's own to collect, and so is all that a closed account used.

        Raises StaleError where earlier runs' usage has changed since it was asked for this run,
        LedgerError, also where the key was booked with other contents; IdentityError where
        records don't add up.
        """
        with self._writing():
            self._store.serialise()
            known = booked(self._store, run)
            booking = Booking(self._store, self._chain, run)
            if known is None:
                self._expect_new_captures(run)
                self._earlier.expect_same()
                now_ns = self._clock_ns()
                receipt = booking.write(records, charges, now_ns)
                self._chain.accounts(booking.opened, now_ns)
                self._chain.add("transaction", receipt.transaction, now_ns, booking.content)
            else:
                receipt, fingerprint = known
                booking.read(records, charges)
                self._expect_same(run, receipt, fingerprint == booking.fingerprint.digest())
        self._earlier.forget()
        return receipt

    def missing(self) -> list[Missing]:
        """Records that were never booked though later ones of their epoch were, by their keys."""
        with self._store.reading():
            return [Missing(*row) for row in self._store.rows(_MISSING)]

    def bounded(self) -> set[Key]:
        """Open accounts of subscribers and sponsors that have a floor: name and unit. For their
        sake `reserve` is there.
        """
        with self._store.reading():
            return accounts.bounded(self._store)

    def reserve(
        self, run: Run, used: Mapping[Key, int], lifetime_s: int = RESERVE_LIFETIME_S
    ) -> tuple[Event, ...]:
        """Hold what a batch that is still open has used so far; what was held for it before is
        released, so each account has one such hold. Booking the batch releases it.

        used        what the batch would be posted with: octets or micro-units of each account
        lifetime_s  after that it expires, should the batch never be booked

        No more is held than there is, and nothing where an account has no floor or the batch is
        booked. Small changes are left for later. Returns whose balance came to its end by it.
        """
        with self._writing():
            self._store.serialise()
            self._earlier.forget()  # nothing is posted on what was asked for this
            if booked(self._store, run) is not None:
                return ()
            return reserve.place(
                self._store, self._chain, run, used, lifetime_s, self._clock_ns()
            )

    def _expect_new_captures(self, run: Run) -> None:
        """The same capture in two runs would be billed twice."""
        for name, digest in run.captures:
            for earlier, at in self._store.rows(
                _CAPTURE_BOOKED, digest, run.source, run.epoch
            ):
                raise UnbookableError(
                    f"{self.url}: {name} was booked at {instant_at(at):%Y-%m-%dT%H:%M:%SZ} as "
                    f"{earlier}, with other captures or alone; nothing was booked: name only "
                    "captures that are new"
                )

    def _expect_same(self, run: Run, receipt: Receipt, same: bool) -> None:
        if same:
            return
        ((rules, program),) = self._store.rows(
            "SELECT rules_version, program FROM runs WHERE id = ?", receipt.run
        )
        found = (
            f"with other contents, by {program}" if rules == run.rules_version
            else f"under other rules ({rules}, now {run.rules_version})"
        )
        raise UnbookableError(
            f"{self.url}: {run.title} was booked at "
            f"{receipt.booked_at:%Y-%m-%dT%H:%M:%SZ} {found}; that booking stands, nothing was "
            "changed"
        )

    def record_events(self, events: Iterable[Event]) -> int:
        """Keep events that are new, all of them or none; says how many were."""
        with self._writing():
            return event.record(self._store, self._chain, events, self._clock_ns())

    # --- accounts, transfers, holds -------------------------------------------------------

    def open_account(
        self, account: str, unit: str, kind: AccountKind, floor: int | None = None
    ) -> Balance:
        """Make an account, or find it as it is asked for.

        unit   "octet", or as "CNY/1000000": micro-units of a currency
        floor  what its balance less what is held never falls below; None: no bound

        Usage and charges open accounts of payers by themselves, without a floor. Raises
        StateError where it is there and is another, LedgerError.
        """
        with self._writing():
            accounts.open_account(self._store, account, unit, kind, floor)
            return self._changed(account, unit)

    def set_floor(self, account: str, unit: str, floor: int | None) -> Balance:
        """Move an account's floor. Raises OverdraftError where it is below that already."""
        with self._writing():
            accounts.set_floor(self._store, account, unit, floor)
            return self._changed(account, unit)

    def close_account(self, account: str, unit: str) -> Balance:
        """Close an account: nothing is posted to it or held of it any more. Raises StateError
        while something is held.
        """
        with self._writing():
            accounts.close(self._store, account, unit)
            return self._changed(account, unit)

    def _changed(self, account: str, unit: str) -> Balance:
        numbers = accounts.numbers(self._store, [(account, unit)])
        self._chain.accounts(numbers.values(), self._clock_ns())
        return accounts.balance(self._store, account, unit)

    def transfer(self, asked: Transfer) -> Posted:
        """Book one transfer. The same again changes nothing and is told when it was booked.

        Raises IdempotencyError where its key was used for another one, OverdraftError where an
        account would fall below its floor, StateError where one is closed, MissingError where one
        is not there, IdentityError where the postings don't sum to zero; nothing is booked then.
        """
        return self.transfer_all([asked])[0]

    def transfer_all(self, asked: Iterable[Transfer]) -> list[Posted]:
        """Book many transfers, all of them or none, as if one after the other. As `transfer`."""
        entries = [transfer.entry_of(one) for one in asked]
        with self._writing():
            return transfer.book(self._store, self._chain, entries, self._clock_ns())

    def reverse(
        self, transaction: int, key: str, description: str = "",
        provenance: Provenance = NO_PROVENANCE,
    ) -> Posted:  # fmt: skip
        """Take a transaction back, once, by another one with all its postings the other way.

        key  as a transfer's

        A run that is reversed counts no longer towards quotas, budgets and days of a tariff; it
        stays booked, its records stay. Raises StateError where it was reversed before or is a
        reversal itself, and as `transfer`.
        """
        with self._writing():
            entry = transfer.reversal(self._store, transaction, key, description, provenance)
            return transfer.book(self._store, self._chain, [entry], self._clock_ns())[0]

    def hold(self, asked: Hold) -> Held:
        """Set an amount aside. The same again is told what became of it.

        Raises as `transfer`.
        """
        reserve.expect_other(asked.key)
        with self._writing():
            return hold.place(self._store, self._chain, asked, self._clock_ns())

    def capture(
        self, key: str, kind: str, postings: Iterable[Posting], description: str = "",
        provenance: Provenance = NO_PROVENANCE,
    ) -> Held:  # fmt: skip
        """Book what an amount was held for, and release what of it is not needed.

        postings  as a transfer's; what they take from the hold's account is at most what is held

        The same again changes nothing. Raises StateError where the hold was voided or has expired,
        and as `transfer`.
        """
        reserve.expect_other(key)
        with self._writing():
            return hold.capture(
                self._store, self._chain, key, tuple(postings), kind, description, provenance,
                self._clock_ns(),
            )  # fmt: skip

    def void(self, key: str) -> Held:
        """Release a hold, unless it was captured: StateError."""
        reserve.expect_other(key)
        with self._writing():
            return hold.void(self._store, self._chain, key, self._clock_ns())

    def expire_holds(self) -> int:
        """Release holds whose time is over; says how many. Whoever writes does so first, some
        thousands at a time, and what is over is never captured nor shown as held: this is for who
        wants to be through with it.
        """
        expired = 0
        while True:
            with self._writing(sweeps=False):
                count = hold.expire(self._store, self._chain, self._clock_ns())
            expired += count
            if not count:
                return expired

    # --- reading back -------------------------------------------------------------------

    def balances(self) -> list[Balance]:
        """Every account with what it holds, by name and unit."""
        with self._store.reading():
            over = hold.over(self._store, self._clock_ns())
            found = [Balance(*row) for row in self._store.rows(_BALANCES)]
        return [_without(over, one) for one in found] if over else found

    def balance(self, account: str, unit: str) -> Balance:
        """Raises MissingError."""
        with self._store.reading():
            over = hold.over(self._store, self._clock_ns())
            return _without(over, accounts.balance(self._store, account, unit))

    def held(self, key: str) -> Held:
        """What became of a hold. Raises MissingError."""
        with self._store.reading():
            return hold.read(self._store, key)

    def postings(self, transaction: int) -> list[Posting]:
        """Of one transaction, by account and unit; of one that is not there, none."""
        with self._store.reading():
            return transfer.postings_of(self._store, transaction)

    def events(self) -> list[Event]:
        """Every event, as they came in."""
        with self._store.reading():
            return list(event.read(self._store))

    def statement(
        self, account: str | None = None, period: str | None = None, zone: str = "UTC", *,
        records: bool = False,
    ) -> Statement:  # fmt: skip
        """What one account (None: all payers) used and owes in a month ("2026-11"), on a day
        ("2026-11-03"), or altogether (None), by days of the zone. Raises LedgerError.

        records  with every usage record and charge behind the lines
        """
        with self._store.reading():
            return state(self._store, account, period, zone, records=records)

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """Everything that is booked; all that is read inside is one state of the book."""
        with self._store.reading():
            yield Journal(self._store)

    # --- proof --------------------------------------------------------------------------

    def close_period(self, period: str, signer: Signs, zone: str | None = None) -> SignedHead:
        """Close a month ("2026-11") or a day ("2026-11-03") that is over, and sign what it comes
        to. What is booked from then on belongs to later periods, whatever the clock says.

        zone  whose months and days count; None: as before, UTC for the first period

        Periods follow each other without gaps. Raises StateError where this one is not over, is
        closed, or does not follow the last one; LedgerError.
        """
        with self._store.reading():
            found = periods.sum_up(self._store, period, zone)
        with self._writing():
            return periods.close(
                self._store, self._chain, found, period, zone, signer, self._clock_ns()
            )

    def closed_periods(self) -> list[SignedHead]:
        """In order."""
        with self._store.reading():
            return periods.read(self._store)

    def prove(self, account: str, period: str) -> Proof:
        """What was booked of an account in a closed period, and how it leads to what was signed.

        Raises MissingError where the period is not closed or the account is not in it;
        IdentityError where the rows are not those that were signed.
        """
        with self._store.reading():
            return proof.make(self._store, account, period)

    def verify(
        self, kept: Sequence[SignedHead | Proof] = (), public_key: str | None = None,
        annexes: Sequence[Annex] = (),
    ) -> Verification:  # fmt: skip
        """Recompute everything from the rows; says what was checked and what is wrong.

        kept        heads and proofs from elsewhere: the ledger has to go on from them, and to have
                    what was proved
        public_key  of whom closed periods have to be signed by, hexadecimal; None: all by one
        annexes     other parts' tables that are checked too, where they are there
        """
        with self._store.reading():
            return verify(self._store, kept, public_key, annexes)


def _without(over: Mapping[Key, int], balance: Balance) -> Balance:
    """The balance without holds whose time is over."""
    return replace(balance, held=balance.held - over.get((balance.account, balance.unit), 0))


# Sequences of an epoch begin at 0 and have no gaps.
_MISSING = """
    SELECT source, epoch, expected, first_sequence - expected FROM (
        SELECT source, epoch, first_sequence, coalesce(lag(first_sequence + records) OVER (
            PARTITION BY source, epoch ORDER BY first_sequence), 0) AS expected FROM runs) r
    WHERE first_sequence > expected ORDER BY source, epoch, expected"""
_CAPTURE_BOOKED = """
    SELECT c.name, t.created_at_ns
    FROM captures c JOIN runs r ON r.id = c.run_id JOIN transactions t ON t.id = r.transaction_id
    WHERE c.digest = ? AND (r.source, r.epoch) <> (?, ?) LIMIT 1"""
_BALANCES = """
    SELECT name, kind, unit, balance, held, floor, state FROM accounts ORDER BY name, unit"""
