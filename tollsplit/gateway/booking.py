"""What a segment counted, booked: its shares and charges are worked out here, and nowhere else."""

from __future__ import annotations

from typing import NamedTuple

from ..carryover import carryover
from ..engine.journal import Contents, Head
from ..engine.usage import Provenance, Usage
from ..errors import IdentityError
from ..ledger import Ledger, Receipt, Run, rate


class Booked(NamedTuple):
    usage: Usage
    receipt: Receipt | None  # None: there was no usage in it


def book(ledger: Ledger, contents: Contents) -> Booked:
    """Book a segment in one transaction, as one run, by what was booked before it.

    Its records have keys of their own (source, epoch, sequence), so one that is booked already is
    found so and changes nothing. The segment's counters are taken out.

    Raises StaleError where somebody else's run came between: read it and book it again.
    UnbookableError and IdentityError are final; any other LedgerError may pass.
    """
    head, generation = contents.head, contents.generation
    rules, run = head.rules, run_of(head)
    prior, spent = carryover(ledger, run, rules)(generation.cells)
    tally = generation.tally(
        contents.counted, prior, spent,
        Provenance(head.source, head.epoch, rules.meter.layer, head.first_sequence))
    if not tally.identity_holds:
        raise IdentityError(f"{run.title}: the buckets do not add up to what was seen")
    if contents.records not in (None, len(tally.usage)):
        raise IdentityError(f"{run.title}: {len(tally.usage)} records from {head.first_sequence} "
                            f"on, {contents.records} sealed")
    if not len(tally.usage):
        return Booked(tally.usage, None)
    charges = rate(tally.usage.quantities(), rules.tariffs, rules.meter.zone,
                   ledger.earlier(run)) if rules.tariffs else ()
    return Booked(tally.usage, ledger.post(run, tally.usage, charges))


def run_of(head: Head) -> Run:
    """The batch that a segment's records make."""
    rules = head.rules
    return Run(
        source=head.source, epoch=head.epoch, rules_version=rules.version,
        layer=rules.meter.layer, at=rules.meter.at, program=head.program,
        sponsor_accounts={name: s.account for name, s in rules.sponsors.items()},
        first_sequence=head.first_sequence)
