"""The log: a line of JSON for each call, with nothing in it that is secret.

Neither bodies nor headers nor queries are logged, and of an error that nobody expected its kind and
place alone: its message may quote what was sent.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime

log = logging.getLogger("tollsplit.services")
# What a record may say beside what happened; nothing else gets into a line.
FIELDS = ("service", "operation", "status", "refusal", "device", "took_ms", "what")


class JsonLines(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said: dict[str, object] = {
            "at": at.replace("+00:00", "Z"), "level": record.levelname.lower(),
            # Others' messages may quote what was sent.
            "event": record.msg if record.name == log.name else record.name,
        }  # fmt: skip
        said |= {
            name: value for name in FIELDS if (value := record.__dict__.get(name)) not in (None, "")
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            said["error"] = type(error).__name__
            said["place"] = [
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(error.__traceback__)[-5:]
            ]
        return json.dumps(said)
