"""Sponsored sessions at the distribution server: refusals, expiry, and what is hostile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import refused
from sessions import (
    ALICE,
    BEHAVIOUR,
    BOB,
    IDENTITY,
    Distribution,
    door,
    identity,
    sessions_served,
)

from tollsplit.errors import LedgerError
from tollsplit.rules.marks import tag
from tollsplit.services import session_marks
from tollsplit.services.problem import Problem
from tollsplit.services.session import (
    FEE,
    OPEN,
    PERMIT,
    SUBSCRIBE,
    ByBehaviour,
    Fee,
    Open,
    Permit,
    Subscribe,
)
from tollsplit.services.sponsorship import SessionPolicy

# Which database it is makes no difference here.
pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")


@pytest.fixture
def shop(serve: Callable[..., Any], tmp_path: Path) -> Iterator[Distribution]:
    with sessions_served(serve, tmp_path) as served, door(tmp_path / "control"):
        yield Distribution(served, tmp_path)


REFUSED = [
    identity("eight of nine"), identity(IDENTITY, "other.example:443"),
    identity(IDENTITY, "shop.example:80"), identity(IDENTITY, identifier=BOB),
    identity(IDENTITY, identifier="imsi:460009999999999"),
    Open(ALICE, ByBehaviour("https://other.example/")), Open(ALICE, ByBehaviour("https://shop.")),
    Open(BOB, ByBehaviour(BEHAVIOUR)),  # another's identifier
    Open("msisdn:8613800000000", ByBehaviour(BEHAVIOUR)),  # nobody's
]  # fmt: skip


def test_session_is_refused_in_one_way_whatever_is_wrong(shop: Distribution) -> None:
    for asked in REFUSED:
        with pytest.raises(Problem) as caught:
            shop.alice.call(OPEN, asked)
        assert (caught.value.kind.name, caught.value.detail) == (
            "not-permitted", "ask the operator")
        assert caught.value.kind.status == 403


def test_session_identity_is_blocked_after_five_failures(shop: Distribution) -> None:
    for _ in range(5):
        assert refused(lambda: shop.alice.call(OPEN, identity("wrong"))) == "not-permitted"
    assert refused(lambda: shop.alice.call(OPEN, identity(IDENTITY))) == "not-permitted"
    shop.ask()  # by behaviour it is another thing
    shop.operator.call(SUBSCRIBE, Subscribe(ALICE, "alice", "10.0.0.7", "a new one"))
    shop.alice.call(OPEN, identity("a new one"))


def test_session_guesses_by_anothers_device_block_nobody(shop: Distribution) -> None:
    eve = shop.served.device("terminal", "eve")
    for _ in range(6):
        assert refused(lambda: eve.call(OPEN, identity(IDENTITY))) == "not-permitted"
    shop.alice.call(OPEN, identity(IDENTITY))


NONSENSE = [
    (Open("imsi:1", ByBehaviour("x")), "$.identifier"),
    (identity(IDENTITY, "shop.example"), "$.permission.payee"),
    (identity("123"), "$.permission.identity"),
]


def test_session_request_that_makes_no_sense_says_where(shop: Distribution) -> None:
    for asked, at in NONSENSE:
        with pytest.raises(Problem) as caught:
            shop.alice.call(OPEN, asked)
        assert caught.value.kind.status == 422 and caught.value.extensions["at"] == at


def test_session_subscribers_are_the_operators_to_name(shop: Distribution) -> None:
    ask = Subscribe("address:10.0.0.9", "alice", "10.0.0.9")
    assert refused(lambda: shop.alice.call(SUBSCRIBE, ask)) == "forbidden"
    wrong = Subscribe("address:10.0.0.9", "alice", "10.0.0.10")
    assert refused(lambda: shop.operator.call(SUBSCRIBE, wrong)) == "unfit"
    assert shop.operator.call(SUBSCRIBE, ask).address == "10.0.0.9"


OTHER_CLAIMS: list[dict[str, Any]] = [
    {"credential": None}, {"credential": "wrong"}, {"tag": ""}, {"tag": "dscp=1"},
    {"source": "10.0.0.8"}, {"preset": "203.0.113.11"},
    {"identifier": BOB}, {"identifier": "imsi:460001234567891"},
]  # fmt: skip


def test_permit_is_for_the_whole_claim(shop: Distribution) -> None:
    """A spoofed identifier, a forged tag, a wrong credential: the answer is one and the same."""
    opened = shop.open()
    for other in OTHER_CLAIMS:
        assert shop.permit(opened)
        with pytest.raises(Problem) as caught:
            shop.permit(opened, **other)
        assert (caught.value.kind.name, caught.value.detail) == (
            "not-permitted", "no such session")


def test_permit_of_another_sponsors_proxy_is_refused(shop: Distribution) -> None:
    opened = shop.open()
    other = shop.served.device("proxy", "sponsor:other")
    assert refused(lambda: shop.permit(opened, other)) == "not-permitted"
    assert refused(lambda: shop.permit(opened, shop.alice)) == "forbidden"


@pytest.mark.parametrize(("seconds", "good"), [(-1, True), (0, False), (1, False)])
def test_credential_expires_to_the_second(
    shop: Distribution, seconds: int, good: bool
) -> None:
    """By the server's clock, whether it was swept or not; and then the mark is withdrawn."""
    opened = shop.open()
    shop.served.clock.forward(900 + seconds)
    if good:
        assert shop.permit(opened)
    else:
        assert refused(lambda: shop.permit(opened)) == "not-permitted"
    assert shop.state(opened) == ("open" if good else "expired")
    shop.served.run_errands()
    assert bool(shop.marks()) is good
    shop.served.sweep()
    assert refused(lambda: shop.end(opened)) == "expired" if not good else shop.end(opened)


def test_session_whose_mark_comes_too_late_expires(
    shop: Distribution,
) -> None:
    opened = shop.ask()
    shop.served.clock.forward(30)
    shop.served.run_errands()
    assert shop.state(opened) == "expired" and not shop.marks()


def test_preset_address_is_one_sessions_at_a_time(shop: Distribution) -> None:
    bob = shop.served.device("terminal", "bob")
    first, second = shop.open(behaviour="gift"), shop.open(bob, BOB, "gift")
    assert {first.proxy.host, second.proxy.host} == {"203.0.113.10", "203.0.113.11"}
    assert (first.tag, first.credential) == (None, None)
    assert sorted(shop.marks("addresses.marks")) == sorted([
        f"{first.proxy.host}/32 subscriber=10.0.0.7/32",
        f"{second.proxy.host}/32 subscriber=10.0.0.8/32"])
    assert shop.permit(first).tag is None
    # the other's address is not its mark
    assert refused(lambda: shop.permit(first, preset=second.proxy.host)) == "not-permitted"


def test_flow_labels_are_drawn_at_random(serve: Callable[..., Any], tmp_path: Path) -> None:
    with sessions_served(
        serve, tmp_path, tags=["flow_label"], proxies=["[2001:db8:0::1]:8080"]
    ) as served, door(tmp_path / "control"):
        shop = Distribution(served, tmp_path)
        first = shop.open()
        assert first.proxy.host == "2001:db8::1" and tag(str(first.tag)).kind == "flow_label"
        assert shop.marks() == [f"2001:db8::1/128 {first.tag} subscriber=10.0.0.7/32"]
        assert shop.permit(first).tag == first.tag


def test_marks_wait_for_an_engine_that_is_away(serve: Callable[..., Any], tmp_path: Path) -> None:
    with sessions_served(serve, tmp_path) as served:
        shop = Distribution(served, tmp_path)
        opened = shop.ask()
        served.run_errands()
        assert shop.state(opened) == "allocated"
        with door(tmp_path / "control"):
            served.run_errands()
            assert shop.state(opened) == "open"


def test_mark_that_is_in_force_and_not_written_down_is_published_again(
    shop: Distribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash, or a ledger that is away, between the engine's answer and the books."""
    opened = shop.ask()

    def fail(*_: object) -> None:
        raise LedgerError("away")

    with monkeypatch.context() as crashed:
        crashed.setattr(session_marks, "_settle", fail)
        shop.served.run_errands()
    assert shop.marks() and shop.state(opened) == "allocated"
    assert refused(lambda: shop.permit(opened)) == "not-permitted"
    shop.served.run_errands()
    assert shop.permit(opened)
    shop.end(opened)
    with monkeypatch.context() as crashed:
        crashed.setattr(session_marks, "_settle", fail)
        shop.served.run_errands()
    assert not shop.marks()
    # Its tag is free again only once that is written down.
    [(withdrawn,)] = shop.served.database.rows("SELECT withdrawn_ns FROM service_session_marks")
    assert withdrawn is None
    shop.served.run_errands()
    [(withdrawn,)] = shop.served.database.rows("SELECT withdrawn_ns FROM service_session_marks")
    assert withdrawn is not None


def test_sessions_of_others_are_nobodys_business(shop: Distribution) -> None:
    opened = shop.open()
    bob = shop.served.device("terminal", "bob")
    assert refused(lambda: shop.end(opened, bob)) == "not-found"
    assert refused(lambda: bob.call(FEE, Fee(opened.session))) == "not-found"
    assert shop.end(opened, shop.operator).state == "ended"
    assert refused(lambda: shop.end(opened)) == "wrong-state"


def test_permit_is_not_answered_twice_for_one_signature(shop: Distribution) -> None:
    """A request that somebody recorded is worth nothing."""
    opened = shop.open()
    asked = Permit(ALICE, "10.0.0.7", opened.proxy.host, opened.tag or "")
    request = shop.proxy.request(PERMIT, asked)
    first, again = shop.proxy.http.send(request), shop.proxy.http.send(request)
    assert (first.status_code, again.status_code) == (403, 401)  # no credential; used before


def test_open_sessions_without_marks_are_found(shop: Distribution) -> None:
    """`ledger verify` says so."""
    from tollsplit.services import session_marks

    opened = shop.ask()
    with shop.served.database.unguarded():
        shop.served.database.rows(
            f"UPDATE service_sessions SET state = 'open' WHERE id = '{opened.session}'")
        found = shop.served.read(lambda ledger: list(session_marks.astray(ledger.store)))
        shop.served.database.rows(
            f"UPDATE service_sessions SET state = 'allocated' WHERE id = '{opened.session}'")
    assert len(found) == 1 and "its mark is not in force" in found[0]


@pytest.mark.parametrize("left", [1, 0], ids=["another", "none"])
@pytest.mark.parametrize("has_rule", [True, False])
def test_mark_of_a_sponsorship_that_was_given_up_is_withdrawn(
    shop: Distribution, left: int, has_rule: bool
) -> None:
    """Its sponsor would pay for as long as the file is read."""
    shop.open()
    assert shop.marks()
    known = shop.served.server.options.settings[SessionPolicy]
    assert isinstance(known, SessionPolicy)
    known.sponsorships[:] = known.sponsorships[1:][:left]
    if not has_rule:
        rules = shop.home / "rules.toml"
        rules.write_text(rules.read_text().replace('marks = "tags.marks"', 'port = 443'))
    shop.served.run_errands()
    assert not shop.marks()
