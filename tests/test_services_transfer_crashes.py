"""Transfers by smart card whose server is killed at every step: each effect once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cardholders import FUNDS, LARGE, SMALL, Town, settle
from databases import Database
from service_crashes import POINTS, mortal


def test_transfer_survives_kill_9_at_each_transition(
    databases: Callable[[], Database], tmp_path: Path
) -> None:
    with mortal(databases().url, tmp_path) as service:
        town = Town(service.write, service.device("operator", "operator:staff"),
                    service.device("terminal", "alice"), service.device("terminal", "bob"))
        for point in POINTS:
            holder = settle(town)
            asked = service.survive("transfer.ask", point, holder.ask, holder.terminal)
            shown = service.survive(
                "transfer.authenticate", point, holder.authenticate, holder.terminal, asked)
            first = service.survive(
                "transfer.confirm", point, holder.confirm, holder.terminal, shown)
            assert first.state == "confirming-associated"
            last = service.survive("transfer.confirm-associated", point, holder.confirm,
                                   holder.phone, first, associated=True)  # fmt: skip
            assert last.state == "booked"
            assert service.survive("transfer.ask", point, holder.ask, holder.phone, SMALL).state \
                == "booked"
            assert service.verify(holder.balances_in) == (FUNDS - SMALL - LARGE, SMALL + LARGE)
