"""What clients hold of the server, by connection, peer and in all, and who has to go when that is too much.

A peer is an address, for IPv6 its network of 64 bits. Whoever is over a bound is not asked by name but by size: the peer that holds most loses its
connection that holds most, so that an honest client stays although its address, as a proxy's, is at its bound.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Protocol

from streamer.core.answers import Refusal
from streamer.core.settings import LimitSettings

LOG = logging.getLogger("streamer.api")
LINE_S = 60.0  # between two lines of the log about one peer
PEERS_TOLD = 1_000  # lines about further peers are about all of them together
SAID = {
    Refusal.NOT_ACCEPTED: "connections not accepted",
    Refusal.TOO_MANY_CONNECTIONS: "connections beyond the bound",
    Refusal.TOO_MANY_REQUESTS: "requests refused: too many in hand",
    Refusal.MOST_REQUESTS: "connections with too many requests in hand",
    Refusal.TOO_MANY_BYTES: "connections that hold too many bytes",
    Refusal.ANSWERS_NOT_TAKEN: "connections that did not take their answers",
    Refusal.NO_HEAD: "connections that sent no complete head of a request",
    Refusal.FLOOD: "connections with floods of frames",
    Refusal.TOO_LARGE: "connections with frames or heads that are too large",
    Refusal.PROTOCOL_ERROR: "connections with errors of the protocol",
}


class Holder(Protocol):
    """A connection, as `Bounds` sees it."""

    peer: "Peer"
    requests: int  # in hand
    held_bytes: int
    good_until: int  # 0 while its client took no answer
    since: float  # when it last began or ended a request

    def close(self, why: Refusal) -> None:
        """Close it at once."""


class Peer:
    """What one address holds."""

    __slots__ = ("connections", "held_bytes", "name", "requests")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: set[Holder] = set()
        self.requests = self.held_bytes = 0


class Bounds:
    """Counts, and closes what is over a bound."""

    def __init__(self, limits: LimitSettings, clock: Callable[[], float], refused: Callable[[Refusal], None]) -> None:
        self.limits = limits
        self.peers: dict[str, Peer] = {}
        self.connections = self.requests = self.held_bytes = 0
        self.noted = 0  # what was closed or refused, since the start
        self._clock, self._refused = clock, refused
        self._told: dict[str, float] = {}  # when a line about a peer was written
        self._untold: dict[str, Counter[str]] = {}

    def peer(self, address: str) -> Peer:
        """The peer with this address."""
        name = peer_name(address)
        return self.peers.get(name) or self.peers.setdefault(name, Peer(name))

    def enter(self, one: Holder) -> None:
        """Count a new connection; where there are too many, another one is closed."""
        limits, peer = self.limits, one.peer
        crowd: Peer | None = None
        if len(peer.connections) >= limits.max_peer_connections:
            crowd = peer
        elif self.connections >= limits.max_connections:
            crowd = max(self.peers.values(), key=lambda peer: len(peer.connections))
        if crowd is not None:
            max(crowd.connections, key=_expendable).close(Refusal.TOO_MANY_CONNECTIONS)
        peer.connections.add(one)
        self.connections += 1

    def leave(self, one: Holder) -> None:
        """Forget a connection and what it holds."""
        peer = one.peer
        if one not in peer.connections:
            return
        peer.connections.discard(one)
        self.connections -= 1
        self.count(one, -one.requests)
        self.hold(one, 0)
        if not peer.connections and self.peers.get(peer.name) is peer:
            del self.peers[peer.name]

    def admit(self, one: Holder) -> bool:
        """Whether one more request may be in hand; where there are too many, somebody who has far more makes room."""
        limits, peer = self.limits, one.peer
        crowd: Peer | None = None
        if peer.requests >= limits.max_peer_requests:
            crowd = peer
        elif self.requests >= limits.max_requests:
            crowd = max(self.peers.values(), key=lambda peer: peer.requests)
        if crowd is not None:
            most = max(crowd.connections, key=lambda one: one.requests)
            if most.requests <= one.requests + 1:
                self.note(peer, Refusal.TOO_MANY_REQUESTS)
                return False
            most.close(Refusal.MOST_REQUESTS)
        self.count(one, 1)
        return True

    def count(self, one: Holder, more: int) -> None:
        """`more` requests are in hand, or fewer."""
        one.requests += more
        one.peer.requests += more
        self.requests += more

    def hold(self, one: Holder, held_bytes: int) -> None:
        """Now `held_bytes` are held for a connection; closes it, or whoever holds most, if that is too much."""
        more = held_bytes - one.held_bytes
        one.held_bytes = held_bytes
        one.peer.held_bytes += more
        self.held_bytes += more
        limits = self.limits
        if more <= 0:
            return
        if held_bytes > limits.max_connection_bytes:
            one.close(Refusal.TOO_MANY_BYTES)
        elif one.peer.held_bytes > limits.max_peer_bytes:
            max(one.peer.connections, key=_bytes).close(Refusal.TOO_MANY_BYTES)
        elif self.held_bytes > limits.max_bytes:
            peer = max(self.peers.values(), key=lambda peer: peer.held_bytes)
            max(peer.connections, key=_bytes).close(Refusal.TOO_MANY_BYTES)

    def note(self, peer: Peer, refusal: Refusal, details: str | None = None) -> None:
        """Count it and say it: the first of a peer at once, then one line a minute with counts."""
        self.noted += 1
        self._refused(refusal)
        what = f"{SAID[refusal]} ({details})" if details else SAID[refusal]
        name = peer.name if peer.name in self._untold or len(self._untold) < PEERS_TOLD else "other peers"
        self._untold.setdefault(name, Counter())[what] += 1
        if self._clock() - self._told.get(name, -LINE_S) >= LINE_S:
            self._tell(name)

    def tell(self, all_of_it: bool = False) -> None:
        """Write the lines that are due, or `all_of_it`."""
        now = self._clock()
        for name in [name for name, notes in self._untold.items() if all_of_it or now - self._told[name] >= LINE_S]:
            if self._untold[name]:
                self._tell(name)
            else:
                del self._untold[name], self._told[name]

    def _tell(self, name: str) -> None:
        notes, self._untold[name] = self._untold[name], Counter()
        self._told[name] = self._clock()
        LOG.warning("%s: %s (bounds: docs/endpoint.md)", name, _sentence(notes.items()))


def peer_name(address: str) -> str:
    """Under which name an address is counted: IPv6 hosts have 2**64 addresses each, so their network counts."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 6:
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return f"{found.exploded[:19]}::/64" if not found.is_loopback else str(found)
    return str(found)


def _expendable(one: Holder) -> tuple[int, bool, int, int, float]:
    """Whoever has tens of requests in hand, then took no answer yet, then has most requests, or bytes, or was idle longest."""
    return one.requests // 10, not one.good_until, one.requests, one.held_bytes, -one.since


def _bytes(one: Holder) -> int:
    return one.held_bytes


def _sentence(notes: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(notes))
