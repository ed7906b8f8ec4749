"""The chapters in their order."""

from __future__ import annotations

from . import closing, neighbours, payments, resource, sponsored, story
from .story import Chapter

CHAPTERS = (
    Chapter("The books are opened", story.open_books),
    Chapter("The gateway goes live", story.go_live),
    Chapter("A sponsored session", sponsored.pay_at_the_shop),
    Chapter("A transfer by card", payments.pay_by_card),
    Chapter("A push payment", payments.pay_on_the_phone),
    Chapter("A game that is paid for", resource.play_chess),
    Chapter("An allowance that is shared", neighbours.share_an_allowance),
    Chapter("Who pays for how many octets", closing.close_the_books),
    Chapter("What the books say", closing.read_the_books),
)
