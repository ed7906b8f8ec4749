"""Notices: an outbox that loses nothing, and streams that bring it as it comes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from serving import Served, on_sqlite

from tollsplit.services import device, inbox, notice
from tollsplit.services.client import Client, Notice, UnreachableError
from tollsplit.services.operation import Call, Moment, Operation, Service
from tollsplit.services.problem import NOT_FOUND, Problem
from tollsplit.services.role import EVERY
from tollsplit.services.signature import DeviceKey
from tollsplit.services.wire import Answer, Id, Request


class Tell(Request):
    device: Id
    word: str


class Word(Answer):
    word: str


def tell(call: Call[Tell]) -> Word:
    call.notify(call.asked.device, "word", Word(call.asked.word))
    if call.asked.word == "never":
        raise Problem(NOT_FOUND, "undone")
    return Word(call.asked.word)


TELL = Operation("word.tell", "POST", "/words", "Tell", Tell, Word, tell, EVERY, (NOT_FOUND,))


def swept(moment: Moment) -> None:
    for one in device.of_account(moment.store, "alice"):
        moment.notify(one.id, "swept", Word("by itself"))


SERVICES = (device.SERVICE, inbox.SERVICE, Service("words", (TELL,), sweep=swept))


@pytest.fixture
def words(serve: Callable[..., Any]) -> Iterator[Served]:
    with serve(SERVICES) as served:
        yield served


class Listener:
    """A device that listens, on a thread of its own."""

    def __init__(self, client: Client, after: int = 0) -> None:
        self.heard: list[Notice] = []
        self.error: Exception | None = None
        self._changed = threading.Condition()
        self._client, self._after = client, after
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for found in self._client.notices(self._after):
                with self._changed:
                    self.heard.append(found)
                    self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def hears(self, count: int) -> list[str]:
        """The words, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.heard) >= count or self.error, 10)
        return [found.read(Word).word for found in self.heard]


def test_notices_come_as_they_are_booked_and_in_order(words: Served) -> None:
    alice, bob = words.device(), words.device(account="bob")
    bob.call(TELL, Tell(alice.device, "before"))
    listener = Listener(words.client(alice.key))
    assert listener.hears(1) == ["before"]
    with pytest.raises(Problem):
        bob.call(TELL, Tell(alice.device, "never"))
    begun = time.monotonic()
    for number in range(20):
        bob.call(TELL, Tell(alice.device, str(number)))
    assert listener.hears(21) == ["before", *map(str, range(20))]
    assert time.monotonic() - begun < 8  # woken, not looked for
    words.sweep()
    assert listener.hears(22)[-1] == "by itself"
    assert [found.number for found in listener.heard] == list(range(1, 23))
    assert Listener(words.client(alice.key), after=20).hears(2) == ["19", "by itself"]


@on_sqlite
def test_notices_of_others_are_not_told(words: Served) -> None:
    alice, bob = words.device(), words.device(account="bob")
    bob.call(TELL, Tell(alice.device, "for alice"))
    assert bob.call(inbox.LOOK, inbox.Look()).notices == []
    [found] = alice.call(inbox.LOOK, inbox.Look()).notices
    assert (found.number, found.kind, bytes(found.about)) == (1, "word", b'{"word":"for alice"}')
    assert alice.call(inbox.LOOK, inbox.Look(1)).notices == []


@on_sqlite
def test_notices_are_not_streamed_to_strangers(words: Served) -> None:
    stranger = words.client(DeviceKey.new())
    with pytest.raises(Problem, match="No valid signature"):
        next(stranger.notices())
    answer = stranger.http.get(f"{words.origin}/notices/stream")
    assert answer.status_code == 401


@on_sqlite
def test_notices_stream_of_a_revoked_device_ends(words: Served) -> None:
    alice, operator = words.device(), words.device("operator", "operator")
    operator.call(TELL, Tell(alice.device, "one"))
    listener = Listener(words.client(alice.key))
    listener.hears(1)
    operator.call(device.REVOKE, device.Revoke(alice.device))
    operator.call(TELL, Tell(alice.device, "two"))
    listener.hears(2)
    assert isinstance(listener.error, Problem) and listener.error.kind.name == "unsigned"
    assert len(listener.heard) == 1


@on_sqlite
def test_notices_streams_of_one_device_are_bounded(words: Served) -> None:
    alice, bob = words.device(), words.device(account="bob")
    bob.call(TELL, Tell(alice.device, "one"))
    listeners = [Listener(words.client(alice.key)) for _ in range(4)]
    for listener in listeners:
        listener.hears(1)
    fifth = words.client(alice.key)
    request = fifth.http.build_request("GET", f"{words.origin}/notices/stream")
    fifth.sign(request, b"")
    assert fifth.http.send(request).status_code == 429


@on_sqlite
def test_notices_end_with_the_service_at_once(serve: Callable[..., Any]) -> None:
    with serve(SERVICES) as served:
        alice, bob = served.device(), served.device(account="bob")
        bob.call(TELL, Tell(alice.device, "one"))
        quiet = threading.Event()
        client = served.client(alice.key, wait=lambda seconds: quiet.wait() and None)
        assert Listener(client).hears(1) == ["one"]
        begun = time.monotonic()
    assert time.monotonic() - begun < 4
    quiet.set()


def test_notices_are_forgotten_after_a_month_and_numbers_go_on(words: Served) -> None:
    alice, bob = words.device(), words.device(account="bob")
    for word in ("one", "two"):
        bob.call(TELL, Tell(alice.device, word))
    words.clock.forward(31 * 24 * 3600)
    words.write(lambda ledger: notice.forget(ledger.store, words.clock.now_ns))
    bob.call(TELL, Tell(alice.device, "three"))
    told = words.read(lambda ledger: notice.since(ledger.store, alice.device, 0))
    assert [number for number, *_ in told] == [2, 3]


def test_notices_of_a_service_that_never_answers_are_not_waited_for() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        client = Client(f"http://127.0.0.1:{nobody.getsockname()[1]}", DeviceKey.new(),
                        wait=lambda _: None)  # fmt: skip
        with client, pytest.raises(UnreachableError, match="is `tollsplit serve` running there"):
            next(client.notices())
