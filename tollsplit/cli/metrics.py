"""What a live run finds, for Prometheus to scrape."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import TollsplitError, UsageError
from ..model import Volume
from ..report import buckets_of
from ..snapshot import Snapshot

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import CollectorRegistry

    from ..broker.ingest import Figures

LOOPBACK = "127.0.0.1"
EXPECTED = 'expected HOST:PORT ("127.0.0.1:9464", "[::1]:9464") or a port of this machine alone'
# The other parts of `seen`: a bucket's name, and what is in it.
BUCKETS = {
    "metered": "metered, once for each subscriber that they belong to",
    "metered_twice": "between two subscribers, so that they are metered for both",
    "unattributed": "IP with no subscriber at either end",
    "non_ip": "no IP",
    "control": "a tunnel's own signalling",
    "duplicate": "seen before",
    "retransmitted": "sent before, with the same content",
}


@contextmanager
def serve(address: str, latest: Callable[[], Snapshot | None]) -> Iterator[str]:
    """Answer scrapes on an address while the context is open. Gives the address bound.

    address   HOST:PORT, an IPv6 host in brackets; a port alone is on loopback, port 0 is any
    latest    called in a thread of the server, once a scrape; None: nothing was found yet, and
              the answer has the process's own metrics only

    No metric names a subscriber. Each would make as many time series as there are subscribers,
    which grow without bound, and would tell whoever scrapes who they are. The heaviest are in the
    view, all of them in the books.

    Raises UsageError for an address that is none, or without prometheus_client; TollsplitError
    where the address cannot be listened on.
    """
    with serve_registry(address, lambda: registry(latest)) as bound:
        yield bound


@contextmanager
def serve_registry(address: str, make: Callable[[], CollectorRegistry]) -> Iterator[str]:
    """Answer scrapes from a registry; the rest as `serve`."""
    host, port = parse_address(address)
    try:
        from prometheus_client import start_http_server
    except ImportError as error:
        raise UsageError("metrics: prometheus_client is not installed; "
                         "pip install 'tollsplit[metrics]'") from error
    try:
        server, thread = start_http_server(port, host, make())
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f'address "{address}": no such host: {EXPECTED}') from error
    except OSError as error:
        raise TollsplitError(
            f'address "{address}": cannot be listened on: {error.strerror}') from error
    try:
        yield f"[{host}]:{server.server_port}" if ":" in host else f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of an address; without a host, loopback.

    Raises UsageError.
    """
    host, _, port = address.rpartition(":")
    bare = host.startswith("[") and host.endswith("]")
    if bare:
        host = host[1:-1]
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else -1
    if not 0 <= number <= 65_535 or bare != (":" in host) or host != host.strip():
        raise UsageError(f'address "{address}": {EXPECTED}')
    return host or LOOPBACK, number


def registry(latest: Callable[[], Snapshot | None]) -> CollectorRegistry:
    """A registry of the latest snapshot's metrics and the process's own."""
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.registry import Collector

    class Latest(Collector):
        def collect(self) -> Iterable[Metric]:
            snapshot = latest()
            return () if snapshot is None else families(snapshot)

    found = CollectorRegistry()
    found.register(Latest())
    ProcessCollector(registry=found)
    return found


def families(now: Snapshot) -> Iterator[Metric]:
    """Every family of metrics of one snapshot."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    def counter(name: str, text: str, value: int) -> Metric:
        return CounterMetricFamily(f"tollsplit_{name}", text, value=value)

    def gauge(name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"tollsplit_{name}", text, value=value)

    def counters(
        name: str, text: str, labels: tuple[str, ...], values: dict[tuple[str, ...], int]
    ) -> Metric:
        family = CounterMetricFamily(f"tollsplit_{name}", text, labels=labels)
        for of, value in values.items():
            family.add_metric(of, value)
        return family

    def volumes(name: str, text: str, volume: Volume) -> Iterator[Metric]:
        yield counter(f"{name}_packets", f"Packets {text}.", volume.packets)
        yield counter(f"{name}_octets", f"Octets {text}, of the metered layer.", volume.octets)

    def kinds(
        name: str, text: str, label: str, volumes: dict[str, Volume]
    ) -> Iterator[Metric]:
        for unit in ("packets", "octets"):
            yield counters(f"{name}_{unit}", f"{unit.capitalize()} {text}.", (label,), {
                (kind,): getattr(volume, unit) for kind, volume in sorted(volumes.items())})

    yield InfoMetricFamily("tollsplit_build", "Which program counts, by which rules.",
                           value={"version": __version__, "rules_version": now.rules_version})
    yield gauge("snapshot_timestamp_seconds",
                "When these figures were taken, in seconds since 1970-01-01 UTC.",
                now.taken_at_ns / 1e9)
    yield from volumes("seen", "seen, those of every bucket", now.seen)
    for bucket in buckets_of(now):
        if bucket.name in BUCKETS:
            yield from volumes(bucket.name, BUCKETS[bucket.name], bucket.volume)
    yield from kinds("fault", "of frames that cannot be understood", "kind", now.faults)
    yield from volumes("coalesced", "that segmentation offload had joined, metered as captured",
                       now.coalesced)
    yield from volumes("mismatch", "that claim a sponsor whom their server contradicts",
                       now.mismatch)
    yield from volumes("overlapping", "fragments of what their datagram had already",
                       now.overlapping)
    yield from volumes("untracked", "that are metered without state, for want of room",
                       now.untracked)
    yield from volumes("suspicious", "sent again with other content", now.suspicious)
    yield from volumes("unsolicited", "to subscribers who said nothing in their flows",
                       now.unsolicited)
    yield from kinds("refused_token", "with a token that opens nothing", "reason",
                     now.refused_tokens)
    yield counter("tunnel_overhead_octets", "Octets of tunnels' own headers, on no bill.",
                  now.tunnel_overhead_octets)
    yield counters("paid_octets", "Octets metered, by who pays for them.", ("payer", "sponsor"),
                   {("subscriber", ""): now.subscriber_octets,
                    **{("sponsor", name): octets for name, octets in now.sponsor_octets.items()}})
    yield counters("lost_packets", "Packets that were never seen: no room in a ring of the "
                   "kernel, or given up by the interface.", ("place",),
                   {("kernel",): now.lost_kernel, ("interface",): now.lost_interface})
    yield gauge("identity_holds", "1 where the buckets add up to what was seen and the payers to "
                "what was metered, in whole numbers; 0 where they do not.", now.identity_holds)
    yield gauge("subscribers", "Subscribers with traffic in the open window.", now.subscribers)
    yield counter("booked_records", "Usage records that the ledger took.", now.booked_records)
    yield gauge("unbooked_batches", "Batches of the journal that are not in the ledger yet.",
                now.unbooked_batches)
    yield gauge("unbooked_octets", "Octets of disk that those batches take.",
                now.unbooked_records_octets)
    yield gauge("unflushed_octets", "Octets metered that are not in the journal yet: what a power "
                "cut would lose.", now.unflushed_octets)
    yield gauge("booking_failed", "1 where the ledger, or the way there, takes nothing at present.",
                now.booking_error is not None)
    yield counters("events", "Events raised.", ("kind",),
                   {(kind,): count for kind, count in sorted(now.events.items())})


def ingest_registry(figures: Figures) -> CollectorRegistry:
    """A registry of what an ingester has done, and of its process."""
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector

    class Done(Collector):
        def collect(self) -> Iterable[Metric]:
            batches = CounterMetricFamily(
                "tollsplit_ingest_batches", "Batches by what became of them.", labels=("what",))
            for what in ("batches", "known", "refused"):
                batches.add_metric(
                    ("booked" if what == "batches" else what,), getattr(figures, what))
            yield batches
            for name in ("records", "events"):
                yield CounterMetricFamily(
                    f"tollsplit_ingest_{name}", f"{name.capitalize()} that are in the ledger.",
                    value=getattr(figures, name))
            yield GaugeMetricFamily(
                "tollsplit_ingest_waiting", "Batches that the broker has not handed out yet.",
                value=figures.waiting)
            yield GaugeMetricFamily(
                "tollsplit_ingest_failing", "1 where broker or ledger is away, 0 where not.",
                value=figures.trouble is not None)

    found = CollectorRegistry()
    found.register(Done())
    ProcessCollector(registry=found)
    return found
