"""Who takes part in a push payment, for the tests of calls, of pages and of crashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from bookings import MONEY
from serving import Served, problem_of

from tollsplit.ledger import Ledger, Transfer
from tollsplit.model import Posting

if TYPE_CHECKING:
    from tollsplit.services.client import Client
    from tollsplit.services.operation import Operation

SHOP, SECRET, CODE = "shop:books", "correct horse", "what-the-television-shows"
FUNDS, AMOUNT = 100_000_000, 12_340_000


def operation(name: str) -> Operation[Any, Any]:
    from tollsplit.services import push_payment

    return next(one for one in push_payment.SERVICE.operations if one.name == name)


def fund(ledger: Ledger) -> None:
    ledger.open_account("alice", MONEY, "subscriber", floor=0)
    for name in (SHOP, "bank"):
        ledger.open_account(name, MONEY, "settlement")
    top_up = Posting("alice", MONEY, FUNDS), Posting("bank", MONEY, -FUNDS)
    ledger.transfer(Transfer("top-up", "top-up", top_up))


def money_in(ledger: Ledger) -> tuple[int, int, int]:
    alice, shop = (ledger.balance(name, MONEY) for name in ("alice", SHOP))
    return alice.balance, alice.held, shop.balance


@dataclass
class Parties:
    """Alice's television and phone, and whom she pays."""

    served: Served
    television: Client
    phone: Client
    operator: Client

    @classmethod
    def of(cls, served: Served) -> Parties:
        served.write(fund)
        found = cls(served, served.device(), served.device(),
                    served.device("operator", "operator:staff"))  # fmt: skip
        found.set_secret()
        return found

    def set_secret(self) -> None:
        """Set Alice's; what was counted against it is forgotten."""
        self.call(self.operator, "secret", account="alice", secret=SECRET)

    def call(self, client: Client, name: str, *, key: str | None = None, **fields: Any) -> Any:
        asked = operation(f"push-payment.{name}")
        return client.call(asked, asked.asked(**fields), key=key)

    def needs(self, **policy: str) -> None:
        """Set Alice's policy."""
        self.call(self.operator, "policy", account="alice", **policy)

    def ask(self, *, key: str | None = None, **more: Any) -> Any:
        usual = {"first_terminal": self.television.device, "payee": SHOP, "unit": MONEY,
                 "amount": AMOUNT, "code_digest": hashlib.sha256(CODE.encode()).hexdigest(),
                 "binding_message": "Two novels"}
        return self.call(self.television, "ask", key=key, **{**usual, **more})

    def agree(self, payment: str, *, key: str | None = None, **more: Any) -> Any:
        usual = {"payment": payment, "secret": SECRET, "payee": SHOP, "unit": MONEY,
                 "amount": AMOUNT, "binding_message": "Two novels"}
        return self.call(self.phone, "authorise", key=key, **{**usual, **more})

    def held(self, **more: Any) -> str:
        """A payment that only has to be agreed to."""
        payment: str = self.ask(**more).id
        self.call(self.phone, "open", payment=payment, code=CODE)
        self.call(self.phone, "hold", payment=payment)
        return payment

    def relay(self, platform: Client, **more: Any) -> Any:
        """Tell of the phone's lift, as its operating system's server."""
        usual = {"terminal": self.phone.device, "gesture": "lift",
                 "made_at_s": self.served.clock.now_ns // 10**9}
        return self.call(platform, "relay", **{**usual, **more})

    def state(self, payment: str) -> str:
        found: str = self.call(self.television, "show", payment=payment).state
        return found

    def money(self) -> tuple[int, int, int]:
        """What Alice has, what of it is held, and what the shop got."""
        found: tuple[int, int, int] = self.served.read(money_in)
        return found

    def pushed(self, client: Client) -> list[tuple[str, str]]:
        """Id and state of each payment that a device was told of, in order."""
        return [(about["id"], about["state"]) for _, about in self.served.notices(client)]


NOTHING = (FUNDS, 0, 0)
PAID = (FUNDS - AMOUNT, 0, AMOUNT)


@pytest.fixture
def parties(serve: Callable[..., Any]) -> Iterator[Parties]:
    from tollsplit.services import device, push_payment

    with serve((device.SERVICE, push_payment.SERVICE)) as served:
        yield Parties.of(served)


def poll(parties: Parties, payment: str) -> tuple[str, dict[str, Any]]:
    """What a first terminal is told that nobody has agreed yet."""
    told = problem_of(parties.call, parties.television, "poll", payment=payment).extensions
    return told["error"], told
