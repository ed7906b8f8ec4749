"""What all services share: signed requests, keys, states, problems."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import msgspec
import pytest
from bookings import MONEY
from databases import Refused
from serving import Served, on_sqlite, problem_of

from tollsplit.ledger import Annex, Transfer
from tollsplit.model import Posting
from tollsplit.services import app, device, resource_register
from tollsplit.services.operation import Call, Operation, Service
from tollsplit.services.problem import (
    EXPIRED,
    NOT_FOUND,
    OVERDRAFT,
    WRONG_STATE,
    Kind,
    Problem,
)
from tollsplit.services.push_payment import wire as push_wire
from tollsplit.services.role import only
from tollsplit.services.sharing import wire as sharing_wire
from tollsplit.services.signature import DeviceKey
from tollsplit.services.states import StateMachine
from tollsplit.services.wire import (
    AccountName,
    Amount,
    Answer,
    Id,
    Line,
    Request,
    Unit,
    new_id,
)

REFUSED = Kind("wrong-word", 403, "That is not the word")
GIFTS = StateMachine(
    "gift", "service_gifts",
    {"offered": ("taken", "expired"), "taken": (), "expired": ()}, fixed=("giver", "amount"),
)  # fmt: skip


class Give(Request):
    amount: Amount


class Take(Request):
    gift: Id
    word: str = "please"


class Look(Request):
    gift: Id


class Gift(Answer):
    gift: str
    state: str


def give(call: Call[Give]) -> Gift:
    row = new_id()
    GIFTS.begin(call.store, row, call.now_ns, 60, giver=call.device.account,
                amount=call.asked.amount)  # fmt: skip
    call.ledger.transfer(Transfer(f"gift {row}", "gift", (
        Posting(call.device.account, MONEY, -call.asked.amount),
        Posting("gifts", MONEY, call.asked.amount))))  # fmt: skip
    call.notify(call.device.id, "gift.offered", Gift(row, "offered"))
    return Gift(row, "offered")


def take(call: Call[Take]) -> Gift | Problem:
    if call.asked.word != "please":
        call.store.write("UPDATE service_gifts SET refusals = refusals + 1 WHERE id = ?",
                         [(call.asked.gift,)])  # fmt: skip
        return REFUSED("say please")
    GIFTS.move(call.store, call.asked.gift, "offered", "taken", call.now_ns)
    return Gift(call.asked.gift, "taken")


def look(call: Call[Look]) -> Gift:
    (state,) = GIFTS.read(call.store, call.asked.gift, call.now_ns)
    return Gift(call.asked.gift, state)


TERMINALS = only("terminal")
GIVE = Operation(
    "gift.give", "POST", "/gifts", "Give", Give, Gift, give, TERMINALS, (OVERDRAFT, NOT_FOUND), 201,
)  # fmt: skip
TAKE = Operation(
    "gift.take", "POST", "/gifts/{gift}/taking", "Take", Take, Gift, take, TERMINALS,
    (REFUSED, NOT_FOUND, EXPIRED, WRONG_STATE),
)  # fmt: skip
LOOK = Operation(
    "gift.look", "GET", "/gifts/{gift}", "Look", Look, Gift, look, TERMINALS, (NOT_FOUND,),
)  # fmt: skip
ANNEX = Annex("gifts", ((
    f"CREATE TABLE service_gifts (id TEXT PRIMARY KEY, {GIFTS.columns}, giver TEXT NOT NULL, "
    "amount BIGINT NOT NULL, refusals BIGINT NOT NULL DEFAULT 0)",
    *GIFTS.guards,
),), (("gifts hold", GIFTS.astray),))  # fmt: skip
SERVICE = Service("gifts", (GIVE, TAKE, LOOK), ANNEX, (GIFTS,))


@pytest.fixture
def gifts(serve: Callable[..., Any]) -> Any:
    with serve((device.SERVICE, SERVICE)) as served:
        def fund(ledger: Any) -> None:
            ledger.open_account("alice", MONEY, "subscriber", floor=0)
            ledger.open_account("gifts", MONEY, "settlement")
            ledger.transfer(Transfer("top-up", "top-up", (
                Posting("alice", MONEY, 100), Posting("gifts", MONEY, -100))))  # fmt: skip

        served.write(fund)
        yield served


def balance(served: Served) -> int:
    return served.read(lambda ledger: ledger.balance("alice", MONEY).balance)  # type: ignore[no-any-return]


def test_services_answer_a_registered_device(gifts: Served) -> None:
    alice = gifts.device()
    assert alice.call(device.MYSELF, device.Myself()).account == "alice"
    gift = alice.call(GIVE, Give(30)).gift
    assert alice.call(LOOK, Look(gift)).state == "offered"
    assert gifts.notices(alice) == [("gift.offered", {"gift": gift, "state": "offered"})]
    assert alice.call(TAKE, Take(gift)).state == "taken"
    assert balance(gifts) == 70


def test_services_refusal_undoes_all_of_a_call(gifts: Served) -> None:
    alice = gifts.device()
    found = problem_of(lambda: alice.call(GIVE, Give(101)))
    assert (found.kind.name, found.kind.status) == ("overdraft", 409)
    assert gifts.database.rows("SELECT count(*) FROM service_gifts") == [(0,)]
    assert gifts.notices(alice) == []


def test_services_returned_refusal_keeps_what_was_written(gifts: Served) -> None:
    alice = gifts.device()
    gift, key = alice.call(GIVE, Give(1)).gift, new_id()
    for _ in range(2):  # the second is the first one's answer
        found = problem_of(lambda: alice.call(TAKE, Take(gift, "now"), key=key))
        assert found.kind.name == "wrong-word"
    assert gifts.database.rows("SELECT refusals FROM service_gifts") == [(1,)]
    assert alice.call(TAKE, Take(gift)).state == "taken"


def test_services_key_has_one_effect(gifts: Served) -> None:
    alice, key = gifts.device(), new_id()
    first = alice.call(GIVE, Give(30), key=key)
    assert alice.call(GIVE, Give(30), key=key) == first
    assert problem_of(lambda: alice.call(GIVE, Give(31), key=key)).kind.name == "key-reused"
    assert balance(gifts) == 70
    other = gifts.device()  # whose key is another, whatever it says
    assert other.call(GIVE, Give(30), key=key) != first
    gifts.clock.forward(37 * 3600)
    gifts.sweep()
    assert gifts.database.rows("SELECT count(*) FROM service_answers") == [(0,)]


def test_services_key_of_a_hundred_at_once_has_one_effect(gifts: Served) -> None:
    alice, key = gifts.device(retries=0), new_id()

    def once(_: int) -> str:
        try:
            return alice.call(GIVE, Give(7), key=key).gift
        except Problem as problem:
            return problem.kind.name

    with ThreadPoolExecutor(32) as pool:
        outcomes = set(pool.map(once, range(100)))
    assert len(outcomes - {"key-in-progress"}) == 1
    assert balance(gifts) == 93


@on_sqlite
def test_services_stored_answer_shows_nothing_to_who_reads_the_database(gifts: Served) -> None:
    alice = gifts.device()
    gift = alice.call(GIVE, Give(1), key="a key of sixteen letters").gift
    rows = str(gifts.database.rows("SELECT * FROM service_answers"))
    assert gift not in rows and "sixteen" not in rows


@on_sqlite
@pytest.mark.parametrize("seconds", [-91, 31])
def test_services_signature_of_another_time_is_refused(gifts: Served, seconds: int) -> None:
    alice = gifts.device()
    alice.clock_ns = lambda: gifts.clock.now_ns + seconds * 10**9
    assert problem_of(lambda: alice.call(GIVE, Give(1))).kind.name == "unsigned"
    alice.clock_ns = lambda: gifts.clock.now_ns + (seconds + (1 if seconds < 0 else -1)) * 10**9
    assert alice.call(GIVE, Give(1)).state == "offered"


def sent(client: Any, request: httpx2.Request) -> tuple[int, str]:
    response = client.http.send(request)
    return response.status_code, response.json().get("type", "")


def test_services_signature_is_good_once(gifts: Served) -> None:
    alice = gifts.device()
    gift = alice.call(GIVE, Give(1)).gift
    for request in (alice.request(GIVE, Give(1)), alice.request(LOOK, Look(gift))):
        assert sent(alice, request)[0] in (200, 201)
        assert sent(alice, request) == (401, "/problems/unsigned")
    assert balance(gifts) == 98


@on_sqlite
def test_services_altered_request_is_refused(gifts: Served) -> None:
    alice = gifts.device()
    requests = [alice.request(GIVE, Give(1)) for _ in range(6)]
    url, headers = requests[0].url, [request.headers for request in requests]
    headers[1]["idempotency-key"] = "another key of 16 letters"
    del headers[2]["signature"]
    headers[3]["signature-input"] = headers[4]["signature-input"]
    del headers[5]["content-digest"]
    body = requests[0].content
    altered = [
        alice.http.build_request("POST", url, content=b'{"amount":2}', headers=headers[0]),
        *(alice.http.build_request("POST", url, content=body, headers=one)
          for one in (headers[1], headers[2], headers[3], headers[5])),
    ]
    for request in altered:
        assert sent(alice, request) == (401, "/problems/unsigned")
    assert balance(gifts) == 100


@on_sqlite
def test_services_unknown_revoked_or_other_device_is_refused(gifts: Served) -> None:
    stranger = gifts.client(DeviceKey.new())
    assert problem_of(lambda: stranger.call(GIVE, Give(1))).kind.name == "unsigned"
    operator, alice = gifts.device("operator", "operator"), gifts.device()
    assert problem_of(lambda: operator.call(GIVE, Give(1))).kind.name == "forbidden"
    operator.call(device.REVOKE, device.Revoke(alice.device))
    assert problem_of(lambda: alice.call(GIVE, Give(1))).kind.name == "unsigned"


@on_sqlite
def test_services_enrolment_lets_one_device_in(gifts: Served) -> None:
    operator = gifts.device("operator", "operator")
    made = operator.call(device.ENROL, device.Enrol("terminal", "bob"))

    def register(key: DeviceKey, signer: DeviceKey) -> device.Registered:
        asked = device.Register(made.token, key.public_key, "bob's")
        return gifts.client(signer).call(device.REGISTER, asked)

    first, second = DeviceKey.new(), DeviceKey.new()
    assert problem_of(lambda: register(first, second)).kind.name == "unsigned"  # not its own key
    assert register(first, first).account == "bob"
    assert problem_of(lambda: register(second, second)).kind.name == "wrong-state"
    late = operator.call(device.ENROL, device.Enrol("terminal", "bob"))
    gifts.clock.forward(24 * 3600)
    made = late
    assert problem_of(lambda: register(second, second)).kind.name == "expired"


@on_sqlite
def test_services_say_what_is_wrong_with_a_request(gifts: Served) -> None:
    alice = gifts.device()

    def post(body: bytes, **headers: str) -> tuple[int, str, str]:
        request = alice.http.build_request(
            "POST", f"{gifts.origin}/gifts", content=body, headers={
                "content-type": "application/json", "idempotency-key": new_id(), **headers,
            })  # fmt: skip
        alice.sign(request, body)
        found = alice.http.send(request).json()
        return found["status"], found["type"], found.get("at", "")

    assert post(b'{"amount":0}') == (422, "/problems/invalid", "$.amount")
    assert post(b'{"amount":1,"more":1}') == (422, "/problems/invalid", "$")
    assert post(b"[]") == (422, "/problems/invalid", "$")
    assert post(b'{"amount":') == (400, "/problems/malformed", "")
    assert post(b'{"amount":1}', **{"idempotency-key": "short"})[0] == 400
    assert post(b'{"amount":1}', **{"content-type": "text/plain"})[0] == 415
    assert post(b" " * 65_537)[0] == 413
    assert post(b'{"amount":1}', host="elsewhere.example")[0] == 400
    for method, path, status in (("GET", "/none", 404), ("PUT", "/gifts", 405)):
        response = alice.http.request(method, gifts.origin + path)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
    assert "not the word (status 403)" in alice.http.get(f"{gifts.origin}/problems/wrong-word").text


@on_sqlite
def test_services_wait_for_a_body_only_so_long(
    gifts: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SERVICE_BODY_S", 0.05)
    host, _, port = gifts.origin.partition("://")[2].rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(f"POST /gifts HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: "
                           "application/json\r\nContent-Length: 9\r\n\r\n{".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("unseen", ["\n", "\x00", "\u061c", "\u200b", "\u2028", "\u202e", "\ufeff"])
def test_services_names_are_what_they_look_like(unseen: str) -> None:
    """Who sees a name, sees all of it."""
    for kind, text in ((Line, "shop"), (AccountName, "alice"), (Id, "x"), (Unit, "octet"),
                       (resource_register.Name, "chess"), (resource_register.Digest, "0" * 64),
                       (push_wire.Money, MONEY), (push_wire.Words, "Two novels"),
                       (sharing_wire.Sealed, "0" * 96)):  # fmt: skip
        assert msgspec.convert(text, kind) == text
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(text + unseen, kind)


def test_services_states_expire_and_stay(gifts: Served) -> None:
    alice = gifts.device()
    taken, late = (alice.call(GIVE, Give(1)).gift for _ in range(2))
    alice.call(TAKE, Take(taken))
    found = problem_of(lambda: alice.call(TAKE, Take(taken)))
    assert (found.kind.name, found.extensions["state"]) == ("wrong-state", "taken")
    assert problem_of(lambda: alice.call(TAKE, Take("none"))).kind.name == "not-found"
    gifts.clock.forward(60)
    assert alice.call(LOOK, Look(late)).state == "expired"  # before anybody has swept
    assert problem_of(lambda: alice.call(TAKE, Take(late))).kind.name == "expired"
    gifts.sweep()
    assert sorted(gifts.database.rows("SELECT state FROM service_gifts")) == [
        ("expired",), ("taken",)]
    for statement in (
        "UPDATE service_gifts SET state = 'offered'", "DELETE FROM service_gifts",
        "UPDATE service_gifts SET amount = 5",
    ):  # fmt: skip
        with pytest.raises(Refused):
            gifts.database.rows(statement)
