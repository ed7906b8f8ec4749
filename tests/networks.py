"""A NetworkManager without networks: python-dbusmock's, on a message bus of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tollsplit.services.network_manager import NetworkManager

NM = "org.freedesktop.NetworkManager"
MOCK = "org.freedesktop.DBus.Mock"
MAIN = "/org/freedesktop"  # where the template's own calls are
PYTHON = "/usr/bin/python3"  # Debian's, which its dbusmock is for
HOME, OFFICE, OPERATOR, OTHER = "Home", "Office", "Operator", "Other operator"
IMSI, MSISDN = "460001234567890", "8613800000000"


class MockedNetworks:
    """Networks as a test sets them up."""

    def __init__(self, address: str) -> None:
        from jeepney.io.blocking import open_dbus_connection

        self.address = address
        self._managers: list[NetworkManager] = []
        self._bus = open_dbus_connection(address)
        self.uuids = {name: f"00000000-0000-4000-8000-{number:012}" for number, name in
                      enumerate((HOME, OFFICE, OPERATOR, OTHER))}  # fmt: skip

    def call(self, path: str, interface: str, name: str, types: str = "", *values: Any) -> Any:
        import jeepney

        answer = self._bus.send_and_get_reply(jeepney.new_method_call(
            jeepney.DBusAddress(path, NM, interface), name, types or None, values), timeout=10)
        assert answer.header.message_type is jeepney.MessageType.method_return, answer.body
        return answer.body[0] if answer.body else None

    def begin(self) -> None:
        """Two networks that are joined, a modem that could be, and two operators' settings."""
        self.call(MAIN, MOCK, "Reset")
        self.paths = {name: self._connection(name, kind, more) for name, kind, more in (
            (HOME, "802-11-wireless", {}), (OFFICE, "802-3-ethernet", {}),
            (OPERATOR, "gsm", {"sim-operator-id": ("s", "46000")}),
            (OTHER, "gsm", {"sim-operator-id": ("s", "46001")}))}  # fmt: skip
        self.devices = {
            HOME: self.call(MAIN, MOCK, "AddWiFiDevice", "ssi", "wifi", "wlan0", 100),
            OFFICE: self.call(MAIN, MOCK, "AddEthernetDevice", "ssi", "wired", "eth0", 100),
            OPERATOR: self.call(MAIN, MOCK, "AddEthernetDevice", "ssi", "modem", "cdc-wdm0", 30)}
        self.activate(HOME)

    def _connection(self, name: str, kind: str, more: dict[str, Any]) -> str:
        settings = {"connection": {"id": ("s", name), "uuid": ("s", self.uuids[name]),
                                   "type": ("s", kind)}, kind: {"x": ("s", "")} | more}  # fmt: skip
        path: str = self.call("/org/freedesktop/NetworkManager/Settings", f"{NM}.Settings",
                              "AddConnection", "a{sa{sv}}", settings)
        return path

    def activate(self, name: str) -> str:
        path: str = self.call("/org/freedesktop/NetworkManager", NM, "ActivateConnection", "ooo",
                              self.paths[name], self.devices[name], "/")
        return path

    def active(self) -> set[str]:
        """The names of those that are joined."""
        names = {path: name for name, path in self.paths.items()}
        found = self.get("/org/freedesktop/NetworkManager", NM, "ActiveConnections")
        return {names[self.get(path, f"{NM}.Connection.Active", "Connection")] for path in found}

    def get(self, path: str, interface: str, name: str) -> Any:
        return self.call(path, "org.freedesktop.DBus.Properties", "Get", "ss", interface, name)[1]

    def set(self, path: str, interface: str, **values: tuple[str, Any]) -> None:
        self.call(path, MOCK, "UpdateProperties", "sa{sv}", interface, values)

    def extend(self, path: str, interface: str, **values: tuple[str, Any]) -> None:
        self.call(path, MOCK, "AddProperties", "sa{sv}", interface, values)

    def add(self, path: str, interface: str, **values: tuple[str, Any]) -> None:
        self.call(MAIN, MOCK, "AddObject", "ssa{sv}a(ssss)", path, interface, values, [])

    def refuse(self, name: str) -> None:
        """From now on a call of NetworkManager fails."""
        self.call("/org/freedesktop/NetworkManager", MOCK, "AddMethod", "sssss", NM, name,
                  "ooo" if name == "ActivateConnection" else "o", "", 'raise dbus.exceptions.'
                  'DBusException("no", name="org.freedesktop.NetworkManager.Failed")')  # fmt: skip

    def manager(self, kind: type[NetworkManager] | None = None, **more: Any) -> NetworkManager:
        """One that is closed with the test."""
        from tollsplit.services.network_manager import NetworkManager

        self._managers.append((kind or NetworkManager)(self.address, **more))
        return self._managers[-1]

    def close(self) -> None:
        for manager in self._managers:
            manager.close()
        self._bus.close()


@pytest.fixture(scope="session")
def network_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a bus that a mocked NetworkManager is on."""
    if not shutil.which("dbus-daemon"):
        pytest.skip("needs dbus-daemon (Debian: dbus-daemon)")
    if not Path(PYTHON).exists() or subprocess.run(
            [PYTHON, "-c", "import dbusmock"], capture_output=True).returncode:
        pytest.skip("needs python-dbusmock (Debian: python3-dbusmock)")
    # A folder of its own: a socket's path has 107 octets at most.
    home = tmp_path_factory.mktemp("bus")
    daemon = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address=1",
         f"--address=unix:dir={home}"], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    try:
        assert daemon.stdout is not None
        address = daemon.stdout.readline().strip()
        environment = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": address}
        # Debian's Python, without what this one is told of.
        for name in ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME"):
            environment.pop(name, None)
        mock = subprocess.Popen(
            [PYTHON, "-m", "dbusmock", "--system", "--template", "networkmanager"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(address)
            yield address
        finally:
            mock.kill()
            mock.wait()
    finally:
        daemon.kill()
        daemon.wait()
        if daemon.stdout is not None:
            daemon.stdout.close()


def _wait_for(address: str) -> None:
    import time

    from jeepney import DBusAddress, MessageType, new_method_call
    from jeepney.io.blocking import open_dbus_connection

    end = time.monotonic() + 20
    with open_dbus_connection(address) as bus:
        while True:
            answer = bus.send_and_get_reply(new_method_call(
                DBusAddress("/org/freedesktop/NetworkManager", NM, NM), "GetDevices"), timeout=10)
            if answer.header.message_type is MessageType.method_return:
                return
            assert time.monotonic() < end, "the mocked NetworkManager does not start"
            time.sleep(0.02)


@pytest.fixture
def networks(network_bus: str) -> Iterator[MockedNetworks]:
    found = MockedNetworks(network_bus)
    found.begin()
    yield found
    found.close()
