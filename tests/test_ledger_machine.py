"""Any sequence of calls leaves a ledger as a few dictionaries say, on both databases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from bookings import MONEY
from databases import Database
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tollsplit.errors import (
    IdempotencyError,
    LedgerError,
    MissingError,
    OverdraftError,
    StateError,
)
from tollsplit.ledger import Balance, Hold, Ledger, Transfer, open_ledger
from tollsplit.model import Posting

SECOND_NS = 1_000_000_000
NAMES = st.sampled_from(["alice", "bob", "shop", "operator:till", "nobody"])
AMOUNTS = st.integers(1, 60)
KEYS = st.integers(0, 12).map(lambda n: f"k{n}")  # few: they meet
FLOORS = st.sampled_from([None, 0, -50])


@dataclass
class Money:
    """An account as the model knows it."""

    floor: int | None
    balance: int = 0
    held: int = 0
    state: str = "open"

    def change(self, gained: int, set_aside: int) -> None:
        if self.state != "open":
            raise StateError
        if self.floor is not None and self.balance + gained - self.held - set_aside < self.floor:
            raise OverdraftError
        self.balance += gained
        self.held += set_aside


@dataclass
class Aside:
    """A hold as the model knows it."""

    asked: Hold
    expires_ns: int
    state: str = "held"
    captured: tuple[Posting, ...] = ()


@dataclass
class Model:
    accounts: dict[str, Money] = field(default_factory=dict)
    # key → what was asked for, and which of them it was
    transfers: dict[str, tuple[object, int]] = field(default_factory=dict)
    postings: dict[int, tuple[Posting, ...]] = field(default_factory=dict)
    reversed: dict[int, str] = field(default_factory=dict)
    reversals: set[int] = field(default_factory=set)
    holds: dict[str, Aside] = field(default_factory=dict)
    numbers: count = field(default_factory=lambda: count(1))

    def account(self, name: str) -> Money:
        if name not in self.accounts:
            raise MissingError
        return self.accounts[name]

    def book(self, key: str, asked: object, postings: tuple[Posting, ...]) -> tuple[bool, int]:
        if key in self.transfers:
            known, number = self.transfers[key]
            if known != asked:
                raise IdempotencyError
            return False, number
        accounts = [self.account(p.account) for p in postings]
        before = [vars(account).copy() for account in accounts]
        try:
            for account, posting in zip(accounts, postings, strict=True):
                account.change(posting.amount, 0)
        except LedgerError:
            for account, then in zip(accounts, before, strict=True):
                vars(account).update(then)
            raise
        number = next(self.numbers)
        self.transfers[key] = asked, number
        self.postings[number] = postings
        return True, number


class Machine(RuleBasedStateMachine):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self.now_ns = 10**18
        self.ledger: Ledger = open_ledger(database.url, clock_ns=lambda: self.now_ns)
        self.model = Model()
        self.ids: dict[int, int] = {}  # the model's number of a transaction → the ledger's

    def both(self, real: Callable[[], object], model: Callable[[], object]) -> tuple[object, ...]:
        """What the ledger and the model answer; they refuse with the same error."""
        self.sweep()
        try:
            expected = model()
        except LedgerError as error:
            try:
                got = real()
            except LedgerError as refusal:
                assert type(refusal) is type(error), refusal
                return None, None
            raise AssertionError(f"expected {type(error).__name__}, got {got}") from error
        return real(), expected

    # --- accounts -----------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.open_account("alice", 0)
        self.open_account("shop", None)
        self.transfer("k0", "alice", "shop", -50)

    @rule(name=NAMES, floor=FLOORS)
    def open_account(self, name: str, floor: int | None) -> None:
        if name == "nobody":
            return

        def model() -> None:
            if self.model.accounts.setdefault(name, Money(floor)) != Money(
                floor, *list(vars(self.model.accounts[name]).values())[1:3]
            ):
                raise StateError

        self.both(lambda: self.ledger.open_account(name, MONEY, "settlement", floor), model)

    @rule(name=NAMES)
    def close_account(self, name: str) -> None:
        def model() -> None:
            if self.model.account(name).held:
                raise StateError
            self.model.accounts[name].state = "closed"

        self.both(lambda: self.ledger.close_account(name, MONEY), model)

    @rule(name=NAMES, floor=FLOORS)
    def set_floor(self, name: str, floor: int | None) -> None:
        def model() -> None:
            account = self.model.account(name)
            if floor is not None and account.balance - account.held < floor:
                raise OverdraftError
            account.floor = floor

        self.both(lambda: self.ledger.set_floor(name, MONEY, floor), model)

    # --- transfers ----------------------------------------------------------------------

    @rule(key=KEYS, source=NAMES, payee=NAMES, amount=AMOUNTS)
    def transfer(self, key: str, source: str, payee: str, amount: int) -> None:
        if source == payee:
            return
        postings = Posting(source, MONEY, -amount), Posting(payee, MONEY, amount)
        posted, expected = self.both(
            lambda: self.ledger.transfer(Transfer(key, "payment", postings)),
            lambda: self.model.book(key, ("payment", frozenset(postings)), postings),
        )
        self.same_transaction(posted, expected)

    @rule(key=KEYS, pick=st.integers(0, 20))
    def reverse(self, key: str, pick: int) -> None:
        numbers = sorted(self.model.postings)
        number = numbers[pick % len(numbers)] if numbers and pick < 18 else 999_999

        def model() -> tuple[bool, int]:
            if number not in self.model.postings:
                raise MissingError
            if number in self.model.reversals:
                raise StateError
            if self.model.reversed.get(number, key) != key:
                raise StateError
            postings = tuple(
                Posting(p.account, p.unit, -p.amount)
                for p in sorted(self.model.postings[number], key=lambda p: p.account)
            )
            booked, reversal = self.model.book(key, ("reversal", number), postings)
            self.model.reversed[number] = key
            self.model.reversals.add(reversal)
            return booked, reversal

        self.same_transaction(
            *self.both(lambda: self.ledger.reverse(self.ids.get(number, number), key), model))

    def same_transaction(self, posted: object, expected: object) -> None:
        if expected is not None:
            booked, number = expected  # type: ignore[misc]
            assert posted.booked == booked  # type: ignore[attr-defined]
            assert self.ids.setdefault(number, posted.transaction) == posted.transaction  # type: ignore[attr-defined]

    # --- holds --------------------------------------------------------------------------

    @rule(key=KEYS, name=NAMES, amount=AMOUNTS, lifetime_s=st.integers(1, 3))
    def hold(self, key: str, name: str, amount: int, lifetime_s: int) -> None:
        asked = Hold(key, name, MONEY, amount, lifetime_s)

        def model() -> str:
            account = self.model.account(name)
            if key in self.model.holds:
                if self.model.holds[key].asked != asked:
                    raise IdempotencyError
                return self.model.holds[key].state
            account.change(0, amount)
            self.model.holds[key] = Aside(asked, self.now_ns + lifetime_s * SECOND_NS)
            return "held"

        self.same_state(*self.both(lambda: self.ledger.hold(asked), model))

    @rule(key=KEYS, payee=NAMES, amount=AMOUNTS)
    def capture(self, key: str, payee: str, amount: int) -> None:
        source = self.model.holds[key].asked.account if key in self.model.holds else "alice"
        if source == payee:
            return
        postings = Posting(source, MONEY, -amount), Posting(payee, MONEY, amount)

        def model() -> str:
            if key not in self.model.holds:
                raise MissingError
            aside = self.model.holds[key]
            if amount > aside.asked.amount:
                raise LedgerError
            if aside.state in ("voided", "expired"):
                raise StateError
            if aside.state == "captured":
                if aside.captured != postings:
                    raise IdempotencyError
                return "captured"
            account, other = self.model.account(source), self.model.account(payee)
            if other.state != "open":
                raise StateError
            if self.now_ns >= aside.expires_ns:
                raise StateError
            account.change(-amount, -aside.asked.amount)
            other.change(amount, 0)
            aside.state, aside.captured = "captured", postings
            number = next(self.model.numbers)
            self.model.postings[number] = postings
            return "captured"

        held, expected = self.both(lambda: self.ledger.capture(key, "payment", postings), model)
        self.same_state(held, expected)
        if expected is not None:
            number = max(self.model.postings)
            if number not in self.ids:
                self.ids[number] = held.transaction  # type: ignore[attr-defined]

    @rule(key=KEYS)
    def void(self, key: str) -> None:
        def model() -> str:
            if key not in self.model.holds:
                raise MissingError
            aside = self.model.holds[key]
            if aside.state == "captured":
                raise StateError
            if aside.state == "held":
                self.release(aside, "voided")
            return aside.state

        self.same_state(*self.both(lambda: self.ledger.void(key), model))

    def release(self, aside: Aside, state: str) -> None:
        aside.state = state
        self.model.accounts[aside.asked.account].held -= aside.asked.amount

    def same_state(self, held: object, expected: object) -> None:
        if expected is not None:
            assert held.state == expected  # type: ignore[attr-defined]

    @rule(seconds=st.integers(-2, 3))
    def step_the_clock(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND_NS

    def over(self) -> list[Aside]:
        return [a for a in self.model.holds.values()
                if a.state == "held" and a.expires_ns <= self.now_ns]  # fmt: skip

    def sweep(self) -> int:
        """Whoever writes releases what is over."""
        over = self.over()
        for aside in over:
            self.release(aside, "expired")
        return len(over)

    @rule()
    def expire(self) -> None:
        assert self.ledger.expire_holds() == self.sweep()

    # --- what always holds --------------------------------------------------------------

    @invariant()
    def balances_are_the_model_s(self) -> None:
        over: dict[str, int] = defaultdict(int)  # is held by nobody, whoever has swept or not
        for aside in self.over():
            over[aside.asked.account] += aside.asked.amount
        assert self.ledger.balances() == [
            Balance(name, "settlement", MONEY, a.balance, a.held - over[name], a.floor, a.state)
            for name, a in sorted(self.model.accounts.items())
        ]

    def teardown(self) -> None:
        try:
            assert self.ledger.verify().findings == ()
        finally:
            self.ledger.close()


def test_ledger_is_what_a_few_dictionaries_say(databases: Callable[[], Database]) -> None:
    run_state_machine_as_test(
        lambda: Machine(databases()),
        settings=settings(max_examples=25, stateful_step_count=40, deadline=None,
                          suppress_health_check=list(HealthCheck)),
    )  # fmt: skip
