"""The bundled example: a rules file, a directory of subscribers, and traffic to meter."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from .traffic import write_capture

CAPTURE = "capture.pcap"
RULES = "rules.toml"
SUBSCRIBERS = "subscribers.csv"


def write_example(directory: Path) -> None:
    """Write capture, rules and directory of subscribers into a folder."""
    for name in (RULES, SUBSCRIBERS):
        directory.joinpath(name).write_text(files(__package__).joinpath(name).read_text("utf-8"),
                                            "utf-8")
    with open(directory / CAPTURE, "wb") as stream:
        write_capture(stream)
