"""What the kernel lets through to a packet socket: classic BPF programs."""

from __future__ import annotations

import ctypes
import re
import struct

from tollsplit.errors import CaptureError, UsageError

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
# libpcap's own numbers, which differ from LINKTYPE_ for raw IP.
DLT = {LINKTYPE_ETHERNET: 1, LINKTYPE_RAW: 12}

# struct sock_filter: code, jump if true, jump if false, constant.
INSTRUCTION = struct.Struct("=HBBI")
LOAD_OCTET = 0x30
JUMP_IF_EQUAL = 0x15
RETURN = 0x06
# SKF_AD_OFF + SKF_AD_PKTTYPE: where a program finds the packet's type.
PACKET_TYPE_AT = 0xFFFFF004
PACKET_OUTGOING = 4
# pcap_compile: no netmask is known, so that "broadcast" of an IPv4 net is refused.
PCAP_NETMASK_UNKNOWN = 0xFFFFFFFF
# Debian's name of the library, and everybody else's.
LIBPCAP = ("libpcap.so.0.8", "libpcap.so.1")


def accept(snap_octets: int) -> bytes:
    """A program that lets every packet through and has `snap_octets` of it copied."""
    return INSTRUCTION.pack(RETURN, 0, 0, snap_octets)


DROP_ALL = accept(0)


def without_outgoing(program: bytes) -> bytes:
    """The program, for packets that are not on their way out; jumps in it are relative."""
    return b"".join((
        INSTRUCTION.pack(LOAD_OCTET, 0, 0, PACKET_TYPE_AT),
        INSTRUCTION.pack(JUMP_IF_EQUAL, 0, 1, PACKET_OUTGOING),
        DROP_ALL,
        program,
    ))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


def _libpcap() -> ctypes.CDLL:
    for name in LIBPCAP:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
        library.pcap_compile.argtypes = (
            ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int,
            ctypes.c_uint32,
        )
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = (ctypes.c_void_p,)
        library.pcap_freecode.argtypes = (ctypes.POINTER(_Program),)
        library.pcap_close.argtypes = (ctypes.c_void_p,)
        return library
    raise CaptureError("a filter is compiled by libpcap, which is not installed: "
                       "apt-get install libpcap0.8 (elsewhere libpcap), or leave the filter out")


def compile_filter(expression: str, link_type: int, snap_octets: int) -> bytes:
    """The program for an expression in libpcap's syntax (pcap-filter(7)).

    link_type    LINKTYPE_ETHERNET or LINKTYPE_RAW

    Raises CaptureError without libpcap, UsageError where it cannot compile the expression.
    """
    # The kernel takes a packet's tag off before any filter, and only a handle on the interface
    # itself makes libpcap look where the kernel puts it; compiled here it would match nothing.
    if re.search(r"\bvlan\b", expression):
        raise UsageError(f'filter "{expression}": "vlan" is not possible here, for the kernel '
                         "takes the tag off first: let rules match on `vlan` instead")
    library = _libpcap()
    handle = library.pcap_open_dead(DLT[link_type], snap_octets)
    if not handle:
        raise MemoryError
    try:
        program = _Program()
        if library.pcap_compile(handle, ctypes.byref(program), expression.encode(), 1,
                                PCAP_NETMASK_UNKNOWN):
            reason = library.pcap_geterr(handle).decode(errors="replace")
            raise UsageError(f'filter "{expression}": {reason}: expected pcap-filter(7) syntax')
        compiled = ctypes.string_at(program.instructions, program.length * INSTRUCTION.size)
        library.pcap_freecode(ctypes.byref(program))
        return compiled
    finally:
        library.pcap_close(handle)
