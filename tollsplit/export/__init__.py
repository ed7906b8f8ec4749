"""Runs and the whole ledger in other programs' forms."""

from __future__ import annotations

from .dataset import Dataset, Written, add_ledger, add_report
from .documents import write_csv, write_json, write_parquet
from .plain_text import Beancount, Hledger

__all__ = [
    "Beancount",
    "Dataset",
    "Hledger",
    "Written",
    "add_ledger",
    "add_report",
    "write_csv",
    "write_json",
    "write_parquet",
]
