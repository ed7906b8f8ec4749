"""How rules get to a running gateway: what is said at its door, and who says it."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from pathlib import Path

from tollsplit.errors import RulesError, UsageError
from tollsplit.limits import CONTROL_REQUEST_OCTETS_MAX, CONTROL_WAIT_S
from tollsplit.rules.rule import RuleSet

SOCKET = "control"  # in the folder of a gateway's journal
LENGTH = struct.Struct("<Q")


def push_rules(rules: RuleSet, door: Path) -> tuple[str, int]:
    """Put rules in force in a running gateway. Returns their version and since when, in ns.

    door   the gateway's socket, or the folder of its journal

    Raises RulesError where the gateway refuses them, UsageError where nobody listens.
    """
    path = door / SOCKET if door.is_dir() else door
    content = {name: base64.b64encode(octets).decode() for name, octets in rules.content.items()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONTROL_WAIT_S)
        try:
            connection.connect(os.fspath(path))
            # The gateway may live in another folder, and looks for keys beside the rules.
            home = os.path.abspath(rules.path)
            send(connection, json.dumps({"path": home, "content": content}).encode())
            answer = json.loads(receive(connection))
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or error
            raise UsageError(f"{path}: no gateway answers: {cause}; does "
                             "`tollsplit capture` run with this --control or journal?") from error
    if "error" in answer:
        raise RulesError(f"{path}: the rules in force stay: {answer['error']}")
    return str(answer["rules_version"]), int(answer["in_force_ns"])


def send(connection: socket.socket, octets: bytes) -> None:
    """One message: its length, and it."""
    connection.sendall(LENGTH.pack(len(octets)) + octets)


def receive(connection: socket.socket) -> bytes:
    """The other side's message. Raises OSError, ValueError."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > CONTROL_REQUEST_OCTETS_MAX:
        raise ValueError(f"expected at most {CONTROL_REQUEST_OCTETS_MAX:,} octets")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, octets: int) -> bytes:
    found = bytearray()
    while len(found) < octets:
        part = connection.recv(min(octets - len(found), 1 << 20))
        if not part:
            raise ValueError("the other side hung up")
        found += part
    return bytes(found)
