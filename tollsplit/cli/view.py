"""What a live run finds, drawn on a terminal while it goes on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ..model import Volume
from ..report import Bucket, buckets_of
from ..snapshot import Snapshot
from .amount import share, size
from .table import bucket_cells, console, identity_text

RESIZE_S = 0.25  # how soon a terminal of another size has a picture that fits
PATIENCE_S = 1.0  # how long the end waits for a terminal that does not read
GAP = "  "
NUMBER = 15  # columns of a number at least, so that a growing one moves nothing
NAME = 24  # columns of a name, where there is room for two panes
AIRY = 32  # lines from which sections stand apart, and faults by kind
FAULTS = 6  # lines of them there
INTERFACES = 34  # columns for their names
WARNING = "bold red"
HEADING = "bold"
Part = TypeVar("Part")
BITS = ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")


class View:
    """The picture of a live run on standard error, if that is a terminal; elsewhere nothing.

    It is drawn on the terminal's other screen; the first one comes back, whatever ends the view.
    A thread of its own draws. So a terminal that stops reading (Ctrl-S, a slow line) delays the
    picture and nothing else, and one that goes away ends the view and not the run. What others
    write to the terminal meanwhile is drawn over.
    """

    def __init__(self) -> None:
        # Whether it is on a terminal: what others write there meanwhile is drawn over.
        self.drawn = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._latest: Snapshot | None = None
        self._wake = threading.Event()
        self._over = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> View:
        if self.drawn:
            self._thread = threading.Thread(
                target=self._draw, args=(console(sys.stderr),), name="view", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)

    def show(self, snapshot: Snapshot) -> None:
        """Have a snapshot drawn, and return at once; one that was not drawn yet is left out."""
        self._latest = snapshot
        self._wake.set()

    def _draw(self, out: Console) -> None:
        # The result's stream is left alone: rich would send it to the terminal too.
        with suppress(OSError), Live(console=out, screen=True, auto_refresh=False,
                                     redirect_stdout=False, redirect_stderr=False) as live:
            drawn: Snapshot | None = None
            rates, fits = Rates(), out.size
            while not self._over:
                self._wake.wait(RESIZE_S)
                self._wake.clear()
                latest, room = self._latest, out.size
                if latest is None or (latest is drawn and room == fits):
                    continue
                if latest is not drawn:
                    rates = Rates.between(drawn, latest)
                live.update(Group(*picture(latest, rates, room.width, room.height)), refresh=True)
                drawn, fits = latest, room


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a run's sums grow, per second."""

    interval_s: float = 0.0  # 0: no rate is known
    seen: Volume = field(default_factory=Volume)
    metered_octets: int = 0
    subscriber_octets: int = 0
    sponsor_octets: dict[str, int] | None = None

    @classmethod
    def between(cls, before: Snapshot | None, now: Snapshot) -> Rates:
        """What was added from one snapshot to another; None: since the run began."""
        if before is None:
            return cls(max(0.0, now.running_s), now.seen, now.metered.octets,
                       now.subscriber_octets, now.sponsor_octets)
        return cls(
            max(0.0, now.running_s - before.running_s),
            Volume(now.seen.packets - before.seen.packets, now.seen.octets - before.seen.octets),
            now.metered.octets - before.metered.octets,
            now.subscriber_octets - before.subscriber_octets,
            {name: octets - before.sponsor_octets.get(name, 0)
             for name, octets in now.sponsor_octets.items()},
        )

    def packets(self) -> str:
        """Packets seen: "1,234 packets/s"."""
        if not self.interval_s:
            return "- packets/s"
        return f"{self.seen.packets / self.interval_s:,.0f} packets/s"

    def bits(self, octets: int) -> str:
        """A sum's growth in bits: "9.88 Gbit/s"."""
        if not self.interval_s:
            return "- bit/s"
        value = 8 * octets / self.interval_s
        for unit in BITS:
            if abs(value) < 1000 or unit == BITS[-1]:
                break
            value /= 1000
        return f"{value:.0f} {unit}" if unit == BITS[0] else f"{value:.2f} {unit}"


def picture(now: Snapshot, rates: Rates, width: int, height: int) -> list[Text]:
    """The lines of one picture, none wider than `width`, no more than `height`.

    What varies in number (kinds of fault, sponsors, subscribers) is cut to the height. Below 80×24
    the verdict and the books stay, and the tables are cut.
    """
    airy = height >= AIRY
    gap = [Text()] if airy else []
    number = max(NUMBER, *(len(f"{volume.octets:,}") for volume in (now.seen, now.metered)))
    head = [_title(now, width), _pace(now, rates), *gap]
    foot = [*gap, *_flow(_verdict(now), width), *_flow([*_books(now), *_notes(now)], width)]
    room = height - len(head) - len(foot)
    kinds = FAULTS if airy else 1
    left = NAME + 2 * (number + len(GAP))
    if width >= left + 2 * len(GAP) + NAME + 3 * (number + len(GAP)):
        buckets = [_row(cells, left, number, style) for cells, style in _buckets(now, kinds)]
        right = width - left - 2 * len(GAP)
        payers = _payers(now, rates, right, number, room, gap)
        body = [_beside(buckets, payers, line, left) for line in range(max(len(buckets),
                                                                           len(payers)))]
    else:
        body = [_row(cells, width, number, style) for cells, style in _buckets(now, kinds)]
        body += gap
        body += _payers(now, rates, width, number, room - len(body), gap)
    lines = [*head, *body[: max(0, room)], *foot][:height]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _title(now: Snapshot, width: int) -> Text:
    interfaces = Text(_plain(", ".join(now.interfaces)))
    interfaces.truncate(INTERFACES + max(0, width - 80), overflow="ellipsis")
    running = timedelta(seconds=int(now.running_s))
    version = now.rules_version.removeprefix("sha256:")[:8]
    return Text(GAP).join([Text("tollsplit", HEADING), interfaces, Text(f"running {running}"),
                           Text(f"rules {_plain(version)}")])


def _pace(now: Snapshot, rates: Rates) -> Text:
    return Text(GAP.join((rates.packets(), rates.bits(rates.seen.octets),
                          f"metered {rates.bits(rates.metered_octets)}")))


def _buckets(now: Snapshot, kinds: int) -> list[tuple[tuple[str, ...], str]]:
    """The rows of the identity, with their styles; faults in at most `kinds` rows."""
    buckets = [bucket for bucket in buckets_of(now) if not bucket.name.startswith("fault:")
               and (bucket.name != "retransmitted" or bucket.volume.packets)]
    faults = [bucket for bucket in buckets_of(now)
              if bucket.name.startswith("fault:") and bucket.volume.packets]
    faults.sort(key=lambda bucket: -bucket.volume.packets)
    shown, rest = _cut(faults, kinds)
    if rest or not faults:
        left = sum((bucket.volume for bucket in rest), Volume())
        more = "" if not faults else f" of {len(rest)}{' more' * bool(shown)} kinds"
        shown.append(Bucket(f"faults{more}", left))
    return [
        (("bucket", "packets", "octets"), HEADING),
        *((bucket_cells(bucket), "") for bucket in (*buckets, *shown)),
        (bucket_cells(Bucket("seen", now.seen)), HEADING),
    ]


def _payers(
    now: Snapshot, rates: Rates, width: int, number: int, room: int, gap: list[Text]
) -> list[Text]:
    """Who pays, and the open window's heaviest subscribers, in at most `room` lines."""
    sponsors = sorted(now.sponsor_octets.items(), key=lambda item: -item[1])
    lists = room - 4 - len(gap)  # two headings, the subscribers' line, the window's
    shown, rest = _cut(sponsors, max(1, lists // 2, lists - len(now.heaviest)))
    growth = rates.sponsor_octets or {}
    rows = [("subscribers", now.subscriber_octets, rates.subscriber_octets)]
    rows += [(f"sponsor {name}", octets, growth.get(name, 0)) for name, octets in shown]
    if rest:
        rows.append((f"… and {len(rest):,} more sponsors", sum(octets for _, octets in rest),
                     sum(growth.get(name, 0) for name, _ in rest)))
    lines = [_row(("payer", "octets", "share", "rate"), width, number, HEADING)]
    lines += [_row((name, f"{octets:,}", share(octets, now.metered.octets), rates.bits(added)),
                   width, number) for name, octets, added in rows]
    heaviest = now.heaviest[: max(0, room - len(lines) - 2 - len(gap))]
    more = f", and {now.subscribers - len(heaviest):,} more" * (now.subscribers > len(heaviest))
    lines += [*gap, Text(f"{_window(now.window)}: {len(heaviest)} heaviest{more}"),
              _row(("subscriber", "octets", "subscriber pays", "sponsors pay"), width, number,
                   HEADING)]
    for heavy in heaviest:
        held_by = "" if heavy.account == heavy.subscriber else f" ({heavy.account})"
        octets = heavy.uplink_octets + heavy.downlink_octets
        paid = (octets, heavy.subscriber_octets, sum(heavy.sponsor_octets.values()))
        lines.append(_row((heavy.subscriber + held_by, *(f"{part:,}" for part in paid)),
                          width, number))
    return lines


def _verdict(now: Snapshot) -> list[Text]:
    return [
        Text(identity_text(now.identity_holds), "" if now.identity_holds else WARNING),
        Text(f"lost: kernel {now.lost_kernel:,}, interface {now.lost_interface:,}",
             WARNING if now.lost_kernel or now.lost_interface else ""),
    ]


def _books(now: Snapshot) -> list[Text]:
    if not now.has_ledger:
        return [Text("no ledger: nothing is booked")]
    parts = []
    if now.booking_error is not None:
        parts.append(Text(f"nothing is booked: {_plain(now.booking_error)}", WARNING))
    parts.append(Text(f"booked {now.booked_records:,} records"))
    unbooked = f"{now.unbooked_batches:,} batches, {size(now.unbooked_records_octets)} on disk"
    parts.append(Text(f"not yet: {unbooked}"))
    parts.append(Text(f"a power cut would lose {size(now.unflushed_octets)}"))
    return parts


def _notes(now: Snapshot) -> list[Text]:
    """What is seldom, only where there is some."""
    parts = []
    if now.tunnel_overhead_octets:
        parts.append(f"tunnel overhead {size(now.tunnel_overhead_octets)}")
    if now.coalesced.packets:
        parts.append(f"coalesced {now.coalesced.packets:,} packets")
    if now.mismatch.packets:
        parts.append(f"mismatch {now.mismatch.packets:,} packets")
    if now.untracked.packets:
        parts.append(f"untracked {now.untracked.packets:,} packets")
    if now.suspicious.packets:
        parts.append(f"suspicious {now.suspicious.packets:,} packets")
    if now.unsolicited.packets:
        parts.append(f"unsolicited {now.unsolicited.packets:,} packets")
    refused = sum(volume.packets for volume in now.refused_tokens.values())
    if refused:
        parts.append(f"refused tokens {refused:,}")
    counts = ", ".join(f"{_plain(kind)} {count:,}" for kind, count in sorted(now.events.items())
                       if count)
    if counts:
        parts.append(f"events: {counts}")
    return [Text(part) for part in parts]


def _window(window: tuple[int, int] | None) -> str:
    if window is None:
        return "window of all time"
    start, end = (datetime.fromtimestamp(instant // 10**9, UTC) for instant in window)
    clock = "%H:%M:%S" if start.second or end.second else "%H:%M"
    until = f"{end:{clock}}" if start.date() == end.date() else f"{end:%m-%d {clock}}"
    return f"window {start:%Y-%m-%d {clock}}–{until} UTC"


def _cut(rows: Sequence[Part], room: int) -> tuple[list[Part], list[Part]]:
    """What is shown in so many lines, and what is left: its sum takes the last line."""
    shown = len(rows) if len(rows) <= room else max(0, room - 1)
    return list(rows[:shown]), list(rows[shown:])


def _row(cells: Sequence[str], width: int, number: int, style: str = "") -> Text:
    """A name, cut to what is left, and numbers in columns of their own."""
    name, *numbers = cells
    first = Text(_plain(name), style)
    first.truncate(max(1, width - len(numbers) * (number + len(GAP))), overflow="ellipsis",
                   pad=True)
    return first.append("".join(GAP + cell.rjust(number) for cell in numbers), style)


def _beside(left: Sequence[Text], right: Sequence[Text], line: int, width: int) -> Text:
    first, second = (pane[line] if line < len(pane) else Text() for pane in (left, right))
    # Onto an empty line, for what is appended takes over the style of the whole.
    return Text().append(first).append(" " * (width - first.cell_len) + 2 * GAP).append(second)


def _flow(parts: Iterable[Text], width: int) -> list[Text]:
    """Parts one after the other, on as many lines as they need; none is broken."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 2 + part.cell_len <= width:
            lines[-1].append("; ").append(part)
        else:
            lines.append(Text().append(part))
    return lines


def _plain(text: str) -> str:
    """Foreign text on one line, with nothing in it that a terminal obeys."""
    return "".join(char if char.isprintable() else "�" for char in " ".join(text.split()))
