"""Two subscribers, a gateway, a sponsor's server and the internet, as network namespaces.

    subscriber-1 ── sub1 ┐           ┌ sponsor ── sponsor
                         ├ gateway ──┤
    subscriber-2 ── sub2 ┘           └ internet ── internet
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tollsplit.cli.demo.live.judge import Judge, Seen
from tollsplit.cli.demo.live.namespaces import (
    GATEWAY,
    TIMEOUT_S,
    End,
    Namespaces,
    missing,
    run,
)

__all__ = ["GATEWAY", "TIMEOUT_S", "End", "Judge", "Seen", "missing", "run"]
ENDS = (
    End("subscriber-1", "sub1", "10.77.1|2001:db8:77:1"),
    End("subscriber-2", "sub2", "10.77.2|2001:db8:77:2"),
    End("sponsor", "sponsor", "203.0.113|2001:db8:cd:1"),
    End("internet", "internet", "198.51.100|2001:db8:ee:1"),
)
SUBSCRIBER_1, SUBSCRIBER_2, SPONSOR, INTERNET = ENDS


class Lab(Namespaces):
    """The namespaces, made at once; close() removes them and all that is in them."""

    def __init__(self) -> None:
        super().__init__()
        try:
            for end in ENDS:
                self.add(end.name)
                self.connect(end)
            self._await_routes()
            self._count()
        except BaseException:
            self.close()
            raise

    def _await_routes(self) -> None:
        """Until each end reaches each other one: a refused connection is an answer."""
        until = time.monotonic() + TIMEOUT_S
        for near in ENDS:
            for far in ENDS:
                for family, address in ((socket.AF_INET, far.ipv4), (socket.AF_INET6, far.ipv6)):
                    while near is not far and not self._reaches(near, family, address):
                        assert time.monotonic() < until, f"{near.name} does not reach {address}"

    def _reaches(self, near: End, family: int, address: str) -> bool:
        with self.socket(near.name, family, socket.SOCK_STREAM) as probe:
            try:
                probe.connect((address, 9))
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
        return True

    def _count(self) -> None:
        """A counter for each pair of a subscriber and a server, address family and direction."""
        counters, rules = [], []
        for near in (SUBSCRIBER_1, SUBSCRIBER_2):
            for far in (SPONSOR, INTERNET):
                for family, one, other in (("ip", near.ipv4, far.ipv4),
                                           ("ip6", near.ipv6, far.ipv6)):
                    for way, source, destination in (("uplink", one, other),
                                                     ("downlink", other, one)):
                        name = f"{near.interface}_{far.interface}_{family}_{way}"
                        counters.append(f"counter {name} {{ }}")
                        rules.append(f"{family} saddr {source} {family} daddr {destination} "
                                     f"counter name {name}")
        chain = "type filter hook forward priority 0;\n" + "\n".join(rules)
        ruleset = "\n".join(["table inet tollsplit {", *counters, f"chain forward {{ {chain}\n}}",
                             "}"])
        command = ["ip", "netns", "exec", self.namespace(GATEWAY), "nft", "-f", "-"]
        subprocess.run(command, input=ruleset, text=True, timeout=TIMEOUT_S, check=True)

    def counters(self) -> dict[str, tuple[int, int]]:
        """What the gateway forwarded: name → packets, IP octets."""
        found = json.loads(self.execute(GATEWAY, "nft", "-j", "list", "counters"))["nftables"]
        return {
            row["counter"]["name"]: (row["counter"]["packets"], row["counter"]["bytes"])
            for row in found if "counter" in row
        }

    def start(self, name: str, *command: str) -> subprocess.Popen[str]:
        """A program in a namespace; it has said that it is ready when this returns."""
        started = self.begin(name, *command, stdout=subprocess.PIPE)
        assert started.stdout is not None
        assert started.stdout.readline(), f"{command[0]} ended before it was ready"
        return started

    def serve(self, name: str) -> subprocess.Popen[str]:
        """A server of HTTP and UDP echo on both address families, see servers.py."""
        return self.start(name, sys.executable, str(Path(__file__).with_name("servers.py")))


def wait_until(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def own_frames(seen: Sequence[bytes]) -> list[bytes]:
    """Without what hosts say by themselves at any time: ARP, neighbour discovery, MLD."""
    return [octets for octets in seen if octets[12:14] != b"\x08\x06"
            and not (octets[12:14] == b"\x86\xdd" and octets[20] in (0, 58))]
