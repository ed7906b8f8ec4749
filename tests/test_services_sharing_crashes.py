"""Shares whose server is killed at every transition, and while it settles: each effect once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from bookings import MONEY, record, run_of
from databases import Database
from service_crashes import POINTS, Mortal, mortal
from test_services_sharing import FUNDS, MIB, PRICE, SUBSCRIBER, Sharing, fund

from tollsplit.ledger import Ledger
from tollsplit.ledger.store import instant_at
from tollsplit.services.sharing import password
from tollsplit.services.sharing.password import SealingKey


def test_share_survives_kill_9_at_each_transition(
    databases: Callable[[], Database], tmp_path: Path
) -> None:
    database = databases()
    with mortal(database.url, tmp_path) as service:
        service.write(fund)
        parties = Sharing(None, service.device("terminal", "bob"),  # type: ignore[arg-type]
                          service.device("terminal", "alice"), SealingKey())  # fmt: skip

        def survive(point: str, name: str, client: Any, **fields: Any) -> Any:
            return service.survive(f"share.{name.lower()}", point, parties.call, client, name,
                                   **fields)  # fmt: skip

        for turn, point in enumerate(POINTS, 1):
            survive(point, "LEND", parties.lender, available_s=3600)
            share = service.survive("share.borrow", point, parties.borrow)
            offer = service.survive("share.offer", point, parties.offer, share)
            survive(point, "ACCEPT", parties.borrower, **parties.taking(offer))
            secret = password.make()
            survive(point, "CONNECT", parties.lender, **parties.letting_in(share, secret))
            survive(point, "VERIFY", parties.borrower, share=share, password=secret)
            use(service, turn)
            survive(point, "STOP", parties.borrower, share=share)
            # A minute later, for the clock is the machine's.
            database.rows("UPDATE service_shares SET ended_at_ns = ended_at_ns - 60000000000, "
                          f"started_at_ns = started_at_ns - 60000000000 WHERE id = '{share}'")
            service.survive("share.sweep", point, lambda: None)
            deadline = time.monotonic() + 20
            while parties.show(share).state != "settled":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert parties.show(share).fee == PRICE
            assert service.verify(left) == (FUNDS - turn * PRICE, 0)


def use(service: Mortal, turn: int) -> None:
    """Book a MiB of the minute before, which the share's time is moved to."""
    first = time.time_ns() - 60_000_000_000
    start = instant_at(first)
    found = replace(
        record(0), epoch=f"e{turn}", window_start=start, window_end=start + timedelta(seconds=1),
        subscriber=SUBSCRIBER, uplink_octets=0, downlink_octets=MIB, subscriber_octets=MIB,
        sponsor_octets={}, first_packet_ns=first, last_packet_ns=first + 1,
    )
    service.write(lambda ledger: ledger.post(run_of(found.epoch), [found], []))


def left(ledger: Ledger) -> tuple[int, int]:
    found = ledger.balance("bob", MONEY)
    return found.balance, found.held
