"""Where frames come from: capture files, streams, compressed or not."""

from tollsplit.capture.file import open_capture
from tollsplit.capture.source import Source

__all__ = ["Source", "open_capture"]
