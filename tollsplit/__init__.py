"""tollsplit: whose octets these are, and who pays for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        CaptureError,
        IdentityError,
        LedgerError,
        RulesError,
        TollsplitError,
        UsageError,
    )
    from .report import Report
    from .run import account

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "IdentityError",
    "LedgerError",
    "Report",
    "RulesError",
    "TollsplitError",
    "UsageError",
    "account",
]

_HOMES = {"account": "run", "Report": "report"}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: `import tollsplit` stays cheap."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value
