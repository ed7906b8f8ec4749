"""What borrowers and lenders ask of each other through the service, and what they are told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from ...limits import SERVICE_AMOUNT_MAX, SHARE_AVAILABLE_S_MAX
from ..problem import Kind
from ..wire import Amount, Answer, Id, Line, Request, whole

State = Literal["requested", "connected", "keyed", "running", "ended", "settled", "cancelled",
                "blocked", "expired"]  # fmt: skip
OfferState = Literal["open", "accepted", "expired"]
Way = Literal["server", "module"]  # who verified the password

Money = Annotated[str, Meta(pattern=whole(r"[A-Z]{3}/1000000"))]
Degrees = Annotated[float, Meta(ge=-180, le=180)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Key = Annotated[str, Meta(pattern=whole(r"[0-9a-f]{64}"))]  # X25519, 32 octets
Digest = Annotated[str, Meta(pattern=whole(r"[0-9a-f]{64}"))]  # SHA-256
Sealed = Annotated[str, Meta(pattern=whole(r"[0-9a-f]{96,1024}"))]
Price = Annotated[int, Meta(ge=0, le=SERVICE_AMOUNT_MAX)]  # micro-units for each MiB


class Lend(Request):
    """Say that this device lends data for a while; without a location only to who gives none."""

    available_s: Annotated[int, Meta(ge=0, le=SHARE_AVAILABLE_S_MAX)]  # 0: no more
    latitude: Latitude | None = None
    longitude: Degrees | None = None


class Lending(Answer):
    lender: str
    until: datetime


class Borrow(Request):
    """Ask for data; with a location, of lenders nearby alone."""

    octets: Amount
    duration_s: Annotated[int, Meta(ge=1, le=SHARE_AVAILABLE_S_MAX)]  # at most, once it runs
    # The password is sealed for this one, so that nobody between reads it.
    sealing_key: Key
    latitude: Latitude | None = None
    longitude: Degrees | None = None


class Named(Request):
    share: Id


class Offer(Request):
    """Offer data to a borrower."""

    share: Id
    octets: Amount  # at most as many as were asked for
    unit: Money
    price: Price


class Accept(Request):
    """Take an offer: its terms are said again, as the borrower saw them. All that it can cost is
    set aside until the share is settled.
    """

    share: Id
    offer: Id
    octets: Amount
    unit: Money
    price: Price


class Connect(Request):
    """Let the borrower in: the password that the lender's device made, sealed, and the address
    that the borrower's traffic has from now on.
    """

    share: Id
    sealed: Sealed
    proof_digest: Digest  # SHA-256 of the proof that the password gives (see password.py)
    subscriber: Line  # as usage records name it; one of the lender's own


class Verify(Request):
    """Have the server verify a password."""

    share: Id
    password: Annotated[str, Meta(min_length=1, max_length=128)]
    # Where the borrower's device finds itself: what the lender's traffic is, nobody else pays.
    subscriber: Line


class Verified(Request):
    """Tell that the borrower's own module has verified the password, and prove it."""

    share: Id
    proof: Digest
    subscriber: Line  # as above


class LenderView(Answer):
    lender: str
    label: str
    distance_m: int | None  # rounded up to tens; None: the borrower gave no location


class Lenders(Answer):
    lenders: list[LenderView]


class OfferView(Answer):
    offer: str
    share: str
    state: OfferState
    lender: str
    label: str
    octets: int
    unit: str
    price: int
    at_most: int  # what all of it costs


class Offers(Answer):
    offers: list[OfferView]


class ShareView(Answer):
    share: str
    state: State
    borrower: str
    lender: str | None
    octets: int  # asked for; once connected, the quota
    used_octets: int  # by the usage records that are booked so far
    unit: str | None
    price: int | None
    fee: int | None  # None: not settled yet
    remainder: str | None  # what rounding the fee down left off, of a micro-unit: "1/3"
    lenders_part: int | None
    subscriber: str | None
    sealing_key: str
    verified_by: Way | None
    expires_at: datetime


class PasswordNotice(Answer):
    share: str
    sealed: str
    proof_digest: str


class UsageAlert(Answer):
    share: str
    percent: int
    used_octets: int
    octets: int


NO_LENDER = Kind("no-lender", 404, "Nobody lends data there")
NOT_NEARBY = Kind("not-nearby", 403, "This share was not told to this lender")
OWN_SHARE = Kind("own-share", 403, "Nobody lends to their own account")
NO_ALLOWANCE = Kind("no-allowance", 409, "The lender's allowance does not cover it")
OTHER_TERMS = Kind("other-terms", 409, "That is not what was offered")
OTHER_ADDRESS = Kind("other-address", 409, "The lender has named another address")
WRONG_PASSWORD = Kind("wrong-password", 403, "This is not the password of this share")
BUSY = Kind("busy", 409, "This address carries another share")
