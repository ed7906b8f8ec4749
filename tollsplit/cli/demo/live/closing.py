"""Last chapters: who pays for how many octets, and what the books say of everything."""

from __future__ import annotations

from .books import Account, Books
from .octets import Due, due, marks_in_force
from .program import StoryError
from .stage import ALICE, BOB, TETHERED
from .story import SHOP_CO, Story

SPONSORED = frozenset(("requests", "answers"))


def close_the_books(story: Story) -> dict[Account, int]:
    """The engine stops; who pays for how many octets is compared with what was on the wire."""
    stage = story.stage
    assert story.capture is not None and story.server is not None
    story.server.end()
    stage.close_judges()
    story.capture.end()
    marks = marks_in_force(stage.home / "books.db")
    books = Books(stage)
    paid = 0
    for end, account, addresses in (
        (ALICE, "alice", (ALICE.ipv4, TETHERED)), (BOB, "bob", (BOB.ipv4,)),
    ):  # fmt: skip
        expected = due(stage.seen(end), addresses, marks)
        _expect_octets(books, account, expected)
        paid += expected.sponsor
        story.tell(f"{account:>8}: {expected.uplink + expected.downlink:>9,} octets, pays for "
                   f"{expected.subscriber:,}")  # fmt: skip
    if not paid or books.octets(SHOP_CO) != paid:
        raise StoryError(f"{SHOP_CO} pays for {books.octets(SHOP_CO):,} octets, expected {paid:,}")
    story.tell(f"{SHOP_CO} pays for {paid:,}. A packet socket beside the engine says the same.")
    return {}


def _expect_octets(books: Books, account: str, expected: Due) -> None:
    whole, sponsored = books.usage(account), books.usage(account, SPONSORED)
    said = (whole.uplink, whole.downlink, sponsored.uplink, sponsored.downlink,
            sum(whole.sponsors.values()), whole.subscriber, books.octets(account))
    right = (expected.uplink, expected.downlink, expected.marked_uplink, expected.marked_downlink,
             expected.sponsor, expected.subscriber, expected.subscriber)  # fmt: skip
    if said != right:
        raise StoryError(f"{account}: the books say {said}, on the wire were {right}")


def read_the_books(story: Story) -> dict[Account, int]:
    """Everything is recomputed; the sponsor and Alice get their statements."""
    ledger = ("--ledger", story.stage.ledger)
    checks = story.run(None, "ledger", "verify", *ledger).count("holds: ")
    story.tell(f"`tollsplit ledger verify`: {checks} checks over everything, and all hold.")
    for account in (SHOP_CO, "alice"):
        story.tell(f"\n{story.run(None, 'statement', *ledger, '--account', account)}")
    return {}
