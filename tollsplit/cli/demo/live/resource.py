"""Chapter: a game that runs only where it is paid for."""

from __future__ import annotations

from .books import Account
from .program import StoryError
from .stage import ALICE, OPERATOR
from .story import CNY, Story, paid

PRICE_CNY = 5
MOVE = "e2-e4"


def play_chess(story: Story) -> dict[Account, int]:
    """Prohibited, bought, unlocked by a billing status code."""
    stage = story.stage
    story.run(OPERATOR, "billing-auth", "register-resource", *story.by("operator"), "--resource",
              "chess", "--amount", f"{PRICE_CNY} CNY", "--account", "studio", "--days", 30)
    manager = stage.begin_tollsplit(ALICE, "billing-manager", "billing-auth", "manager",
                                    *story.by("phone"), "--socket", stage.billing)  # fmt: skip
    manager.await_said("answering on")
    game = ("billing-auth", "operate", *story.by("chess"), "--resource", "chess", "--operation",
            "play", "--socket", stage.billing, "--", "echo", MOVE)  # fmt: skip
    refused = stage.refusal(ALICE, *game)
    story.tell(f"Alice starts her chess game: {refused.removeprefix('tollsplit: ')}")
    story.run(ALICE, "billing-auth", "buy", *story.by("phone"), "--resource", "chess", "--yes")
    if story.run(ALICE, *game).strip() != MOVE:
        raise StoryError("the game did not run though it was paid for")
    manager.end()
    story.tell(f"She buys it for {PRICE_CNY} CNY. It gets a code, which the server verifies: "
               f"{MOVE}.")  # fmt: skip
    return paid("alice", "studio", PRICE_CNY * CNY)
