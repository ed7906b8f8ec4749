"""The story: chapters, played by the programs as people run them, and what each has to book."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .books import Account, Books
from .namespaces import GATEWAY, End
from .program import Program, StoryError
from .stage import ALICE, BOB, OPERATOR, SERVER, SHOP, SPONSOR, Stage

Tell = Callable[[str], None]
MONEY = "CNY/1000000"
CNY = 1_000_000
SHOP_CO = "sponsor:shop-co"
CARD = "card:alice"
_ACCOUNTS = (("bank", "settlement"), ("shop", "settlement"), ("studio", "settlement"),
             ("alice", "subscriber"), ("bob", "subscriber"), (CARD, "card"))  # fmt: skip
_PAID_IN = {"alice": 100, "bob": 100, CARD: 1000}  # CNY
# Where a device is, what it is called, what it is, and whose.
_DEVICES = (
    (OPERATOR, "operator", "operator", "operator"), (SPONSOR, "proxy", "proxy", SHOP_CO),
    (ALICE, "phone", "terminal", "alice"), (ALICE, "television", "terminal", "alice"),
    (ALICE, "chess", "resource", "alice"), (BOB, "tablet", "terminal", "bob"),
    (SHOP, "till", "terminal", "shop"),
)  # fmt: skip


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
        self.devices: dict[str, str] = {}  # ids by name
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
        """What a command says; see Stage.tollsplit."""
        return self.stage.tollsplit(end, *arguments, typed=typed)

    def key(self, name: str) -> Path:
        return self.stage.home / f"{name}.key"

    def register(self, devices: Iterable[tuple[End, str, str, str]]) -> None:
        """Devices are let in, make their keys and register: where, name, role, account."""
        known = list(devices)
        tokens = self.stage.at_once(
            (None, ("device", "enrol", "--ledger", self.stage.ledger, "--role", role, "--account",
                    account)) for _, _, role, account in known)  # fmt: skip
        said = self.stage.at_once(
            (end, ("device", "register", *self.by(name), "--token", token.strip(), "--label",
                   name)) for (end, name, *_), token in zip(known, tokens, strict=True))
        for (_, name, *_), text in zip(known, said, strict=True):
            self.devices[name] = text.partition(":")[0]

    def by(self, name: str) -> tuple[str, ...]:
        """The options of a command that a device calls the services with."""
        return "--server", SERVER, "--key", str(self.key(name))


def paid(payer: str, payee: str, micros: int) -> dict[Account, int]:
    """What two accounts have gained when one has paid the other."""
    return {(payer, MONEY): -micros, (payee, MONEY): micros}


def open_books(story: Story) -> dict[Account, int]:
    """Accounts; Alice and Bob have paid in."""
    ledger = ("--ledger", story.stage.ledger)
    story.run(None, "ledger", "init", *ledger)
    story.stage.at_once(
        (None, ("ledger", "open", *ledger, "--account", name, "--unit", "CNY", "--kind", kind,
                *(() if kind == "settlement" else ("--prepaid",))))
        for name, kind in _ACCOUNTS)  # fmt: skip
    story.run(None, "ledger", "post", *ledger, typed="\n".join(
        json.dumps({"key": f"{name} pays in", "kind": "top-up", "description": f"{name} pays in",
                    "postings": [{"account": account, "unit": MONEY, "amount": micros}
                                 for (account, _), micros in paid("bank", name, cny * CNY).items()]
                    }) for name, cny in _PAID_IN.items()))  # fmt: skip
    story.tell("Alice and Bob have paid in 100 CNY each, and 1,000 CNY are on Alice's card. All "
               "three are prepaid.")  # fmt: skip
    moved: Counter[Account] = Counter()
    for name, cny in _PAID_IN.items():
        moved.update(paid("bank", name, cny * CNY))
    return dict(moved)


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
    story.register(_DEVICES)
    story.tell("`tollsplit capture` meters the gateway's two subscriber interfaces.")
    story.tell("`tollsplit serve` runs the services, on the same ledger.")
    return {}
