"""The tag on the packets of a socket."""

from __future__ import annotations

import errno
import socket
import struct

from ..errors import UsageError
from ..rules.marks import Tag

# linux/in6.h, which Python's socket module leaves out
IPV6_FLOWLABEL_MGR = 32
IPV6_FLOWINFO_SEND = 33
# in6_flowlabel_req: destination, label, action, share, flags, expires, linger, padding
_LEASE = struct.Struct("=16s4sBBHHHI")
_GET, _SHARED_BY_ALL, _CREATE, _REFLECT = 0, 255, 1, 4
_DSCP_SHIFT = 2  # below it are the two bits of ECN (RFC 3168 §5)


def carry(connection: socket.socket, dscp: int) -> None:
    """Have every packet that a socket sends from now on carry a DSCP; 0: none."""
    octet = dscp << _DSCP_SHIFT
    if connection.family == socket.AF_INET6:
        connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, octet)
    # An IPv6 socket may carry IPv4.
    connection.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, octet)


def tagged(family: int, mark: Tag | None, address: str) -> socket.socket:
    """A TCP socket whose packets carry a tag, from its first SYN on; not connected yet.

    Raises OSError.
    """
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if mark is not None and mark.kind == "dscp":
            carry(connection, mark.value)
        elif mark is not None:
            _lease(connection, mark.value, address)
    except OSError:
        connection.close()
        raise
    return connection


def flowinfo(mark: Tag | None) -> int:
    """What stands in the address that such a socket is connected to."""
    return mark.value if mark is not None and mark.kind == "flow_label" else 0


def _lease(connection: socket.socket, label: int, address: str) -> None:
    """The kernel lets a socket use a label only once the label is leased (RFC 3697 §3)."""
    if connection.family != socket.AF_INET6:
        raise OSError(errno.EAFNOSUPPORT, "a flow label needs IPv6")
    connection.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWLABEL_MGR, _LEASE.pack(
        socket.inet_pton(socket.AF_INET6, address), label.to_bytes(4, "big"), _GET,
        _SHARED_BY_ALL, _CREATE, 0, 0, 0))  # fmt: skip
    connection.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWINFO_SEND, 1)


def reflect_flow_labels(listener: socket.socket) -> None:
    """Have the answers of a listening socket's connections carry the label of who connected.

    Raises UsageError.
    """
    try:
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWLABEL_MGR, _LEASE.pack(
            bytes(16), bytes(4), _GET, 0, _REFLECT, 0, 0, 0))  # fmt: skip
    except OSError as error:
        raise UsageError(f"answers cannot carry flow labels: {error.strerror}; set "
                         "sysctl net.ipv6.flowlabel_consistency=0, or use DSCP") from error
