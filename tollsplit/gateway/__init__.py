"""Live accounting on a gateway: interfaces and rules in, books kept while packets arrive."""

from __future__ import annotations

from .session import Gateway, Options

__all__ = ["Gateway", "Options"]
