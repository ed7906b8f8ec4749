"""RADIUS accounting: usage for an AAA server, and a NAS's word for who holds which address."""

from __future__ import annotations
