"""What a process may do once its sockets are open: nothing that it does not need."""

from __future__ import annotations

import ctypes
import os
import pwd
import struct

from tollsplit.errors import UsageError

# linux/capability.h, linux/prctl.h
CAPABILITY_VERSION_3 = 0x20080522
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SET_NO_NEW_PRIVS = 38


def drop_privileges(user: str | None) -> None:
    """Becomes a user, with its own group alone and without any capability, for good.

    Who is not root, or names no user, stays who it is and loses its capabilities. Call it before
    threads start: capabilities are each thread's own.

    Raises UsageError where there is no such user or the user is root.
    """
    if user is not None:
        _become(user)
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable, 64 bits each in two halves.
    for failed in (
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0),
        libc.capset(header, bytes(24)),
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    ):
        if failed:
            raise OSError(ctypes.get_errno(), "cannot give up capabilities")


def _become(user: str) -> None:
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise UsageError(f'user "{user}": no such user: expected one to become') from None
    if found.pw_uid == 0:
        raise UsageError(f'user "{user}": is root: expected one without privileges')
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
        os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)
