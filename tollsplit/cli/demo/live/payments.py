"""Chapters: Alice pays with her card at a till, and what her television asks for by her phone."""

from __future__ import annotations

import re

from . import virtual_card
from .books import Account
from .program import wait
from .stage import ALICE, OPERATOR, SHOP
from .story import CARD, CNY, Story, paid

CARD_SECRET, PAYMENT_SECRET = "2580-horse", "correct horse"
PAYEE = "13800138000"
CARD_CNY = 250
NOVELS = 12_340_000  # micro-units


def pay_by_card(story: Story) -> dict[Account, int]:
    """A transfer by smart card: read, authenticated, confirmed at both devices."""
    lack = virtual_card.missing()
    if lack is not None:
        story.tell(f"Left out: {lack}.")
        return {}
    stage = story.stage
    card = virtual_card.VirtualCard()
    reader = virtual_card.start(stage.short / "pcscd")
    stage.environment["PCSCLITE_CSOCK_NAME"] = str(reader.socket)
    try:
        with reader.holding(card.exchange):
            story.run(OPERATOR, "transfer", "register-card", *story.by("operator"), "--account",
                      CARD, "--associated", story.devices["phone"],
                      typed=f"{CARD_SECRET}\n{CARD_SECRET}\n")
            story.run(OPERATOR, "transfer", "register-payee", *story.by("operator"), "--payee",
                      PAYEE, "--account", "shop")  # fmt: skip
            phone = stage.begin_tollsplit(ALICE, "confirm", "transfer", "confirm",
                                          *story.by("phone"), "--once", typed="y\n")
            story.run(SHOP, "transfer", "pay", *story.by("till"), "--payee", PAYEE, "--amount",
                      f"{CARD_CNY} CNY", typed=f"{CARD_SECRET}\ny\n")  # fmt: skip
            phone.await_end()
    finally:
        reader.stop()
    story.tell(f"The shop's till read Alice's card. She typed its secret, and said yes to "
               f"{CARD_CNY} CNY on the till and on her phone.")  # fmt: skip
    return paid(CARD, "shop", CARD_CNY * CNY)


def pay_on_the_phone(story: Story) -> dict[Account, int]:
    """A push payment: asked for on the television, lifted and scanned on the phone."""
    stage, operator = story.stage, story.by("operator")
    story.run(OPERATOR, "push-payment", "secret", *operator, "--account", "alice",
              typed=f"{PAYMENT_SECRET}\n{PAYMENT_SECRET}\n")  # fmt: skip
    story.run(OPERATOR, "push-payment", "policy", *operator, "--account", "alice", "--gesture",
              "lift", "--opening", "scan")  # fmt: skip
    television = stage.begin_tollsplit(
        ALICE, "television", "push-payment", "first", *story.by("television"), "--payee", "shop",
        "--amount", "12.34 CNY", "--message", "Two novels")
    [code] = wait(lambda: re.findall(r"code  (\S+)\n", television.said), "the code", television)
    television.await_said("lift the other terminal")
    story.run(ALICE, "push-payment", "second", *story.by("phone"), "--gesture", "lift", "--once",
              typed=f"{code}\ny\n{PAYMENT_SECRET}\n")  # fmt: skip
    television.await_end()
    story.tell("The television asked for 12.34 CNY. Alice lifted her phone, and scanned the code "
               "and agreed there.")  # fmt: skip
    return paid("alice", "shop", NOVELS)
