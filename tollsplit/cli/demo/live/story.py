"""The story: chapters, played by the programs as people run them, and what each has to book."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .books import Account, Books
from .namespaces import GATEWAY, End
from .program import Program, StoryError
from .stage import ALICE, OPERATOR, SERVER, SPONSOR, Stage

Tell = Callable[[str], None]
MONEY = "CNY/1000000"
CNY = 1_000_000
SHOP_CO = "sponsor:shop-co"
# Where a device is, what it is called, what it is, and whose.
_DEVICES = ((OPERATOR, "operator", "operator", "operator"), (ALICE, "phone", "terminal", "alice"),
            (SPONSOR, "proxy", "proxy", SHOP_CO))


@dataclass(frozen=True)
class Chapter:
    """A part of the story.

    play   returns what every account has gained by it, traffic aside
    """

    title: str
    play: Callable[[Story], dict[Account, int]]


class Story:
    """The stage, who is on it, and what has been booked by hand so far."""

    def __init__(self, stage: Stage, tell: Tell) -> None:
        self.stage = stage
        self.tell = tell
        self.moved: Counter[Account] = Counter()
        self.capture: Program | None = None
        self.server: Program | None = None

    def play(self, chapter: Chapter) -> None:
        """Raises StoryError where the books don't say what the chapter has to book."""
        for account, amount in chapter.play(self).items():
            self.moved[account] += amount
        found, expected = Books(self.stage).moved(), Counter(
            {account: amount for account, amount in self.moved.items() if amount})
        if found != expected:
            raise StoryError(f"{chapter.title}: the books say {dict(found)}, expected "
                             f"{dict(expected)}")  # fmt: skip

    # --- what people do -----------------------------------------------------------------

    def run(self, end: End | None, *arguments: object, typed: str = "") -> str:
        """What a command says; it is told as it would be typed."""
        return self.stage.tollsplit(end, *arguments, typed=typed)

    def key(self, name: str) -> Path:
        return self.stage.home / f"{name}.key"

    def device(self, end: End, name: str, role: str, account: str) -> str:
        """A device that is let in and has registered; its id."""
        token = self.run(None, "device", "enrol", "--ledger", self.stage.ledger, "--role", role,
                         "--account", account).strip()  # fmt: skip
        said = self.run(end, "device", "register", *self.by(name), "--token", token,
                        "--label", name)  # fmt: skip
        return said.partition(":")[0]

    def by(self, name: str) -> tuple[str, ...]:
        """The options of a command that a device calls the services with."""
        return "--server", SERVER, "--key", str(self.key(name))


def open_books(story: Story) -> dict[Account, int]:
    """Accounts; Alice and Bob have paid in."""
    ledger = ("--ledger", story.stage.ledger)
    story.run(None, "ledger", "init", *ledger)
    for name, kind in (("bank", "settlement"), ("shop", "settlement"), ("alice", "subscriber"),
                       ("bob", "subscriber")):
        prepaid = ("--prepaid",) if kind == "subscriber" else ()
        story.run(None, "ledger", "open", *ledger, "--account", name, "--unit", "CNY", "--kind",
                  kind, *prepaid)  # fmt: skip
    for name in ("alice", "bob"):
        story.run(None, "ledger", "transfer", *ledger, "--from", "bank", "--to", name, "--amount",
                  "100 CNY", "--reference", f"{name}'s first", "--kind", "top-up")  # fmt: skip
    story.tell("Alice and Bob have paid in 100 CNY each. Both are prepaid.")
    return {("bank", MONEY): -200 * CNY, ("alice", MONEY): 100 * CNY, ("bob", MONEY): 100 * CNY}


def go_live(story: Story) -> dict[Account, int]:
    """The engine meters, the services answer."""
    stage, home = story.stage, story.stage.home
    story.capture = stage.begin_tollsplit(
        GATEWAY, "capture", "capture", "sub1", "sub2", "--rules", home / "rules.toml",
        "--ledger", stage.ledger, "--control", stage.control, "--flush", "500ms")
    story.server = stage.begin_tollsplit(
        OPERATOR, "serve", "serve", "--ledger", stage.ledger, "--listen",
        f"{OPERATOR.ipv4}:8080", "--insecure-listen", "--settings", home / "settings.toml")
    story.capture.await_said("captured from now on")
    story.server.await_said("serving on")
    for end, name, role, account in _DEVICES:
        story.device(end, name, role, account)
    story.tell("`tollsplit capture` meters the gateway's two subscriber interfaces.")
    story.tell("`tollsplit serve` runs the services, on the same ledger.")
    return {}
