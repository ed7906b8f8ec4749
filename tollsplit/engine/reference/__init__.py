"""The slow judge: accounting in plain Python, written for being read, not for speed.

It shares no code with the core. dpkt decodes the fixed headers of IPv4, IPv6, TCP, UDP and
SCTP; the chains between them are followed here, because dpkt stops at, or misreads, most
tunnels. Tests hold the fast engine against it.
"""

from tollsplit.engine.reference.bill import account
from tollsplit.engine.reference.rows import dissect

__all__ = ["account", "dissect"]
