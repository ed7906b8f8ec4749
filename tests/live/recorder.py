"""Runs a live capture's lanes in threads and keeps the frames."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from lab import Lab

from tollsplit.capture.live import LiveCapture
from tollsplit.capture.recording import Recording
from tollsplit.cext.ring import Ring


class Frame(NamedTuple):
    octets: bytes
    timestamp_ns: int
    original_octets: int
    link_type: int
    ingress: int
    segment_octets: int


class Recorder:
    """A capture whose lanes are walked until stop(); then `lanes` has each one's frames.

    recording   each lane's frames are recorded in it, too
    """

    def __init__(self, live: LiveCapture, recording: Recording | None = None) -> None:
        self.live = live
        self._recorders = [recording.recorder() for _ in live.lanes] if recording else []
        self.lanes: list[list[Frame]] = [[] for _ in live.lanes]
        self._threads = [
            threading.Thread(target=self._walk, args=(number,), daemon=True)
            for number in range(len(live.lanes))
        ]
        for thread in self._threads:
            thread.start()

    def _walk(self, number: int) -> None:
        for rings in self.live.lanes[number].turns(0.05):
            for ring in rings:
                self._keep(number, ring)

    def _keep(self, number: int, ring: Ring) -> None:
        while frames := ring.frames(1000):
            self.lanes[number] += map(Frame._make, frames)
            if self._recorders:
                self._recorders[number].interface = ring.interface
                self._recorders[number].record(frames)

    @property
    def frames(self) -> list[Frame]:
        return [frame for lane in self.lanes for frame in lane]

    def stop(self) -> list[Frame]:
        """All frames. The kernel's count says that there are no more."""
        self.live.stop()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a lane did not end"
        counted = self.live.statistics()
        assert counted.packets - counted.drops == len(self.frames)
        assert sum(lane.handed_out for lane in self.live.lanes) == len(self.frames)
        assert sum(lane.faults for lane in self.live.lanes) == 0
        return self.frames


@contextmanager
def recorded(lab: Lab, name: str, *interfaces: str, **options: Any) -> Iterator[Recorder]:
    """A capture inside a namespace, closed at the end."""
    with lab.inside(name):
        live = LiveCapture(interfaces, **options)
    recorder = Recorder(live, options.get("recording"))
    try:
        yield recorder
    finally:
        live.stop()
        for thread in recorder._threads:
            thread.join(10)
        live.close()
