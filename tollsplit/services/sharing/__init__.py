"""Data sharing: a lender lets a borrower use some of its data, and is paid for it.

What the borrower used is what the engine's usage records say, never what either side tells.
"""

from __future__ import annotations

from ..operation import Operation, Service
from ..problem import EXPIRED, NOT_FOUND, OVERDRAFT, WRONG_STATE
from ..role import only
from . import borrowing, lender, running
from .borrowing import Settings
from .share import ANNEX, OFFERS, SHARES
from .wire import (
    BUSY,
    NO_ALLOWANCE,
    NO_LENDER,
    NOT_NEARBY,
    OTHER_ADDRESS,
    OTHER_TERMS,
    OWN_SHARE,
    WRONG_PASSWORD,
    Accept,
    Borrow,
    Connect,
    Lend,
    Lenders,
    Lending,
    Named,
    Offer,
    Offers,
    OfferView,
    ShareView,
    Verified,
    Verify,
)

_TERMINAL = only("terminal")
_HERE = (NOT_FOUND, WRONG_STATE, EXPIRED)
LEND = Operation(
    "share.lend", "POST", "/share-lenders", "Say that this device lends data", Lend, Lending,
    lender.lend, _TERMINAL,
)
BORROW = Operation(
    "share.borrow", "POST", "/shares", "Ask for data", Borrow, ShareView, borrowing.borrow,
    _TERMINAL, _HERE, 201,
)
LENDERS = Operation(
    "share.lenders", "GET", "/shares/{share}/lenders", "Who lends within the range", Named, Lenders,
    borrowing.list_lenders, _TERMINAL, (NOT_FOUND, WRONG_STATE),
)
OFFER = Operation(
    "share.offer", "POST", "/shares/{share}/offers", "Offer data", Offer, OfferView,
    borrowing.offer, _TERMINAL, (OWN_SHARE, NOT_NEARBY, NO_ALLOWANCE, *_HERE), 201,
)
OFFERED = Operation(
    "share.offered", "GET", "/shares/{share}/offers", "What lenders have offered", Named, Offers,
    borrowing.list_offers, _TERMINAL, (NOT_FOUND,),
)
ACCEPT = Operation(
    "share.accept", "POST", "/shares/{share}/acceptance", "Take an offer", Accept, ShareView,
    borrowing.accept, _TERMINAL, (NO_LENDER, NO_ALLOWANCE, OTHER_TERMS, OVERDRAFT, *_HERE),
)
CONNECT = Operation(
    "share.connect", "POST", "/shares/{share}/password", "Let the borrower in, by a password",
    Connect, ShareView, running.connect, _TERMINAL, (BUSY, *_HERE),
)
VERIFY = Operation(
    "share.verify", "POST", "/shares/{share}/verification", "Have a password verified", Verify,
    ShareView, running.verify, _TERMINAL, (WRONG_PASSWORD, OTHER_ADDRESS, *_HERE),
)
VERIFIED = Operation(
    "share.verified", "POST", "/shares/{share}/proof", "Prove that the own module has verified it",
    Verified, ShareView, running.verified, _TERMINAL, (WRONG_PASSWORD, OTHER_ADDRESS, *_HERE),
)
SHOW = Operation(
    "share.show", "GET", "/shares/{share}", "What became of it, and what was used", Named,
    ShareView, borrowing.show, _TERMINAL, (NOT_FOUND,),
)
CANCEL = Operation(
    "share.cancel", "POST", "/shares/{share}/cancellation", "End what does not run yet", Named,
    ShareView, borrowing.cancel, _TERMINAL, _HERE,
)
STOP = Operation(
    "share.stop", "POST", "/shares/{share}/end", "End what runs", Named, ShareView, running.stop,
    _TERMINAL, _HERE,
)
SERVICE = Service(
    "share",
    (LEND, BORROW, LENDERS, OFFER, OFFERED, ACCEPT, CONNECT, VERIFY, VERIFIED, SHOW, CANCEL, STOP),
    ANNEX, (SHARES, OFFERS), sweep=running.sweep, settings=Settings,
)  # fmt: skip
