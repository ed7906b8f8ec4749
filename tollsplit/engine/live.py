"""Counting without stopping: workers meter what passes while their counters are taken away."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Protocol

from tollsplit.cext.meter import Meter
from tollsplit.cext.recorder import Recorder
from tollsplit.cext.ring import Ring
from tollsplit.engine.answers import Answers
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.cells import Cells
from tollsplit.engine.pipeline import BOUNDS, Tally, dissection, state, tally
from tollsplit.engine.usage import Prior, Provenance, Spent
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import RuleSet
from tollsplit.tokens.gate import Gate
from tollsplit.tokens.keys import keys_of

# How long a worker waits for frames before it looks whether its counters are asked for.
TURN_S = 0.1


class Lane(Protocol):
    """What one worker reads; tollsplit.capture.live has the real one."""

    def turns(self, timeout_s: float) -> Iterator[list[Ring]]:
        """Rings with frames in them, turn after turn, until it is stopped."""
        ...

    def wake(self) -> None:
        """End a turn that waits."""
        ...


class Generation:
    """What is counted under one version of the rules, from one instant up to another.

    following   an earlier one of the same rules, whose compiled form serves again
    keep_cells  number time cells as that one does, so that what both count can be added up
    bounds      how much is remembered of packets, where rules depend on that
    gate        what judges tokens, in all generations of a run; None: one of its own

    Raises RulesError where the keys of tokens cannot be read.
    """

    def __init__(
        self,
        rules: RuleSet,
        *,
        trust_ip_length: bool = False,
        following: Generation | None = None,
        keep_cells: bool = False,
        bounds: Bounds = BOUNDS,
        gate: Gate | None = None,
    ) -> None:
        self.rules = rules
        self._gate = gate if gate is not None else Gate(keys_of(rules))
        self._bounds = bounds
        self._answers: Answers = following._answers if following else Answers()
        self.compiled: Compiled = following.compiled if following else Compiled(rules)
        self.cells: Cells = following.cells if following and keep_cells else Cells(rules)
        self._dissection = dissection(rules, None, None, trust_ip_length)

    def meter(self) -> Meter:
        """A meter that has counted nothing; what it counts can be added to any other of these."""
        return Meter(self._dissection, self.compiled.classifier, self.cells.at)

    def worker(self) -> Meter:
        """A meter that a worker begins with: it remembers what it meets, if the rules ask for it.

        It hands that over to those that follow it.
        """
        tracks = self.compiled.classifier.tracks
        remembered = state(self._bounds, self._gate, answers=self._answers) if tracks else None
        return Meter(self._dissection, self.compiled.classifier, self.cells.at, remembered)

    def tally(
        self, counted: Meter, prior: Prior, spent: Spent, provenance: Provenance
    ) -> Tally:
        """The figures of what was counted; its counters are taken out."""
        return tally(self.rules, self.compiled, self.cells, counted,
                     lambda _: (prior, spent), provenance)


class _Worker(threading.Thread):
    """Meters one lane. Its meter is exchanged for another between two turns."""

    def __init__(
        self, number: int, lane: Lane, meter: Meter, recorder: Recorder | None
    ) -> None:
        super().__init__(name=f"meter-{number}", daemon=True)
        self.meter = meter
        self._recorder = recorder
        self.error: BaseException | None = None
        self._lane = lane
        self._next: Meter | None = None
        self._handed: queue.SimpleQueue[Meter] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            for rings in self._lane.turns(TURN_S):
                for ring in rings:
                    if self._recorder is not None:
                        self._recorder.interface = ring.interface
                    self.meter.run(ring, recorder=self._recorder)
                if self._recorder is not None and not rings:
                    self._recorder.flush()
                if self._next is not None:
                    self._hand_over()
        except BaseException as error:
            self.error = error

    def _hand_over(self) -> None:
        assert self._next is not None
        self.meter.hand_over(self._next)
        counted, self.meter, self._next = self.meter, self._next, None
        self._handed.put(counted)

    def ask(self, fresh: Meter) -> None:
        """Have the meter exchanged at the next turn."""
        self._next = fresh
        self._lane.wake()

    def taken(self) -> Meter:
        """The meter that was asked for."""
        while True:
            if self._next is not None and not self.is_alive():
                self.meter.finish()  # no frames come any more
                self._hand_over()
            try:
                return self._handed.get(timeout=TURN_S)
            except queue.Empty:
                continue


class Counting:
    """Workers at their lanes. One thread calls these methods.

    A frame is counted by exactly one meter: its worker's at the time, or, from the instant on at
    which a generation follows another, that one's successor, as the frame's timestamp says.

    recorders   that keep what each lane hands out; none: nothing is kept
    """

    def __init__(
        self, lanes: Sequence[Lane], generation: Generation, recorders: Sequence[Recorder] = ()
    ) -> None:
        self.generation = generation
        self._following: Generation | None = None
        self._successors: list[Meter] = []
        self._taken: list[Meter] = []  # by the last take: they serve again at the next
        each = zip_longest(lanes, recorders)
        self._workers = [_Worker(number, lane, generation.worker(), recorder)
                         for number, (lane, recorder) in enumerate(each)]

    def start(self) -> None:
        for worker in self._workers:
            worker.start()

    @property
    def seen_octets(self) -> int:
        """What was counted since the last take: a figure that moves while it is read."""
        return sum(worker.meter.seen[1] for worker in self._workers) + sum(
            meter.seen[1] for meter in self._successors)

    def take(self) -> Meter:
        """What was counted since the last time, under the generation in force.

        It is good until the next call of any method that takes.
        """
        fresh, self._taken = self._taken, []
        for meter in fresh:
            meter.forget()
        return self._exchange(fresh or [self.generation.meter() for _ in self._workers])

    def succeed(self, following: Generation, until_ns: int) -> None:
        """Have another generation count the frames whose timestamps are `until_ns` or later."""
        self._following = following
        self._successors = [following.worker() for _ in self._workers]
        for worker, successor in zip(self._workers, self._successors, strict=True):
            worker.meter.succeed(successor, until_ns)

    def conclude(self) -> Meter:
        """End a generation that another one follows. Returns what take() would have.

        Frames from before the instant that come later are counted by the one that follows, as
        further deltas for their windows.
        """
        assert self._following is not None
        self.generation, self._following = self._following, None
        successors, self._successors = self._successors, []
        taken = self._exchange(successors)
        self._taken = []  # these have other rules, and successors
        return taken

    def _exchange(self, fresh: Sequence[Meter]) -> Meter:
        for worker, meter in zip(self._workers, fresh, strict=True):
            worker.ask(meter)
        self._taken = [worker.taken() for worker in self._workers]
        for other in self._taken[1:]:
            self._taken[0].absorb(other)
        return self._taken[0]

    def check(self) -> None:
        """Raise what ended a worker that nobody stopped."""
        for worker in self._workers:
            if worker.error is not None:
                raise worker.error

    @property
    def running(self) -> bool:
        """Whether all workers are at work."""
        return all(worker.is_alive() for worker in self._workers)

    def join(self, timeout_s: float) -> bool:
        """Wait for the workers of stopped lanes to end; False: one still runs."""
        deadline = time.monotonic() + timeout_s
        for worker in self._workers:
            if worker.ident is None:  # it never began
                continue
            worker.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers)
