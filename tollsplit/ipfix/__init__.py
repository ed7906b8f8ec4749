"""Usage records as IPFIX (RFC 7011): to a file, or to a collector over UDP or TCP."""

from __future__ import annotations

from .collector import Collector, parse_url
from .exporter import Exporter, export
from .file import write_file
from .records import Batch

__all__ = ["Batch", "Collector", "Exporter", "export", "parse_url", "write_file"]
