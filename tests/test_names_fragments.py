"""Names and connections in fragments, which nobody looks into, but servers put together."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fragments import fragment, frame
from hellos import hello, named, records
from judges import Frame
from test_fragments import paid
from test_names import ACK, CLIENT, HELLO, RULES, SERVER, SYN, octets_of, opening, segment
from test_reference import assert_same

FREE = records(hello(named(b"www.free.example")))


def cut(whole: Frame, number: int, *at: int) -> list[Frame]:
    """A packet's fragments: its content is cut at these octets."""
    content = whole.octets[34:]
    return [frame(fragment(CLIENT, SERVER, number, first, content[first:end], end < len(content),
                           protocol=6), whole.timestamp_ns + n)
            for n, (first, end) in enumerate(pairwise((0, *at, len(content))))]


def answer(at_s: float, at: int = 0, octets: int = 500) -> Frame:
    return segment(at_s, bytes(octets), at, down=True)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["in order", "backwards"])
def test_hello_in_fragments_has_no_name_nor_has_a_decoy(order: list[int]) -> None:
    """What was said in them cannot be compared with what comes in its place."""
    parts = cut(segment(0.3, FREE), 9, 40)
    frames = [*opening(), *(parts[n] for n in order), segment(0.4, HELLO), answer(0.5)]
    assert paid(frames, RULES)[:2] == (0, octets_of(frames))
    assert_same(frames, RULES)


def test_hello_that_is_followed_by_one_in_fragments_has_no_name_any_more() -> None:
    frames = [*opening(), segment(0.3, HELLO), *cut(segment(0.4, FREE), 9, 40), answer(0.5)]
    assert paid(frames, RULES)[:2] == (octets_of(frames[:4]), octets_of(frames[4:]))
    assert_same(frames, RULES)


def test_fragments_after_the_answer_are_the_connections() -> None:
    """A file that is sent up through a narrow tunnel."""
    frames = [*opening(), segment(0.3, HELLO), answer(0.4),
              *cut(segment(0.5, bytes(900), len(HELLO)), 9, 400), answer(0.6, 500)]
    assert paid(frames, RULES)[:2] == (octets_of(frames), 0)
    assert_same(frames, RULES)


@pytest.mark.parametrize("at", [24, 16], ids=["fragments", "fragments without flags"])
def test_connection_that_begins_in_fragments_is_another(at: int) -> None:
    """Its flags are in the first one, or else the server's answer shows it; numbers as before."""
    syn = segment(1, bytes(20), -1, flags=SYN)
    first = [*opening(), segment(0.3, HELLO), answer(0.4)]
    frames = [*first, *cut(syn, 9, at), segment(1.1, at=-1, flags=SYN | ACK, down=True),
              segment(1.2, flags=ACK), segment(1.3, FREE), answer(1.4)]
    assert paid(frames, RULES)[:2] == (octets_of(first), octets_of(frames[len(first):]))
    assert_same(frames, RULES)


def test_connection_goes_on_where_the_servers_first_word_comes_again() -> None:
    """Its SYN was not answered as far as it knows; nothing but that was said."""
    frames = [*opening(), segment(0.3, HELLO), segment(0.4, at=-1, flags=SYN | ACK, down=True),
              answer(0.5)]
    assert paid(frames, RULES)[:2] == (octets_of(frames), 0)
    assert_same(frames, RULES)
