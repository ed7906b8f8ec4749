"""A token opens one flow: what is known to be used, for how long, and how much of it."""

from __future__ import annotations

import os
import threading
import tracemalloc

from tollsplit.limits import TOKEN_LIFETIME_S_MAX
from tollsplit.rules.prefixes import prefix
from tollsplit.tokens.gate import Gate
from tollsplit.tokens.keys import Key, Keys
from tollsplit.tokens.token import Binding
from tollsplit.tokens.used import Used
from tollsplit.tokens.verdict import Refusal, mint

SECOND_NS = 1_000_000_000
NOW_S = 1_800_000_000
NOW_NS = NOW_S * SECOND_NS
VIDEO = Key("video", 1, bytes(range(32)))
MUSIC = Key("music", 1, bytes(range(32, 64)))
HERE, THERE = prefix("10.0.0.7"), prefix("203.0.113.9")
BINDING = Binding(4, HERE.value, 32, THERE.value)


def minted(key: Key = VIDEO, expires_s: int = NOW_S + 300) -> bytes:
    return mint(key, HERE, THERE, expires_s)


def gate(most: int = 100) -> Gate:
    return Gate(Keys([VIDEO, MUSIC]), Used(most))


def test_gate_lets_a_token_through_once() -> None:
    one, token, other = gate(), minted(), minted()
    assert one.admit(token, BINDING, NOW_NS) == "video"
    assert one.admit(token, BINDING, NOW_NS) == Refusal.USED
    assert one.admit(other, BINDING, NOW_NS) == "video"
    assert one.admit(token, BINDING, NOW_NS + 299 * SECOND_NS) == Refusal.USED
    assert one.admit(token, BINDING, NOW_NS + 300 * SECOND_NS) == Refusal.EXPIRED


def test_gate_lets_a_token_through_once_whatever_the_clock_does() -> None:
    """What is forgotten once it has expired stays refused when the clock is set back."""
    one, token = gate(), minted(expires_s=NOW_S + 60)
    assert one.admit(token, BINDING, NOW_NS) == "video"
    later = minted(expires_s=NOW_S + 7200)
    assert one.admit(later, BINDING, NOW_NS + 3600 * SECOND_NS) == "video"
    assert len(one) == 1
    assert one.admit(token, BINDING, NOW_NS) == Refusal.EXPIRED


def test_gate_forgets_what_has_expired() -> None:
    one = gate(most=10**6)
    for minute in range(0, 24 * 60, 5):
        at_s = NOW_S + 60 * minute
        for _ in range(3):
            assert one.admit(minted(expires_s=at_s + 300), BINDING, at_s * SECOND_NS) == "video"
        assert len(one) <= 3 * 3


def test_gate_full_of_one_sponsors_tokens_is_open_for_another() -> None:
    one = gate(most=20)
    found = [one.admit(minted(), BINDING, NOW_NS) for _ in range(12)]
    assert found == ["video"] * 10 + [Refusal.CROWDED] * 2
    assert one.admit(minted(MUSIC), BINDING, NOW_NS) == "music"
    # once they have expired there is room
    later_ns = NOW_NS + 500 * SECOND_NS
    assert one.admit(minted(expires_s=NOW_S + 600), BINDING, later_ns) == "video"


def test_gate_remembers_nothing_of_forged_tokens() -> None:
    one = gate()
    good = minted()
    forged = [good[:-8] + os.urandom(8) for _ in range(2_000)]
    one.admit(forged[0], BINDING, NOW_NS)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        assert all(one.admit(each, BINDING, NOW_NS) == Refusal.WRONG_MAC for each in forged)
        after, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(one) == 0
    assert after - before < 1_000
    assert most - before < 4_000


def test_gate_refused_tokens_that_are_expired_or_early_cost_nothing() -> None:
    one = gate()
    assert one.admit(minted(expires_s=NOW_S), BINDING, NOW_NS) == Refusal.EXPIRED
    late = minted(expires_s=NOW_S + TOKEN_LIFETIME_S_MAX + 1)
    assert one.admit(late, BINDING, NOW_NS) == Refusal.TOO_EARLY
    assert len(one) == 0


def test_gate_lets_one_of_many_threads_through() -> None:
    one, token = gate(), minted()
    found: list[str | Refusal] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        found.extend(one.admit(token, BINDING, NOW_NS) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count("video") == 1
    assert found.count(Refusal.USED) == 8 * 50 - 1


def test_gate_takes_other_keys_at_any_time() -> None:
    one, token = gate(), minted()
    one.keys = Keys([MUSIC])
    assert one.admit(token, BINDING, NOW_NS) == Refusal.UNKNOWN_KEY
    one.keys = Keys([VIDEO])
    assert one.admit(token, BINDING, NOW_NS) == "video"
    one.keys = Keys([VIDEO, MUSIC])
    assert one.admit(token, BINDING, NOW_NS) == Refusal.USED
