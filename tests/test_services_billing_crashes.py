"""Billing authentication whose server is killed at every step, and what a tampered one shows."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bookings import MONEY
from databases import Database, Refused, SqliteFile
from resources import PRICE, arcade_on
from service_crashes import POINTS, mortal

from tollsplit.ledger import Ledger, Transfer, open_ledger
from tollsplit.model import Posting
from tollsplit.services.billing_auth import ISSUE, VERIFY, Issue, Verify
from tollsplit.services.catalog import annexes
from tollsplit.services.problem import Problem
from tollsplit.services.resource_register import BUY, REGISTER_RESOURCE, Buy, RegisterResource


def test_billing_survives_kill_9_at_each_transition(
    databases: Callable[[], Database], tmp_path: Path
) -> None:
    with mortal(databases().url, tmp_path) as service:
        def fund(ledger: Ledger) -> None:
            ledger.open_account("alice", MONEY, "subscriber", floor=0)
            for account in ("studio", "bank"):
                ledger.open_account(account, MONEY, "settlement")
            ledger.transfer(Transfer("top-up", "top-up", (
                Posting("alice", MONEY, 2 * PRICE), Posting("bank", MONEY, -2 * PRICE))))

        service.write(fund)
        phone, copy = service.device("terminal", "alice"), service.device("resource", "alice")
        terms: dict[str, Any] = {"resource": "chess", "amount": PRICE, "unit": MONEY}
        service.device("operator", "operator:staff").call(
            REGISTER_RESOURCE, RegisterResource(account="studio", period_s=60, **terms))
        for bought, point in enumerate(POINTS, 1):
            nonce = secrets.token_urlsafe(16)
            service.survive("resources.buy", point, phone.call, BUY, Buy(**terms))
            code = service.survive("billing.issue", point, phone.call, ISSUE, Issue(
                resource="chess", operation="play", device=copy.device, nonce=nonce)).code
            shown = Verify(code=code, resource="chess", operation="play", nonce=nonce)
            assert service.survive("billing.verify", point, copy.call, VERIFY, shown).nonce == nonce
            with pytest.raises(Problem, match="prohibited"):
                copy.call(VERIFY, shown)
            paid = service.verify(lambda ledger: ledger.balance("studio", MONEY).balance)
            assert paid == bought * PRICE


TAMPERINGS = {
    "amount": ("UPDATE service_purchases SET amount = amount + 1", "is not what was bought"),
    "payer": ("UPDATE service_purchases SET account = 'mallory'", "is not what was bought"),
    "gone": ("DELETE FROM service_purchases", "nobody bought it"),
    "state": ("UPDATE service_billing_codes SET state = 'expired'", "billing status code"),
}


def test_billing_tampered_with_is_found_by_verify(tmp_path: Path) -> None:
    honest = SqliteFile(tmp_path / "books.db")
    with arcade_on(honest, tmp_path) as arcade:
        user, name = arcade.user(), arcade.resource()
        arcade.buy(user, name)
        user.terminal.call(ISSUE, Issue(resource=name, operation="play", device=user.copy.device,
                                        nonce=secrets.token_urlsafe(16)))  # fmt: skip
    with pytest.raises(Refused):
        honest.rows(TAMPERINGS["gone"][0])
    with pytest.raises(Refused):
        honest.rows("UPDATE service_billing_codes SET account = 'mallory'")
    for what, (sql, found) in TAMPERINGS.items():
        tampered = SqliteFile(tmp_path / f"{what}.db")
        honest.rows(f"VACUUM INTO '{tampered.path}'")
        with tampered.unguarded():
            tampered.rows(sql)
        with open_ledger(tampered.url, create=False) as ledger:
            assert found in str(ledger.verify(annexes=annexes()).findings), what
