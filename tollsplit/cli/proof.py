"""What `tollsplit ledger check-proof` finds, in plain words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..ledger import Proof

_NOT_PROVED = """\
It does not prove that all traffic was metered, or metered rightly: compare with a capture of your
own. It does not prove that others were shown the same head: compare its root with theirs. What was
booked after {end} stands in later periods, whatever day its usage is of."""


def read_text(path: Path) -> str:
    """Raises ProofError."""
    from ..errors import ProofError

    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "no UTF-8"
        raise ProofError(f"{path}: cannot be read: {cause}") from error


def report(path: Path, public_key: Path, after: Path | None, statement: Path | None) -> None:
    """Check a proof and say so. Raises IdentityError where it does not hold, ProofError."""
    from ..errors import IdentityError
    from ..ledger import proof, signing

    key = signing.read_public_key(public_key)
    found = proof.read(read_text(path), str(path))
    checks = [
        (f"{path}: signature, path, items and sums", proof.astray(found, key, signing.is_signed))]
    if after is not None:
        before = proof.read(read_text(after), str(after))
        checks.append((f"{after}: signature, path, items and sums",
                       proof.astray(before, key, signing.is_signed)))
        checks.append((f"it follows {before.signed.head.title}", proof.follows(found, before)))
    if statement is not None:
        checks.append((f"{statement} is what it comes to", _unlike(found, statement)))
    holds = True
    for name, findings in checks:
        listed = list(findings)
        holds = holds and not listed
        click.echo(f"{'DOES NOT HOLD' if listed else 'holds'}: {name}")
        for finding in listed:
            click.echo(f"tollsplit: {finding}", err=True)
    if not holds:
        raise IdentityError(f"{path}: it proves nothing")
    _say(found)


def _say(found: Proof) -> None:
    head, leaf, statement = found.signed.head, found.leaf, found.statement
    counts = ", ".join(
        f"{sum(item[0] == kind for item in found.items):,} {name}"
        for kind, name in (
            ("record", "records"), ("charge", "charges"), ("tax", "taxes"),
            ("uncollected", "uncollected amounts"), ("posting", "postings"),
        )
    )  # fmt: skip
    assert statement.start is not None and statement.end is not None
    click.echo(
        f"\nProved: the owner of this key signed, at its ledger {head.ledger}, that from "
        f"{statement.start.isoformat()} to {statement.end.isoformat()} exactly these were booked "
        f'of account "{leaf.account}": {counts}.'
    )
    for unit, opening, closing in leaf.units:
        click.echo(f"  {unit}: {opening:,} at the start, {closing:,} at the end")
    click.echo(_NOT_PROVED.format(end=statement.end.isoformat()))


def _unlike(found: Proof, path: Path) -> Iterator[str]:
    """Where a statement's file is not what a proof comes to."""
    from .statement import document

    try:
        given = json.loads(read_text(path))
    except ValueError as error:
        from ..errors import ProofError

        raise ProofError(f"{path}: expected a statement in JSON: {error}") from error
    yield from _differences(str(path), given, json.loads(json.dumps(document(found.statement))))


def _differences(place: str, given: Any, expected: Any) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(expected, dict):
        for key in dict.fromkeys((*expected, *given)):
            yield from _differences(f"{place}: {key}", given.get(key), expected.get(key))
    elif isinstance(given, list) and isinstance(expected, list):
        if len(given) != len(expected):
            yield f"{place}: {len(given)} lines, the proof comes to {len(expected)}"
        for number, (one, other) in enumerate(zip(given, expected, strict=False), 1):
            yield from _differences(f"{place} line {number}", one, other)
    elif given != expected or type(given) is not type(expected):
        yield f"{place}: {given!r}, the proof comes to {expected!r}"
