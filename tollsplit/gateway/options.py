"""What a live run is asked for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..model import Event
from ..snapshot import Notice

if TYPE_CHECKING:
    from .deliverer import Deliverer

# Begins with what earlier runs have left, and tells what happens.
Publish = Callable[[list[Path], Callable[[Event | Notice], None]], "Deliverer"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a live run counts and books.

    journal           where usage is kept until it is booked; None: it is not booked
    ledger, publish   where it is booked, or who takes it to where it is; one of them, with a
                      journal
    control           the socket through which rules are pushed
    source            the first part of every record's key; None: host and interfaces
    document          keep all usage of the run in memory, for reports at its end
    top               how many subscribers a snapshot names
    watched           somebody looks meanwhile; if not, snapshots are made at the end, and where
                      budgets or balances have to be seen to
    """

    interfaces: tuple[str, ...]
    flush_s: float = 1.0
    ledger: str | None = None
    journal: Path | None = None
    control: Path | None = None
    source: str | None = None
    document: bool = False
    trust_ip_length: bool = False
    top: int = 20
    watched: bool = True
    publish: Publish | None = None

    @property
    def records_source(self) -> str:
        return self.source or f"{socket.gethostname()}:{'+'.join(self.interfaces)}"
