"""The terminal's network: to the operator's for a session, and back, whatever happens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from networks import HOME, IMSI, MSISDN, NM, OFFICE, OPERATOR, OTHER, MockedNetworks

from tollsplit.errors import NetworkError, UsageError
from tollsplit.services import network_manager
from tollsplit.services.identifier import Identifier, identifier
from tollsplit.services.network import Connection, Switch
from tollsplit.services.network_manager import NetworkManager

SUBSCRIBER = identifier(f"imsi:{IMSI}")


def switch(networks: MockedNetworks, folder: Path) -> Switch:
    return Switch(networks.manager(), folder / "network.json")


@pytest.mark.parametrize(("text", "expected"), [
    ("imsi:460001234567890", Identifier("imsi", "460001234567890")),
    ("msisdn:+8613800000000", Identifier("msisdn", "8613800000000")),
    ("address:10.0.0.7", Identifier("address", "10.0.0.7")),
    ("address:2001:DB8::0:1", Identifier("address", "2001:db8::1")),
])  # fmt: skip
def test_identifier_is_spelled_one_way(text: str, expected: Identifier) -> None:
    assert identifier(text) == expected
    assert identifier(str(expected)) == expected


@pytest.mark.parametrize("text", [
    "", "imsi", "imsi:", "imsi:46000x", "imsi:1234567890123456", "imsi:+460001234567890",
    "imsi:٤٦٠٠٠١", "msisdn:12", "address:10.0.0.7/32", "address:home", "sip:alice", "10.0.0.7"])
def test_identifier_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"identifier .*: expected"):
        identifier(text)


def test_switch_joins_the_operators_network_and_returns(
    networks: MockedNetworks, tmp_path: Path
) -> None:
    networks.activate(OFFICE)
    with switch(networks, tmp_path).attached(SUBSCRIBER) as switched:
        assert switched and networks.active() == {OPERATOR}
        noted = json.loads((tmp_path / "network.json").read_text())
        assert [found["name"] for found in noted["before"]] == [HOME, OFFICE]
    assert networks.active() == {HOME, OFFICE}
    assert not (tmp_path / "network.json").exists()
    # each is on its own interface again
    for path in networks.get("/org/freedesktop/NetworkManager", NM, "ActiveConnections"):
        name, devices = (networks.get(path, f"{NM}.Connection.Active", of)
                         for of in ("Id", "Devices"))
        assert devices == [networks.devices[name]]


def test_switch_leaves_a_terminal_alone_that_is_there(
    networks: MockedNetworks, tmp_path: Path
) -> None:
    networks.call("/org/freedesktop/NetworkManager", NM, "DeactivateConnection", "o",
                  networks.get("/org/freedesktop/NetworkManager", NM, "ActiveConnections")[0])
    networks.activate(OPERATOR)
    with switch(networks, tmp_path).attached(SUBSCRIBER) as switched:
        assert not switched and not (tmp_path / "network.json").exists()
    assert networks.active() == {OPERATOR}


def test_switch_leaves_other_networks_where_the_operators_is_joined_beside_them(
    networks: MockedNetworks, tmp_path: Path
) -> None:
    """Traffic would go the other way: it has to be the only one."""
    networks.activate(OPERATOR)
    with switch(networks, tmp_path).attached(SUBSCRIBER) as switched:
        assert switched and networks.active() == {OPERATOR}
    assert networks.active() == {HOME, OPERATOR}


def test_switch_returns_after_an_error(networks: MockedNetworks, tmp_path: Path) -> None:
    with pytest.raises(KeyError), switch(networks, tmp_path).attached(SUBSCRIBER):
        raise KeyError
    assert networks.active() == {HOME}


def test_switch_stays_where_the_operators_network_cannot_be_joined(
    networks: MockedNetworks, tmp_path: Path
) -> None:
    networks.refuse("ActivateConnection")
    with pytest.raises(NetworkError, match="Failed"), \
            switch(networks, tmp_path).attached(SUBSCRIBER):
        pytest.fail("it is not joined")
    assert networks.active() == {HOME}
    assert not (tmp_path / "network.json").exists()


def test_switch_that_takes_too_long_is_given_up(
    networks: MockedNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_manager, "NETWORK_SWITCH_S", 0.1)
    real = NetworkManager._state
    monkeypatch.setattr(NetworkManager, "_state", lambda self, active: min(real(self, active), 1))
    with pytest.raises(NetworkError, match="could not join"), \
            switch(networks, tmp_path).attached(SUBSCRIBER):
        pytest.fail("it is not joined")
    assert networks.active() == {HOME}  # and what was begun is not there later either


def test_switch_whose_way_back_fails_is_restored_later(
    networks: MockedNetworks, tmp_path: Path
) -> None:
    with pytest.raises(NetworkError), switch(networks, tmp_path).attached(SUBSCRIBER):
        paths = networks.paths
        networks.refuse("ActivateConnection")
    assert networks.active() == {OPERATOR} and (tmp_path / "network.json").exists()
    networks.begin()  # NetworkManager starts anew
    assert networks.paths == paths
    networks.activate(OPERATOR)
    assert switch(networks, tmp_path).restore()
    assert networks.active() == {HOME}
    assert not switch(networks, tmp_path).restore()


def test_one_session_at_a_time(networks: MockedNetworks, tmp_path: Path) -> None:
    with switch(networks, tmp_path).attached(SUBSCRIBER):
        for attempt in (switch(networks, tmp_path).restore,
                        switch(networks, tmp_path).attached(SUBSCRIBER).__enter__):
            with pytest.raises(NetworkError, match="a session is open"):
                attempt()
        assert networks.active() == {OPERATOR}
    assert networks.active() == {HOME}


class Killed(NetworkManager):
    """Dies, as by kill -9, just before or after its n-th change."""

    def __init__(self, bus: str, at: int) -> None:
        super().__init__(bus)
        self.left = at

    def change(self, make: Callable[[Connection], None], connection: Connection) -> None:
        self.step()
        make(connection)
        self.step()

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            os._exit(9)

    def activate(self, connection: Connection) -> None:
        self.change(super().activate, connection)

    def deactivate(self, connection: Connection) -> None:
        self.change(super().deactivate, connection)


@pytest.mark.parametrize("at", range(8))
def test_switch_is_restored_after_a_crash_at_any_step(
    networks: MockedNetworks, tmp_path: Path, at: int
) -> None:
    child = os.fork()
    if child == 0:
        with suppress(BaseException), Switch(
                Killed(networks.address, at), tmp_path / "network.json").attached(SUBSCRIBER):
            pass
        os._exit(0)
    _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) == 9
    assert switch(networks, tmp_path).restore()
    assert networks.active() == {HOME}
    assert not list(tmp_path.glob("*.json"))


def test_a_new_session_first_undoes_what_a_crash_left(
    networks: MockedNetworks, tmp_path: Path
) -> None:
    test_switch = Switch(networks.manager(), tmp_path / "network.json")
    child = os.fork()
    if child == 0:
        with suppress(BaseException), Switch(
                Killed(networks.address, 4), tmp_path / "network.json").attached(SUBSCRIBER):
            pass
        os._exit(0)
    os.waitpid(child, 0)
    assert networks.active() == {OPERATOR}
    with test_switch.attached(SUBSCRIBER):
        noted = json.loads((tmp_path / "network.json").read_text())
        assert [found["name"] for found in noted["before"]] == [HOME]
    assert networks.active() == {HOME}


def test_switch_says_what_it_cannot_read(networks: MockedNetworks, tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text('{"before": [')
    with pytest.raises(NetworkError, match="choose the network by hand and remove the file"):
        switch(networks, tmp_path).restore()


# --- which network is the operator's ---------------------------------------------------------


def test_network_of_an_imsi_is_its_operators(networks: MockedNetworks) -> None:
    manager = networks.manager()
    assert manager.of(SUBSCRIBER, None).name == OPERATOR
    assert manager.of(identifier("imsi:460011234567890"), None).name == OTHER
    with pytest.raises(NetworkError, match=r"no network for imsi:310.*; name one of: Home, Office"):
        manager.of(identifier("imsi:310260123456789"), None)


def test_network_of_a_subscriber_is_his_modems(networks: MockedNetworks) -> None:
    modem = "/org/freedesktop/ModemManager1/Modem/0"
    networks.set(networks.devices[OPERATOR], f"{NM}.Device", DeviceType=("u", 8),
                 AvailableConnections=("ao", [networks.paths[OTHER]]))
    networks.extend(networks.devices[OPERATOR], f"{NM}.Device", Udi=("s", modem))
    # The mock has one name on the bus; what is asked is asked of it.
    networks.add(modem, f"{network_manager.MM}.Modem",
                 OwnNumbers=("as", [f"+{MSISDN}"]), Sim=("o", "/sim"))
    networks.add("/sim", f"{network_manager.MM}.Sim", Imsi=("s", IMSI))
    manager = _asking_one_name(networks)
    assert manager.of(identifier(f"msisdn:{MSISDN}"), None).name == OTHER
    assert manager.of(SUBSCRIBER, None).name == OTHER  # the card in the modem comes first
    with pytest.raises(NetworkError, match="no network for msisdn"):
        manager.of(identifier("msisdn:8613900000000"), None)


def _asking_one_name(networks: MockedNetworks) -> NetworkManager:
    class OneName(NetworkManager):
        def _get(self, path: str, interface: str, name: str, bus_name: str = NM) -> object:
            return super()._get(path, interface, name)

        def _all(self, path: str, interface: str, bus_name: str = NM) -> dict[str, object]:
            return super()._all(path, interface)

    return networks.manager(OneName)


def test_network_of_an_address_is_the_one_that_has_it(networks: MockedNetworks) -> None:
    active = networks.activate(OPERATOR)
    networks.add("/config4", f"{NM}.IP4Config", AddressData=("aa{sv}", [
        {"address": ("s", "10.0.0.7"), "prefix": ("u", 32)}]))
    networks.extend(active, f"{NM}.Connection.Active", Ip4Config=("o", "/config4"))
    manager = networks.manager()
    assert manager.of(identifier("address:10.0.0.7"), None).name == OPERATOR
    with pytest.raises(NetworkError, match="no network for address"):
        manager.of(identifier("address:10.0.0.8"), None)


def test_network_is_the_one_that_is_named(networks: MockedNetworks) -> None:
    manager = networks.manager()
    assert manager.of(identifier("msisdn:8613900000000"), OTHER).name == OTHER
    assert manager.of(SUBSCRIBER, networks.uuids[HOME]).name == HOME
    with pytest.raises(NetworkError, match="no network 'Nowhere'"):
        manager.of(SUBSCRIBER, "Nowhere")


def test_no_bus_is_said() -> None:
    with pytest.raises(NetworkError, match="through NetworkManager"):
        NetworkManager("unix:path=/nonexistent")
