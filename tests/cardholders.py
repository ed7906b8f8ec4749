"""What the tests of transfers by smart card start from: a card, its holder, a payee, devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from bookings import MONEY
from databases import Database
from serving import Served, serving

from tollsplit.cli.demo.live.virtual_card import number_of

if TYPE_CHECKING:
    from tollsplit.ledger import Ledger
    from tollsplit.services.client import Client
    from tollsplit.services.transfer import Confirm, TransferState

FUNDS = 1_000_000_000  # 1000 CNY
SMALL = 100_000_000  # the largest small amount by default
LARGE = SMALL + 1
SECRET = "2580-horse"


@dataclass
class Town:
    """A service, its operator and two devices: Alice's phone and another terminal."""

    write: Callable[[Callable[[Ledger], None]], Any]  # on the ledger, behind the service's back
    operator: Client
    phone: Client
    terminal: Client
    served: Served | None = None


@dataclass
class Cardholder:
    """A card of its own, which is associated with the phone, and a shop of its own."""

    town: Town
    card: str
    payee: str
    account: str
    shop: str

    @property
    def served(self) -> Served:
        assert self.town.served is not None
        return self.town.served

    @property
    def phone(self) -> Client:
        return self.town.phone

    @property
    def terminal(self) -> Client:
        return self.town.terminal

    def ask(self, client: Client, amount: int = LARGE, **more: Any) -> TransferState:
        from tollsplit.services import transfer

        usual: dict[str, Any] = {"card": self.card, "payee": self.payee, "unit": MONEY}
        return client.call(transfer.ASK, transfer.Ask(amount=amount, **{**usual, **more}))

    def authenticate(self, client: Client, asked: TransferState, secret: str = SECRET) \
            -> TransferState:
        from tollsplit.services import transfer

        return client.call(transfer.AUTHENTICATE,
                           transfer.Authenticate(transfer=asked.transfer, secret=secret))

    def confirm(
        self, client: Client, shown: TransferState, accept: bool = True, *,
        associated: bool = False, key: str | None = None, **altered: Any,
    ) -> TransferState:  # fmt: skip
        from tollsplit.services import transfer

        operation = transfer.CONFIRM_ASSOCIATED if associated else transfer.CONFIRM
        return client.call(operation, answer_to(shown, accept, **altered), key=key)

    def show(self, client: Client, asked: TransferState) -> TransferState:
        from tollsplit.services import transfer

        return client.call(transfer.SHOW, transfer.Read(transfer=asked.transfer))

    def balances_in(self, ledger: Ledger) -> tuple[int, int]:
        """Of the card's account and the shop's."""
        return (ledger.balance(self.account, MONEY).balance,
                ledger.balance(self.shop, MONEY).balance)

    def balances(self) -> tuple[int, int]:
        found: tuple[int, int] = self.served.read(self.balances_in)
        return found

    def expect_paid(self, amount: int) -> None:
        assert self.balances() == (FUNDS - amount, amount)


def answer_to(shown: TransferState, accept: bool = True, **altered: Any) -> Confirm:
    """What a device answers that has shown the four fields."""
    from tollsplit.services import transfer

    seen = shown.confirmation
    assert seen is not None
    fields = {"card_account": seen.card_account, "amount": seen.amount, "unit": seen.unit,
              "payee": seen.payee, "payee_account": seen.payee_account}  # fmt: skip
    return transfer.Confirm(transfer=shown.transfer, accept=accept, **{**fields, **altered})


@pytest.fixture(scope="module")
def town(databases: Callable[[], Database]) -> Iterator[Town]:
    """One service for all tests of a module, on both databases; its clock only goes forward."""
    with serving(databases()) as served:
        yield town_of(served)


def town_of(served: Served) -> Town:
    return Town(served.write, served.device("operator", "operator:staff"),
                served.device("terminal", "alice"), served.device("terminal", "bob"), served)


@pytest.fixture
def holder(town: Town) -> Cardholder:
    return settle(town)


_INDICES = count(1)


def settle(town: Town) -> Cardholder:
    """Register a card with a thousand yuan, and a shop."""
    from tollsplit.ledger import Transfer
    from tollsplit.model import Posting
    from tollsplit.services import card_register

    index = next(_INDICES)
    holder = Cardholder(town, number_of(index), f"shop {index}", f"card:{index}", f"shop:{index}")

    def fund(ledger: Ledger) -> None:
        ledger.open_account(holder.account, MONEY, "card", floor=0)
        ledger.open_account(holder.shop, MONEY, "settlement")
        ledger.open_account("bank", MONEY, "settlement")
        ledger.transfer(Transfer(f"top-up {index}", "top-up", (
            Posting(holder.account, MONEY, FUNDS), Posting("bank", MONEY, -FUNDS))))  # fmt: skip

    town.write(fund)
    register(holder)
    town.operator.call(card_register.REGISTER_PAYEE,
                       card_register.RegisterPayee(payee=holder.payee, account=holder.shop))
    return holder


def register(holder: Cardholder, **more: Any) -> None:
    """Register the card, as it is or as `more` says."""
    from tollsplit.services import card_register

    usual = {"account": holder.account, "secret": SECRET, "associated": holder.phone.device}
    holder.town.operator.call(card_register.REGISTER_CARD, card_register.RegisterCard(
        card=holder.card, **{**usual, **more}))
