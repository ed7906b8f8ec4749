"""Chapters: Alice pays at a shop, and the shop's sponsor pays for most of the traffic of it."""

from __future__ import annotations

import sys

from .books import Account
from .chromium import is_there
from .customer import Customer, Person, Script, fetch
from .program import Program, StoryError
from .stage import ALICE, BOB, FILMS, OPERATOR, SHOP, SPONSOR
from .story import Story

FILM = "/octets/400000"
EXPEDITED = 46  # the DSCP that sessions may be marked by
_SHOP = (sys.executable, "-m", "tollsplit.cli.demo.live.shop")


def pay_at_the_shop(story: Story) -> dict[Account, int]:
    """A sponsored session from its permission to its end, and other traffic beside it."""
    stage = story.stage
    for end in (SHOP, FILMS):
        stage.begin(end, end.name, *_SHOP, end.ipv4).await_said("serving on")
    story.run(OPERATOR, "session", "subscriber", *story.by("operator"), "--identifier",
              f"address:{ALICE.ipv4}", "--account", "alice", "--address", ALICE.ipv4)  # fmt: skip
    proxy = stage.begin_tollsplit(
        SPONSOR, "proxy", "session", "proxy", *story.by("proxy"), "--listen",
        f"{SPONSOR.ipv4}:3128", "--inside", f"{SHOP.ipv4}/32")  # fmt: skip
    terminal = stage.begin_tollsplit(
        ALICE, "terminal", "session", "run", *story.by("phone"), "--identifier",
        f"address:{ALICE.ipv4}", "--no-switch", "--home", stage.home / "phone")  # fmt: skip
    proxy.await_event("listening")
    terminal.await_event("listening")
    customer = _customer(story)
    customer.arrive()
    opened = terminal.await_event("open")
    story.tell(f"The page is a payment: session {opened['session']} is open, {opened['sponsor']} "
               "sponsors it, and its mark is in force in the running engine.")  # fmt: skip
    _watch_films(story)
    customer.pay()
    _expect_proxied(proxy)
    story.tell("Alice has paid at the shop, through the sponsor's proxy.")
    customer.leave()
    terminal.await_event("ended")
    story.tell("She leaves the shop: the session has ended, the mark is withdrawn.")
    terminal.end()
    proxy.end()
    return {}


def _customer(story: Story) -> Customer:
    home = story.stage.home / "phone"
    extension = story.stage.home / "extension"
    story.run(ALICE, "session", "extension", extension, "--home", home)
    if is_there():
        story.tell("Alice opens the checkout of shop.example in Chromium.")
        return Person(story.stage, extension)
    story.tell("There is no Chromium (apt-get install chromium): a plain HTTP client buys.")
    return Script(story.stage, (home / "reports.token").read_text())


def _watch_films(story: Story) -> None:
    """Traffic beside the session. Bob marks his as if somebody paid for it."""
    server = (FILMS.ipv4, 80)
    fetch(story.stage, ALICE, server, FILM)
    fetch(story.stage, BOB, server, FILM, dscp=EXPEDITED)
    story.tell("Meanwhile both watch a film. Bob marks his packets as if they were sponsored.")


def _expect_proxied(proxy: Program) -> None:
    if not any(event["method"] == "POST" for event in proxy.events("answered")):
        raise StoryError(f"the payment did not go through the sponsor's proxy: {proxy.said}")
