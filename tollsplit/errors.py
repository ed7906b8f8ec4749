"""One tree of exceptions; each class knows the exit code that the command line ends with."""

from __future__ import annotations


class TollsplitError(Exception):
    """Something a person has to look at: what was found, what was expected, where."""

    exit_code = 1


class UsageError(TollsplitError):
    """The request itself makes no sense: an option or an argument is off."""

    exit_code = 2


class CaptureError(TollsplitError):
    """A capture cannot be read, or not to its end."""

    exit_code = 3


class RulesError(TollsplitError):
    """A rules file, a prefix list or a directory of subscribers is not valid."""

    exit_code = 3


class LedgerError(TollsplitError):
    """A ledger cannot be opened, is not ours, or refuses a posting."""

    exit_code = 1


class PostingError(TollsplitError):
    """Transactions that were to be posted cannot be read."""

    exit_code = 3


class ClusterError(TollsplitError):
    """A cluster cannot be reached, cannot do what is asked, or has no workers any more."""

    exit_code = 1


class JournalError(TollsplitError):
    """The journal of a live run cannot be written or read, or is another run's."""

    exit_code = 1


class BrokerError(TollsplitError):
    """A broker cannot be reached, or does not take what it is given."""

    exit_code = 1


class ReconcileError(TollsplitError):
    """Records that were to be compared cannot be read, or cannot be compared with each other."""

    exit_code = 3


class CardError(TollsplitError):
    """A smart card cannot be read, is none for payments, or contradicts itself."""

    exit_code = 3


class ProhibitedError(TollsplitError):
    """An operation of a resource is not allowed: not paid for, or nobody can say that it is."""


class IdempotencyError(LedgerError):
    """A key was used before, and for something else."""


class OverdraftError(LedgerError):
    """An account would hold less than its floor."""


class StateError(LedgerError):
    """An account is closed, a hold is resolved, a transaction is reversed."""


class StaleError(LedgerError):
    """Another run was booked since this one was worked out; worked out anew, it can be."""


class UnbookableError(LedgerError):
    """What was handed in contradicts itself or what is booked; no trying again changes that."""


class MissingError(LedgerError):
    """There is no such account, hold or transaction."""


class ProofError(TollsplitError):
    """A proof or a key cannot be read, or is none."""

    exit_code = 3


class TokenError(TollsplitError):
    """A token cannot be read, or cannot be minted as asked."""

    exit_code = 3


class NetworkError(TollsplitError):
    """The terminal's network cannot be told, joined or left."""


class ConflictError(TollsplitError):
    """What is there already says something else, and stays."""


class IdentityError(TollsplitError):
    """The books do not balance: octets or money were lost or made up."""

    exit_code = 4
