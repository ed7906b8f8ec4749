"""The chain: whatever is written gets a link, in order, sealed with the digest of the one before.

A link says when, what kind of row and which, and its digest covers what the row says. Links are
written when the outermost transaction ends, all of them at once, in that same transaction: whoever
writes has the chain's end to himself for that moment alone. Times of links never step back.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from ..model import Event
from .store import Row, Store, among, compact, quoted

Kind = Literal["ledger", "account", "transaction", "hold", "resolution", "event", "period"]
# What a link is to be made of: kind, id, time in ns and JSON of what the row says.
Due = tuple[Kind, int, int, str]
SINCE_VERSION = 4  # of the schema: older ledgers are chained when they are migrated
START = bytes(32)  # stands for the digest before the first link

_EVENT = tuple(field.name for field in fields(Event))


@dataclass(frozen=True, slots=True)
class Link:
    """One link as it is stored."""

    number: int  # from 1, without gaps
    at_ns: int
    kind: Kind
    subject: int  # the row's id
    content: str | None  # what the row said then, where rows of this kind change
    digest: bytes


@dataclass(frozen=True, slots=True)
class Genesis:
    """What the first link says."""

    identity: str  # of the ledger, whatever its file or server is called
    since_ns: int  # when chaining began
    adopted: int  # links that were made then of rows that had been there already


class Chain:
    """What the open transaction has written so far, to be linked when it ends."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._due: list[Due] = []
        self._accounts: dict[int, int] = {}  # that may be new or changed → when
        self._events: dict[str, int] = {}  # identities that may be new → when

    def add(self, kind: Kind, subject: int, at_ns: int, content: str) -> None:
        """A row that was written, and JSON of what it says."""
        self._due.append((kind, subject, at_ns, content))

    def accounts(self, numbers: Iterable[int], at_ns: int) -> None:
        """Accounts that may have been opened or changed."""
        self._accounts.update(dict.fromkeys(numbers, at_ns))

    def events(self, identities: Iterable[str], at_ns: int) -> None:
        """Events that may have been new."""
        self._events.update(dict.fromkeys(identities, at_ns))

    def mark(self) -> tuple[int, dict[int, int], dict[str, int]]:
        return len(self._due), dict(self._accounts), dict(self._events)

    def undo(self, mark: tuple[int, dict[int, int], dict[str, int]]) -> None:
        """Forget what was added since a mark: it was undone."""
        length, self._accounts, self._events = mark
        del self._due[length:]

    def clear(self) -> None:
        self.undo((0, {}, {}))

    def write(self) -> None:
        """Link all that is due. Nobody else writes a link until the transaction ends."""
        if not (self._due or self._accounts or self._events):
            return
        store = self._store
        store.serialise("chain")
        known: dict[int, str] = dict(among(store, _LAST_TERMS, sorted(self._accounts)))
        found = among(store, _CHANGED_ACCOUNTS, sorted(self._accounts))
        terms = [(number, compact(row)) for number, *row in found]
        due: list[Due] = [
            ("account", number, self._accounts[number], content)
            for number, content in terms if known.get(number) != content
        ]  # fmt: skip
        due += self._due
        due += [
            ("event", number, self._events[identity], event_content((identity, *row)))
            for number, identity, *row in among(store, _NEW_EVENTS, sorted(self._events))
        ]
        append(store, due)
        self.clear()


def append(store: Store, due: Iterable[Due]) -> None:
    """Write links, in that order; a time before the last link's becomes the last link's."""
    last, latest_ns, digest = head(store)
    links: list[Row] = []
    for number, (kind, subject, at_ns, content) in enumerate(due, last + 1):
        if at_ns > latest_ns:
            latest_ns = at_ns
        digest = seal(digest, number, latest_ns, kind, subject, content)
        kept = content if kind in _KEPT else None
        links.append((number, latest_ns, kind, subject, kept, digest))
    store.copy("chain", "number, at_ns, kind, subject, content, digest", links)


def head(store: Store) -> tuple[int, int, bytes]:
    """Number, time and digest of the last link."""
    for number, at_ns, digest in store.rows(_HEAD):
        return number, at_ns, digest
    return 0, -(1 << 63), START


def seal(
    previous: bytes, number: int, at_ns: int, kind: str, subject: int, content: str
) -> bytes:
    """A link's digest. content: a JSON array as `compact` writes it."""
    text = f'["{previous.hex()}",{number},{at_ns},"{kind}",{subject},{content}]'
    return hashlib.sha256(text.encode()).digest()


def last_before(store: Store, instant_ns: int) -> int:
    """The last link before an instant; 0: none. Times never step back, numbers have no gaps."""
    low, (high, _, _) = 0, head(store)
    while low < high:
        middle = (low + high + 1) // 2
        is_before = all(at_ns < instant_ns for (at_ns,) in store.rows(_TIME, middle))
        low, high = (middle, high) if is_before else (low, middle - 1)
    return low


def digest_at(store: Store, number: int) -> bytes | None:
    """A link's digest; None where there is no such link."""
    if number == 0:
        return START
    for (digest,) in store.rows("SELECT digest FROM chain WHERE number = ?", number):
        return bytes(digest)
    return None


def genesis(store: Store) -> Genesis | None:
    """What the first link says; None where it is none of ours."""
    for kind, content in store.rows("SELECT kind, content FROM chain WHERE number = 1"):
        try:
            identity, since_ns, adopted = json.loads(content)
        except (TypeError, ValueError):
            return None
        return Genesis(identity, since_ns, adopted) if kind == "ledger" else None
    return None


def begin(store: Store, now_ns: int) -> None:
    """Chain a ledger for the first time; rows that are there are linked as they are found."""
    found = list(_found(store, now_ns))
    first_ns = min((at_ns for _, _, at_ns, _ in found), default=now_ns)
    content = compact((str(uuid.uuid4()), now_ns, len(found)))
    append(store, [("ledger", 0, first_ns, content), *found])


def _found(store: Store, now_ns: int) -> Iterator[Due]:
    transactions = [
        (number, at_ns, _transaction(store, number, kind, key, fingerprint, at_ns))
        for number, kind, key, fingerprint, at_ns in list(store.rows(_TRANSACTIONS))
    ]
    first_ns = min((at_ns for _, at_ns, _ in transactions), default=now_ns)
    for number, *terms in store.rows(_ACCOUNTS):
        yield "account", number, first_ns, compact(terms)
    for number, at_ns, content in transactions:
        yield "transaction", number, at_ns, content
    for number, created_ns, expires_ns, key, fingerprint in store.rows(_HOLDS):
        yield "hold", number, created_ns, compact((key, fingerprint, created_ns, expires_ns))
    for number, *resolution in store.rows(_RESOLVED):
        yield "resolution", number, resolution[-1], compact(resolution)
    for number, at_ns, *row in store.rows(_EVENTS):
        yield "event", number, at_ns, event_content(row)


# --- what rows say ----------------------------------------------------------------------


def transaction_content(
    key: str, fingerprint: str, created_at_ns: int, booked: str | None = None
) -> str:
    """A transaction's fingerprint covers all that was asked for.

    booked  of a run: what it made, as by `booked_digest`
    """
    made = "null" if booked is None else f'"{booked}"'
    return f"[{quoted(key)},{quoted(fingerprint)},{created_at_ns},{made}]"


def event_content(row: Sequence[object]) -> str:
    """An event's identity and fields; the unit, which came last, only where there is one."""
    return compact(row if row[-1] is not None else row[:-1])


def _transaction(
    store: Store, number: int, kind: str, key: str, fingerprint: str, created_at_ns: int
) -> str:
    booked = booked_of(store, number) if kind == "usage" else None
    return transaction_content(key, fingerprint, created_at_ns, booked)


def booked_digest(
    run: int, program: str, description: str, captures: Sequence[str], postings: Sequence[Row],
    remainders: Sequence[Row], uncollected: Sequence[Row],
) -> str:  # fmt: skip
    """What a run made beside what its fingerprint covers.

    captures     their names, in order
    postings     account, unit and amount of each, by account and unit
    remainders   account, unit, amount and what is carried on, by account and unit
    uncollected  account, unit and amount, by account and unit
    """
    text = compact((run, program, description, captures, postings, remainders, uncollected))
    return hashlib.sha256(text.encode()).hexdigest()


def booked_of(store: Store, transaction: int) -> str | None:
    """The same, from the rows; None where there is no run."""
    for run, program, description in list(store.rows(_RUN, transaction)):
        return booked_digest(
            run, program, description,
            [name for (name,) in store.rows(_CAPTURES, run)],
            list(store.rows(POSTINGS, transaction)), list(store.rows(_REMAINDERS, run)),
            list(store.rows(_UNCOLLECTED, run)),
        )  # fmt: skip
    return None


# --- verifying --------------------------------------------------------------------------


def astray(store: Store) -> Iterator[str]:
    """Links that are not as they were written, rows that are not as they were linked."""
    expected, latest_ns, previous = 1, -(1 << 63), START
    last_terms: dict[int, str | None] = {}
    for row in store.rows(_LINKS):
        link = Link(*row[:6])
        if expected != link.number:
            yield missing("link", expected, link.number - 1)
        expected = link.number + 1
        if link.at_ns < latest_ns:
            yield f"link {link.number}: its time is before that of the link before it"
        latest_ns = link.at_ns
        if link.kind == "account":
            last_terms[link.subject] = link.content
        content = link.content if link.kind in _KEPT else _content(store, link, row[6:])
        if link.content is not None and link.kind not in _KEPT:
            yield f"link {link.number}: it has a content, which no {link.kind}'s link has"
        if content is None:
            yield f"link {link.number}: {link.kind} {link.subject} is missing"
        elif link.digest != seal(
            previous, link.number, link.at_ns, link.kind, link.subject, content
        ):
            yield (
                f"link {link.number}: {link.kind} {link.subject} is not the one that was "
                "chained here, or the link was changed or moved: the digest differs"
            )
        previous = link.digest
    if genesis(store) is None:
        yield "link 1: expected the ledger's identity"
    for kind, number, links in store.rows(_LOOSE):
        yield f"{kind} {number}: it has {links} links in the chain, expected 1"
    for number, *terms in store.rows(_ACCOUNTS):
        if number not in last_terms:
            yield f'account "{terms[0]}" ({terms[1]}): it was never chained'
        elif last_terms[number] != compact(terms):
            yield (
                f'account "{terms[0]}" ({terms[1]}): kind, state or floor are not those that were '
                f"chained last: {compact(terms)}, expected {last_terms[number]}"
            )
        last_terms.pop(number, None)
    for number in last_terms:
        yield f"account {number}: it was chained as {last_terms[number]} and is missing"


def missing(what: str, first: int, last: int) -> str:
    if first == last:
        return f"{what} {first} is missing"
    return f"{what}s {first} to {last} are missing"


_KEPT = ("ledger", "account")


def _content(store: Store, link: Link, columns: Row) -> str | None:
    """What the row of a link says now; None: it is not there."""
    transaction, hold, resolution, event, period = (
        columns[:4], columns[4:8], columns[8:12], columns[12:12 + 1 + len(_EVENT)], columns[-3:],
    )  # fmt: skip
    if link.kind == "transaction" and transaction[0] is not None:
        kind, key, fingerprint, created_at_ns = transaction
        return _transaction(store, link.subject, kind, key, fingerprint, created_at_ns)
    if link.kind == "event" and event[0] is not None:
        return event_content(event)
    found: Row | None = {
        "hold": hold, "resolution": resolution, "period": period,
    }.get(link.kind)  # fmt: skip
    return None if found is None or found[0] is None else compact(found)


_HEAD = "SELECT number, at_ns, digest FROM chain ORDER BY number DESC LIMIT 1"
_TIME = "SELECT at_ns FROM chain WHERE number <= ? ORDER BY number DESC LIMIT 1"
_CHANGED_ACCOUNTS = "SELECT id, name, unit, kind, state, floor FROM accounts WHERE id IN ({})"
_LAST_TERMS = """
    SELECT subject, content FROM chain WHERE kind = 'account' AND subject IN ({})
    ORDER BY number"""
_EVENT_COLUMNS = ", ".join(f"e.{name}" for name in ("identity", *_EVENT))
_NEW_EVENTS = f"""
    SELECT e.id, {_EVENT_COLUMNS} FROM events e WHERE e.identity IN ({{}}) AND NOT EXISTS (
        SELECT 1 FROM chain c WHERE c.kind = 'event' AND c.subject = e.id) ORDER BY e.id"""
_ACCOUNTS = "SELECT id, name, unit, kind, state, floor FROM accounts ORDER BY id"
_TRANSACTIONS = """
    SELECT id, kind, idempotency_key, fingerprint, created_at_ns FROM transactions ORDER BY id"""
_HOLDS = """
    SELECT id, created_at_ns, expires_at_ns, idempotency_key, fingerprint FROM holds ORDER BY id"""
_RESOLVED = """
    SELECT id, state, captured, transaction_id, resolved_at_ns FROM holds
    WHERE state <> 'held' ORDER BY resolved_at_ns, id"""
_EVENTS = f"SELECT e.id, e.at_ns, {_EVENT_COLUMNS} FROM events e ORDER BY e.id"
_RUN = """
    SELECT q.id, q.program, t.description
    FROM runs q JOIN transactions t ON t.id = q.transaction_id WHERE t.id = ?"""
_CAPTURES = "SELECT name FROM captures WHERE run_id = ? ORDER BY ordinal"
# Of a transaction, as its link covers them.
POSTINGS = """
    SELECT a.name, a.unit, p.amount FROM postings p JOIN accounts a ON a.id = p.account_id
    WHERE p.transaction_id = ? ORDER BY a.name, a.unit"""
_REMAINDERS = """
    SELECT a.name, a.unit, m.amount, m.carried
    FROM remainders m JOIN accounts a ON a.id = m.account_id
    WHERE m.run_id = ? ORDER BY a.name, a.unit"""
_UNCOLLECTED = """
    SELECT a.name, a.unit, u.amount FROM uncollected u JOIN accounts a ON a.id = u.account_id
    WHERE u.run_id = ? ORDER BY a.name, a.unit"""
_LINKS = f"""
    SELECT c.number, c.at_ns, c.kind, c.subject, c.content, c.digest,
        t.kind, t.idempotency_key, t.fingerprint, t.created_at_ns,
        h.idempotency_key, h.fingerprint, h.created_at_ns, h.expires_at_ns,
        CASE WHEN h.state <> 'held' THEN h.state END, h.captured, h.transaction_id,
        h.resolved_at_ns, {_EVENT_COLUMNS}, p.head, p.public_key, p.signature
    FROM chain c
    LEFT JOIN transactions t ON c.kind = 'transaction' AND t.id = c.subject
    LEFT JOIN holds h ON c.kind IN ('hold', 'resolution') AND h.id = c.subject
    LEFT JOIN events e ON c.kind = 'event' AND e.id = c.subject
    LEFT JOIN periods p ON c.kind = 'period' AND p.id = c.subject
    ORDER BY c.number"""
# Every row has one link; a hold that is resolved has one for that, too.
_LOOSE = """
    SELECT x.kind, x.id, count(c.number) FROM (
        SELECT 'transaction' AS kind, id FROM transactions UNION ALL
        SELECT 'hold', id FROM holds UNION ALL
        SELECT 'resolution', id FROM holds WHERE state <> 'held' UNION ALL
        SELECT 'event', id FROM events UNION ALL
        SELECT 'period', id FROM periods
    ) x LEFT JOIN chain c ON c.kind = x.kind AND c.subject = x.id
    GROUP BY x.kind, x.id HAVING count(c.number) <> 1 ORDER BY x.kind, x.id"""
