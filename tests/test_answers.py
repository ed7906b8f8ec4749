"""What is learned of resolvers' answers: who asked, for how long, and how much of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollsplit import limits
from tollsplit.engine.answers import Answers, place_of

SECOND_NS = 1_000_000_000
SERVER = (4, 0xC0000201)
QUESTION = ("client", 40_000, "resolver", 7, 1, b"video.example")


@pytest.fixture
def answers() -> Iterator[Answers]:
    yield Answers()


def learn(answers: Answers, ttl_s: int, now_s: int = 0, name: bytes = b"a", facts: int = 1,
          server: tuple[int, int] = SERVER) -> bool:  # fmt: skip
    answers.ask(QUESTION, now_s * SECOND_NS)
    return answers.answer(QUESTION, name, facts, [(*server, ttl_s)], now_s * SECOND_NS)


def names(answers: Answers, now_s: int, server: tuple[int, int] = SERVER) -> list[bytes]:
    return answers.names(*server, now_s * SECOND_NS)


def test_answers_count_until_their_time_is_over(answers: Answers) -> None:
    assert learn(answers, 60)
    assert names(answers, 60) == [b"a"]
    assert answers.names(*SERVER, 60 * SECOND_NS + 1) == []


def test_answers_nobody_asked_for_count_nothing(answers: Answers) -> None:
    assert not answers.answer(QUESTION, b"a", 1, [(*SERVER, 60)], 0)
    answers.ask(("somebody else", *QUESTION[1:]), 0)
    assert not answers.answer(QUESTION, b"a", 1, [(*SERVER, 60)], 0)
    assert names(answers, 0) == []


def test_answers_to_a_question_come_once_and_in_time(answers: Answers) -> None:
    assert learn(answers, 60)
    assert not answers.answer(QUESTION, b"b", 2, [(*SERVER, 60)], 0)
    answers.ask(QUESTION, 0)
    late_ns = limits.DNS_WAIT_S * SECOND_NS + 1
    assert not answers.answer(QUESTION, b"b", 2, [(*SERVER, 60)], late_ns)
    assert names(answers, 1) == [b"a"]


def test_answers_have_a_least_and_a_longest_time(answers: Answers) -> None:
    learn(answers, 0)
    assert names(answers, limits.DNS_TTL_S_MIN) == [b"a"]
    assert names(answers, limits.DNS_TTL_S_MIN + 1) == []
    learn(answers, 0xFFFFFFFF)
    assert names(answers, limits.DNS_TTL_S_MAX) == [b"a"]
    assert names(answers, limits.DNS_TTL_S_MAX + 1) == []


def test_answers_that_come_again_shorten_nothing(answers: Answers) -> None:
    learn(answers, 300)
    learn(answers, 20, now_s=10, name=b"b")
    assert names(answers, 300) == [b"a"]
    learn(answers, 300, now_s=20, name=b"b")
    assert names(answers, 320) == [b"b"]


def test_answers_keep_a_name_for_whatever_differs_to_the_rules(answers: Answers) -> None:
    learn(answers, 60, name=b"a", facts=1)
    learn(answers, 60, name=b"b", facts=2)
    learn(answers, 60, name=b"c", facts=2)
    assert sorted(names(answers, 0)) in ([b"a", b"b"], [b"a", b"c"])


def test_answers_are_bounded(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_GIVEN_MAX", 3)
    monkeypatch.setattr(limits, "DNS_QUESTIONS_MAX", 3)
    for number in range(5):
        learn(answers, 60, server=(6, number))
    assert [names(answers, 0, (6, number)) for number in range(5)] == [[], [], *[[b"a"]] * 3]
    learn(answers, 60, server=(6, 2))
    learn(answers, 60, server=(6, 9))
    assert [bool(names(answers, 0, (6, number))) for number in (2, 3, 9)] == [True, False, True]
    for number in range(5):
        answers.ask(number, 0)
    assert [answers.answer(n, b"a", 1, [], 0) for n in range(5)] == [False] * 2 + [True] * 3


def test_answers_hint_at_every_address_that_has_a_name(answers: Answers) -> None:
    assert not any(answers.hints)
    learn(answers, 60)
    place = place_of(*SERVER)
    assert answers.hints[place // 8] == 1 << place % 8
    assert sum(octet.bit_count() for octet in answers.hints) == 1


@given(st.sampled_from([4, 6]), st.integers(0, 2**128 - 1))
def test_answers_places_lie_within_the_hints(version: int, number: int) -> None:
    assert 0 <= place_of(version, number) < limits.DNS_HINTS


def test_answers_are_shared_by_threads(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_GIVEN_MAX", 8)
    failures: list[BaseException] = []

    def work(part: int) -> None:
        try:
            for number in range(2_000):
                question = part, number
                answers.ask(question, 0)
                assert answers.answer(question, b"a", part, [(4, number % 11, 60)], 0)
                answers.names(4, number % 11, 0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
