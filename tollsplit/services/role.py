"""Roles: what a device is to the operator."""

from __future__ import annotations

from typing import Literal, get_args

# A person's phone or card terminal; the interface module of a resource; who runs the network; a
# sponsor's proxy; who is paid; an operating system's server.
Role = Literal["terminal", "resource", "operator", "proxy", "merchant", "platform"]
ROLES: tuple[Role, ...] = get_args(Role)
EVERY: frozenset[Role] = frozenset(ROLES)
ANYBODY: frozenset[Role] = frozenset()  # unsigned: whoever knows the address


def only(*roles: Role) -> frozenset[Role]:
    """Who may call an operation: devices of these roles."""
    return frozenset(roles)
