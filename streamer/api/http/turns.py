"""Shares the event loop's time: when several connections have something to do, the one that has used least goes first.

First comes the peer that used least, then its connection that used least, so that many connections get no more than one, and an
honest client that shares its address with others is served before those that keep the loop busy.
"""

import asyncio
from time import perf_counter
from typing import Protocol

SLICE_S = 0.001  # for how long connections have turns before the loop looks for news
FADE = 0.7  # of what was used is still counted a second later


class User(Protocol):
    """Whoever uses the loop: `used_s` fades."""

    used_s: float


class Client(User, Protocol):
    """A connection, as `Turns` sees it."""

    @property
    def peer(self) -> User:
        """Whose connection it is."""

    def turn(self) -> bool:
        """Do a small piece of work; returns whether there is more."""


class Turns:
    """Gives turns; all in the loop's thread."""

    def __init__(self) -> None:
        self._waiting: dict[User, set[Client]] = {}
        self._called = False
        self.steps = (
            0  # grows whenever something of ours runs, so that a request sees whether it had the loop for itself
        )

    def take(self, client: Client) -> None:
        """Give it a turn: at once when nobody waits, else when it is its turn."""
        if self._waiting or self._turn(client):
            self.want(client)

    def want(self, client: Client) -> None:
        """Give it a turn later."""
        self._waiting.setdefault(client.peer, set()).add(client)
        self._call()

    @property
    def crowded(self) -> bool:
        """Whether anybody waits for a turn."""
        return bool(self._waiting)

    def leave(self, client: Client) -> None:
        """It needs no turn any more."""
        waiting = self._waiting.get(client.peer)
        if waiting is not None:
            waiting.discard(client)
            if not waiting:
                del self._waiting[client.peer]

    def charge(self, client: Client, seconds: float) -> None:
        """Count what was done for it."""
        client.used_s += seconds
        client.peer.used_s += seconds

    def _call(self) -> None:
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._called = False
        until = perf_counter() + SLICE_S
        while self._waiting and perf_counter() < until:
            peer = min(self._waiting, key=_used)
            client = min(self._waiting[peer], key=_used)
            if not self._turn(client):
                self.leave(client)
        if self._waiting:
            self._call()

    def _turn(self, client: Client) -> bool:
        self.steps += 1
        began = perf_counter()
        more = client.turn()
        self.charge(client, perf_counter() - began)
        return more


def _used(user: User) -> float:
    return user.used_s
