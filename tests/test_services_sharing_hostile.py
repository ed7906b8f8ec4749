"""Data sharing against those who lie, repeat themselves, come late, or have nothing to lend."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bookings import MONEY
from databases import Refused
from serving import SECOND_NS, on_sqlite, refused
from test_services_sharing import (
    FUNDS,
    MIB,
    PRICE,
    SUBSCRIBER,
    Sharing,
    parties,
    settings,
    settle,
)

from tollsplit.ledger import Ledger, Transfer
from tollsplit.model import Posting
from tollsplit.services import sharing
from tollsplit.services.problem import Problem
from tollsplit.services.sharing import password
from tollsplit.services.sharing.password import Module
from tollsplit.services.sharing.wire import Named, Verify
from tollsplit.services.wire import new_id

__all__ = ["parties", "settings"]  # fixtures


def lend_from(parties: Sharing, octets: int) -> None:
    """Make Alice prepaid: an allowance of so many octets."""

    def open_it(ledger: Ledger) -> None:
        for name, floor in (("alice", 0), ("octets", None)):
            ledger.open_account(name, "octet", "subscriber", floor)
        ledger.transfer(Transfer("allowance", "top-up", (
            Posting("alice", "octet", octets), Posting("octets", "octet", -octets))))  # fmt: skip

    parties.served.write(open_it)


# --- offers -----------------------------------------------------------------------------


def test_offer_without_an_allowance_is_refused(parties: Sharing) -> None:
    lend_from(parties, 10 * MIB)
    share = parties.borrow(20 * MIB)
    assert refused(parties.offer, share, 10 * MIB + 1) == "no-allowance"
    taking = parties.taking(parties.offer(share, 10 * MIB))
    parties.use(1, subscriber="10.20.0.1")  # of her own
    assert refused(parties.call, parties.borrower, "ACCEPT", **taking) == "no-allowance"
    assert parties.show(share).state == "requested" and parties.money() == (FUNDS, 0, 0, 0)


def test_allowance_is_not_lent_twice(parties: Sharing) -> None:
    lend_from(parties, 15 * MIB)
    first, second = parties.borrow(), parties.borrow()
    offers = [parties.taking(parties.offer(share)) for share in (first, second)]
    parties.call(parties.borrower, "ACCEPT", **offers[0])
    assert refused(parties.call, parties.borrower, "ACCEPT", **offers[1]) == "no-allowance"
    parties.call(parties.lender, "CANCEL", share=first)
    assert parties.call(parties.borrower, "ACCEPT", **offers[1]).state == "connected"


def test_offer_is_taken_as_it_was_seen_and_never_changes(parties: Sharing) -> None:
    share = parties.borrow()
    taking = parties.taking(parties.offer(share))
    for altered in ({"octets": 11 * MIB}, {"price": PRICE - 1}, {"unit": "EUR/1000000"}):
        assert refused(parties.call, parties.borrower, "ACCEPT", **taking | altered) == (
            "other-terms")  # fmt: skip
    for change in ("octets = 1", "price = 1", "lender = 'x'"):
        with pytest.raises(Refused):
            parties.served.database.rows(f"UPDATE service_share_offers SET {change}")
    assert parties.call(parties.borrower, "ACCEPT", **taking).state == "connected"


# --- who is who -------------------------------------------------------------------------


def test_lender_who_names_an_address_of_its_own_is_found_out(parties: Sharing) -> None:
    """Else the borrower would pay for what the lender itself uses."""
    share, secret = parties.connected(), password.make()
    parties.call(parties.lender, "CONNECT", **parties.letting_in(share, secret, "10.20.0.1"))
    proof = Module(share, secret).verify(secret)
    for name, told in (("VERIFY", {"password": secret}), ("VERIFIED", {"proof": proof})):
        assert refused(parties.call, parties.borrower, name, share=share, **told) == (
            "other-address")  # fmt: skip
    assert parties.show(share).state == "keyed"
    parties.call(parties.borrower, "CANCEL", share=share)
    assert parties.money() == (FUNDS, 0, 0, 0)


@on_sqlite
def test_account_is_the_devices_and_nobody_names_another(parties: Sharing) -> None:
    body = {"octets": 1, "duration_s": 60, "sealing_key": parties.key.public, "account": "carol"}
    request = parties.borrower.http.build_request(
        "POST", f"{parties.served.origin}/shares", json=body,
        headers={"idempotency-key": new_id()})  # fmt: skip
    parties.borrower.sign(request, request.content)
    assert parties.borrower.http.send(request).json()["type"] == "/problems/invalid"
    operator = parties.served.device("operator", "operator")
    assert refused(parties.call, operator, "SHOW", share=parties.borrow()) == "forbidden"


@on_sqlite
def test_request_is_replayed_by_nobody(parties: Sharing) -> None:
    share, secret = parties.keyed()
    asked = Verify(share, secret, SUBSCRIBER)
    request = parties.borrower.request(sharing.VERIFY, asked)
    assert parties.borrower.http.send(request).status_code == 200
    assert parties.borrower.http.send(request).json()["type"] == "/problems/unsigned"
    late = parties.borrower.request(sharing.STOP, Named(share))
    parties.served.clock.forward(60 + 31)
    assert parties.borrower.http.send(late).json()["type"] == "/problems/unsigned"
    assert parties.show(share).state == "running"


# --- in time ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["offer", "accept", "password", "verify"])
def test_wait_is_over_to_the_second_whatever_clocks_say(parties: Sharing, step: str) -> None:
    clock = parties.served.clock

    def upto() -> tuple[str, int, Any]:
        if step == "verify":
            share, secret = parties.keyed()
            return share, 120, lambda: parties.call(
                parties.borrower, "VERIFY", share=share, password=secret)  # fmt: skip
        if step == "password":
            share, secret = parties.connected(), password.make()
            asked = parties.letting_in(share, secret)
            return share, 120, lambda: parties.call(parties.lender, "CONNECT", **asked)
        share = parties.borrow()
        if step == "offer":
            return share, 600, lambda: parties.offer(share)
        taking = parties.taking(parties.offer(share))
        return share, 600, lambda: parties.call(parties.borrower, "ACCEPT", **taking)

    share, wait_s, go_on = upto()
    clock.forward(wait_s - 1)
    go_on()
    if step == "verify":
        parties.call(parties.borrower, "STOP", share=share)
    elif step != "offer":
        parties.call(parties.borrower, "CANCEL", share=share)
    share, wait_s, go_on = upto()
    # A device whose clock is 30 s slow gains nothing by it.
    for client in (parties.borrower, parties.lender):
        client.clock_ns = lambda: clock.now_ns - 30 * SECOND_NS
    clock.forward(wait_s)
    assert refused(go_on) in ("expired", "wrong-state")
    assert parties.show(share).state == "expired"
    parties.served.sweep()
    assert parties.money()[1] == 0


def test_fee_says_what_its_rounding_left_off(parties: Sharing) -> None:
    share = parties.running(price=3)
    parties.served.clock.forward(1)
    parties.use(MIB // 2, at_s=-0.5)
    parties.call(parties.borrower, "STOP", share=share)
    assert parties.show(share).remainder is None
    settle(parties)
    found = parties.show(share)
    assert (found.fee, found.lenders_part, found.remainder) == (1, 0, "1/2")
    assert parties.money() == (FUNDS - 1, 0, 0, 1)


def test_share_is_settled_once_by_a_hundred(parties: Sharing) -> None:
    share, key = parties.running(), new_id()
    parties.served.clock.forward(1)
    parties.use(MIB, at_s=-0.5)

    def stop(_: int) -> str:
        try:
            return str(parties.call(parties.borrower, "STOP", share=share, key=key).state)
        except Problem as problem:
            return problem.kind.name

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(stop, range(100))) <= {"ended", "key-in-progress"}
        parties.served.clock.forward(60)
        list(pool.map(lambda _: parties.served.sweep(), range(100)))
    assert parties.show(share).fee == PRICE
    assert parties.money() == (FUNDS - PRICE, 0, 80_000, 20_000)


def test_share_that_cannot_be_settled_stops_no_other(parties: Sharing) -> None:
    """Alice closes her account; Carol's share is settled all the same, Alice's once it can be."""
    share = parties.running()
    parties.served.clock.forward(1)
    parties.use(MIB, at_s=-0.5)
    parties.served.write(lambda ledger: ledger.open_account("carol", MONEY, "subscriber"))
    alice, parties.lender = parties.lender, parties.served.device(account="carol")
    parties.lend()
    other = parties.running()
    parties.served.clock.forward(1)
    parties.use(2 * MIB, account="carol", at_s=-0.5)
    for one, lender in ((share, alice), (other, parties.lender)):
        parties.call(lender, "STOP", share=one)
    parties.served.write(lambda ledger: ledger.close_account("alice", MONEY))
    settle(parties)
    assert (parties.show(share).state, parties.show(other).state) == ("ended", "settled")
    assert parties.show(other).fee == 2 * PRICE
    parties.served.clock.forward(31 * 24 * 3600)
    parties.served.sweep()
    assert parties.show(share).state == "expired" and parties.money()[1] == 0
