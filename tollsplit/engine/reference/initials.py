"""What a client's QUIC Initial packets say: the slow counterpart of the core's reader."""

from __future__ import annotations

from dataclasses import dataclass, field

from tollsplit.engine.reference import hello
from tollsplit.engine.reference.hello import Octets
from tollsplit.engine.reference.packet import Segment
from tollsplit.limits import QUIC_CRYPTO_OCTETS_MAX, QUIC_PACKETS_MAX
from tollsplit.rules.seal import VERSIONS, Seal

DATAGRAM_OCTETS_MIN = 1200
KINDS = {1: ("initial", "early", "handshake", "retry"),
         0x6B3343CF: ("retry", "initial", "early", "handshake")}  # fmt: skip


@dataclass
class Initials:
    """The datagrams of a flow's uplink, until its name is known or will not be.

    As Uplink, so that flows need not know which of the two they have.
    """

    seal: Seal
    first: int | None = None  # of TCP alone
    kept: dict[int, int] | None = None  # the handshake's octets by place
    told: bool = False
    contradicted: bool = False  # of TCP alone
    connection: bytes | None = None  # the number that opened the first packet
    tried: int = 0
    met: dict[int, int] = field(default_factory=dict)

    def hear(self, segment: Segment, _: int) -> hello.Hello | None:
        """The hello that a datagram completes."""
        datagram = segment.captured
        try:
            found = self.read(datagram)
        except hello.More:
            self.kept = self.met
            if self.tried >= QUIC_PACKETS_MAX:
                self.hush()
            return None
        except ValueError:
            found = None
        self.kept, self.told = None, True
        return found

    def read(self, datagram: bytes) -> hello.Hello | None:
        """The hello, with what a datagram adds to it. Raises ValueError, and More."""
        expected = ("initial", "early") if self.kept is None else KINDS[1]
        full = len(datagram) >= DATAGRAM_OCTETS_MIN
        if kind_of(datagram) not in expected or (self.kept is None and not full):
            raise ValueError("no packet of a handshake")
        self.open_all(datagram if full else b"")
        count = 0
        while count in self.met:
            count += 1
        return hello.of_message(bytes(self.met[place] for place in range(count)))

    def open_all(self, datagram: bytes) -> None:
        """Open a datagram's packets one after the other. Raises ValueError where none may be."""
        left = Octets(datagram)
        while left.left:
            before = left.left
            try:
                packet = Packet.take(left)
            except ValueError:
                break
            self.tried += 1
            if self.tried > QUIC_PACKETS_MAX:
                raise ValueError("too many packets")
            if packet.kind == "initial":
                whole = before[: len(before) - len(left.left)]
                plain = self.open(packet, whole)
                if plain is not None:
                    self.gather(Octets(plain))
                if self.connection is None:
                    raise ValueError("no Initial packet")
        if not self.tried:
            raise ValueError("no packet of a handshake")

    def open(self, packet: Packet, whole: bytes) -> bytes | None:
        """A packet's payload by the connection's first number, or the one after a Retry."""
        numbers = [] if self.connection is None else [self.connection]
        if packet.token if numbers else len(packet.to) >= 8:
            numbers.append(packet.to)
        for number in numbers:
            plain = self.seal.open(packet.version, number, whole, len(whole) - packet.sealed)
            if plain is not None:
                self.connection = number
                return plain
        return None

    def gather(self, frames: Octets) -> None:
        """Keep what a payload has of the handshake. Raises ValueError."""
        while frames.left:
            kind = frames.number(1)
            if kind in (0, 1):  # padding, ping
                continue
            if kind in (2, 3):  # an acknowledgment
                skip(frames, 2)
                skip(frames, 2 * varint(frames) + 1 + (3 if kind == 3 else 0))
            elif kind == 6:  # a piece of the handshake
                at = varint(frames)
                for place, octet in enumerate(frames.take(varint(frames)), at):
                    if (place >= QUIC_CRYPTO_OCTETS_MAX
                            or self.met.setdefault(place, octet) != octet):
                        raise ValueError("another handshake")
            elif kind == 28:  # the end
                skip(frames, 2)
                frames.take(varint(frames))
            else:
                raise ValueError("no frame of an Initial packet")

    def watch(self, _: Segment) -> None:
        """Nothing that comes later is compared with a hello."""

    @property
    def listens(self) -> bool:
        """Whether what comes is of use."""
        return not self.told

    def hush(self) -> None:
        """Listen no more."""
        if self.kept is not None:
            self.kept, self.told = None, True


@dataclass
class Packet:
    """A packet with a long header, whose last `sealed` octets begin with its number."""

    kind: str
    version: int
    to: bytes
    token: bytes
    sealed: int

    @classmethod
    def take(cls, datagram: Octets) -> Packet:
        """The next of a datagram's packets. Raises ValueError."""
        kind = kind_of(datagram.left)
        if kind is None or kind == "retry":
            raise ValueError("no packet of a client's handshake")
        datagram.take(1)
        version, to = datagram.number(4), datagram.vector(1).left
        if max(len(to), len(datagram.vector(1).left)) > 20:
            raise ValueError("too long a number")
        token = datagram.take(varint(datagram)) if kind == "initial" else b""
        sealed = len(datagram.take(varint(datagram)))
        if kind == "initial" and sealed < 20:
            raise ValueError("too short to be sealed")
        return cls(kind, version, to, token, sealed)


def kind_of(datagram: bytes) -> str | None:
    """What a datagram's first packet is; None: none of a handshake."""
    version = int.from_bytes(datagram[1:5], "big")
    if len(datagram) < 5 or datagram[0] < 0xC0 or version not in VERSIONS:
        return None
    return KINDS[version][datagram[0] >> 4 & 3]


def varint(octets: Octets) -> int:
    """A number of 1, 2, 4 or 8 octets (RFC 9000 §16). Raises ValueError."""
    first = octets.number(1)
    rest = octets.take(2 ** (first >> 6) - 1)
    return int.from_bytes(bytes([first & 0x3F]) + rest, "big")


def skip(octets: Octets, numbers: int) -> None:
    for _ in range(numbers):
        varint(octets)


def begins(segment: Segment) -> bool:
    """Whether a datagram may be the first of a connection."""
    return (len(segment.captured) >= DATAGRAM_OCTETS_MIN
            and kind_of(segment.captured) in ("initial", "early"))
