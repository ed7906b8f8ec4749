"""Sponsored sessions at the distribution server, on both databases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gateways import packet, wait
from serving import refused
from sessions import (
    BOB,
    IDENTITY,
    SPONSOR,
    Distribution,
    distribution,
    identity,
)

from tollsplit.rules.marks import tag
from tollsplit.rules.prefixes import prefix
from tollsplit.services.problem import Problem
from tollsplit.services.session import (
    FEE,
    OPEN,
    SUBSCRIBE,
    Fee,
    Subscribe,
)
from tollsplit.services.wire import new_id


@pytest.fixture
def shop(serve: Callable[..., Any], tmp_path: Path) -> Iterator[Distribution]:
    with distribution(serve, tmp_path) as (found, _):
        yield found


def test_session_is_permitted_by_behaviour_and_opens_with_its_mark(shop: Distribution) -> None:
    opened = shop.ask()
    assert (opened.state, opened.sponsor) == ("allocated", SPONSOR)
    assert (opened.proxy.host, opened.proxy.port) == ("203.0.113.10", 8080)
    assert [(payee.host, payee.port) for payee in opened.payees] == [("shop.example", 443)]
    assert opened.credential and opened.tag in ("dscp=46", "dscp=34")
    assert not shop.marks() and refused(lambda: shop.permit(opened)) == "not-permitted"
    shop.served.run_errands()
    assert shop.marks() == [f"203.0.113.10/32 {opened.tag} subscriber=10.0.0.7/32"]
    assert shop.state(opened) == "open"
    [(kind, about)] = shop.served.notices(shop.alice)
    assert (kind, about["session"], about["state"]) == ("session.open", opened.session, "open")
    granted = shop.permit(opened)
    assert (granted.session, granted.sponsor, granted.tag) == (
        opened.session, SPONSOR, opened.tag)
    assert shop.end(opened).state == "ended"
    assert refused(lambda: shop.permit(opened)) == "not-permitted"
    shop.served.run_errands()
    assert not shop.marks()


def test_session_is_permitted_by_identity(shop: Distribution) -> None:
    opened = shop.alice.call(OPEN, identity(IDENTITY))
    shop.served.run_errands()
    assert shop.permit(opened).session == opened.session


def test_credential_is_nowhere_in_the_database(shop: Distribution) -> None:
    opened = shop.open()
    assert opened.credential
    tables = shop.served.database.rows("SELECT credential_digest FROM service_sessions")
    stored = shop.served.database.rows("SELECT sealed FROM service_answers")
    assert opened.credential not in str(tables) + str(stored)


def test_tag_is_one_sessions_until_its_withdrawal_is_in_force(shop: Distribution) -> None:
    bob, carol = (shop.served.device("terminal", name) for name in ("bob", "carol"))
    shop.operator.call(SUBSCRIBE, Subscribe("address:10.0.0.9", "carol", "10.0.0.9"))
    first, second = shop.open(), shop.open(bob, BOB)
    assert {first.tag, second.tag} == {"dscp=46", "dscp=34"}
    assert refused(lambda: shop.ask(carol, "address:10.0.0.9")) == "no-mark-free"
    shop.end(first)
    assert refused(lambda: shop.ask(carol, "address:10.0.0.9")) == "no-mark-free"
    shop.served.run_errands()
    assert shop.open(carol, "address:10.0.0.9").tag == first.tag


def test_session_of_a_terminal_that_came_back_replaces_the_one_before(
    shop: Distribution,
) -> None:
    before = shop.open()
    after = shop.open()
    assert shop.state(before) == "ended" and before.tag != after.tag
    assert refused(lambda: shop.permit(before)) == "not-permitted" and shop.permit(after)
    assert len(shop.marks()) == 1


def test_a_session_has_one_effect_however_often_it_is_asked_for(shop: Distribution) -> None:
    key = new_id()

    def ask(_: int) -> Any:
        try:
            return shop.ask(key=key)
        except Problem as problem:  # where it is under way all the time that it is asked for
            assert problem.kind.name == "key-in-progress"

    with ThreadPoolExecutor(16) as pool:
        answers = [found for found in pool.map(ask, range(100)) if found is not None]
    assert len({(found.session, found.credential) for found in answers}) == 1
    [(count,)] = shop.served.database.rows("SELECT count(*) FROM service_sessions")
    assert count == 1


def test_fee_is_the_sponsors_consumption_to_the_octet(
    serve: Callable[..., Any], tmp_path: Path, database: Any
) -> None:
    """The running engine books it: marked traffic of the session while its mark is in force."""
    with distribution(serve, tmp_path, database.url) as (shop, engine):
        def send(octets: int, dscp: int = 0, up: bool = True, alice: bool = True) -> None:
            engine.frames.lanes[0].give(packet(
                time.time_ns(), octets, 0x0A000007 if alice else 0x0A000008, proxy, up, dscp))

        proxy = prefix("203.0.113.10").value
        send(5000, 46)
        first = shop.open()
        value = tag(str(first.tag)).value
        send(1000, value)
        send(300, value, up=False)
        send(400)  # something else of hers, meanwhile
        shop.end(first)
        shop.served.run_errands()
        send(5000, value)
        second = shop.open()
        send(10_000, tag(str(second.tag)).value)
        wait(lambda: engine.last.seen.packets == 6)
        engine.end()
        fees = [shop.alice.call(FEE, Fee(opened.session)) for opened in (first, second)]
        assert [(fee.uplink_octets, fee.downlink_octets) for fee in fees] == [
            (1000, 300), (10_000, 0)]
        # The share is of the hour's running total; each record has its part of it.
        assert [fee.sponsor_octets for fee in fees] == [910, 7910 - 910]
        assert shop.proxy.call(FEE, Fee(first.session)).sponsor_octets == 910
        balances = {(b.account, b.unit): b.balance for b in
                    shop.served.read(lambda ledger: ledger.balances())}
        assert balances[SPONSOR, "octet"] == -7910
        # by tariff: 1 CNY a MiB, each run's charge rounded down to a micro-unit
        assert -7910 * 10**6 // 2**20 <= balances[SPONSOR, "CNY/1000000"] <= \
            -7910 * 10**6 // 2**20 + 3
        assert sum(b for (_, unit), b in balances.items() if unit == "octet") == 0
