"""A run: captures and rules in, a report out, and its charges in a ledger if one is named."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from . import __version__
from .capture import Source, open_capture
from .capture.file import CaptureFile
from .carryover import carryover, expect_bookable
from .cext.columns import counters
from .cext.layout import BUCKET_NAMES, FAULT_NAMES, FLAG_NAMES, SUSPICIOUS
from .cext.meter import Meter
from .cext.shares import paid
from .engine import meter
from .engine.cells import Cells, period_start
from .engine.pipeline import BOUNDS, dissection, state
from .engine.split import parts
from .engine.subscribers import INTERNED, Subscribers
from .errors import CaptureError, UsageError
from .ledger import Run, open_ledger, rate
from .model import Direction
from .report import Report
from .rules import load
from .rules.compile import Compiled
from .rules.explain import Explanation, Known, Side, fields, judge
from .rules.rule import At, Layer, RuleSet
from .tokens.gate import Gate
from .tokens.keys import keys_of

if TYPE_CHECKING:
    from .cluster.client import Cluster

Name = str | os.PathLike[str]
Progress = Callable[[int, int | None], None]

# A file has one life: what it holds does not go on under the same name after a restart.
EPOCH = "0"
COPY_OCTETS = 1024 * 1024


def account(
    captures: Name | Iterable[Name],
    rules: Name | RuleSet,
    *,
    ledger: str | None = None,
    workers: int = 1,
    layer: Layer | None = None,
    at: At | None = None,
    skip_links: bool = False,
    trust_ip_length: bool = False,
    identified: bool = False,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Say who pays for which octets of some captures.

    captures         paths; "-" is standard input; together they count as one input; no file
                     may be named twice
    rules            path of a rules file, or what `rules.load` made of it
    ledger           URL of a ledger to book into ("sqlite:///path")
    workers          threads that meter; the result does not depend on it
    layer, at        override the rules file
    skip_links       count frames of unknown link types as faults
    trust_ip_length  believe IP lengths beyond the frame's length
    identified       give records their key without a ledger, too; the captures are read twice
    cluster          URL of a Dask scheduler ("tcp://host:8786"), whose workers meter: they see
                     the captures at the same paths. Names may then be patterns ("*.pcap")
    progress         called with (octets read, octets in all or None) now and then

    Raises CaptureError, RulesError, LedgerError, ClusterError, UsageError. A capture that ends
    inside a record is no exception: `report.truncated` says so, and nothing is booked. Nor are
    books that do not balance: see `report.identity_holds`; nothing is booked then either. With a
    ledger, a file that changes while it is read is a CaptureError, and a quota, share or budget
    that runs over less than a window a RulesError.
    """
    since = time.perf_counter()
    names = _names(captures, patterns=cluster is not None)
    rule_set = rules if isinstance(rules, RuleSet) else load(rules)
    rule_set = _overridden(rule_set, layer, at)
    if ledger:
        expect_bookable(rule_set)
    with ExitStack() as stack:
        book = stack.enter_context(open_ledger(ledger)) if ledger else None
        machines = None
        if cluster is not None:
            machines = stack.enter_context(_machines(cluster, names, workers))
        sources, run = stack.enter_context(_inputs(
            names, rule_set, skip_links, identified or book is not None, machines,
            trust_ip_length))
        prior = carryover(book, run, rule_set) if book and run else None
        key = (run.source, EPOCH) if run else ("", "")
        if machines is not None:
            tally = machines.meter(sources, prior=prior, key=key, progress=progress)
        else:
            tally = meter(
                sources, rule_set, workers=workers, trust_ip_length=trust_ip_length, prior=prior,
                source=key[0], epoch=key[1], progress=_reporting(sources, progress))
            if run is not None:
                for source in sources:
                    source.expect_unchanged()
        charges = tuple(
            rate(tally.usage.quantities(), rule_set.tariffs, rule_set.meter.zone,
                 book.earlier(run) if book and run else None)
            if rule_set.tariffs else ())
        report = Report(
            rules_version=rule_set.version, layer=rule_set.meter.layer, at=rule_set.meter.at,
            tally=tally, charges=charges, run=run,
            captures=tuple("standard input" if name == "-" else name for name in names),
            truncated=tuple(source.truncated for source in sources if source.truncated))
        if book is not None and run is not None and report.identity_holds and not report.truncated:
            report = replace(report, receipt=book.post(run, tally.usage, charges))
    return replace(report, elapsed_s=time.perf_counter() - since)


def _names(captures: Name | Iterable[Name], patterns: bool = False) -> list[str]:
    """The captures' names.

    patterns   whether a name that no file has may be a pattern
    """
    several = [captures] if isinstance(captures, str | os.PathLike) else list(captures)
    names = [os.fspath(name) for name in several]
    if patterns:
        names = [name for pattern in names for name in _expanded(pattern)]
    if not names:
        raise UsageError("no capture was named")
    known: dict[object, str] = {}
    for name in names:
        file = _file(name)
        if file in known:
            also = "" if known[file] == name else f", also as {known[file]}"
            raise UsageError(f"{name}: named twice{also}; its octets would be billed twice")
        known[file] = name
    return names


def _expanded(pattern: str) -> list[str]:
    """What a pattern stands for, in order of characters' numbers, as a shell has it under LC_ALL=C.
    """
    if os.path.lexists(pattern) or not glob.has_magic(pattern):
        return [pattern]
    found = sorted(glob.glob(pattern))
    if not found:
        raise CaptureError(f"{pattern}: no file has such a name")
    return found


def _file(name: str) -> object:
    """What all names of one file have in common."""
    try:
        status = os.fstat(sys.stdin.fileno()) if name == "-" else os.stat(name)
    except OSError:
        return name  # open_capture says it better
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else name


def _overridden(rules: RuleSet, layer: Layer | None, at: At | None) -> RuleSet:
    meter = replace(rules.meter, layer=layer or rules.meter.layer, at=at or rules.meter.at)
    return replace(rules, meter=meter)


def _reporting(sources: Sequence[Source], progress: Progress | None) -> Callable[[], None] | None:
    if progress is None:
        return None
    sizes = [source.size for source in sources]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    return lambda: progress(sum(source.done for source in sources), total)


def explain(
    captures: Name, rules: Name | RuleSet, number: int, *, trust_ip_length: bool = False
) -> Explanation:
    """Say what became of one packet of a capture, by which conditions, and who pays for it.

    number   of the packet; 1 is the first

    The running total is that of this capture alone; budgets, which are divided when a window is
    over, are left out.
    """
    rule_set = rules if isinstance(rules, RuleSet) else load(rules)
    [source] = _opened(_names(captures), rule_set, skip_links=True)
    compiled, cells = Compiled(rule_set), Cells(rule_set)
    core = Meter(dissection(rule_set, None, None, trust_ip_length), compiled.classifier, cells.at,
                 state(BOUNDS, Gate(keys_of(rule_set))) if compiled.classifier.tracks else None)
    core.listen_for_names()
    frame = _frame(source, core, number)
    rows = core.rows([frame])
    bucket = BUCKET_NAMES[int(rows[0]["bucket"])]
    if bucket == "fault":
        bucket = f"fault:{FAULT_NAMES[int(rows[0]['fault'])]}"
    sides = [_side(row, Known(**told), rule_set, compiled, cells, core)
             for row, told in zip(rows, core.told(rows), strict=True)] if (
        bucket == "metered") else []
    return Explanation(number, bucket, fields(rows[0]), tuple(sides))


def _frame(source: Source, core: Meter, number: int) -> tuple[bytes, int, int, int, int, int]:
    """A source's nth frame; those before it are metered."""
    before = 0
    for reader in source.chunks(parallel=False):
        before += core.run(reader, number - 1 - before)
        found = reader.frames(1) if before == number - 1 else []
        try:
            reader.check()
        except ValueError as error:
            source.fail(error)
        if found:
            return found[0]
    raise UsageError(f"{source.name}: packet {number:,} was asked for, it has {before:,}")


def _side(
    row: np.void, known: Known, rules: RuleSet, compiled: Compiled, cells: Cells, core: Meter
) -> Side:
    rule = rules.rules[int(row["rule"]) - 1] if row["rule"] else None
    cell = cells.at(int(row["timestamp_ns"]))
    start = period_start(cells.known[cell[2]], rule.per) if rule and cell else 0
    mine = counters(core.table)
    for name in ("subscriber", "interned", "rule"):
        mine = mine[mine[name] == row[name]]
    before = sum(
        int(counter["uplink_octets"]) + int(counter["downlink_octets"]) for counter in mine
        if rule and period_start(cells.known[int(counter["cell"])], rule.per) == start)
    octets = int(row["octets"])
    splits = rule.splits if rule else ()
    shares = np.diff(paid(np.array([before, before + octets]), parts(splits)), axis=1)
    number = int(row["subscriber"])
    member = np.array([INTERNED + number if row["interned"] else number], np.uint64)
    subscribers = Subscribers(rules, compiled, member, core.subscribers.subscribers())
    return Side(
        subscriber=subscribers.name(0), account=subscribers.account(0),
        direction="uplink" if row["direction"] == Direction.UPLINK else "downlink",
        judgements=judge(rules, row, known), rule=rule, octets=octets, period_start_ns=start,
        before=before,
        sponsor_octets=tuple((split.sponsor, int(share))
                             for split, (share,) in zip(splits, shares, strict=True)),
        mismatch=bool(row["flags"] >> FLAG_NAMES.index("mismatch") & 1),
        suspicious=bool(row["flags"] & SUSPICIOUS))


# --- what a run is called --------------------------------------------------------------


@contextmanager
def _machines(cluster: str, names: Sequence[str], workers: int) -> Iterator[Cluster]:
    """The machines that are to meter."""
    from .cluster.client import connected

    if workers != 1:
        raise UsageError(f"{workers} workers of this machine were asked for, and a cluster, which "
                         "has workers of its own: leave out one of them")
    for name in names:
        if _is_stream(name):
            raise UsageError(f"{name}: workers of a cluster read files, no pipes: write it into "
                             "a file that they all see")
    with connected(cluster) as machines:
        yield machines


@contextmanager
def _inputs(
    names: Sequence[str],
    rules: RuleSet,
    skip_links: bool,
    identified: bool,
    machines: Cluster | None,
    trust_ip_length: bool,
) -> Iterator[tuple[list[CaptureFile], Run | None]]:
    """The captures, opened; and the run's identity, where its records need one.

    machines   that read them, and have seen that theirs are the same

    The identity is known before metering, since running totals go on from earlier runs but not
    from this one. So what is booked is read twice, and a pipe is copied to a temporary file.
    Where nobody asks for it nothing is hashed: it costs more than metering.
    """
    if machines is not None:
        sources = _opened(names, rules, skip_links)
        machines.prepare(sources, rules, skip_links, trust_ip_length)
        yield sources, _run(list(zip(names, machines.digests(), strict=True)), rules) if (
            identified) else None
        return
    if not identified:
        yield _opened(names, rules, skip_links), None
        return
    with ExitStack() as stack:
        paths = [stack.enter_context(_copied(name)) if _is_stream(name) else name
                 for name in names]
        sources = _opened(paths, rules, skip_links)
        for source, name in zip(sources, names, strict=True):
            source.name = "standard input" if name == "-" else name
        yield sources, _run([(source.name, source.digest()) for source in sources], rules)


def _opened(names: Sequence[str], rules: RuleSet, skip_links: bool) -> list[CaptureFile]:
    ingresses = {ingress.interface: number
                 for number, ingress in enumerate(rules.ingresses.values(), 1)}
    sources = [open_capture(name, ingresses=ingresses, skip_links=skip_links) for name in names]
    if any(source.size is None for source in sources):  # a pipe cannot start over with the rest
        for source in sources:
            source.distrust()
    return sources


def _run(digests: Sequence[tuple[str, str]], rules: RuleSet) -> Run:
    """The run over these captures, in whatever order they were named."""
    names: dict[str, str] = {}
    for name, digest in digests:
        if names.setdefault(digest, name) != name:
            raise UsageError(
                f"{name}: holds the same octets as {names[digest]}; they would be billed twice")
    whole = hashlib.sha256("".join(sorted(digest for _, digest in digests)).encode())
    return Run(
        source=f"sha256:{whole.hexdigest()}", epoch=EPOCH, rules_version=rules.version,
        layer=rules.meter.layer, at=rules.meter.at, program=f"tollsplit {__version__}",
        captures=tuple(digests),
        sponsor_accounts={name: sponsor.account for name, sponsor in rules.sponsors.items()})


def _is_stream(name: str) -> bool:
    if name == "-":
        return True
    try:
        mode = os.stat(name).st_mode
    except OSError:
        return False  # open_capture says it better
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def _copied(name: str) -> Iterator[str]:
    """A stream as a temporary file."""
    if name == "-" and sys.stdin.isatty():
        raise CaptureError("standard input is a terminal: expected a capture; redirect one to it")
    with tempfile.NamedTemporaryFile(prefix="tollsplit-") as copy, ExitStack() as stack:
        try:
            stream = cast(BinaryIO, sys.stdin.buffer) if name == "-" else stack.enter_context(
                open(name, "rb"))
            shutil.copyfileobj(stream, copy, COPY_OCTETS)
            copy.flush()
        except OSError as error:
            raise CaptureError(
                f"{name}: cannot be copied to {copy.name}: {error.strerror}; TMPDIR names "
                "another folder") from error
        yield copy.name
