"""Push payments whose server is killed at every transition: each effect once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from databases import Database
from push_parties import AMOUNT, CODE, FUNDS, SHOP, Parties, fund, money_in
from service_crashes import POINTS, mortal


def test_push_survives_kill_9_at_each_transition(
    databases: Callable[[], Database], tmp_path: Path
) -> None:
    with mortal(databases().url, tmp_path) as service:
        service.write(fund)
        parties = Parties(None, service.device("terminal", "alice"),  # type: ignore[arg-type]
                          service.device("terminal", "alice"),
                          service.device("operator", "operator:staff"))  # fmt: skip
        shop = service.device("merchant", SHOP)
        parties.set_secret()
        parties.needs(gesture="tap", opening="scan", capture="manual")

        def survive(point: str, client: Any, name: str, **fields: Any) -> Any:
            return service.survive(f"push-payment.{name}", point, parties.call, client, name,
                                   **fields)  # fmt: skip

        for turn, point in enumerate(POINTS, 1):
            payment = service.survive("push-payment.ask", point, parties.ask).id
            assert survive(point, parties.phone, "gesture", gesture="tap").pushed == [payment]
            survive(point, parties.phone, "open", payment=payment, code=CODE)
            survive(point, parties.phone, "hold", payment=payment)
            assert service.survive("push-payment.authorise", point, parties.agree,
                                   payment).state == "authorised"  # fmt: skip
            assert survive(point, shop, "capture", payment=payment).state == "captured"
            paid = AMOUNT * turn
            assert service.verify(money_in) == (FUNDS - paid, 0, paid)
            for client, name in ((parties.television, "void"), (parties.phone, "decline")):
                ended = parties.ask().id
                parties.call(parties.phone, "gesture", gesture="tap")
                parties.call(parties.phone, "open", payment=ended, code=CODE)
                parties.call(parties.phone, "hold", payment=ended)
                survive(point, client, name, payment=ended)
            assert service.verify(money_in) == (FUNDS - paid, 0, paid)
