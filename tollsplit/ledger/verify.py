"""Verifying a ledger: everything is worked out anew from the rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice

from ..limits import LEDGER_BATCH_RECORDS, VERIFY_FINDINGS_MAX
from . import chain, event, hold, period, proof, reserve, transfer
from .annex import Annex
from .chain import missing
from .period import SignedHead
from .proof import Proof
from .store import OCTET, TAX, UNCOLLECTED, Fingerprint, Part, Run, Store, instant_at


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked, over how many rows, and what is wrong with it."""

    name: str
    rows: int
    findings: tuple[str, ...] = ()  # the first of them, each down to its row
    more: int = 0  # further findings, not listed


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying a ledger found."""

    url: str
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        return not any(check.findings for check in self.checks)

    @property
    def findings(self) -> tuple[str, ...]:
        return tuple(finding for check in self.checks for finding in check.findings)


def verify(
    store: Store, kept: Sequence[SignedHead | Proof], public_key: str | None,
    annexes: Sequence[Annex] = (),
) -> Verification:  # fmt: skip
    """Check every figure of a ledger; see the names of the checks for which."""
    there = store.annexes()
    checks: list[tuple[str, str | None, Callable[[Store], Iterator[str]]]] = [
        ("file, keys and schema are intact", None, partial(_integrity, annexes=annexes)),
        ("transactions sum to zero per unit", "transactions", _sums),
        ("balances are the sums of postings, not below floors", "accounts", _balances),
        ("records' octets are split among payers", "usage_records", _splits),
        ("usage and charges are posted", "postings", _posted),
        ("remainders are carried and paid", "remainders", _remainders),
        ("runs are complete", "runs", _complete),
        ("runs are as they were booked", "runs", _as_booked),
        ("transfers are as they were asked for", "transactions", transfer.astray),
        ("holds are as they were asked for and resolved", "holds", hold.astray),
        ("what open batches use is held once, until they are booked", "holds", reserve.astray),
        ("events are those that were recorded", "events", event.astray),
        (f"rows are those that were chained, in order{_since(store)}", "chain",
         chain.astray),
        ("closed periods are as they were signed", "periods",
         partial(period.astray, public_key=public_key)),
        *((f"it goes on from the head of {_signed(one).head.title} that was kept elsewhere", None,
           partial(_kept_elsewhere, kept=one)) for one in kept),
        *((f"{annex.name}: {name}", None, check) for annex in annexes if annex.name in there
          for name, check in annex.checks),
    ]
    return Verification(store.url, tuple(_check(store, *check) for check in checks))


def _check(
    store: Store, name: str, table: str | None, findings: Callable[[Store], Iterator[str]]
) -> Check:
    rows = 0
    if table is not None:
        ((rows,),) = store.rows(f"SELECT count(*) FROM {table}")
    found = findings(store)
    listed = tuple(islice(found, VERIFY_FINDINGS_MAX))
    return Check(name, rows, listed, sum(1 for _ in found))


def _signed(kept: SignedHead | Proof) -> SignedHead:
    return kept.signed if isinstance(kept, Proof) else kept


def _kept_elsewhere(store: Store, kept: SignedHead | Proof) -> Iterator[str]:
    found = list(period.kept_elsewhere(store, _signed(kept)))
    yield from found
    if not found and isinstance(kept, Proof):
        yield from proof.unlike(store, kept)


def _since(store: Store) -> str:
    found = chain.genesis(store)
    if found is None or not found.adopted:
        return ""
    return (
        f"; chained since {instant_at(found.since_ns):%Y-%m-%dT%H:%M:%SZ}, when {found.adopted:,} "
        "rows were chained as they were found"
    )


def _integrity(store: Store, annexes: Sequence[Annex]) -> Iterator[str]:
    return store.integrity(annexes)


def _sums(store: Store) -> Iterator[str]:
    for transaction, unit, amount in store.rows(_UNBALANCED):
        yield f"transaction {transaction}: postings in {unit} sum to {amount}, expected 0"


def _balances(store: Store) -> Iterator[str]:
    for name, unit, balance, posted in store.rows(_BALANCES):
        yield f'account "{name}" ({unit}): balance {balance}, its postings sum to {posted}'
    for name, unit, left, floor in store.rows(_FLOORS):
        yield f'account "{name}" ({unit}): {left} left after holds, below its floor {floor}'


def _splits(store: Store) -> Iterator[str]:
    for run, sequence, octets, split in store.rows(_SPLITS):
        yield f"run {run}: record {sequence}: {octets} octets metered, {split} split among payers"


def _posted(store: Store) -> Iterator[str]:
    for transaction, name, unit, due, posted in store.rows(_POSTED):
        what = "its usage" if unit == OCTET else "its charges"
        if name == UNCOLLECTED:
            what = "what it pays"
        elif name.startswith(TAX):
            what = "what it gains"
        yield (
            f'transaction {transaction}: account "{name}" ({unit}): posted {posted}, {what} in '
            f"this run sum to {due}"
        )
    for transaction, name, unit, amount in store.rows(_ASTRAY):
        yield f'transaction {transaction}: account "{name}" ({unit}): posted {amount} to a stranger'


def _remainders(store: Store) -> Iterator[str]:
    sums: dict[tuple[int, str, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for run, its, unit, text, times in store.rows(_CHARGED_REMAINDERS):
        remainder = _fraction(text)
        if remainder is None:
            yield f"run {run}: a charge's remainder: expected numerator/denominator, got {text!r}"
        else:
            sums[run, its, unit][remainder.denominator] += remainder.numerator * times
    carried: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for run, its, unit, noted, carried_on, paid in store.rows(_REMAINDERS):
        parts = sums.pop((run, its, unit), {})
        amount = sum((Fraction(n, d) for d, n in parts.items()), start=Fraction(0))
        whole = math.floor(carried[its, unit] + amount)
        carried[its, unit] += amount - whole
        place = f"run {run}: remainders in {unit}"
        if _fraction(noted) != amount:
            yield f"{place}: {noted} noted, its charges' sum to {amount}"
        if _fraction(carried_on) != carried[its, unit]:
            yield f"{place}: {carried_on} carried on, expected {carried[its, unit]}"
        if paid != -whole:
            yield f'{place}: posted {paid} to "{its}", expected {-whole}'
    for run, _, unit in sums:
        yield f"run {run}: remainders in {unit}: not noted, its charges have some"


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def _complete(store: Store) -> Iterator[str]:
    for run, kind, *figures in store.rows(_COUNTS):
        # Pairs: what the run says of itself, what is there.
        for what, noted, found in zip(_COUNTED, figures[::2], figures[1::2], strict=True):
            if noted != found:
                yield f"run {run}: {what}: {noted} noted, {found} there"
        if kind != "usage":
            yield f"run {run}: its transaction is of kind {kind!r}, expected 'usage'"
    yield from _gaps(store)
    for run, source, epoch, first in store.rows(_TWICE):
        yield (f"run {run}: records of {source}, epoch {epoch}, from {first} on are in another run "
               "too")
    for (transaction,) in store.rows(_NO_RUN):
        yield f"transaction {transaction}: posted usage, but has no run"
    for (transaction,) in store.rows(_NOT_ITS_OWN):
        yield (
            f"transaction {transaction}: posted usage, and names a service request, run, tariff or "
            "rules version; its run says where it comes from"
        )


def _gaps(store: Store) -> Iterator[str]:
    for table, column, what in (
        ("usage_records", "sequence", "record"), ("charges", "ordinal", "charge"),
    ):  # fmt: skip
        for run, number, before in store.rows(_GAPS.format(table=table, column=column)):
            yield f"run {run}: {missing(what, before + 1, number - 1)}"


def _as_booked(store: Store) -> Iterator[str]:
    for number, transaction, *fields in list(store.rows(_RUNS)):
        source, epoch, rules_version, layer, at, program, first_sequence = fields
        found = list(store.rows(
            "SELECT ordinal, name, digest FROM captures WHERE run_id = ? ORDER BY ordinal", number
        ))  # fmt: skip
        captures = tuple((name, digest) for _, name, digest in found)
        run = Run(source, epoch, rules_version, layer, at, program, captures, {}, first_sequence)
        place = f"run {number} ({run.title})"
        if [ordinal for ordinal, _, _ in found] != list(range(len(found))):
            yield f"{place}: its captures are not numbered from 0 on, without gaps"
        for key, fingerprint in store.rows(
            "SELECT idempotency_key, fingerprint FROM transactions WHERE id = ?", transaction
        ):
            if key != run.idempotency_key:
                yield f"{place}: idempotency key {key}, expected {run.idempotency_key}"
            if fingerprint != _fingerprint(store, number, run):
                yield (
                    f"{place}: its records, charges or captures are not those that were booked: "
                    "the fingerprint differs"
                )


def _fingerprint(store: Store, number: int, run: Run) -> str:
    fingerprint = Fingerprint(run)
    for part, sql in _PARTS:
        rows = store.rows(sql, number)
        while batch := list(islice(rows, LEDGER_BATCH_RECORDS)):
            fingerprint.add(part, batch)
    return fingerprint.digest()


_UNBALANCED = """
    SELECT p.transaction_id, a.unit, sum(p.amount)
    FROM postings p JOIN accounts a ON a.id = p.account_id
    GROUP BY p.transaction_id, a.unit HAVING sum(p.amount) <> 0"""
_BALANCES = """
    SELECT a.name, a.unit, a.balance, coalesce(sum(p.amount), 0)
    FROM accounts a LEFT JOIN postings p ON p.account_id = a.id
    GROUP BY a.id HAVING a.balance <> coalesce(sum(p.amount), 0)"""
_FLOORS = """
    SELECT name, unit, balance - held, floor FROM accounts WHERE balance - held < floor"""
_SPLITS = """
    SELECT run_id, sequence, octets, split FROM (
        SELECT r.run_id, r.sequence, r.uplink_octets + r.downlink_octets AS octets,
            r.subscriber_octets + coalesce((SELECT sum(s.octets) FROM usage_shares s
                WHERE s.run_id = r.run_id AND s.sequence = r.sequence), 0) AS split
        FROM usage_records r) x
    WHERE octets <> split"""
# What each payer owes by its rows and what was posted for it, side by side; and what taxes gain.
# The operator's own accounts take the other side of it all, which sums to zero.
_POSTED = """
    SELECT x.transaction_id, a.name, a.unit, -sum(x.due) AS due, sum(x.posted) AS posted
    FROM (
        SELECT q.transaction_id, r.account_id, r.subscriber_octets AS due, 0 AS posted
        FROM usage_records r JOIN runs q ON q.id = r.run_id
        UNION ALL
        SELECT q.transaction_id, s.account_id, u.octets, 0
        FROM usage_shares u JOIN sponsors s ON s.id = u.sponsor_id JOIN runs q ON q.id = u.run_id
        UNION ALL
        SELECT q.transaction_id, c.account_id, c.amount_micros, 0
        FROM charges c JOIN runs q ON q.id = c.run_id
        UNION ALL
        SELECT q.transaction_id, c.account_id, x.amount_micros, 0
        FROM charge_taxes x JOIN charges c ON c.run_id = x.run_id AND c.ordinal = x.ordinal
        JOIN runs q ON q.id = x.run_id
        UNION ALL
        SELECT q.transaction_id, x.account_id, -x.amount_micros, 0
        FROM charge_taxes x JOIN runs q ON q.id = x.run_id
        UNION ALL
        SELECT p.transaction_id, g.id, p.amount, 0
        FROM accounts m JOIN accounts g ON g.name = substr(m.name, 20) AND g.unit = m.unit
        JOIN postings p ON p.account_id = m.id JOIN runs q ON q.transaction_id = p.transaction_id
        WHERE substr(m.name, 1, 19) = 'operator:remainder:'
        UNION ALL
        SELECT q.transaction_id, u.account_id, -u.amount, 0
        FROM uncollected u JOIN runs q ON q.id = u.run_id
        UNION ALL
        SELECT q.transaction_id, o.id, u.amount, 0
        FROM uncollected u JOIN accounts d ON d.id = u.account_id
        JOIN accounts o ON o.name = 'operator:uncollected' AND o.unit = d.unit
        JOIN runs q ON q.id = u.run_id
        UNION ALL
        SELECT p.transaction_id, p.account_id, 0, p.amount
        FROM postings p JOIN runs q ON q.transaction_id = p.transaction_id
    ) x JOIN accounts a ON a.id = x.account_id
    WHERE substr(a.name, 1, 9) <> 'operator:' OR a.name = 'operator:uncollected'
    GROUP BY x.transaction_id, a.name, a.unit HAVING sum(x.due) + sum(x.posted) <> 0"""
_ASTRAY = """
    SELECT p.transaction_id, a.name, a.unit, p.amount
    FROM postings p JOIN runs q ON q.transaction_id = p.transaction_id
    JOIN accounts a ON a.id = p.account_id
    WHERE substr(a.name, 1, 9) = 'operator:' AND a.name <> 'operator:uncollected'
        AND (a.unit = 'octet') <> (a.name = 'operator:traffic')"""
_CHARGED_REMAINDERS = """
    SELECT c.run_id, 'operator:remainder', a.unit, c.remainder, count(*)
    FROM charges c JOIN accounts a ON a.id = c.account_id GROUP BY c.run_id, a.unit, c.remainder
    UNION ALL
    SELECT x.run_id, 'operator:remainder:' || a.name, a.unit, x.remainder, count(*)
    FROM charge_taxes x JOIN accounts a ON a.id = x.account_id
    GROUP BY x.run_id, a.name, a.unit, x.remainder"""
_REMAINDERS = """
    SELECT m.run_id, a.name, a.unit, m.amount, m.carried, coalesce(p.amount, 0)
    FROM remainders m JOIN accounts a ON a.id = m.account_id JOIN runs q ON q.id = m.run_id
    LEFT JOIN postings p ON p.transaction_id = q.transaction_id AND p.account_id = m.account_id
    ORDER BY m.run_id, a.name, a.unit"""
_COUNTED = ("records", "charges", "first sequence", "last sequence", "first packet")
_COUNTS = """
    SELECT q.id, t.kind, q.records, count(r.sequence),
        q.charges, (SELECT count(*) FROM charges c WHERE c.run_id = q.id),
        CASE WHEN q.records > 0 THEN q.first_sequence END, min(r.sequence),
        CASE WHEN q.records > 0 THEN q.first_sequence + q.records - 1 END, max(r.sequence),
        q.first_packet_ns, min(r.first_packet_ns)
    FROM runs q LEFT JOIN usage_records r ON r.run_id = q.id
    LEFT JOIN transactions t ON t.id = q.transaction_id
    GROUP BY q.id, t.kind"""
# Numbers of rows go up by one in each run; the first and the last are told by the run itself.
_GAPS = """
    SELECT run_id, {column}, before FROM (
        SELECT run_id, {column},
            lag({column}) OVER (PARTITION BY run_id ORDER BY {column}) AS before
        FROM {table}) x
    WHERE {column} <> before + 1"""
_TWICE = """
    SELECT id, source, epoch, first_sequence FROM (
        SELECT id, source, epoch, first_sequence, max(first_sequence + records) OVER (
            PARTITION BY source, epoch ORDER BY first_sequence
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM runs) r
    WHERE first_sequence < before"""
_NO_RUN = """
    SELECT id FROM transactions
    WHERE kind = 'usage' AND id NOT IN (SELECT transaction_id FROM runs)"""
_NOT_ITS_OWN = """
    SELECT id FROM transactions
    WHERE kind = 'usage' AND coalesce(service_request, CAST(run_id AS TEXT), tariff, rules_version)
        IS NOT NULL ORDER BY id"""
_RUNS = """
    SELECT id, transaction_id, source, epoch, rules_version, layer, at, program, first_sequence
    FROM runs ORDER BY id"""
_RECORDS = """
    SELECT r.sequence, r.window_start_ns, r.window_end_ns, r.subscriber, a.name, r.rule,
        r.rating_group, r.sponsor_identity, r.asp_identity, r.uplink_packets, r.uplink_octets,
        r.downlink_packets, r.downlink_octets, r.subscriber_octets, r.first_packet_ns,
        r.last_packet_ns, r.flags
    FROM usage_records r JOIN accounts a ON a.id = r.account_id
    WHERE r.run_id = ? ORDER BY r.sequence"""
_SHARES = """
    SELECT u.sequence, s.identity, a.name, u.octets
    FROM usage_shares u JOIN sponsors s ON s.id = u.sponsor_id
    JOIN accounts a ON a.id = s.account_id
    WHERE u.run_id = ? ORDER BY u.sequence, s.identity"""
_CHARGES = """
    SELECT c.ordinal, a.name, a.unit, c.tariff, c.octets, c.rated_octets, c.amount_micros,
        c.remainder, c.period_start_ns
    FROM charges c JOIN accounts a ON a.id = c.account_id
    WHERE c.run_id = ? ORDER BY c.ordinal"""
_TAXES = """
    SELECT x.ordinal, x.tax, a.name, x.amount_micros, x.remainder
    FROM charge_taxes x JOIN accounts a ON a.id = x.account_id
    WHERE x.run_id = ? ORDER BY x.ordinal, x.tax"""
_PARTS: tuple[tuple[Part, str], ...] = (
    ("records", _RECORDS), ("shares", _SHARES), ("charges", _CHARGES), ("taxes", _TAXES),
)  # fmt: skip
