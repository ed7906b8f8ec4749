"""What runs on workers. Each task is a function of what it is given: done again, it is the same."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tollsplit.capture import open_capture
from tollsplit.capture.file import CaptureFile
from tollsplit.capture.piece import Piece
from tollsplit.cext.dissect import Dissection
from tollsplit.cext.reader import Astray
from tollsplit.cluster.job import Capture, Job, Part, program
from tollsplit.cluster.likeness import difference, likeness
from tollsplit.engine.counts import Counts, add, counts_of
from tollsplit.engine.pipeline import count_share, dissection
from tollsplit.errors import CaptureError, ClusterError, TollsplitError
from tollsplit.rules.compile import Compiled

JOBS_KEPT = 2  # a worker may serve several clients, and what is compiled may be large


@dataclass(frozen=True, slots=True)
class Result:
    """What some parts hold, and which captures end too early, by number."""

    counts: Counts
    truncated: dict[int, str] = field(default_factory=dict)


class Bench:
    """One job on this worker: its rules compiled, its captures found to be the right ones.

    Raises ClusterError where this is another program, CaptureError where captures are missing or
    differ, and what compiling rules does.
    """

    def __init__(self, job: Job) -> None:
        if job.program != program():
            raise ClusterError(f"this is {program()}, and the run is one of {job.program}")
        self.job = job
        self._states: dict[str, tuple[int, ...]] = {}
        if wrong := [found for found in map(self._look, job.captures) if found]:
            raise CaptureError("\n".join(wrong))
        self.compiled = Compiled(job.rules)
        self.dissect: Dissection = dissection(job.rules, None, None, job.trust_ip_length)
        self._ingresses = {ingress.interface: number
                           for number, ingress in enumerate(job.rules.ingresses.values(), 1)}

    def _look(self, capture: Capture) -> str | None:
        """What is wrong with a capture."""
        try:
            self._states[capture.path] = _state(capture.path)
            wrong = difference(likeness(capture.path), capture.likeness)
        except OSError as error:
            wrong = "is missing" if isinstance(error, FileNotFoundError) else (
                f"cannot be read: {error.strerror or error}")
        return f"{capture.name}: {wrong}" if wrong else None

    def open(self, number: int) -> CaptureFile:
        capture = self.job.captures[number]
        source = open_capture(
            capture.path, ingresses=self._ingresses, skip_links=self.job.skip_links)
        source.name = capture.name
        return source

    def expect_unchanged(self, numbers: Sequence[int]) -> None:
        """Raise CaptureError where captures are no longer what they were when they were found."""
        for number in numbers:
            capture = self.job.captures[number]
            try:
                changed = _state(capture.path) != self._states[capture.path]
            except OSError:
                changed = True
            if changed:
                raise CaptureError(f"{capture.name}: changed while it was read: account it when "
                                   "nothing writes to it any more")


_benches: OrderedDict[str, Bench] = OrderedDict()
_lock = threading.Lock()


def _bench(job: Job) -> Bench:
    with _lock:  # the first of a worker's threads looks, the others wait
        if job.token not in _benches:
            _benches[job.token] = Bench(job)
            if len(_benches) > JOBS_KEPT:
                _benches.popitem(last=False)
        return _benches[job.token]


def _bench_of_task(job: Job) -> Bench:
    """The same for a worker that nobody has asked before: it came later."""
    from distributed import get_worker

    try:
        return _bench(job)
    except TollsplitError as error:
        raise type(error)(f"worker {get_worker().address}: {error}") from error


def _expect_wanted() -> Callable[[], None]:
    """What ends the task that runs now where nobody waits for it: Dask ends none that has begun.

    Its client has gone, or its run has failed elsewhere. Should somebody want it again meanwhile,
    it is done anew.
    """
    from distributed import Reschedule, get_worker

    at_work = get_worker()
    key = at_work.get_current_task()

    def look() -> None:
        task = at_work.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise Reschedule

    return look


def _state(path: str) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# --- what the client asks of each worker ---------------------------------------------------


async def prepare(job: Job) -> TollsplitError | None:
    """Get everything ready that the job's tasks need; what is in the way, if something is."""
    try:
        await asyncio.to_thread(_bench, job)
    except TollsplitError as error:
        return error
    return None


# --- tasks -----------------------------------------------------------------------------------


def same(job: Job) -> Job:
    """The job, for tasks that depend on it: a worker that lacks it is given it."""
    return job


def digest(job: Job, number: int) -> str:
    """What a capture holds, as CaptureFile.digest() has it."""
    bench = _bench_of_task(job)
    found = bench.open(number).digest()
    bench.expect_unchanged([number])
    return found


def count(job: Job, part: Part) -> Result | None:
    """What one part holds; None: it was cut where no record begins."""
    bench = _bench_of_task(job)
    captures = {number: bench.open(number) for number in part.captures}
    sources: list[CaptureFile | Piece] = list(captures.values())
    if part.end is not None:
        sources = [Piece(each, part.start, part.end) for each in captures.values()]
    try:
        cells, counted, remembered = count_share(
            sources, job.rules, bench.compiled, bench.dissect, part.share, part.shares, job.key,
            _expect_wanted())
    except Astray:
        return None
    finally:
        bench.expect_unchanged(part.captures)
    truncated = {number: source.truncated
                 for number, source in captures.items() if source.truncated}
    return Result(counts_of(cells, counted, remembered), truncated)


def merge(job: Job, one: Result | None, other: Result | None) -> Result | None:
    """What two parts hold; None: one of them is worth nothing."""
    if one is None or other is None:
        return None
    bench = _bench_of_task(job)
    counts = add([one.counts, other.counts], job.rules, bench.compiled, bench.dissect)
    return Result(counts, one.truncated | other.truncated)


def settle(job: Job, part: Part, found: Result | None) -> Result:
    """What a capture holds that was cut: what its pieces do, or else what reading it finds."""
    result = found if found is not None else count(job, part)
    assert result is not None
    return result
