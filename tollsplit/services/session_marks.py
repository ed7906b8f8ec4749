"""The marks of sessions: one session's at a time, put in force in the running engine, withdrawn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..ledger import Guard
from ..ledger.store import Store
from ..rules.marks import Mark, mark
from ..rules.prefixes import prefix
from ..rules.rule import Prefix
from .claim import Payee
from .marks import Publication
from .operation import Errand, Moment
from .sponsorship import SessionPolicy, Sponsorship

# A mark is its session's until an engine without it is in force: only then another may have it.
# `taken` is what no two may have: the tag, which goes with any server of its file, or the server.
TABLE: tuple[str | Guard, ...] = (
    "CREATE TABLE service_session_marks (session TEXT PRIMARY KEY "
    "REFERENCES service_sessions (id) DEFERRABLE INITIALLY DEFERRED, "
    "file TEXT NOT NULL, taken TEXT NOT NULL, mark TEXT NOT NULL, in_force_ns BIGINT, "
    "withdrawn_ns BIGINT)",
    "CREATE UNIQUE INDEX service_session_marks_taken ON service_session_marks (file, taken) "
    "WHERE withdrawn_ns IS NULL",
    Guard("service_session_marks_keep", "service_session_marks", "UPDATE",
          "a mark keeps what it is", ("session", "file", "taken", "mark")),
    Guard("service_session_marks_once", "service_session_marks", "UPDATE",
          "a mark is withdrawn once", when="OLD.withdrawn_ns IS NOT NULL"),
    Guard("service_session_marks_stay", "service_session_marks", "DELETE", "marks stay"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a session is given."""

    proxy: Payee  # its address and port
    mark: Mark


def allocate(
    store: Store, session: str, sponsorship: Sponsorship, address: str
) -> Allocation | None:
    """Give a session a proxy and a mark that nobody else has; None where all are taken.

    address  the subscriber's: of nobody else are packets sponsored
    """
    for found in _possible(store, sponsorship, prefix(address)):
        taken = str(found.mark.tag or found.mark.server)
        # Another process may have been faster.
        if store.write(_TAKE, [(session, sponsorship.marks, taken, str(found.mark))]):
            return found
    return None


def _possible(
    store: Store, sponsorship: Sponsorship, whose: Prefix
) -> Iterator[Allocation]:
    taken = [mark(text) for (text,) in store.rows(_TAKEN, sponsorship.marks)]
    used = {place: sum(one.server == prefix(place.host) for one in taken)
            for place in sponsorship.places}  # fmt: skip
    places = sorted(sponsorship.places, key=lambda place: used[place])
    if sponsorship.tags:
        for tag in sponsorship.free_tags({str(one.tag) for one in taken}):
            yield Allocation(places[0], Mark(prefix(places[0].host), tag, whose))
        return
    for place in places:
        if not used[place]:
            yield Allocation(place, Mark(prefix(place.host), None, whose))


@dataclass(frozen=True, slots=True)
class _Published:
    """A mark that is in force, or has to be, or has to be withdrawn."""

    session: str
    file: str
    mark: str
    is_live: bool
    in_force_ns: int | None

    @property
    def is_due(self) -> bool:
        return not self.is_live or self.in_force_ns is None


def publish(errand: Errand, opened: Callable[[Moment, str], None]) -> None:
    """Put in force what is live and withdraw what is not, where the engine has it otherwise.

    opened   told of each session whose mark is in force now

    Raises RulesError, UsageError: nothing is written then, and it has to be tried again.
    """
    policy = errand.setting(SessionPolicy)
    if not policy.engine:
        return
    publication = Publication(Path(policy.rules), Path(policy.engine))
    with publication.alone():
        publication.prepare([found.marks for found in policy.sponsorships])
        # What was published for a sponsorship that was given up since is withdrawn as well.
        agreed = {found.marks for found in policy.sponsorships}
        rows = errand.read(lambda moment: _published(moment, agreed))
        if not any(row.is_due for row in rows):
            return
        marks: dict[str, list[Mark]] = {name: [] for name in agreed | {row.file for row in rows}}
        for row in rows:
            if row.is_live:
                marks[row.file].append(mark(row.mark))
        since_ns = publication.publish(marks)
        errand.write(lambda moment: _settle(moment, rows, since_ns, opened))


def _published(moment: Moment, agreed: Collection[str]) -> list[_Published]:
    return [
        _Published(session, file, text, file in agreed and state in ("allocated", "open")
                   and expires_at_ns > moment.now_ns, in_force_ns)
        for session, file, text, in_force_ns, state, expires_at_ns
        in moment.store.rows(_PUBLISHED)
    ]  # fmt: skip


def _settle(
    moment: Moment, rows: list[_Published], since_ns: int, opened: Callable[[Moment, str], None]
) -> None:
    for row in rows:
        if not row.is_live:
            moment.store.write(_WITHDRAWN, [(since_ns, row.session)])
        elif row.in_force_ns is None:
            moment.store.write(_IN_FORCE, [(since_ns, row.session)])
            opened(moment, row.session)


def in_force(store: Store, session: str) -> tuple[int | None, int | None]:
    """From when on a session's mark is in force, and from when on it is not any more, by packets'
    timestamps; None: that has not happened yet.
    """
    return next(((begin, end) for begin, end in store.rows(_WHEN, session)), (None, None))


def astray(store: Store) -> Iterator[str]:
    """Sessions and marks that do not belong together: for `ledger verify`."""
    for (session,) in store.rows(_OPEN_WITHOUT):
        yield f"session {session}: it is open, and its mark is not in force"
    for session, text in store.rows("SELECT session, mark FROM service_session_marks"):
        try:
            mark(text)
        except ValueError as error:
            yield f"mark of session {session}: {error}"


_TAKEN = "SELECT mark FROM service_session_marks WHERE file = ? AND withdrawn_ns IS NULL"
_TAKE = """
    INSERT INTO service_session_marks (session, file, taken, mark) VALUES (?, ?, ?, ?)
    ON CONFLICT DO NOTHING"""
_PUBLISHED = """
    SELECT m.session, m.file, m.mark, m.in_force_ns, s.state, s.expires_at_ns
    FROM service_session_marks m JOIN service_sessions s ON s.id = m.session
    WHERE m.withdrawn_ns IS NULL ORDER BY m.session"""
_IN_FORCE = "UPDATE service_session_marks SET in_force_ns = ? WHERE session = ?"
_WITHDRAWN = "UPDATE service_session_marks SET withdrawn_ns = ? WHERE session = ?"
_WHEN = "SELECT in_force_ns, withdrawn_ns FROM service_session_marks WHERE session = ?"
_OPEN_WITHOUT = """
    SELECT s.id FROM service_sessions s LEFT JOIN service_session_marks m ON m.session = s.id
    WHERE s.state = 'open' AND m.in_force_ns IS NULL ORDER BY s.id"""
