"""What a client's QUIC Initial packets say: the slow counterpart of the core's reader."""

from __future__ import annotations

from dataclasses import dataclass, field

from tollsplit.engine.reference import hello
from tollsplit.engine.reference.hello import Octets
from tollsplit.engine.reference.packet import Segment
from tollsplit.limits import QUIC_AGAIN_MAX, QUIC_CRYPTO_OCTETS_MAX, QUIC_PACKETS_MAX
from tollsplit.rules.seal import VERSIONS, Seal

DATAGRAM_OCTETS_MIN = 1200
FIXED_BIT = 0x40
MINUTE_NS = 60 * 10**9
KINDS = {1: ("initial", "early", "handshake", "retry"),
         0x6B3343CF: ("retry", "initial", "early", "handshake")}  # fmt: skip


@dataclass
class Initials:
    """The datagrams of a flow's uplink: those that say its name, and then say it otherwise.

    As Uplink, so that flows need not know which of the two they have.
    """

    seal: Seal
    first: int | None = None  # of TCP alone
    kept: dict[int, int] | None = None  # the handshake's octets by place
    told: bool = False
    doubted: bool = False  # the names of its connections so far are not believed
    crowded: bool = False  # so many come again that no more are read
    contradicted: bool = False  # of TCP alone
    connection: bytes | None = None  # the number that opened the first packet
    tried: int = 0
    again: tuple[int, int] = (0, 0)  # a minute, and how many came again in it
    met: dict[int, int] = field(default_factory=dict)

    def hear(self, segment: Segment, _: int, now_ns: int) -> hello.Hello | None:
        """The hello that a datagram completes."""
        told, cut = self.told, len(segment.captured) < segment.octets
        if self.doubted and kind_of(segment.captured) is None and not told:
            return None  # of the connection before
        try:
            found = self.read(segment.captured) if not told else self.read_again(
                segment.captured, cut, now_ns)
        except hello.More:
            self.kept, self.told, self.doubted = self.met, False, self.doubted or told
            if self.tried >= QUIC_PACKETS_MAX:
                self.doubt()
            return None
        except ValueError:
            self.doubt()
            return None
        if found is None and not told:
            self.doubt()
        self.told, self.doubted = True, self.doubted and found is None
        return found

    def read(self, datagram: bytes) -> hello.Hello | None:
        """The hello, with what a datagram adds to it. Raises ValueError, and More."""
        expected = ("initial", "early") if self.kept is None else KINDS[1]
        full = len(datagram) >= DATAGRAM_OCTETS_MIN
        if kind_of(datagram) not in expected or (
                self.kept is None and not (full and datagram[0] & FIXED_BIT)):
            raise ValueError("no packet of a handshake")
        self.open_all(datagram if full else b"")
        return hello.of_message(self.whole())

    def read_again(self, datagram: bytes, cut: bool, now_ns: int) -> hello.Hello | None:
        """The hello of another connection; None: none begins. Raises ValueError, and More."""
        if kind_of(datagram) is None or cut:
            raise ValueError("nobody can tell what it is")
        minute, count = now_ns // MINUTE_NS, self.again[1] + 1
        self.again = (minute, count if minute == self.again[0] else 1)
        if self.again[1] > QUIC_AGAIN_MAX:
            self.crowded = True
            raise ValueError("too many")
        if self.kept is None:
            self.connection, self.met = None, {}
        before, self.tried = self.connection, 0
        self.open_all(datagram, complete=True)
        if self.connection == before:
            return None
        found = hello.of_message(self.whole())
        if found is None:
            raise ValueError("another handshake")
        return found

    def whole(self) -> bytes:
        """The handshake's octets from its first on."""
        count = 0
        while count in self.met:
            count += 1
        return bytes(self.met[place] for place in range(count))

    def open_all(self, datagram: bytes, complete: bool = False) -> None:
        """Open a datagram's packets one after the other. Raises ValueError where none may be.

        complete   the connection's hello is known: another one may begin
        """
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
            if packet.kind == "initial" and not packet.sound:
                if self.connection is None and not complete:
                    raise ValueError("no Initial packet")
            elif packet.kind == "initial":
                whole = before[: len(before) - len(left.left)]
                known = self.connection
                plain = self.open(packet, whole)
                if self.connection != known and known is not None and not complete:
                    raise ValueError("two connections at once")
                if self.connection != known:
                    self.met, complete = {}, False
                if plain is None:
                    raise ValueError("nobody can tell what it is")
                self.gather(Octets(plain))
        if not self.tried:
            raise ValueError("no packet of a handshake")

    def open(self, packet: Packet, whole: bytes) -> bytes | None:
        """A packet's payload by the connection's first number, or by its own as another's first."""
        numbers = [] if self.connection is None else [self.connection]
        if len(packet.to) >= 8 and packet.to not in numbers:
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
        """Keep the hello that a datagram has completed, for as long as it may come again."""
        self.kept = self.met

    def listens(self, segment: Segment, named: bool) -> bool:
        """Whether what comes is of use.

        named   the flow has shown a name that a rule asks for
        """
        return not self.told or (named and not self.doubted and may_begin(segment))

    def hush(self) -> None:
        """Listen no more to what is not complete."""
        if self.kept is not None:
            self.kept, self.told = None, True

    def doubt(self) -> None:
        """Believe no name any more."""
        self.kept, self.told, self.doubted = None, True, True


@dataclass
class Packet:
    """A packet with a long header, whose last `sealed` octets begin with its number."""

    kind: str
    version: int
    to: bytes
    sealed: int
    sound: bool  # its lengths are such as a client's have

    @classmethod
    def take(cls, datagram: Octets) -> Packet:
        """The next of a datagram's packets. Raises ValueError."""
        kind = kind_of(datagram.left)
        if kind is None or kind == "retry":
            raise ValueError("no packet of a client's handshake")
        datagram.take(1)
        version, to = datagram.number(4), datagram.vector(1).left
        source = datagram.vector(1).left
        if kind == "initial":
            datagram.take(varint(datagram))
        sealed = len(datagram.take(varint(datagram)))
        sound = sealed >= 20 and max(len(to), len(source)) <= 20
        return cls(kind, version, to, sealed, sound)


def kind_of(datagram: bytes) -> str | None:
    """What a datagram's first packet is; None: none of a handshake."""
    version = int.from_bytes(datagram[1:5], "big")
    if len(datagram) < 5 or datagram[0] < 0x80 or version not in VERSIONS:
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
    return (len(segment.captured) >= DATAGRAM_OCTETS_MIN and bool(segment.captured[0] & FIXED_BIT)
            and kind_of(segment.captured) in ("initial", "early"))


def may_begin(segment: Segment) -> bool:
    """Whether a datagram may begin a connection, wherever in it, or is of an unknown version."""
    if len(segment.captured) < DATAGRAM_OCTETS_MIN or segment.captured[0] < 0x80:
        return False
    if kind_of(segment.captured) is None:
        return True
    left = Octets(segment.captured)
    try:
        while Packet.take(left).kind != "initial":
            pass
    except ValueError:
        return False
    return True
