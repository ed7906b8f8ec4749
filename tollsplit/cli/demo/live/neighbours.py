"""Chapter: Bob uses some of Alice's data, and pays her for what he used."""

from __future__ import annotations

import re
import signal
from collections import Counter

from .books import Account
from .customer import fetch
from .octets import due
from .program import StoryError, wait
from .sponsored import FILM
from .stage import ALICE, BOB, FILMS, TETHERED
from .story import MONEY, Story, paid

HERE, THERE = "39.9042,116.4074", "39.9051,116.4074"  # 100 m
MICROS_PER_MIB = 2_000_000
LENDERS_PART = 8000  # of 10,000, as the service has it by default


def share_an_allowance(story: Story) -> dict[Account, int]:
    """Offered nearby, verified by a password, metered by the engine, settled by its records."""
    stage = story.stage
    lender = stage.begin_tollsplit(
        ALICE, "lender", "share", "lend", *story.by("phone"), "--octets", "800 KiB", "--price",
        "2 CNY", "--subscriber", TETHERED, "--location", HERE, "--once")
    lender.await_said("lending for")
    borrower = stage.begin_tollsplit(
        BOB, "borrower", "share", "borrow", *story.by("tablet"), "--octets", "800 KiB",
        "--location", THERE, "--verify", "module", "--subscriber", TETHERED, "--yes")
    [password] = wait(lambda: re.findall(r": password (\S+)\n", lender.said), "a password", lender)
    borrower.await_said("the lender's password")
    borrower.type(f"{password}\n")
    borrower.await_said(": running")
    story.tell("Bob asks for data. Alice, 100 m away, lends him some, and tells him a password.")
    stage.tether()
    fetch(stage, BOB, (FILMS.ipv4, 80), FILM, source=TETHERED)
    lender.await_said("50 % used")  # it is 60 %, give or take a few acknowledgements
    borrower.process.send_signal(signal.SIGINT)
    borrower.await_end()
    lender.await_said(": settled")
    lender.await_end()
    return _settled(story, lender.said)


def _settled(story: Story, said: str) -> dict[Account, int]:
    """What the two have gained, by the octets that the judge has seen."""
    seen = due(story.stage.seen(ALICE), [TETHERED], [])
    octets = seen.uplink + seen.downlink
    if f"settled, {octets} octets used" not in said:
        raise StoryError(f"Bob has used {octets} octets by the wire; the lender was told: {said}")
    fee = octets * MICROS_PER_MIB // 2**20
    part = fee * LENDERS_PART // 10_000
    story.tell(f"He watches a film by her: {octets:,} octets. The engine's records say so; he pays "
               f"{fee / 1e6:.6f} CNY, of which {part / 1e6:.6f} are hers.")  # fmt: skip
    moved = Counter(paid("bob", "alice", part))
    moved.update({("bob", MONEY): part - fee, ("operator:revenue", MONEY): fee - part})
    return dict(moved)
