"""One live run: lanes are metered, windows close, rules change, books are kept."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, get_args

from .. import __version__
from ..carryover import expect_bookable
from ..cext.layout import FAULT_NAMES
from ..cext.meter import Meter
from ..cext.recorder import Recorder
from ..cext.token import REFUSAL_NAMES
from ..engine.cells import SECOND_NS, Cells
from ..engine.journal import Head
from ..engine.live import Counting, Generation, Lane
from ..engine.pipeline import NOTHING, Sums
from ..engine.usage import Prior, Spent, Usage
from ..errors import IdentityError, RulesError, TollsplitError
from ..ledger import rate
from ..limits import RING_RETIRE_MS
from ..model import Event, EventKind
from ..report import Report
from ..rules import RuleSet, load
from ..rules.rule import At
from ..snapshot import Notice, NoticeKind, Snapshot
from ..tokens.gate import Gate
from ..tokens.keys import keys_of
from .books import Books
from .control import Control
from .deliverer import Deliverer
from .delivery import Delivery
from .figures import Figures
from .options import Options
from .picture import heaviest
from .reserves import Reserves

# From a window's end on, for so long frames of it may still lie in a ring's open block.
GRACE_S = 8 * RING_RETIRE_MS / 1000
# So long before its end a generation is told when that is.
LEAD_NS = 50_000_000
# New rules come into force so long after they are compiled.
NOTICE_NS = 20_000_000
# A picture of everything may take this part of the time; then it is made less often.
LOOK_SHARE = 0.1
# What the open window uses is reserved in the ledger once in so many flushes, at most.
RESERVE_FLUSHES = 5
# Clocks that differ by more than this from what has passed were set, not disciplined.
STEP_NS = 250_000_000
# What is left for workers to end.
ENDING_S = 5.0
NEVER_NS = 1 << 63
KINDS = (*get_args(EventKind), *get_args(NoticeKind))


class Frames(Protocol):
    """Interfaces as they are captured; tollsplit.capture.live has the real ones."""

    @property
    def lanes(self) -> Sequence[Lane]: ...
    def watch(self, timeout_s: float) -> list[str]: ...
    def stop(self) -> None: ...


class Gateway:
    """A live run. run() stays until stop(), from any thread or a signal's handler.

    lost    (kernel, interface): packets that passed and were not handed out
    recorders   one for each lane, where what passes is to be kept
    told    what happens, look: a snapshot now and then; both from the thread of run()
    final   is told usage that nothing changes any more, from any thread: what was booked, or
            without a ledger of its own what a window came to

    Raises JournalError, RulesError, UsageError.
    """

    def __init__(
        self,
        frames: Frames,
        rules: RuleSet,
        options: Options,
        *,
        lost: Callable[[], tuple[int, int]] = lambda: (0, 0),
        told: Callable[[Event | Notice], None] = lambda happened: None,
        look: Callable[[Snapshot], None] = lambda snapshot: None,
        recorders: Sequence[Recorder] = (),
        final: Callable[[Usage, At], None] = lambda usage, at: None,
    ) -> None:
        if options.journal is not None:
            expect_bookable(rules)
        self._frames = frames
        self._options = options
        self._lost = lost
        self._tell = told
        self._show = look
        self._final = final
        self._began_s = time.monotonic()
        self._clock_ns = time.time_ns() - time.monotonic_ns()
        self._epoch = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self._source = options.records_source
        # What is in force, and what follows it: (generation, who waits for its instant).
        self._gate = Gate(keys_of(rules))
        generation = Generation(
            rules, trust_ip_length=options.trust_ip_length, gate=self._gate)
        self._counting = Counting(frames.lanes, generation, recorders)
        self._end_ns = self._window_end_ns()
        self._following: tuple[Generation, Future[int] | None] | None = None
        self._conclude_s = 0.0
        self._figures = Figures(generation, self._source, self._epoch,
                                known=options.ledger is None, document=options.document)
        self.reports: list[Report] = []
        self._happened: dict[str, int] = {}
        self._latest: Snapshot | None = None
        self._look_at_s = 0.0
        self._lost_packets = 0
        # What other threads ask.
        self._happening: queue.SimpleQueue[Event | Notice] = queue.SimpleQueue()
        self._pushed: queue.SimpleQueue[tuple[RuleSet, Future[int]]] = queue.SimpleQueue()
        self._known: queue.SimpleQueue[tuple[Prior, Spent]] = queue.SimpleQueue()
        self._reload: Path | None = None
        # No lock that a signal's handler could find held by the thread that it interrupts.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = self._hurry = self._ended = False
        self._control = None
        with ExitStack() as begun:
            self._books = self._opened_books(rules)
            if self._books is not None:
                begun.callback(self._books.leave)
            if options.control is not None:
                self._control = Control(options.control, self._take_rules)
                begun.callback(self._control.close)
            self._begun = begun.pop_all()

    def _opened_books(self, rules: RuleSet) -> Books | None:
        options = self._options
        if options.journal is None:
            return None
        head = Head(self._source, self._epoch, 0, f"tollsplit {__version__}", rules,
                    options.trust_ip_length)

        def deliver(leftovers: list[Path]) -> Deliverer:
            noticed = self._happening.put
            if options.ledger is None:
                assert options.publish is not None
                return options.publish(leftovers, noticed)
            return Delivery(
                options.ledger, leftovers, rules,
                lambda prior, spent: self._known.put((prior, spent)), noticed,
                Reserves(options.ledger, RESERVE_FLUSHES * options.flush_s), self._final)

        return Books(options.journal, options.interfaces, head, deliver, self._happening.put)

    # --- from outside -------------------------------------------------------------------

    def stop(self, hurry: bool = False) -> None:
        """End the run once what has passed is counted.

        hurry   leave to the next run what the ledger does not take within a second
        """
        self._stopping = True
        self._hurry |= hurry
        self._wake.put(None)

    def reload(self, path: Path) -> None:
        """Put in force what a rules file holds now, as soon as may be."""
        self._reload = path
        self._wake.put(None)

    @property
    def latest(self) -> Snapshot | None:
        return self._latest

    def _take_rules(self, rules: RuleSet) -> int:
        """From the door's thread: rules in force since the instant that is returned."""
        done: Future[int] = Future()
        self._pushed.put((rules, done))
        self._wake.put(None)
        if self._ended:
            self._refuse_pushed()
        return done.result()

    def _refuse_pushed(self) -> None:
        """Tell who waits for rules to be in force that they never will be."""
        while True:
            try:
                rules, done = self._pushed.get_nowait()
            except queue.Empty:
                return
            done.set_exception(RulesError(f"{rules.path}: the capture ends"))

    # --- the run ------------------------------------------------------------------------

    def run(self, duration_s: float | None = None) -> None:
        """Count until stop(), or for so long. Raises IdentityError where books do not balance."""
        with self._begun:
            self._count(duration_s)
            self._finish()

    def close(self) -> None:
        """Let go of what a run needs that never came to be, or has ended."""
        self._begun.close()

    def _count(self, duration_s: float | None) -> None:
        ends_s = time.monotonic() + duration_s if duration_s is not None else float("inf")
        try:
            self._counting.start()
            threading.Thread(target=self._watch, name="watch", daemon=True).start()
            if self._control is not None:
                self._control.start()
            if self._books is not None:
                self._books.delivery.start()
            flush_s = time.monotonic()
            while not self._over() and time.monotonic() < ends_s:
                flush_s = max(flush_s + self._options.flush_s, time.monotonic())
                while not self._over() and time.monotonic() < min(flush_s, ends_s):
                    pause_s = min(flush_s, ends_s, self._turn_s()) - time.monotonic()
                    with suppress(queue.Empty):
                        self._wake.get(timeout=max(0.0, pause_s))
                    self._turn()
                    self._tell_events()
                self._flush()
        finally:
            self._stopping = True
            self._frames.stop()
            if self._control is not None:
                self._control.close()
            self._counting.join(ENDING_S)
            self._ended = True
            self._refuse_pushed()

    def _over(self) -> bool:
        """Whether somebody ends the run, or something that it cannot do without has failed."""
        failed = self._books is not None and self._books.delivery.failure is not None
        return self._stopping or failed or not self._counting.running

    def _watch(self) -> None:
        """Follows interfaces that come and go."""
        while not self._stopping:
            try:
                for text in self._frames.watch(0.5):
                    self._notice("interface", text)
            except TollsplitError as error:
                self._notice("interface", str(error))
                self.stop()

    def _finish(self) -> None:
        """Count what is left, close the last generation, book what can be booked."""
        if self._following is not None:
            self._conclude()
        generation = self._counting.generation
        self._add(generation, self._counting.take())
        self._tell_loss()
        self._tell_events()
        self._look()
        self._close(generation, None)
        if self._books is not None:
            self._books.finish(lambda: self._hurry)
            self._tell_events()
            if self._latest is not None:
                self._latest = replace(self._latest, **self._booked())
                self._show(self._latest)
        self._tell_events()
        self._counting.check()
        if self._books is not None and self._books.delivery.failure is not None:
            raise self._books.delivery.failure

    # --- generations --------------------------------------------------------------------

    def _turn_s(self) -> float:
        """When there is next something to decide about the generation in force."""
        if self._following is not None:
            return self._conclude_s
        if self._books is not None and self._books.error is not None:
            return float("inf")
        return time.monotonic() + (self._end_ns - LEAD_NS - time.time_ns()) / SECOND_NS

    def _window_end_ns(self) -> int:
        """Where the window that we are in ends."""
        cells = Cells(self._counting.generation.rules)
        cells.at(time.time_ns())
        window = cells.known[0].window
        return window[1] if window else NEVER_NS

    def _turn(self) -> None:
        """Begin a generation, or end one, where it is time to."""
        if self._following is not None:
            if time.monotonic() < self._conclude_s:
                return
            self._conclude()
        if self._reload is not None:
            path, self._reload = self._reload, None
            try:
                self._pushed.put((load(path), Future()))
            except RulesError as error:
                self._notice("rules_refused", f"{error}\nthe rules in force stay")
        while self._following is None and not self._pushed.empty():
            self._change_rules(*self._pushed.get())
        if self._following is None and time.time_ns() >= self._end_ns - LEAD_NS and (
            self._books is None or self._books.error is None
        ):
            generation = self._counting.generation
            self._succeed(Generation(
                generation.rules, trust_ip_length=self._options.trust_ip_length,
                following=generation, keep_cells=self._options.document, gate=self._gate),
                self._end_ns, None)

    def _change_rules(self, rules: RuleSet, done: Future[int]) -> None:
        try:
            keys = keys_of(rules)  # they change without the rules
            if rules.version == self._counting.generation.rules.version:
                self._gate.keys = keys
                done.set_result(time.time_ns())
                return
            self._expect_takeable(rules)
            following = Generation(
                rules, trust_ip_length=self._options.trust_ip_length, gate=self._gate)
        except TollsplitError as error:
            self._notice("rules_refused", f"{error}\nthe rules in force stay")
            done.set_exception(error)
            return
        self._gate.keys = keys
        self._succeed(following, time.time_ns() + NOTICE_NS, done)

    def _expect_takeable(self, rules: RuleSet) -> None:
        if self._books is not None:
            expect_bookable(rules)
        if self._books is not None and self._books.error is not None:
            raise RulesError(f"{rules.path}: not while this is so: {self._books.error}")
        if self._ingresses(self._counting.generation.rules) != self._ingresses(rules):
            raise RulesError(f"{rules.path}: [ingress] names the captured interfaces otherwise "
                             "than the rules in force; start the capture anew")

    def _ingresses(self, rules: RuleSet) -> list[tuple[int, bool] | None]:
        named = {ingress.interface: (number, ingress.trusted)
                 for number, ingress in enumerate(rules.ingresses.values(), 1)}
        return [named.get(name, named.get("*")) for name in self._options.interfaces]

    def _succeed(self, following: Generation, until_ns: int, done: Future[int] | None) -> None:
        self._end_ns = until_ns
        # Once it is decided a clock that is set back changes nothing about it.
        self._conclude_s = time.monotonic() + GRACE_S + max(
            0, until_ns - time.time_ns()) / SECOND_NS
        self._following = (following, done)
        self._counting.succeed(following, until_ns)

    def _conclude(self) -> None:
        """End the generation in force; the one that follows is."""
        assert self._following is not None
        (following, done), self._following = self._following, None
        before, since_ns = self._counting.generation, self._end_ns
        self._add(before, self._counting.conclude())
        self._close(before, following)
        self._end_ns = self._window_end_ns()
        if done is not None:
            rules = following.rules
            self._notice("rules", f"{rules.path}: in force now: {rules.version}")
            done.set_result(since_ns)

    def _close(self, old: Generation, following: Generation | None) -> None:
        """Work out what a generation comes to, and hand it to the ledger.

        following   None: none does, and nothing goes on from what was counted
        """
        tally = self._figures.close(old)
        if not tally.identity_holds:
            raise IdentityError("the buckets do not add up to what was seen; what was counted "
                                "since the last window stays in the journal")
        self._raise(self._figures.budgets(old, tally))
        if self._books is not None:
            self._books.close(len(tally.usage), old, following or old)
        if self._options.ledger is None and len(tally.usage):
            self._final(tally.usage, old.rules.meter.at)
        if self._options.document and (following is None or following.rules is not old.rules):
            self.reports.append(self._report(old))
        if following is not None:
            self._figures.go_on(following, tally)

    # --- counting -----------------------------------------------------------------------

    def _flush(self) -> None:
        """Take what was counted into the journal, and look at it."""
        self._check_clock()
        if self._following is None:
            self._add(self._counting.generation, self._counting.take())
        self._tell_loss()
        self._tell_events()  # a look counts them
        if self._is_to_look() and time.monotonic() >= self._look_at_s:
            self._look()
        self._tell_events()

    def _add(self, generation: Generation, counted: Meter) -> None:
        self._raise(self._figures.add(generation, counted))
        if self._books is not None:
            self._books.add(generation, counted, self._figures.whole)
        if not self._known.empty():
            self._raise(self._figures.begin(generation, *self._known.get()))

    def _check_clock(self) -> None:
        """A clock that was set is told of; windows follow it (accounting §6)."""
        clock_ns = time.time_ns() - time.monotonic_ns()
        step_ns, self._clock_ns = clock_ns - self._clock_ns, clock_ns
        if abs(step_ns) > STEP_NS:
            self._happening.put(Event("clock_step", time.time_ns(), self._source, self._epoch))
            if self._following is None:
                self._end_ns = self._window_end_ns()

    # --- what is told and shown ---------------------------------------------------------

    def tell(self, notice: Notice) -> None:
        """Have something told, from any thread."""
        self._happening.put(notice)

    def _notice(self, kind: NoticeKind, text: str) -> None:
        self.tell(Notice(kind, time.time_ns(), text))

    def _raise(self, events: Iterable[Event]) -> None:
        for event in events:
            self._happening.put(event)

    def _tell_events(self) -> None:
        while not self._happening.empty():
            happened = self._happening.get()
            self._happened[happened.kind] = self._happened.get(happened.kind, 0) + 1
            self._tell(happened)
            # That of a balance is the ledger's own, and kept.
            if (self._books is not None and isinstance(happened, Event)
                    and happened.kind != "balance_end"):
                self._books.delivery.tell(happened)

    def _tell_loss(self) -> None:
        before, self._lost_packets = self._lost_packets, sum(self._lost())
        if self._lost_packets > before:
            self._happening.put(Event("lost", time.time_ns(), self._source, self._epoch,
                                      octets=self._lost_packets - before))

    def _is_to_look(self) -> bool:
        sponsors = self._counting.generation.rules.sponsors.values()
        asked = self._books is not None and self._books.asks
        return self._options.watched or asked or any(sponsor.budget for sponsor in sponsors)

    def _look(self) -> None:
        """Make a snapshot; it may take a tenth of the time, so on many subscribers less often."""
        since_s = time.monotonic()
        generation = self._counting.generation
        tally, sums = self._figures.look(generation)
        self._raise(self._figures.budgets(generation, tally))
        if self._books is not None:
            self._books.look(tally.usage)
        # Each kind of fault and event is there from the start: who counts them sees the first one.
        sums += Sums(faults=dict.fromkeys(FAULT_NAMES[1:], NOTHING),
                     refused_tokens=dict.fromkeys(REFUSAL_NAMES, NOTHING))
        kernel, interface = self._lost()
        cells = Cells(generation.rules)
        cells.at(time.time_ns())
        self._latest = Snapshot(
            taken_at_ns=time.time_ns(), running_s=since_s - self._began_s,
            interfaces=self._options.interfaces, rules_version=generation.rules.version,
            **{field.name: getattr(sums, field.name)
               for field in fields(Sums) if field.name != "owes_nobody"},
            identity_holds=sums.identity_holds, lost_kernel=kernel, lost_interface=interface,
            window=cells.known[0].window, subscribers=len(tally.usage.subscribers),
            heaviest=heaviest(tally.usage, self._options.top),
            **self._booked())
        self._show(self._latest)
        self._look_at_s = since_s + (time.monotonic() - since_s) / LOOK_SHARE

    def _booked(self) -> dict[str, Any]:
        """How far the books are, as a snapshot has it."""
        books = self._books
        return {
            "unflushed_octets": self._counting.seen_octets + (
                books.unwritten_octets if books else 0),
            "unbooked_records_octets": books.octets if books else 0,
            "unbooked_batches": books.delivery.batches if books else 0,
            "booked_records": books.delivery.records if books else 0,
            "booking_error": (books.error or books.delivery.error) if books else None,
            "has_ledger": books is not None,
            "events": dict.fromkeys(KINDS, 0) | self._happened,
        }

    def _report(self, generation: Generation) -> Report:
        """What was counted under the rules of a generation, since they are in force."""
        rules = generation.rules
        tally = self._figures.document(generation)
        charges = tuple(rate(tally.usage.quantities(), rules.tariffs, rules.meter.zone, None)
                        if rules.tariffs else ())
        kernel, interface = self._lost()
        return Report(
            rules_version=rules.version, layer=rules.meter.layer, at=rules.meter.at, tally=tally,
            charges=charges, captures=self._options.interfaces, lost_kernel=kernel,
            lost_interface=interface, elapsed_s=time.monotonic() - self._began_s)
