"""A run on a cluster: who is there, whether they can, what they are to do, what came out."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from queue import Empty, SimpleQueue
from secrets import token_bytes, token_hex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tollsplit.capture.file import CaptureFile
from tollsplit.cext.state import KEY_OCTETS
from tollsplit.cluster import worker
from tollsplit.cluster.job import Capture, Job, Part, program
from tollsplit.cluster.likeness import likeness
from tollsplit.cluster.plan import plan, whole
from tollsplit.engine.cells import Cells
from tollsplit.engine.counts import gathered
from tollsplit.engine.pipeline import NoRoom, Tally, dissection, tally
from tollsplit.engine.usage import Prior, Provenance, Spent
from tollsplit.errors import CaptureError, ClusterError, TollsplitError, UsageError
from tollsplit.limits import CLUSTER_CONNECT_S, CLUSTER_LOOK_S, CLUSTER_WAIT_S, FINDINGS_MAX
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import RuleSet

if TYPE_CHECKING:
    from distributed import Client, Future

Progress = Callable[[int, int | None], None]
MERGE_FIRST = 1  # before counting goes on: what is added up takes memory once


@contextmanager
def connected(url: str) -> Iterator[Cluster]:
    """A cluster under the scheduler at tcp://HOST:PORT or tls://HOST:PORT.

    What was asked of it and is not done is cancelled in the end.

    Raises UsageError, and ClusterError where nobody answers.
    """
    try:
        from distributed import Client, Security
    except ImportError as error:
        raise ClusterError(
            f"{url}: distributed is not installed; pip install 'tollsplit[cluster]'") from error
    _expect_listener(url)
    security = Security()
    if url.startswith("tls:") and not security.get_connection_args("client")["ssl_context"]:
        raise UsageError(
            f"{url}: expected ca-file, client.cert and client.key of distributed.comm.tls in the "
            "configuration of Dask: https://distributed.dask.org/en/stable/tls.html")
    try:
        client = Client(url, timeout=CLUSTER_CONNECT_S, set_as_default=False, security=security)
    except (OSError, ValueError) as error:
        raise ClusterError(f"{url}: no scheduler answers: {error}") from error
    try:
        yield Cluster(url, client)
    finally:
        client.close(CLUSTER_CONNECT_S)


def _expect_listener(url: str) -> None:
    """Raise UsageError where this is no address, ClusterError where nobody listens there.

    Dask's client would say so after its timeout only, and not why.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("tcp", "tls"):
        raise UsageError(f"{url}: expected tcp://HOST:PORT or tls://HOST:PORT of a scheduler")
    try:
        socket.create_connection((host, port), CLUSTER_CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"{url}: no scheduler answers: {error.strerror or error}; start one: dask scheduler"
        ) from error


@dataclass(slots=True)
class Watched:
    """A task, which of all it is in one machine's order, and how much it does."""

    future: Future
    place: int
    octets: int = 0


class Cluster:
    """The workers under one scheduler, for one run."""

    def __init__(self, url: str, client: Client) -> None:
        self.url = url
        self._client = client
        self._token = token_hex(8)
        self._submitted = 0

    # --- before ------------------------------------------------------------------------------

    def prepare(
        self, captures: Sequence[CaptureFile], rules: RuleSet, skip_links: bool,
        trust_ip_length: bool,
    ) -> None:
        """See that every worker has the program, the captures and what the rules need.

        Raises ClusterError, or CaptureError with a line for each worker and capture.
        """
        if any(rule.match.token for rule in rules.rules):
            raise UsageError(
                f'{rules.path}: rules that ask for a "token" are no work for a cluster: keys stay '
                "where they are, and one worker would do it all; leave out --cluster")
        self._expect_program()
        self._job = Job(
            self._token, program(), tuple(map(_capture, captures)),
            replace(rules, content={}),  # what the files held, which is compiled by now
            skip_links, trust_ip_length, token_bytes(KEY_OCTETS))
        wrong: dict[str, TollsplitError] = {
            address: found for address, found in self._ask(worker.prepare, self._job).items()
            if found is not None}
        if wrong:
            lines = [f"worker {address}: {line}" for address, error in sorted(wrong.items())
                     for line in str(error).splitlines()]
            if len(lines) > FINDINGS_MAX:
                lines[FINDINGS_MAX:] = [f"and {len(lines) - FINDINGS_MAX:,} more of these"]
            raise next(iter(wrong.values())).__class__("\n".join(lines))
        self._shared = self._submit(worker.same, self._job)

    def _expect_program(self) -> None:
        """Raise ClusterError unless all workers, at least one, count as this program does."""
        here = program()
        answers = {f"worker {address}": found for address, found in self._ask(program).items()}
        try:  # tasks pass through it
            answers["scheduler"] = self._client.run_on_scheduler(program)
        except Exception as error:
            raise _unfit("scheduler", error) from error
        others = {who: found for who, found in answers.items() if found != here}
        if others:
            raise ClusterError("\n".join(
                f"{who}: this is {here}, there it is {found}; install the same there"
                for who, found in sorted(others.items())))

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What each worker answers."""
        if not self._threads():
            raise ClusterError(
                f"{self.url}: the scheduler has no workers; start some: dask worker {self.url}")
        try:
            answers = self._client.run(question, *arguments, on_error="return")
        except (OSError, CancelledError) as error:
            raise self._gone(error) from error
        for address, answer in sorted(answers.items()):
            if isinstance(answer, BaseException) and not isinstance(answer, TollsplitError):
                raise _unfit(f"worker {address}", answer) from answer
        return dict(answers)

    def _threads(self) -> dict[str, int]:
        """How many threads each worker has."""
        try:
            return dict(self._client.nthreads())
        except OSError as error:
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> ClusterError:
        return ClusterError(f"{self.url}: the scheduler answers no more: {error}")

    # --- work --------------------------------------------------------------------------------

    def digests(self) -> list[str]:
        """Of each capture, what CaptureFile.digest() says."""
        tasks = [Watched(self._submit(worker.digest, self._shared, number), number)
                 for number in range(len(self._job.captures))]
        self._watch(tasks, lambda _: None)
        return [self._result(task.future) for task in tasks]

    def meter(
        self,
        captures: Sequence[CaptureFile],
        *,
        prior: Callable[[Cells], tuple[Prior, Spent]] | None,
        key: tuple[str, str],
        progress: Progress | None,
    ) -> Tally:
        """As engine.meter does; and says of each capture whether it ends too early.

        key   the first two parts of every usage record's key
        """
        job = self._job
        try:
            result = self._count(plan(job, max(1, sum(self._threads().values()))), progress)
        except NoRoom:
            result = self._count([[whole(job)]], progress)
        for number, message in result.truncated.items():
            captures[number].truncated = message
        compiled = Compiled(job.rules)
        dissect = dissection(job.rules, None, None, job.trust_ip_length)
        cells, counted = gathered([result.counts], job.rules, compiled, dissect)
        return tally(job.rules, compiled, cells, counted, prior,
                     Provenance(*key, dissect.layer))

    def _count(self, parts: Sequence[Sequence[Part]], progress: Progress | None) -> worker.Result:
        """What all parts hold together, added up in pairs where it was counted."""
        total = sum(capture.likeness.octets for capture in self._job.captures)
        tasks: list[Watched] = []
        results: list[Future] = []
        turns = self._turns()
        for place, pieces in enumerate(parts):
            counted = [
                Watched(self._submit(worker.count, self._shared, part, at=next(turns)), place,
                        part.octets) for part in pieces]
            tasks += counted
            found = self._merged([task.future for task in counted])
            if pieces[0].end is not None:
                everything = Part(pieces[0].captures, total)
                found = self._submit(worker.settle, self._shared, everything, found)
                tasks.append(Watched(found, place))
            results.append(found)
        last = self._merged(results)
        done = 0

        def tell(task: Watched) -> None:
            nonlocal done
            if task.future is not last:
                task.future.release()  # it is kept for as long as it has to be added up
            done += task.octets
            if progress:
                progress(done, total)

        self._watch([*tasks, Watched(last, len(parts))], tell)
        result: worker.Result = self._result(last)
        return result

    def _merged(self, futures: list[Future]) -> Future:
        """The root of a tree that adds them up."""
        while len(futures) > 1:
            pairs = [futures[at : at + 2] for at in range(0, len(futures), 2)]
            futures = [
                self._submit(worker.merge, self._shared, *pair, priority=MERGE_FIRST)
                if len(pair) == 2 else pair[0] for pair in pairs]
        return futures[0]

    def _turns(self) -> Iterator[str | None]:
        """The workers, one after the other, each as often as it has threads; again and again."""
        threads = sorted(self._threads().items())
        most = max((count for _, count in threads), default=0)
        found: list[str | None] = [address for turn in range(most)
                                   for address, count in threads if turn < count]
        return cycle(found or [None])  # all have gone: others may come

    def _submit(
        self, task: Callable[..., Any], *arguments: Any, priority: int = 0, at: str | None = None
    ) -> Future:
        """Have a task done.

        at   where: left to Dask, few tasks are all the one worker's that holds what they share.
             Where that worker is gone, any will do
        """
        self._submitted += 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")  # rules, once
            return self._client.submit(
                task, *arguments, priority=priority, pure=False, workers=at,
                allow_other_workers=at is not None,
                key=f"tollsplit-{task.__name__}-{self._token}-{self._submitted}")

    # --- while it is done --------------------------------------------------------------------

    def _watch(self, tasks: Sequence[Watched], tell: Callable[[Watched], None]) -> None:
        """Wait for tasks to be done; `tell` is called with each one that is.

        Raises what the first in one machine's order has failed with, and ClusterError where
        nobody is left who could do them.
        """
        ended: SimpleQueue[Watched] = SimpleQueue()
        waiting = {id(task): task for task in tasks}
        for task in tasks:
            task.future.add_done_callback(partial(_put, ended, task))
        failure: Exception | None = None
        alone_since: float | None = None
        while waiting:
            try:
                task = ended.get(timeout=CLUSTER_LOOK_S)
            except Empty:
                alone_since = self._expect_workers(alone_since)
                continue
            status = task.future.status
            if status in ("pending", "lost"):  # what it found is gone with its worker
                task.future.add_done_callback(partial(_put, ended, task))
            elif waiting.pop(id(task), None) is None:
                continue  # cancelled below
            elif status == "finished":
                tell(task)
            else:
                failure = self._failure(task.future)
                waiting = self._cancelled(waiting, task.place, failure)
        if failure is not None:
            raise failure

    def _cancelled(
        self, waiting: dict[int, Watched], place: int, failure: Exception
    ) -> dict[int, Watched]:
        """What is still waited for when a task has failed: what one machine does before it."""
        if isinstance(failure, NoRoom):  # none of it is good
            place = 0
        later = [task.future for task in waiting.values() if task.place >= place]
        self._client.cancel(later)
        return {at: task for at, task in waiting.items() if task.place < place}

    def _result(self, future: Future) -> Any:
        """What a task has found. Raises as _watch does."""
        client, alone_since = self._client, None
        found = asyncio.run_coroutine_threadsafe(
            client.gather(future, asynchronous=True), client.loop.asyncio_loop)
        while True:
            try:
                return found.result(CLUSTER_LOOK_S)
            except TimeoutError:
                alone_since = self._expect_workers(alone_since)
            except Exception as error:  # it was done, lost with its worker, and done again
                raise self._told(error) from error

    def _expect_workers(self, alone_since: float | None) -> float | None:
        """Since when there is none, on the monotonic clock. Raises ClusterError when too long."""
        if self._threads():
            return None
        now = time.monotonic()
        if alone_since is not None and now - alone_since > CLUSTER_WAIT_S:
            raise ClusterError(
                f"{self.url}: no worker is left, and none came within {CLUSTER_WAIT_S} s; start "
                f"some: dask worker {self.url}")
        return now if alone_since is None else alone_since

    def _failure(self, future: Future) -> Exception:
        """What a run ends with whose task has failed, or was cancelled by others."""
        error = future.exception() if future.status == "error" else CancelledError()
        assert isinstance(error, Exception)
        return self._told(error)

    def _told(self, error: Exception) -> Exception:
        """What a person is told of what became of a task."""
        from distributed import KilledWorker

        if isinstance(error, TollsplitError | NoRoom):
            return error
        if isinstance(error, CancelledError):
            return ClusterError(f"{self.url}: the work was lost: the scheduler was restarted, or "
                                "the connection to it broke; start the run again")
        if isinstance(error, KilledWorker):
            return ClusterError(f"{self.url}: workers died over and over at the same work, as "
                                f"they do where memory runs out: {error}")
        return ClusterError(f"{self.url}: a worker failed: {type(error).__name__}: {error}")


def _unfit(who: str, error: BaseException) -> ClusterError:
    return ClusterError(f"{who}: {type(error).__name__}: {error}; it has to have "
                        "tollsplit[cluster] installed, in the same version")


def _put(ended: SimpleQueue[Watched], task: Watched, _: Future) -> None:
    ended.put(task)


def _capture(source: CaptureFile) -> Capture:
    try:
        return Capture(source.name, os.path.abspath(source.path), likeness(source.path))
    except OSError as error:
        raise CaptureError(f"{source.name}: {error.strerror or error}") from error
