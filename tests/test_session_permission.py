"""What a proxy asks the distribution server, how often, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tollsplit.limits import PERMIT_ASKS_BURST, PERMIT_KEPT_S
from tollsplit.rules.marks import Tag
from tollsplit.services import secret
from tollsplit.services.claim import Claim, Grant, Payee
from tollsplit.services.permission import ServerPermits
from tollsplit.services.problem import TOO_MANY, UNFIT, Problem
from tollsplit.services.session import NOT_PERMITTED, Host, Permitted

CLAIM = Claim("address:10.0.0.7", Tag("dscp", 46), "a secret", "10.0.0.7", "203.0.113.10")
GRANT = Grant("s", "shop-co", frozenset({Payee("shop.example", 443)}), Tag("dscp", 46))


class Server:
    """Answers as it is told to."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.refusal: Problem | None = None

    def call(self, operation: Any, asked: Any) -> Permitted:
        self.asked.append(asked)
        if self.refusal is not None:
            raise self.refusal
        return Permitted("s", "shop-co", [Host("shop.example", 443)], asked.tag or None)


@pytest.fixture
def asking() -> tuple[Server, ServerPermits, list[float]]:
    server, now_s = Server(), [100.0]
    client: Any = server
    return server, ServerPermits(client, lambda: now_s[0]), now_s


def permits(asked: ServerPermits, claim: Claim = CLAIM) -> Grant | None:
    return asyncio.run(asked.permits(claim))


def test_permission_shows_the_server_no_secret(asking: Any) -> None:
    server, asked, _ = asking
    assert permits(asked) == GRANT
    [shown] = server.asked
    assert shown.credential_digest == secret.digest("a secret")
    assert (shown.tag, shown.source, shown.preset) == ("dscp=46", "10.0.0.7", "203.0.113.10")


def test_permission_is_asked_for_again_after_a_second(asking: Any) -> None:
    server, asked, now_s = asking
    assert all(permits(asked) == GRANT for _ in range(50))
    assert len(server.asked) == 1
    server.refusal = NOT_PERMITTED("ended")
    now_s[0] += PERMIT_KEPT_S
    assert permits(asked) is None and len(server.asked) == 2


@pytest.mark.parametrize("kind", [NOT_PERMITTED, UNFIT])
def test_permission_that_is_refused_is_none(asking: Any, kind: Any) -> None:
    server, asked, _ = asking
    server.refusal = kind("no")
    assert permits(asked) is None


def test_permission_that_is_not_answered_is_unknown(asking: Any) -> None:
    server, asked, _ = asking
    server.refusal = TOO_MANY("later")
    with pytest.raises(Problem):
        permits(asked)


def test_claims_that_are_made_up_do_not_reach_the_server_for_ever(asking: Any) -> None:
    """And cost nobody else anything."""
    server, asked, _ = asking
    server.refusal = NOT_PERMITTED("no")
    for number in range(100):
        guess = Claim(CLAIM.identifier, CLAIM.tag, f"guess {number}", "10.0.0.66", CLAIM.preset)
        assert permits(asked, guess) is None
    assert len(server.asked) == PERMIT_ASKS_BURST
    server.refusal = None
    assert permits(asked) == GRANT
