"""Shares the event loop: when several connections have something to do, they take turns.

Turns go round by peer and then by the connections of a peer, so that many connections of one peer get no more than one of another. But first
come the connections in good standing: those whose client took an answer of late, whatever its address; then the first turns of new ones;
then all others. So an honest client behind the same proxy as a hostile one hardly waits, and a hostile client cannot come first without
asking for, and reading, what it gets. One turn of a few is for the lower ranks, so that nobody waits for ever.
"""

import asyncio
from collections import OrderedDict
from time import perf_counter
from typing import Protocol

SLICE_S = 0.001  # for how long connections have turns before the loop looks for news
OWED_TURNS = 32  # a client took an answer of late if it had no more turns since then
NEW_TURNS = 4  # a connection is new for so many turns
GOOD, NEW, OTHER = range(3)
ORDERS = [(GOOD, NEW, OTHER)] * 3 + [(NEW, OTHER, GOOD)] + [(GOOD, NEW, OTHER)] * 3 + [(OTHER, NEW, GOOD)]  # by turns


class Client(Protocol):
    """A connection, as `Turns` sees it."""

    turns: int  # it had
    good_until: int  # it is in good standing until it had so many turns

    @property
    def peer(self) -> object:
        """Whose connection it is."""

    def turn(self) -> bool:
        """Do a small piece of work; returns whether there is more."""


class Turns:
    """Gives turns; all in the loop's thread."""

    def __init__(self) -> None:
        self.begun = 0  # requests that have begun and had no step yet: they come before further turns
        self._rings = (_Ring(), _Ring(), _Ring())
        self._called = False
        self._count = 0

    @property
    def crowded(self) -> bool:
        """Whether anybody waits for a turn."""
        return any(ring.peers for ring in self._rings)

    def take(self, client: Client) -> None:
        """Give it a turn: at once when nobody waits, else when it is its turn."""
        if self.crowded or self.begun or self._turn(client):
            self.want(client)

    def want(self, client: Client) -> None:
        """Give it a turn later."""
        self.leave(client)
        self._rings[_rank(client)].add(client)
        self._call()

    def leave(self, client: Client) -> None:
        """It needs no turn any more."""
        for ring in self._rings:
            ring.discard(client)

    def _call(self) -> None:
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._called = False
        until = perf_counter() + SLICE_S
        while self.crowded and not self.begun and perf_counter() < until:
            self._count += 1
            order = ORDERS[self._count % len(ORDERS)]
            client = next(self._rings[rank] for rank in order if self._rings[rank].peers).next()
            if self._turn(client):
                self.want(client)
        if self.crowded:
            self._call()

    def _turn(self, client: Client) -> bool:
        client.turns += 1
        return client.turn()


def _rank(client: Client) -> int:
    return GOOD if client.turns < client.good_until else NEW if client.turns < NEW_TURNS else OTHER


class _Ring:
    """Connections that wait, by peer, in the order in which they have turns."""

    def __init__(self) -> None:
        self.peers: OrderedDict[object, OrderedDict[Client, None]] = OrderedDict()

    def add(self, client: Client) -> None:
        self.peers.setdefault(client.peer, OrderedDict())[client] = None

    def discard(self, client: Client) -> None:
        waiting = self.peers.get(client.peer)
        if waiting is not None:
            waiting.pop(client, None)
            if not waiting:
                del self.peers[client.peer]

    def next(self) -> Client:
        """Take out the first connection of the first peer; the peer goes to the end."""
        peer, waiting = self.peers.popitem(last=False)
        client, _ = waiting.popitem(last=False)
        if waiting:
            self.peers[peer] = waiting
        return client
