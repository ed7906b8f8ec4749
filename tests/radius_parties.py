"""FreeRADIUS on loopback, and what it wrote of accounting."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from collectors import free_port, wait, waiting_octets

SECRET = b"kept between the two of us"
LIBRARIES = Path("/usr/lib/freeradius")
CONFIGURATION = """
prefix = /usr
libdir = {libraries}
logdir = {folder}
run_dir = {folder}
pidfile = {folder}/pid
log {{ destination = files
       file = {folder}/log }}
security {{ allow_core_dumps = no }}
thread pool {{ start_servers = 1
               max_servers = 2
               min_spare_servers = 1
               max_spare_servers = 1 }}
client us {{ ipaddr = 127.0.0.1
             secret = "{secret}" }}
modules {{ detail {{ filename = {folder}/detail
                     permissions = 0600 }} }}
server default {{
    listen {{ type = acct
              ipaddr = 127.0.0.1
              port = {port} }}
    accounting {{
        detail
    }}
}}
"""
# Debian's dictionary has CoovaChilli's predecessor, which knows no gardens.
GARDENS = """
BEGIN-VENDOR ChilliSpot
ATTRIBUTE ChilliSpot-Garden-Input-Octets 80 integer
ATTRIBUTE ChilliSpot-Garden-Output-Octets 81 integer
ATTRIBUTE ChilliSpot-Garden-Input-Gigawords 82 integer
ATTRIBUTE ChilliSpot-Garden-Output-Gigawords 83 integer
ATTRIBUTE ChilliSpot-Other-Input-Octets 84 integer
ATTRIBUTE ChilliSpot-Other-Output-Octets 85 integer
ATTRIBUTE ChilliSpot-Other-Input-Gigawords 86 integer
ATTRIBUTE ChilliSpot-Other-Output-Gigawords 87 integer
END-VENDOR ChilliSpot
"""
Packet = dict[str, str]


def packets(detail: str) -> list[Packet]:
    """The requests of a detail file."""
    found = []
    for block in detail.split("\n\n"):
        pairs = dict(re.findall(r"^\t([\w-]+) = (.*)$", block, re.M))
        if pairs:
            found.append({name: value.strip('"') for name, value in pairs.items()})
    return found


class FreeRadius:
    """Debian's server, which keeps all requests in a detail file."""

    def __init__(self, folder: Path, secret: bytes = SECRET) -> None:
        found = shutil.which("freeradius")
        if found is None:
            pytest.skip("no freeradius on this system (Debian's package freeradius)")
        self._program = found
        self._folder = folder
        folder.mkdir(parents=True)
        self.port = free_port(socket.SOCK_DGRAM)
        self.url = f"radius://127.0.0.1:{self.port}"
        self.secret_path = folder / "secret"
        self.secret_path.write_bytes(SECRET + b"\n")
        (folder / "radiusd.conf").write_text(CONFIGURATION.format(
            folder=folder, port=self.port, libraries=LIBRARIES, secret=secret.decode()))
        (folder / "dictionary").write_text(GARDENS)

    @contextmanager
    def running(self) -> Iterator[str]:
        server = subprocess.Popen(
            [self._program, "-f", "-d", str(self._folder), "-n", "radiusd"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait(lambda: waiting_octets(self.port) is not None, "freeradius does not listen")
            yield self.url
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(20)

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    @property
    def detail(self) -> Path:
        return self._folder / "detail"

    def packets(self) -> list[Packet]:
        return packets(self.detail.read_text()) if self.detail.exists() else []


def octets(packet: Packet, name: str) -> int:
    """64 bits of two attributes: name is "Acct-Input" or the like."""
    return int(packet.get(f"{name}-Gigawords", 0)) << 32 | int(packet[f"{name}-Octets"])
