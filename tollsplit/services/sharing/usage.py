"""What a borrower used, by the usage records that the engine booked, and what it costs.

A record belongs to the share in whose time its first packet lies. What a sponsor pays for is no
usage of the borrower's.
"""

from __future__ import annotations

from fractions import Fraction

from ...ledger.store import OCTET, Store

MIB = 1024 * 1024


def latest_run(store: Store) -> int:
    """The number of the run that was booked last."""
    ((number,),) = store.rows("SELECT coalesce(max(id), 0) FROM runs")
    return int(number)


def octets(
    store: Store, account: str, subscriber: str, since_ns: int, until_ns: int,
    runs: tuple[int, int], at_ns: int,
) -> int:  # fmt: skip
    """Octets that a subscriber of an account pays for in [since, until).

    runs   those whose number is above the first and at most the second
    at_ns  runs that were reversed by then do not count
    """
    ((found,),) = store.rows(_OCTETS, *runs, account, OCTET, subscriber, since_ns, until_ns, at_ns)
    return int(found)


def fee_of(octets: int, price: int) -> int:
    """What octets cost, in micro-units, rounded down once. price: micro-units for each MiB."""
    return octets * price // MIB


def remainder_of(octets: int, price: int) -> str:
    """What rounding that down left off, of a micro-unit."""
    return str(Fraction(octets * price % MIB, MIB))


_OCTETS = """
    SELECT coalesce(sum(u.subscriber_octets), 0)
    FROM usage_records u JOIN accounts a ON a.id = u.account_id
    JOIN runs r ON r.id = u.run_id
    WHERE u.run_id > ? AND u.run_id <= ? AND a.name = ? AND a.unit = ? AND u.subscriber = ?
        AND u.first_packet_ns >= ? AND u.first_packet_ns < ?
        AND NOT EXISTS (SELECT 1 FROM transactions t
            WHERE t.reverses = r.transaction_id AND t.created_at_ns <= ?)"""
