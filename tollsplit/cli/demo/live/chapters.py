"""The chapters in their order."""

from __future__ import annotations

from . import closing, sponsored, story
from .story import Chapter

CHAPTERS = (
    Chapter("The books are opened", story.open_books),
    Chapter("The gateway goes live", story.go_live),
    Chapter("A sponsored session", sponsored.pay_at_the_shop),
    Chapter("Who pays for how many octets", closing.close_the_books),
    Chapter("What the books say", closing.read_the_books),
)
