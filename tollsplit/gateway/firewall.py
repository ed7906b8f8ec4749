"""Subscribers whose quota has ended, as elements of an nftables set.

Setting them takes a privilege that a capturing process has given up by then, so a small process
keeps it: `python -m tollsplit.gateway.firewall FAMILY TABLE SET` reads one address or prefix a line
and adds it to that set, and does nothing else.
"""

from __future__ import annotations

import ipaddress
import signal
import subprocess
import sys
from collections.abc import Sequence

from ..errors import UsageError


class Firewall:
    """The process that adds to a set, from before privileges are dropped.

    place   "inet filter exhausted": family, table and set

    Raises UsageError where there is no such set, or no nft.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.refused = 0
        names = place.split()
        if len(names) != 3:
            raise UsageError(f'nftables set "{place}": expected "FAMILY TABLE SET", such as '
                             '"inet filter exhausted"')
        try:
            found = subprocess.run(["nft", "list", "set", *names], capture_output=True, text=True,
                                   check=False)
        except OSError as error:
            raise UsageError(f"nft: {error.strerror}; install nftables") from error
        if found.returncode:
            raise UsageError(f'nftables set "{place}": {found.stderr.strip().splitlines()[0]}')
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *names], stdin=subprocess.PIPE, text=True, bufsize=1)

    def add(self, subscriber: str) -> None:
        """Add a subscriber. One that is no address (a TEID, a VLAN) cannot be in such a set."""
        if element(subscriber) is None or self._process.stdin is None:
            self.refused += 1
            return
        try:
            self._process.stdin.write(f"{subscriber}\n")
        except OSError:
            self.refused += 1

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def element(subscriber: str) -> str | None:
    """An address or prefix as nft takes it; None: it is neither."""
    try:
        network = ipaddress.ip_network(subscriber, strict=False)
    except ValueError:
        return None
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address if single else network)


def main(names: Sequence[str]) -> None:
    # They are for the process that captures: it may find a quota's end yet, and then hangs up.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin:
        added = element(line.strip())
        if added is not None:
            # An element that is there already is no error.
            subprocess.run(["nft", "add", "element", *names, "{", added, "}"], check=False)


if __name__ == "__main__":
    main(sys.argv[1:])
