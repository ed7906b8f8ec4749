"""What the operator agreed: reading, checking and compiling rules files."""

from tollsplit.rules.parse import load
from tollsplit.rules.rule import RuleSet

__all__ = ["RuleSet", "load"]
