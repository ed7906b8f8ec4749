"""What a live run is asked for."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """How a live run counts and books.

    ledger, journal   where usage is booked, and where it is kept until it is; both or neither
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

    @property
    def records_source(self) -> str:
        return self.source or f"{socket.gethostname()}:{'+'.join(self.interfaces)}"
