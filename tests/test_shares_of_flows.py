"""Workers who each go through all frames and account their share: the bill is that of one."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fragments import fragment, frame, gtpu
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import Frame
from strategies import examples, ipv4, tcp, udp
from test_flows import DOWN, RULES, UP, bounds, conversations, packet, sticky_rules
from test_fragments import START_NS, few
from test_laws import Pieces
from test_meter import reader_of
from test_reference import assert_same, capture, document, fast

from tollsplit.capture import open_capture
from tollsplit.cext.meter import Meter
from tollsplit.cext.state import KEY_OCTETS, OWN_KEY
from tollsplit.engine import meter, pipeline
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.cells import Cells
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import RuleSet
from tollsplit.tokens.gate import Gate
from tollsplit.tokens.keys import Keys

CLIENTS = range(1000, 1040)


def busy() -> list[Frame]:
    """Packets of many pairs of addresses, tagged late."""
    frames = []
    for turn, dscp in enumerate([0, 0, 46, 0]):
        for client in CLIENTS:
            ends = (f"10.0.{client % 7}.{client % 251}", "203.0.113.5")
            frames.append(packet(ends[:: -1 if turn == 3 else 1], turn + client / 1e4, dscp))
    return frames


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A line for each worker that went through the sources: in which thread."""
    found: list[int] = []
    run = pipeline._run_in_order

    def told(*arguments: Any) -> None:
        found.append(threading.get_ident())
        run(*arguments)

    monkeypatch.setattr(pipeline, "_run_in_order", told)
    return found


# --- whose a frame is ----------------------------------------------------------------------------


def owners(
    frames: list[Frame], shares: int, rules: RuleSet = RULES, key: bytes = OWN_KEY
) -> list[int]:
    """Which share each frame is accounted in: exactly one."""
    compiled, found = Compiled(rules), []
    for each in frames:
        seen = []
        for share in range(shares):
            state = pipeline.state(Bounds(), Gate(Keys()), share, shares, key=key)
            worker = Meter(pipeline.dissection(rules, None, None, False), compiled.classifier,
                           Cells(rules).at, state)
            worker.run(reader_of([each]))
            worker.finish()
            seen.append(worker.seen[0])
        assert sorted(seen) == [0] * (shares - 1) + [1]
        found.append(seen.index(1))
    return found


def test_frames_of_two_ends_are_one_workers() -> None:
    content = udp(1000, 443, bytes(72))
    tunnelled = ipv4(17, udp(2152, 9, bytes(8)), *UP)
    same = [
        packet(UP, 0), packet(DOWN, 0), packet(UP, 0, client=7), packet(UP, 0, port=2152),
        frame(ipv4(6, tcp(1, 2, b""), *UP), START_NS), frame(ipv4(50, bytes(20), *DOWN), START_NS),
        frame(fragment(*UP, 1, 0, content[:40], True), START_NS),
        frame(fragment(*UP, 1, 40, content[40:], False), START_NS),
        frame(gtpu(ipv4(17, udp(1000, 443, bytes(12)), *UP)), START_NS),
        frame(gtpu(ipv4(17, udp(443, 1000, bytes(12)), *DOWN)), START_NS),
        frame(tunnelled, START_NS), packet(UP, 0)._replace(octets=packet(UP, 0).octets[:40]),
    ]
    assert len(set(owners(same, 16))) == 1


def test_frames_of_other_ends_are_shared_out() -> None:
    frames = [packet((f"10.0.0.{n}", UP[1]), 0) for n in range(100)]
    frames += [packet((f"2001:db8::{n:x}", "2001:db8:ffff::5"), 0) for n in range(100)]
    for some in (frames[:100], frames[100:]):
        assert set(owners(some, 3)) == {0, 1, 2}


def test_frames_are_drawn_by_a_key_that_several_processes_have() -> None:
    frames = [packet((f"10.0.{n}.1", UP[1]), 0) for n in range(64)]
    keys = [os.urandom(KEY_OCTETS), os.urandom(KEY_OCTETS)]
    drawn = [owners(frames, 4, key=key) for key in (*keys, keys[0])]
    assert drawn[0] == drawn[2] != drawn[1]
    with pytest.raises(ValueError, match="a key of 8 octets, expected 24"):
        pipeline.state(Bounds(), Gate(Keys()), key=bytes(8))


def test_frames_that_are_no_ip_are_one_workers() -> None:
    arp = Frame(bytes(12) + b"\x08\x06" + bytes(28), START_NS, 60, 1)
    cut = Frame(bytes(10), START_NS, 60, 1)
    for each in (arp, cut):
        assert len(set(owners([each] * 3, 4))) == 1


# --- the bill ------------------------------------------------------------------------------------


@settings(few, max_examples=examples(75))
@given(conversations(), sticky_rules(), bounds, st.sampled_from([1, 1, 3]), st.integers(2, 4))
def test_shares_give_the_reference_engines_bill(
    frames: list[Frame], rules: RuleSet, bounds: Bounds, files: int, workers: int
) -> None:
    assert_same(frames, rules, files=files, bounds=bounds, workers=workers)


def test_workers_each_account_their_share(runs: list[int]) -> None:
    once = document(fast(busy(), RULES))
    runs.clear()
    assert document(fast(busy(), RULES, workers=3)) == once
    assert len(runs) == 3
    runs.clear()
    assert document(fast(busy(), RULES, workers=3, files=2)) == once
    assert len(runs) == 3


@pytest.mark.parametrize("short", [
    {"flows": 39}, {"held": 39}, {"fragments": 0, "datagrams": 1}, {"datagrams": 2}])
def test_workers_leave_it_to_one_where_one_has_no_room(
    runs: list[int], short: dict[str, int]
) -> None:
    """Together they would remember more than one does; their bill would be another."""
    content = udp(1000, 443, bytes(72))
    cut = [frame(fragment(f"10.0.1.{n}", UP[1], n, 0, content[:40], True), START_NS + n)
           for n in range(40)]
    frames = [*cut, *busy()]
    once = document(fast(frames, RULES, bounds=Bounds(**short)))
    runs.clear()
    assert document(fast(frames, RULES, bounds=Bounds(**short), workers=3)) == once
    assert len(runs) == 4
    runs.clear()
    fast(frames, RULES, bounds=Bounds(**dict.fromkeys(short, 1000)), workers=3)
    assert len(runs) == 3


def test_workers_end_early_where_one_has_no_room(runs: list[int]) -> None:
    """A worker looks after each piece, so that little is read in vain."""
    asked: list[Any] = []

    class Asked(Pieces):
        def chunks(self, parallel: bool) -> Iterator[Any]:
            for reader in super().chunks(parallel):
                asked.append(reader)
                yield reader

    meter([Asked(busy(), [40] * 3, RULES)], RULES, workers=2, bounds=Bounds(flows=3))
    assert len(runs) == 3
    assert len(asked) < 3 * 4


def test_workers_leave_it_to_one_where_the_clock_is_set_back(runs: list[int]) -> None:
    """What is known since a time to come keeps others from going, whosever they are."""
    frames = [*busy(), packet(UP, 9_000, 46), packet(UP, 1, client=3), packet(UP, 400, client=3)]
    once = document(fast(frames, RULES))
    runs.clear()
    assert document(fast(frames, RULES, workers=2)) == once
    assert len(runs) == 3


# --- captures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [None, gzip.compress], ids=["mapped", "compressed"])
def test_workers_each_read_a_file(tmp_path: Path, runs: list[int], compress: Any) -> None:
    path = tmp_path / "capture"
    octets = capture(busy())
    path.write_bytes(compress(octets) if compress else octets)
    bills, truncated = [], []
    for workers in (1, 2):
        source = open_capture(path)
        bills.append(document(meter([source], RULES, workers=workers)))
        truncated.append(source.truncated)
    assert bills[0] == bills[1]
    assert truncated == [None, None]
    assert len(runs) == 3


def test_one_worker_reads_a_pipe(tmp_path: Path, runs: list[int]) -> None:
    """It can be read once; the bill is the same."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(capture(busy()),), daemon=True)
    writer.start()
    bill = document(meter([open_capture(path)], RULES, workers=2))
    writer.join(10)
    assert bill == document(fast(busy(), RULES))
    assert len(runs) == 2


def test_workers_tell_of_a_broken_file_what_one_tells(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(capture(busy()) + b"\xff" * 64)
    told = []
    for workers in (1, 3):
        with pytest.raises(Exception, match="block length") as caught:
            meter([open_capture(path)], RULES, workers=workers)
        told.append((type(caught.value), str(caught.value)))
    assert told[0] == told[1]




def test_one_worker_accounts_where_pairs_speak_for_others() -> None:
    """A resolver's answers, and a token's second use."""
    for named in ({"dns": ("video.example",)}, {"token": frozenset({"sponsor:shop"})}):
        match = replace(RULES.rules[0].match, server=None, dscp=None, sticky=False, **named)
        rules = replace(RULES, rules=(replace(RULES.rules[0], match=match),))
        assert not pipeline.has_shares(rules)
    assert pipeline.has_shares(RULES)
