"""The versions of a ledger's schema, each a step from the one before."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

SCHEMA_VERSION = 5

_MARK = re.compile(r"^-- version (\d+)$", re.MULTILINE)


@cache
def versions(name: str) -> dict[int, str]:
    """The SQL that leads to each version, oldest first.

    name  of a file of this package: its versions stand one after the other, each below a line
          "-- version N"
    """
    _, *parts = _MARK.split(files(__package__).joinpath(name).read_text("utf-8"))
    return {int(number): sql for number, sql in zip(parts[::2], parts[1::2], strict=True)}
