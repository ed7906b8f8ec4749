"""How the work is shared out: large files by position, small ones together, flows by address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from tollsplit.capture.piece import cuts
from tollsplit.cluster.job import Job, Part
from tollsplit.engine.pipeline import has_shares
from tollsplit.limits import (
    CLUSTER_FILE_OCTETS,
    CLUSTER_PART_OCTETS,
    CLUSTER_PART_OCTETS_MAX,
    CLUSTER_PART_OCTETS_MIN,
    CLUSTER_PARTS_PER_THREAD,
    WORKERS_MAX,
)
from tollsplit.rules.compile import tracks

Find = Callable[[str, int], list[int]]


def whole(job: Job) -> Part:
    """The one part that is all."""
    return Part(tuple(range(len(job.captures))), _octets(job))


def plan(job: Job, threads: int, find: Find = cuts) -> list[list[Part]]:
    """The parts, in the order in which one machine would come to them.

    Those of a capture that was cut stand together: what they count is good only if all do.

    threads   of all workers
    find      the places (path, octets) where a capture may be cut
    """
    if tracks(job.rules):
        shares = min(threads, WORKERS_MAX) if has_shares(job.rules) else 1
        everything = whole(job)
        each = everything.octets // shares
        return [[Part(everything.captures, each, share=share, shares=shares)]
                for share in range(shares)]
    total = _octets(job)
    # A cut costs a table of counters, a file of its own has nothing to lose.
    turns = min(CLUSTER_PARTS_PER_THREAD, total // (threads * CLUSTER_PART_OCTETS))
    most = _part_octets(total, threads * max(1, turns))
    together = _part_octets(total, threads * CLUSTER_PARTS_PER_THREAD)
    parts: list[list[Part]] = []
    small: list[int] = []
    for number, capture in enumerate(job.captures):
        places = find(capture.path, most) if capture.likeness.octets > most else []
        if places:
            parts += _groups(job, small, together)
            small = []
            ends = [0, *places, capture.likeness.octets]
            parts.append([Part((number,), end - start, start, end)
                          for start, end in pairwise(ends)])
        else:
            small.append(number)
    return parts + _groups(job, small, together)


def _part_octets(total: int, parts: int) -> int:
    """How large so many parts are, within their bounds."""
    return max(CLUSTER_PART_OCTETS_MIN, min(CLUSTER_PART_OCTETS_MAX, -(-total // parts)))


def _groups(job: Job, numbers: Sequence[int], most: int) -> list[list[Part]]:
    """Whole captures, as many together as make a part."""
    groups: list[list[int]] = []
    room = 0
    for number in numbers:
        octets = max(CLUSTER_FILE_OCTETS, job.captures[number].likeness.octets)
        if octets > room:
            groups.append([])
            room = most
        groups[-1].append(number)
        room -= octets
    return [[Part(tuple(group), sum(job.captures[n].likeness.octets for n in group))]
            for group in groups]


def _octets(job: Job) -> int:
    return sum(capture.likeness.octets for capture in job.captures)
