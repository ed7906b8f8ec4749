"""States of what waits for somebody: explicit, changed by one conditional UPDATE, never stuck."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..ledger import Guard
from ..ledger.store import Row, Store
from ..limits import SERVICE_SWEEP_ROWS
from .problem import EXPIRED, NOT_FOUND, WRONG_STATE, Problem

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class StateMachine:
    """The states of a table's rows.

    The table begins with `id TEXT PRIMARY KEY` and what `columns` gives. A state that others may
    follow waits, and expires when its time is over; one that none follows is final: the database
    refuses every change of such a row.
    """

    what: str  # one row, in words: "transfer"
    table: str
    # State → those that may follow; the first one is where it begins.
    transitions: Mapping[str, tuple[str, ...]]
    fixed: tuple[str, ...] = ()  # columns that keep what they were written with
    expired: str = "expired"

    def __post_init__(self) -> None:
        for state, following in self.transitions.items():
            assert set(following) <= set(self.transitions), f"{self.what}: {state}"
            assert not following or self.expired in following, f"{self.what}: {state} never expires"

    @cached_property
    def first(self) -> str:
        return next(iter(self.transitions))

    @cached_property
    def waiting(self) -> tuple[str, ...]:
        """The states that expire."""
        return tuple(state for state, following in self.transitions.items() if following)

    # --- the table ----------------------------------------------------------------------

    @property
    def columns(self) -> str:
        """Of the table: what a machine needs, beside the id."""
        return (
            f"state TEXT NOT NULL CHECK (state IN ({_listed(self.transitions)})), "
            "expires_at_ns BIGINT NOT NULL, created_at_ns BIGINT NOT NULL, "
            "changed_at_ns BIGINT NOT NULL"
        )

    @property
    def guards(self) -> tuple[str | Guard, ...]:
        """Of the table: what the database refuses by itself, and an index of what may expire."""
        kept = ("id", "created_at_ns", *self.fixed)
        allowed = " OR ".join(
            f"(OLD.state = '{state}' AND NEW.state IN ({_listed((state, *following))}))"
            for state, following in self.transitions.items() if following
        )
        return (
            f"CREATE INDEX {self.table}_to_expire ON {self.table} (expires_at_ns) "
            f"WHERE state IN ({_listed(self.waiting)})",
            Guard(f"{self.table}_follow", self.table, "UPDATE",
                  f"a {self.what} goes from state to state as agreed", when=f"NOT ({allowed})"),
            Guard(f"{self.table}_keep", self.table, "UPDATE",
                  f"a {self.what} keeps what was asked for", kept),
            Guard(f"{self.table}_stay", self.table, "DELETE", f"a {self.what} stays"),
        )  # fmt: skip

    # --- its rows -----------------------------------------------------------------------

    def begin(
        self, store: Store, row: str, now_ns: int, lifetime_s: int, **columns: object
    ) -> None:
        """Add a row in the first state."""
        values = {
            "id": row, "state": self.first, "created_at_ns": now_ns, "changed_at_ns": now_ns,
            "expires_at_ns": now_ns + lifetime_s * _SECOND_NS, **columns,
        }  # fmt: skip
        marks = ", ".join("?" * len(values))
        store.write(
            f"INSERT INTO {self.table} ({', '.join(values)}) VALUES ({marks})",
            [tuple(values.values())],
        )

    def move(
        self, store: Store, row: str, before: str | Sequence[str], state: str, now_ns: int,
        lifetime_s: int | None = None, **columns: object,
    ) -> None:  # fmt: skip
        """Go from one of the states before to another, in time. Of many who try, one does.

        lifetime_s  how long the new state may wait; None: until when the old one might
        columns     what is written along with it

        Raises Problem: NOT_FOUND, EXPIRED, or WRONG_STATE with the state that it is in.
        """
        wanted = (before,) if isinstance(before, str) else tuple(before)
        values = {"state": state, "changed_at_ns": now_ns, **columns}
        if lifetime_s is not None:
            values["expires_at_ns"] = now_ns + lifetime_s * _SECOND_NS
        changed = store.write(
            f"UPDATE {self.table} SET {', '.join(f'{name} = ?' for name in values)} "
            f"WHERE id = ? AND state IN ({_listed(wanted)}) AND expires_at_ns > ?",
            [(*values.values(), row, now_ns)],
        )
        if not changed:
            raise self._refusal(store, row, now_ns)

    def _refusal(self, store: Store, row: str, now_ns: int) -> Problem:
        for state, expires_at_ns in store.rows(
            f"SELECT state, expires_at_ns FROM {self.table} WHERE id = ?", row
        ):
            now = self.state_at(state, expires_at_ns, now_ns)
            if now == self.expired:
                return EXPIRED(f"this {self.what} has expired", state=now)
            return WRONG_STATE(f"this {self.what} is {now}", state=now)
        return NOT_FOUND(f"no such {self.what}")

    def state_at(self, state: str, expires_at_ns: int, now_ns: int) -> str:
        """The state that a row is in, whether its wait was swept already or not."""
        is_over = state in self.waiting and expires_at_ns <= now_ns
        return self.expired if is_over else state

    def read(self, store: Store, row: str, now_ns: int, *columns: str) -> Row:
        """A row's state now and some columns of it. Raises Problem NOT_FOUND."""
        names = "".join(f", {name}" for name in columns)
        for state, expires_at_ns, *values in store.rows(
            f"SELECT state, expires_at_ns{names} FROM {self.table} WHERE id = ?", row
        ):
            return (self.state_at(state, expires_at_ns, now_ns), *values)
        raise NOT_FOUND(f"no such {self.what}")

    def overdue(self, store: Store, now_ns: int, *columns: str) -> list[Row]:
        """Ids, and some columns, of rows whose wait is over and that nobody has expired yet, the
        oldest of them.
        """
        names = "".join(f", {name}" for name in columns)
        return list(store.rows(
            f"SELECT id{names} FROM {self.table} WHERE state IN ({_listed(self.waiting)}) "
            "AND expires_at_ns <= ? ORDER BY expires_at_ns, id LIMIT ?",
            now_ns, SERVICE_SWEEP_ROWS,
        ))  # fmt: skip

    def expire(self, store: Store, now_ns: int) -> int:
        """Expire what is overdue; says how many rows."""
        found = self.overdue(store, now_ns)
        return store.write(
            f"UPDATE {self.table} SET state = '{self.expired}', changed_at_ns = ? "
            f"WHERE id = ? AND state IN ({_listed(self.waiting)}) AND expires_at_ns <= ?",
            [(now_ns, row, now_ns) for (row,) in found],
        ) if found else 0  # fmt: skip

    def astray(self, store: Store) -> Iterator[str]:
        """Rows that no way leads to: for `ledger verify`."""
        for row, state, created, changed in store.rows(
            f"SELECT id, state, created_at_ns, changed_at_ns FROM {self.table} "
            f"WHERE state NOT IN ({_listed(self.transitions)}) OR (state = '{self.expired}' "
            "AND changed_at_ns < expires_at_ns) ORDER BY id"
        ):
            yield f"{self.what} {row}: {state}, made at {created} ns, changed at {changed} ns"


def _listed(states: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"'{state}'" for state in states)
