"""The system's networks as NetworkManager has them, over D-Bus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jeepney
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from ..errors import NetworkError
from ..limits import NETWORK_CALL_S, NETWORK_SWITCH_S
from .identifier import Identifier
from .network import Connection

NM = "org.freedesktop.NetworkManager"
MM = "org.freedesktop.ModemManager1"
ROOT = "/org/freedesktop/NetworkManager"
ACTIVE = f"{NM}.Connection.Active"
ACTIVATED = 2  # NMActiveConnectionState
MODEM = 8  # NMDeviceType
NOTHING = "/"
POLL_S = 0.05


class NetworkManager:
    """See `network.Networks`.

    bus   "SYSTEM", or a bus's address
    """

    def __init__(self, bus: str = "SYSTEM") -> None:
        try:
            self._bus: DBusConnection = open_dbus_connection(bus)
        except (OSError, KeyError, ValueError, jeepney.auth.AuthenticationError) as error:
            raise NetworkError(f"D-Bus: {error}; networks are switched through NetworkManager, "
                               "which is reached there") from error

    def close(self) -> None:
        self._bus.close()

    def active(self) -> tuple[Connection, ...]:
        return tuple(self._active())

    def of(self, who: Identifier, name: str | None) -> Connection:
        known = dict(self._known())
        if name is not None:
            found = [c for c in known.values() if name in (c.uuid, c.name)]
        else:
            found = list(dict.fromkeys(self._of(who, known)))
        if len(found) != 1:
            what = f"network {name!r}" if name is not None else f"network for {who}"
            raise NetworkError(
                f"NetworkManager knows {'no' if not found else 'more than one'} {what}; name one "
                f"of: {', '.join(sorted(c.name for c in known.values())) or 'it knows none'}")
        return found[0]

    def activate(self, connection: Connection) -> None:
        path = self._get_by_uuid(connection)
        device = self._device(connection.interface) or NOTHING
        active = self._call(ROOT, NM, "ActivateConnection", "ooo", path, device, NOTHING)
        ends_s = time.monotonic() + NETWORK_SWITCH_S
        # The object is gone where the attempt has failed.
        while (state := self._state(active)) != ACTIVATED:
            if state is None or time.monotonic() > ends_s:
                raise NetworkError(f"network {connection.name}: NetworkManager could not join it")
            time.sleep(POLL_S)

    def deactivate(self, connection: Connection) -> None:
        for path in self._get(ROOT, NM, "ActiveConnections"):
            with suppress(_GoneError):
                if self._get(path, ACTIVE, "Uuid") == connection.uuid:
                    self._call(ROOT, NM, "DeactivateConnection", "o", path)

    # --- what there is ------------------------------------------------------------------

    def _active(self) -> Iterator[Connection]:
        for path in self._get(ROOT, NM, "ActiveConnections"):
            with suppress(_GoneError):  # it may have ended by now
                about = self._all(path, ACTIVE)
                if about["State"] == ACTIVATED and (about["Default"] or about["Default6"]):
                    interfaces = [self._get(device, f"{NM}.Device", "Interface")
                                  for device in about["Devices"]]
                    yield Connection(about["Uuid"], about["Id"], *interfaces[:1])

    def _known(self) -> Iterator[tuple[str, Connection]]:
        """Path → connection, of all that the user has set up."""
        for path in self._call(f"{ROOT}/Settings", f"{NM}.Settings", "ListConnections"):
            with suppress(_GoneError):
                about = self._settings(path)["connection"]
                yield path, Connection(about["uuid"], about["id"],
                                       about.get("interface-name", ""))

    def _of(self, who: Identifier, known: dict[str, Connection]) -> Iterator[Connection]:
        """Whose subscriber the identifier is, as modems, addresses and settings tell."""
        if who.kind == "address":
            for path in self._get(ROOT, NM, "ActiveConnections"):
                with suppress(_GoneError):
                    about = self._all(path, ACTIVE)
                    if who.value in self._addresses(about):
                        yield known[about["Connection"]]
            return
        for device in self._call(ROOT, NM, "GetDevices"):
            about = self._all(device, f"{NM}.Device")
            if about["DeviceType"] == MODEM and self._is_subscriber(about["Udi"], who):
                for path in about["AvailableConnections"][:1]:
                    yield known[path]
                return
        if who.kind == "imsi":
            for path, connection in known.items():
                operator = self._settings(path).get("gsm", {}).get("sim-operator-id")
                if operator and who.value.startswith(operator):
                    yield connection

    def _is_subscriber(self, modem: str, who: Identifier) -> bool:
        """Whether the card in a modem is this subscriber's."""
        with suppress(_GoneError):
            about = self._all(modem, f"{MM}.Modem", MM)
            if who.kind == "msisdn":
                return who.value in [number.lstrip("+") for number in about["OwnNumbers"]]
            return bool(self._get(about["Sim"], f"{MM}.Sim", "Imsi", MM) == who.value)
        return False

    def _addresses(self, active: dict[str, Any]) -> Iterator[str]:
        for version in (4, 6):
            path = active.get(f"Ip{version}Config", NOTHING)
            if path != NOTHING:
                for address in self._get(path, f"{NM}.IP{version}Config", "AddressData"):
                    yield address["address"][1]

    def _state(self, active: str) -> int | None:
        try:
            return int(self._get(active, ACTIVE, "State"))
        except _GoneError:
            return None

    def _get_by_uuid(self, connection: Connection) -> str:
        try:
            return str(self._call(f"{ROOT}/Settings", f"{NM}.Settings", "GetConnectionByUuid", "s",
                                  connection.uuid))
        except _GoneError:
            raise NetworkError(f"network {connection.name}: NetworkManager does not know it any "
                               "more; join one by hand") from None

    def _device(self, interface: str) -> str | None:
        for device in self._call(ROOT, NM, "GetDevices") if interface else ():
            with suppress(_GoneError):
                if self._get(device, f"{NM}.Device", "Interface") == interface:
                    return str(device)
        return None

    # --- D-Bus --------------------------------------------------------------------------

    def _settings(self, path: str) -> dict[str, dict[str, Any]]:
        found = self._call(path, f"{NM}.Settings.Connection", "GetSettings")
        return {group: {key: value for key, (_, value) in keys.items()}
                for group, keys in found.items()}

    def _get(self, path: str, interface: str, name: str, bus_name: str = NM) -> Any:
        address = jeepney.DBusAddress(path, bus_name, interface)
        return self._answer(jeepney.Properties(address).get(name))[1]

    def _all(self, path: str, interface: str, bus_name: str = NM) -> dict[str, Any]:
        address = jeepney.DBusAddress(path, bus_name, interface)
        return {name: value for name, (_, value)
                in self._answer(jeepney.Properties(address).get_all()).items()}

    def _call(self, path: str, interface: str, name: str, types: str = "", *values: Any) -> Any:
        return self._answer(jeepney.new_method_call(
            jeepney.DBusAddress(path, NM, interface), name, types or None, values))

    def _answer(self, message: jeepney.Message) -> Any:
        try:
            answer = self._bus.send_and_get_reply(message, timeout=NETWORK_CALL_S)
        except (OSError, TimeoutError) as error:
            raise NetworkError(f"NetworkManager: no answer on D-Bus: {error}") from error
        if answer.header.message_type is jeepney.MessageType.error:
            name = answer.header.fields[jeepney.HeaderFields.error_name]
            text = f"NetworkManager: {name}: {' '.join(map(str, answer.body))}"
            if name.endswith((".UnknownObject", ".UnknownMethod", ".UnknownConnection",
                              ".UnknownInterface", ".InvalidConnection")):
                raise _GoneError(text)
            raise NetworkError(text)
        return answer.body[0] if answer.body else None


class _GoneError(NetworkError):
    """What was asked about is not there any more."""
