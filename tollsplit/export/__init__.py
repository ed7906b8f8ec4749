"""The whole ledger in other programs' forms."""

from __future__ import annotations

from .documents import write_csv, write_json, write_parquet
from .plain_text import Beancount, Hledger

__all__ = ["Beancount", "Hledger", "write_csv", "write_json", "write_parquet"]
