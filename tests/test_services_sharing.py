"""Data sharing, step by step: how it goes, and what must not happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from bookings import MONEY, record, run_of
from databases import Refused
from serving import Served, on_sqlite, refused

from tollsplit.ledger import Ledger, Transfer
from tollsplit.ledger.store import REVENUE, instant_at
from tollsplit.model import Posting
from tollsplit.services import device, sharing
from tollsplit.services.catalog import annexes
from tollsplit.services.problem import Problem
from tollsplit.services.sharing import password
from tollsplit.services.sharing.borrowing import Settings
from tollsplit.services.sharing.lender import distance_m, place
from tollsplit.services.sharing.password import Module, SealError, SealingKey

MIB = 1024 * 1024
FUNDS, PRICE = 10_000_000, 100_000  # micro-yuan; of the latter for each MiB
SUBSCRIBER = "10.20.0.77"  # the borrower's traffic, at the lender's
HERE = {"latitude": 39.9042, "longitude": 116.4074}
NEAR = {"latitude": 39.9051, "longitude": 116.4074}  # 100 m to the north
FAR = {"latitude": 39.9072, "longitude": 116.4074}  # 334 m


@dataclass
class Sharing:
    """Bob has no data left; Alice has."""

    served: Served
    borrower: Any
    lender: Any
    key: SealingKey
    runs: int = 0

    def call(self, client: Any, name: str, *, key: str | None = None, **fields: Any) -> Any:
        operation = getattr(sharing, name)
        if name in ("VERIFY", "VERIFIED"):
            fields.setdefault("subscriber", SUBSCRIBER)
        return client.call(operation, operation.asked(**fields), key=key)

    def lend(self, **more: Any) -> Any:
        return self.call(self.lender, "LEND", **{"available_s": 3600, **more})

    def borrow(self, octets: int = 10 * MIB, **more: Any) -> str:
        usual = {"octets": octets, "duration_s": 3600, "sealing_key": self.key.public}
        share: str = self.call(self.borrower, "BORROW", **{**usual, **more}).share
        return share

    def offer(self, share: str, octets: int = 10 * MIB, price: int = PRICE, **more: Any) -> Any:
        client = more.pop("client", self.lender)
        return self.call(client, "OFFER", share=share, octets=octets, unit=MONEY, price=price,
                         **more)  # fmt: skip

    def connected(self, **more: Any) -> str:
        share = self.borrow()
        offer = self.offer(share, **more)
        self.call(self.borrower, "ACCEPT", **self.taking(offer))
        return share

    def taking(self, offer: Any) -> dict[str, Any]:
        """What an acceptance of an offer says."""
        return {name: getattr(offer, name) for name in ("share", "offer", "octets", "unit",
                                                        "price")}  # fmt: skip

    def keyed(self, **more: Any) -> tuple[str, str]:
        """A share that only has to be let in, and the password that the lender's device made."""
        share = self.connected(**more)
        secret = password.make()
        self.call(self.lender, "CONNECT", **self.letting_in(share, secret))
        return share, secret

    def letting_in(self, share: str, secret: str, subscriber: str = SUBSCRIBER) -> dict[str, str]:
        public = self.call(self.lender, "SHOW", share=share).sealing_key
        return {"share": share, "sealed": password.seal(secret, share, public),
                "proof_digest": password.proof_digest(password.proof(secret, share)),
                "subscriber": subscriber}  # fmt: skip

    def running(self, **more: Any) -> str:
        share, secret = self.keyed(**more)
        self.call(self.borrower, "VERIFY", share=share, password=secret)
        return share

    def use(self, octets: int, *, account: str = "alice", subscriber: str = SUBSCRIBER,
            at_s: float = 0, sponsored: int = 0) -> int:  # fmt: skip
        """Book a usage record of the engine's: its first packet so many seconds from now on."""
        self.runs += 1
        first = self.served.clock.now_ns + round(at_s * 1e9)
        start: datetime = instant_at(first)
        found = replace(
            record(0), epoch=f"e{self.runs}", window_start=start,
            window_end=start + timedelta(seconds=1), subscriber=subscriber, account=account,
            uplink_octets=0, downlink_octets=octets, subscriber_octets=octets - sponsored,
            sponsor_octets={"video-co": sponsored} if sponsored else {}, first_packet_ns=first,
            last_packet_ns=first + 1,
        )
        receipt = self.served.write(
            lambda ledger: ledger.post(run_of(found.epoch), [found], []))
        return int(receipt.transaction)

    def show(self, share: str) -> Any:
        return self.call(self.borrower, "SHOW", share=share)

    def told(self, client: Any, kind: str) -> list[dict[str, Any]]:
        return [about for what, about in self.served.notices(client) if what == kind]

    def money(self) -> tuple[int, int, int, int]:
        """What Bob has, what of it is held, what Alice gained, and what the operator did."""
        def look(ledger: Ledger) -> tuple[int, int, int, int]:
            bob, alice = (ledger.balance(name, MONEY) for name in ("bob", "alice"))
            return (bob.balance, bob.held, alice.balance,
                    ledger.balance(REVENUE, MONEY).balance)  # fmt: skip

        found: tuple[int, int, int, int] = self.served.read(look)
        return found


def fund(ledger: Ledger) -> None:
    ledger.open_account("bob", MONEY, "subscriber", floor=0)
    ledger.open_account("alice", MONEY, "subscriber")
    ledger.open_account("bank", MONEY, "settlement")
    ledger.open_account(REVENUE, MONEY, "operator")
    ledger.transfer(Transfer("top-up", "top-up", (
        Posting("bob", MONEY, FUNDS), Posting("bank", MONEY, -FUNDS))))  # fmt: skip


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def parties(serve: Callable[..., Any], settings: Settings) -> Iterator[Sharing]:
    with serve((device.SERVICE, sharing.SERVICE), settings={Settings: settings}) as served:
        served.write(fund)
        made = Sharing(served, served.device(account="bob"), served.device(), SealingKey())
        made.lend()
        yield made


def settle(parties: Sharing) -> None:
    parties.served.clock.forward(60)
    parties.served.sweep()


# --- the whole of it ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["server", "module"])
def test_sharing_goes_from_request_to_settlement(parties: Sharing, way: str) -> None:
    share = parties.borrow()
    assert [about["share"] for about in parties.told(parties.lender, "share.wanted")] == [share]
    offer = parties.offer(share)
    assert offer.at_most == 10 * PRICE
    assert parties.told(parties.borrower, "share.offer")[0]["offer"] == offer.offer
    assert parties.call(parties.borrower, "ACCEPT", **parties.taking(offer)).state == "connected"
    assert parties.money() == (FUNDS, 10 * PRICE, 0, 0)
    secret = password.make()
    parties.call(parties.lender, "CONNECT", **parties.letting_in(share, secret))
    [relayed] = parties.told(parties.borrower, "share.password")
    assert parties.key.unseal(relayed["sealed"], share) == secret
    if way == "server":
        found = parties.call(parties.borrower, "VERIFY", share=share, password=secret)
    else:
        proof = Module(share, secret).verify(secret)
        found = parties.call(parties.borrower, "VERIFIED", share=share, proof=proof)
    assert (found.state, found.verified_by) == ("running", way)
    parties.served.clock.forward(10)
    parties.use(3 * MIB)
    parties.served.sweep()
    assert parties.show(share).used_octets == 3 * MIB
    parties.served.clock.forward(10)
    assert parties.call(parties.lender, "STOP", share=share).state == "ended"
    settle(parties)
    found = parties.show(share)
    assert (found.state, found.fee, found.lenders_part) == ("settled", 300_000, 240_000)
    assert parties.money() == (FUNDS - 300_000, 0, 240_000, 60_000)


def test_sharing_ends_with_its_quota_and_costs_no_more(parties: Sharing) -> None:
    share = parties.running()
    for octets, percent in ((5, 50), (1, None), (2, 80), (4, 100)):
        before = len(parties.told(parties.lender, "share.usage"))
        parties.served.clock.forward(1)
        parties.use(octets * MIB)
        parties.served.clock.forward(1)
        parties.served.sweep()
        for client in (parties.borrower, parties.lender):
            alerts = [about["percent"] for about in parties.told(client, "share.usage")[before:]]
            assert alerts == ([percent] if percent else [])
    assert parties.show(share).state == "ended"
    assert parties.told(parties.lender, "share")[-1]["state"] == "ended"
    settle(parties)
    found = parties.show(share)
    assert (found.used_octets, found.fee) == (12 * MIB, 10 * PRICE)  # of 12 MiB, 10 are owed


def test_sharing_ends_with_its_time(parties: Sharing) -> None:
    share = parties.running()
    parties.served.clock.forward(3599)
    parties.served.sweep()
    assert parties.show(share).state == "running"
    parties.use(MIB)
    parties.use(MIB, at_s=1)  # begins when it is over
    parties.served.clock.forward(1)
    parties.served.sweep()
    assert parties.show(share).state == "ended"
    settle(parties)
    assert parties.show(share).fee == PRICE


def test_usage_is_the_engines_alone(parties: Sharing) -> None:
    """Of the lender's account, of the borrower's address, in its time, not sponsored, not taken
    back; each record once.
    """
    parties.use(MIB)  # before it runs
    share = parties.running()
    parties.served.clock.forward(1)
    parties.use(3 * MIB, sponsored=2 * MIB)
    parties.use(5 * MIB, at_s=-2)  # booked now, of before
    parties.use(5 * MIB, account="carol")
    parties.use(5 * MIB, subscriber="10.20.0.7")
    slip = parties.use(5 * MIB)
    parties.served.write(lambda ledger: ledger.reverse(slip, "a slip"))
    for _ in range(3):
        parties.served.clock.forward(1)
        parties.served.sweep()
        assert parties.show(share).used_octets == MIB
    parties.call(parties.borrower, "STOP", share=share)
    parties.use(MIB, at_s=-2)  # late, and still of its time
    parties.use(7 * MIB, at_s=1)  # after it
    settle(parties)
    found = parties.show(share)
    assert (found.used_octets, found.fee) == (2 * MIB, 2 * PRICE)
    parties.use(MIB, at_s=-62)  # later than anybody waits
    parties.served.sweep()
    assert parties.show(share).fee == 2 * PRICE


def test_usage_of_nothing_costs_nothing(parties: Sharing) -> None:
    share = parties.running()
    parties.call(parties.borrower, "STOP", share=share)
    settle(parties)
    assert (parties.show(share).state, parties.show(share).fee) == ("settled", 0)
    assert parties.money() == (FUNDS, 0, 0, 0)
    free = parties.running(price=0)
    parties.served.clock.forward(1)
    parties.use(MIB, at_s=-0.5)
    parties.call(parties.borrower, "STOP", share=free)
    settle(parties)
    assert (parties.show(free).used_octets, parties.show(free).fee) == (MIB, 0)


@on_sqlite
@pytest.mark.parametrize("settings", [Settings(alert="borrower"), Settings(alert="lender")])
def test_alert_goes_to_the_side_that_is_set(parties: Sharing, settings: Settings) -> None:
    parties.running()
    parties.served.clock.forward(1)
    parties.use(5 * MIB)
    parties.served.sweep()
    sides = {"borrower": parties.borrower, "lender": parties.lender}
    for side, client in sides.items():
        assert len(parties.told(client, "share.usage")) == (side == settings.alert)


# --- 2: lenders nearby --------------------------------------------------------------------------


def test_lenders_are_listed_within_the_range(parties: Sharing) -> None:
    far, nowhere = parties.served.device(account="carol"), parties.served.device(account="dave")
    parties.lend(**NEAR)
    parties.call(far, "LEND", available_s=3600, **FAR)
    parties.call(nowhere, "LEND", available_s=3600)
    share = parties.borrow(**HERE)
    [found] = parties.call(parties.borrower, "LENDERS", share=share).lenders
    assert (found.lender, found.distance_m) == (parties.lender.device, 110)  # rounded up to tens
    assert parties.told(far, "share.wanted") == parties.told(nowhere, "share.wanted") == []
    assert refused(parties.offer, share, client=far) == "not-nearby"
    # Who says not where is told of all.
    assert len(parties.call(parties.borrower, "LENDERS", share=parties.borrow()).lenders) == 3
    parties.call(far, "LEND", available_s=0)
    assert len(parties.call(parties.borrower, "LENDERS", share=parties.borrow()).lenders) == 2


def test_places_are_forgotten(parties: Sharing) -> None:
    parties.lend(**NEAR)
    taken, cancelled, expired = (parties.borrow(**HERE) for _ in range(3))
    parties.call(parties.borrower, "ACCEPT", **parties.taking(parties.offer(taken)))
    parties.call(parties.borrower, "CANCEL", share=cancelled)
    parties.served.clock.forward(3601)
    parties.served.sweep()
    assert parties.show(expired).state == "expired"
    for table in ("shares", "share_lenders"):
        assert parties.served.database.rows(
            f"SELECT count(*) FROM service_{table} WHERE latitude IS NOT NULL") == [(0,)]


@on_sqlite
def test_place_is_said_whole_or_not(parties: Sharing) -> None:
    assert refused(parties.borrow, latitude=1.0) == "unfit"
    assert refused(parties.borrow, latitude=91.0, longitude=0.0) == "invalid"


def test_distance_is_what_maps_say() -> None:
    """Berlin to Paris, by PROJ's geodesic 878.1 km; half a percent is a sphere's error."""
    berlin, paris = place(52.5200, 13.4050), place(48.8566, 2.3522)
    assert berlin is not None and paris is not None
    assert distance_m(berlin, paris) == pytest.approx(878_100, rel=0.005)
    date_line = (0, 179_999_000), (0, -179_999_000)
    assert distance_m(*date_line) == pytest.approx(222, abs=1)


# --- 3 and 4: offers ----------------------------------------------------------------------------


@on_sqlite
def test_offers_are_the_lenders_who_were_told(parties: Sharing) -> None:
    share = parties.borrow()
    sibling, stranger = parties.served.device(account="bob"), parties.served.device(account="carol")
    parties.call(sibling, "LEND", available_s=60)
    assert refused(parties.offer, share, client=sibling) == "own-share"
    assert refused(parties.offer, share, client=stranger) == "not-nearby"
    assert refused(parties.offer, share, octets=11 * MIB) == "unfit"
    assert refused(parties.offer, "nothing") == "not-found"
    first = parties.offer(share, price=2 * PRICE)
    assert refused(parties.offer, share) == "wrong-state"
    for name in ("LENDERS", "OFFERED", "SHOW", "CANCEL"):
        assert refused(parties.call, stranger, name, share=share) == "not-found"
    taking = parties.taking(first)
    assert refused(parties.call, stranger, "ACCEPT", **taking) == "not-found"
    wrong = {**taking, "share": parties.borrow()}
    assert refused(parties.call, parties.borrower, "ACCEPT", **wrong) == "not-found"
    [shown] = parties.call(parties.borrower, "OFFERED", share=share).offers
    assert (shown.offer, shown.price) == (first.offer, 2 * PRICE)
    parties.call(parties.lender, "LEND", available_s=0)
    assert refused(parties.call, parties.borrower, "ACCEPT", **taking) == "no-lender"


def test_offer_that_is_not_covered_connects_nobody(parties: Sharing) -> None:
    share = parties.borrow()
    taking = parties.taking(parties.offer(share, price=FUNDS // 10 + 1))
    assert refused(parties.call, parties.borrower, "ACCEPT", **taking) == "overdraft"
    assert parties.show(share).state == "requested" and parties.money() == (FUNDS, 0, 0, 0)


def test_offer_that_no_books_could_hold_is_refused(parties: Sharing) -> None:
    """Octets times price: each may be what it is, and not their product."""
    share = parties.borrow(2**53 - 1)
    assert refused(parties.offer, share, 2**53 - 1, 2**53 - 1) == "unfit"
    assert refused(parties.offer, share, 2**53 - 1, 2**21) == "unfit"
    assert parties.offer(share, 2**53 - 1, 2**20).at_most == 2**53 - 1


def test_offer_is_taken_once_whoever_hurries(parties: Sharing) -> None:
    share = parties.borrow()
    taking = parties.taking(parties.offer(share))

    def accept(turn: int) -> str:
        try:
            return str(parties.call(parties.borrower, "ACCEPT", **taking,
                                    key="one key for all of them" if turn % 2 else None).state)
        except Problem as problem:
            return problem.kind.name

    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(accept, range(100)))
    assert "connected" in found and found <= {"connected", "wrong-state", "key-in-progress"}
    assert parties.money() == (FUNDS, 10 * PRICE, 0, 0)


# --- 5: the password ----------------------------------------------------------------------------


def test_password_that_is_guessed_blocks_the_share(parties: Sharing) -> None:
    share, secret = parties.keyed()
    for turn in range(5):
        asked = ({"password": "a guess"} if turn % 2 else {"proof": "0" * 64})
        name = "VERIFY" if turn % 2 else "VERIFIED"
        assert refused(parties.call, parties.borrower, name, share=share, **asked) == \
            "wrong-password"
    assert parties.show(share).state == "blocked"
    assert refused(parties.call, parties.borrower, "VERIFY", share=share, password=secret) == \
        "wrong-state"
    assert parties.money() == (FUNDS, 0, 0, 0)


@on_sqlite
def test_password_of_another_device_or_share_lets_nobody_in(parties: Sharing) -> None:
    share, secret = parties.keyed()
    stranger = parties.served.device(account="bob")
    assert refused(parties.call, stranger, "VERIFY", share=share, password=secret) == "not-found"
    replayed = password.proof(secret, "another share")
    assert refused(parties.call, parties.borrower, "VERIFIED", share=share, proof=replayed) == \
        "wrong-password"
    other = parties.connected()
    forged = parties.letting_in(other, secret)
    assert refused(parties.call, parties.borrower, "CONNECT", **forged) == "not-found"
    # One address carries one share: each octet is one borrower's.
    assert refused(parties.call, parties.lender, "CONNECT", **forged) == "busy"


@on_sqlite
def test_password_is_read_by_nobody_between(parties: Sharing) -> None:
    _, secret = parties.keyed()
    for table in ("shares", "notices", "answers"):
        for row in parties.served.database.rows(f"SELECT * FROM service_{table}"):
            assert secret not in str(row)


def test_password_unseals_for_its_borrower_alone() -> None:
    mine, other = SealingKey(), SealingKey()
    sealed = password.seal("a password", "share", mine.public)
    assert SealingKey(mine.octets).unseal(sealed, "share") == "a password"
    altered = f"{sealed[:-1]}{'0' if sealed[-1] != '0' else '1'}"
    for key, text, share in ((other, sealed, "share"), (mine, altered, "share"),
                             (mine, sealed, "another"), (mine, "00", "share")):  # fmt: skip
        with pytest.raises(SealError, match="ask the lender"):
            key.unseal(text, share)
    with pytest.raises(SealError, match="sealing key is none"):
        password.seal("a password", "share", "00" * 32)


def test_module_verifies_by_itself_and_blocks() -> None:
    module = Module("share", "right")
    assert [module.verify("wrong") for _ in range(4)] == [None] * 4
    assert module.verify("right") == password.proof("right", "share")
    assert module.verify("wrong") is None and module.is_blocked
    assert module.verify("right") is None


# --- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["borrower", "lender"])
def test_share_that_does_not_run_is_cancelled_by_either(parties: Sharing, side: str) -> None:
    client = getattr(parties, side)
    for share in (parties.connected(), parties.keyed()[0]):
        assert refused(parties.call, client, "STOP", share=share) == "wrong-state"
        assert parties.call(client, "CANCEL", share=share).state == "cancelled"
    assert parties.money() == (FUNDS, 0, 0, 0)
    share = parties.running()
    assert refused(parties.call, client, "CANCEL", share=share) == "wrong-state"


def test_share_that_nobody_lets_in_expires(parties: Sharing) -> None:
    connected = parties.connected()
    parties.served.clock.forward(119)
    secret = password.make()
    parties.call(parties.lender, "CONNECT", **parties.letting_in(connected, secret))
    parties.served.clock.forward(120)
    assert refused(parties.call, parties.borrower, "VERIFY", share=connected, password=secret) == \
        "wrong-state"
    parties.served.sweep()
    assert parties.show(connected).state == "expired"
    assert parties.told(parties.lender, "share")[-1]["state"] == "expired"
    assert parties.money() == (FUNDS, 0, 0, 0)


def test_share_that_is_settled_never_changes(parties: Sharing) -> None:
    share = parties.running()
    parties.served.clock.forward(1)
    parties.use(MIB, at_s=-0.5)
    parties.call(parties.borrower, "STOP", share=share)
    settle(parties)
    for change in ("fee = 1", "state = 'ended'", "used_octets = 0"):
        with pytest.raises(Refused):
            parties.served.database.rows(f"UPDATE service_shares SET {change}")
    database = parties.served.database
    for change, undo, finding in (
        ("used_octets = 5", f"used_octets = {MIB}", "octets settled"),
        ("fee = 99999, lenders_part = 0", f"fee = {PRICE}, lenders_part = 80000", "was captured"),
    ):
        with database.unguarded():
            database.rows(f"UPDATE service_shares SET {change}")
        tables = annexes(parties.served.server.options.services)
        found = parties.served.read(lambda ledger, t=tables: ledger.verify(annexes=t))
        assert any(finding in line for line in found.findings)
        with database.unguarded():
            database.rows(f"UPDATE service_shares SET {undo}")
