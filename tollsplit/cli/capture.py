"""`tollsplit capture`: who pays for what passes an interface, while it passes."""

from __future__ import annotations

import os
import pwd
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, TYPE_CHECKING, Any

import click

from .. import __version__
from ..errors import TollsplitError, UsageError
from .broker import publisher
from .ipfix import Export, write_reports
from .output import USAGE_FORMATS, Output
from .radius import Accounting, Server

if TYPE_CHECKING:
    from ..capture.recording import Recording
    from ..engine import Usage
    from ..gateway import Gateway
    from ..report import Report
    from ..rules import RuleSet
    from ..snapshot import Notice, Snapshot

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds: "500ms", "30s", "5m", "1h", "1d"."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|[smhd])", str(value))
        if match is None or not float(match[1]):
            self.fail(f'{value!r}: expected a duration such as "500ms", "30s" or "1h"', param, ctx)
        return float(match[1]) * _UNITS_S[match[2]]


@click.command()
@click.argument("interfaces", metavar="INTERFACE...", nargs=-1, required=True)
@click.option("--rules", "rules_path", metavar="FILE", required=True,
              help="The rules file (TOML); SIGHUP reads it again.")
@click.option("--ledger", metavar="URL", help="Book usage and charges: sqlite:///PATH.")
@click.option("--publish", "broker", metavar="URL",
              help="Send usage to a broker instead, for `tollsplit ingest` to book: "
              "nats://HOST:PORT.")
@click.option("--journal", metavar="FOLDER", type=click.Path(path_type=Path),
              help="Where usage is kept until it is booked.  [default: PATH.journal]")
@click.option("--source", metavar="NAME",
              help="Whose records these are.  [default: host and interfaces]")
@click.option("--flush", metavar="TIME", type=Duration(), default="1s", show_default=True,
              help="How often counters are taken into journal, view and metrics.")
@click.option("--duration", metavar="TIME", type=Duration(),
              help="End after so long.  [default: at SIGTERM or SIGINT]")
@click.option("--workers", metavar="N", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Threads that meter; each has a ring on every interface.")
@click.option("--filter", "expression", metavar="EXPRESSION",
              help="See only what a filter passes (pcap syntax); the rest is not accounted for.")
@click.option("--wait", is_flag=True, help="Wait for interfaces that are not there, or down.")
@click.option("--ring", "ring_mib", metavar="MIB", type=click.IntRange(2, 4096), default=64,
              show_default=True, help="Each ring's size.")
@click.option("--snap", "snap_octets", metavar="OCTETS", type=click.IntRange(128, 262144),
              default=2048, show_default=True, help="What is copied of a packet, not billed.")
@click.option("--no-promiscuous", is_flag=True, help="See only what is addressed to this host.")
@click.option("--user", metavar="NAME",
              help="Become NAME once interfaces are open.  [default: who called sudo]")
@click.option("--control", metavar="SOCKET", type=click.Path(path_type=Path),
              help="Where `rules push` is heard.  [default: control, in the journal]")
@click.option("--events", "events_path", metavar="FILE", type=click.Path(path_type=Path),
              help="Append what happens to FILE as JSON lines.")
@click.option("--nft-set", metavar="SET",
              help='Add subscribers whose quota ends to an nftables set: "inet filter exhausted".')
@click.option("--write", "recording_path", metavar="FILE",
              help="Keep what passes in a pcapng file, to be accounted again.")
@click.option("--ipfix", "collector", metavar="URL",
              help="Send usage to a collector as it is booked: udp://HOST:PORT or tcp://HOST:PORT.")
@click.option("--radius", "accounting", metavar="URL",
              help="Report usage to an accounting server as it is booked: radius://HOST:PORT.")
@click.option("--radius-secret", "secret_path", metavar="FILE",
              type=click.Path(path_type=Path), help="What is shared with that server, or that NAS.")
@click.option("--sessions", "sessions_source", metavar="SOURCE",
              help="Learn who holds which address: radius://HOST:PORT listens for a NAS's "
              "accounting, FILE is a directory that is read again when it changes.")
@click.option("--metrics", metavar="ADDRESS", help="Answer Prometheus there: 127.0.0.1:9464.")
@click.option("--trust-ip-length", is_flag=True,
              help="Believe IP lengths beyond the frame's length.")
@click.option("--format", "form", type=click.Choice(USAGE_FORMATS), default="table",
              show_default=True,
              help="How the result is written at the end. Anything but a table keeps all usage of "
              "the run in memory.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path),
              help="Write the result to FILE; it appears only when it is whole.")
@click.option("--top", metavar="N", type=click.IntRange(1), default=20, show_default=True,
              help="How many subscribers view, table and page show.")
def capture(interfaces: tuple[str, ...], rules_path: str, **options: Any) -> int:
    """Meter network interfaces, split their octets between payers, keep the books.

    Every packet that comes in or goes out counts once on each INTERFACE; name one side of a
    gateway, not both. What is counted is in the journal at each flush, and in the ledger when its
    window is over; after a crash the next run books what the journal holds. Needs CAP_NET_RAW.

    \b
    Signals:
      HUP        read the rules again; a broken file leaves those in force
      TERM, INT  count what has passed, close the books, end

    \b
    Exit codes:
      0  ended as asked
      1  failed: the ledger or the journal refuses, the result cannot be written
      2  usage
      3  bad input: rules, or an interface that cannot be captured
      4  the books do not balance

    \b
    Example:
      tollsplit capture eth1 --rules rules.toml --ledger sqlite:///ledger.db
    """
    return _Run(interfaces, rules_path, **options).run()


class _Run:
    """The command's parts, opened in their order: what needs privileges first."""

    def __init__(self, interfaces: tuple[str, ...], rules_path: str, **options: Any) -> None:
        self.interfaces = interfaces
        self.rules_path = rules_path
        self.options = options
        self.recording: Recording | None = None
        if options["broker"] and options["ledger"]:
            raise click.UsageError("--ledger and --publish: usage is booked in one place; leave "
                                   "out one of them")
        self.server = Server.of(options["accounting"], options["secret_path"])
        source = options["sessions_source"] or ""
        self.sessions_source: str | Server = (
            Server.of(source, options["secret_path"]) if source.startswith("radius:") else None
        ) or source

    def run(self) -> int:
        with ExitStack() as stack:
            with _Signals(Path(self.rules_path)) as signals:
                gateway, result = self._capture(stack, signals)
            self._write(result, gateway)
        if self.recording is not None and self.recording.failure:
            raise TollsplitError(self.recording.failure)
        latest = gateway.latest
        return 1 if latest is not None and latest.booking_error else 0

    def _capture(self, stack: ExitStack, signals: _Signals) -> tuple[Gateway, Output]:
        """The whole run, and where its result goes; what stays open until then is on the stack."""
        from ..capture.live import LiveCapture
        from ..capture.packet_socket import RingOptions
        from ..capture.privileges import drop_privileges
        from ..capture.recording import Recording
        from ..gateway import Gateway, Options
        from ..gateway.firewall import Firewall
        from ..limits import RING_BLOCK_OCTETS
        from ..rules import load
        from .happenings import Happenings
        from .sessions import pool_of
        from .view import View

        options = self.options
        rules = load(self.rules_path)
        for warning in rules.warnings:
            click.echo(f"tollsplit: warning: {warning}", err=True)
        if self.sessions_source:
            pool_of(self.sessions_source, rules)
        form = options["form"]
        firewall = None
        if options["nft_set"]:
            firewall = Firewall(options["nft_set"])
            stack.callback(firewall.close)
        user = options["user"] or _caller()
        live: LiveCapture | None = None
        recording = None
        if options["recording_path"]:
            recording = self.recording = Recording(
                options["recording_path"], options["snap_octets"], f"tollsplit {__version__}")
            stack.callback(lambda: recording.close(live.counts() if live else {}))
        live = LiveCapture(
            self.interfaces, workers=options["workers"], expression=options["expression"],
            options=RingOptions(
                blocks=options["ring_mib"] * 1024 * 1024 // RING_BLOCK_OCTETS,
                snap_octets=options["snap_octets"],
                promiscuous=not options["no_promiscuous"]),
            ingresses={ingress.interface: number
                       for number, ingress in enumerate(rules.ingresses.values(), 1)},
            wait=options["wait"], recording=recording)
        stack.callback(live.close)
        gateway: Gateway | None = None
        drop_privileges(user)  # before any thread: capabilities are each thread's own
        _expect_readable()
        if options["metrics"]:
            from .metrics import serve

            stack.enter_context(serve(
                options["metrics"], lambda: gateway.latest if gateway is not None else None))
        result = stack.enter_context(Output(options["output"], form))
        happenings = stack.enter_context(Happenings(options["events_path"], firewall))
        journal, control = self._places()
        view = View()
        asked = Options(
            self.interfaces, options["flush"], options["ledger"], journal, control,
            options["source"], form != "table", options["trust_ip_length"], options["top"],
            view.drawn or bool(options["metrics"] or options["collector"]))
        if options["broker"]:
            asked = replace(asked, publish=publisher(options["broker"], asked.records_source))
        exports = self._exports(
            asked.records_source, lambda notice: gateway.tell(notice) if gateway else None)

        def look(snapshot: Snapshot) -> None:
            view.show(snapshot)
            for export in exports:
                export.look(snapshot)

        def final(usage: Usage, at: str) -> None:
            for export in exports:
                export.offer(usage, at)

        gateway = Gateway(
            live, rules, asked, lost=lambda: _lost(live), told=happenings.tell, look=look,
            recorders=[recording.recorder() for _ in live.lanes] if recording else (),
            final=final)
        stack.callback(gateway.close)
        if self.sessions_source:
            self._learn(stack, rules, gateway)
        click.echo(f"tollsplit: {', '.join(self.interfaces)}: captured from now on, by "
                   f"{self.rules_path} ({rules.version[:19]}…)", err=True)
        with ExitStack() as running:
            running.enter_context(view)
            running.enter_context(happenings.held(view.drawn))
            for export in exports:
                running.enter_context(export.running())
            signals.tell(gateway)
            gateway.run(options["duration"])
        return gateway, result

    def _learn(self, stack: ExitStack, rules: RuleSet, gateway: Gateway) -> None:
        """From now on learn who holds which address: the rules are read again for each change."""
        from .sessions import sessions

        source = sessions(self.sessions_source, rules,
                          lambda: gateway.reload(Path(self.rules_path)), gateway.tell)
        stack.callback(source.close)
        source.start()

    def _exports(
        self, source: str, told: Callable[[Notice], None]
    ) -> list[Export | Accounting]:
        """Whoever is told of usage beside the ledger."""
        exports: list[Export | Accounting] = []
        if self.options["collector"]:
            exports.append(Export(self.options["collector"], source, told))
        if self.server is not None:
            exports.append(Accounting(self.server, source, told))
        return exports

    def _places(self) -> tuple[Path | None, Path | None]:
        """The journal's folder and the control socket, by default beside the ledger."""
        ledger, journal = self.options["ledger"], self.options["journal"]
        if ledger is None and self.options["broker"] is None:
            if journal is not None:
                raise click.UsageError("--journal is of no use without --ledger or --publish")
            return None, self.options["control"]
        if journal is None and ledger is None:
            raise click.UsageError("--journal FOLDER is needed with --publish: what is not booked "
                                   "yet is kept there")
        if journal is None:
            scheme, _, path = ledger.partition(":///")
            if scheme != "sqlite" or not path:
                raise click.UsageError("--journal FOLDER is needed where the ledger is no file")
            journal = Path(f"{path}.journal")
        journal = Path(journal)
        return journal, self.options["control"] or journal / "control"

    def _write(self, result: Output, gateway: Gateway) -> None:
        form, reports = self.options["form"], gateway.reports
        if form in ("parquet", "html") and len(reports) > 1:
            click.echo("tollsplit: the rules changed meanwhile: the usage under the last "
                       "ones is written", err=True)
        if form == "parquet":
            result.write_binary(reports[-1].to_parquet)
        elif form == "ipfix":
            result.write_binary(lambda stream: write_reports(reports, stream))
        elif form == "html":
            from .report_page import report_page

            result.write(report_page(reports[-1], self.options["top"]))
        elif form == "table":
            from .table import print_snapshot

            latest = gateway.latest
            assert latest is not None
            result.write_text(lambda stream: print_snapshot(latest, stream))
        else:
            result.write_text(lambda stream: _write_reports(reports, form, stream))


def _write_reports(reports: Sequence[Report], form: str, stream: IO[str]) -> None:
    """One document for each version of the rules that was in force."""
    for report in reports:
        if form == "json":
            report.write_json(stream)
        else:
            report.write_csv(stream)


def _lost(live: Any) -> tuple[int, int]:
    lost = live.lost()
    return lost.kernel, lost.interface


def _caller() -> str | None:
    """Who called sudo, where somebody did: the books are to be that user's."""
    caller = os.environ.get("SUDO_USER")
    if os.geteuid() != 0 or not caller:
        return None
    try:
        return caller if pwd.getpwnam(caller).pw_uid else None
    except KeyError:
        return None


def _expect_readable() -> None:
    """Modules are read when they are needed first, by who we are by then."""
    for needed in (os.__file__, __file__):
        if not os.access(needed, os.R_OK):
            raise UsageError(f"the user that capturing goes on as may not read {needed}: expected "
                             "Python and tollsplit where everybody may read, or another --user")


class _Signals:
    """Signals are for the gateway; those that come before there is one it is told of then.

    rules   what SIGHUP has it read again
    """

    def __init__(self, rules: Path) -> None:
        self._rules = rules
        self._gateway: Gateway | None = None
        self._early: set[int] = set()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._heed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def tell(self, gateway: Gateway) -> None:
        """From now on they are the gateway's."""
        self._gateway = gateway
        for number in self._early:
            self._heed(number, None)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self._gateway is not None:
            if number == signal.SIGHUP:
                self._gateway.reload(self._rules)
            else:
                self._gateway.stop(hurry=True)
        elif number in self._early and number != signal.SIGHUP:
            # Something that the start needs may never come, such as the other end of a pipe.
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        else:
            self._early.add(number)
