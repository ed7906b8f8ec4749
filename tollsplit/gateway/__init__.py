"""Live accounting on a gateway: interfaces and rules in, books kept while packets arrive."""

from __future__ import annotations

from .options import Options
from .session import Gateway

__all__ = ["Gateway", "Options"]
