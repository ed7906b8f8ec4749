"""The pipeline from frames to usage records."""

from tollsplit.engine.pipeline import Tally, meter
from tollsplit.engine.usage import Usage

__all__ = ["Tally", "Usage", "meter"]
