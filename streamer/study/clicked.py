"""Who has clicked what: 24 to 48 bytes a user and 8 a pair of user and item, so that millions of users with one click cost little.

A user is found by a 64-bit hash of the id, in a table with open addressing; two ids with one hash would count as one user, which
among 10 million happens with a probability of 3 in a million. A user's items are a chain of pairs, newest first.
"""

import numpy as np

from streamer.core.arrays import I32, U64, Array
from streamer.core.kernel import kernel

FIRST_USERS = 512  # room for so many at first


@kernel
def place_of(keys: U64, key: np.uint64) -> int:
    """Where `key` is among `keys`, whose length is a power of 2, or the free place, with a 0, where it belongs."""
    mask = np.uint64(len(keys) - 1)
    place = key & mask
    while keys[place] != np.uint64(0) and keys[place] != key:
        place = (place + np.uint64(1)) & mask
    return int(place)


@kernel
def move(keys: U64, numbers: I32, larger_keys: U64, larger_numbers: I32) -> None:
    """Write a table of users into a larger one, which is empty."""
    for k in range(len(keys)):
        if keys[k] != np.uint64(0):
            place = place_of(larger_keys, keys[k])
            larger_keys[place], larger_numbers[place] = keys[k], numbers[k]


@kernel
def chain(pairs: I32, newest: int) -> I32:
    """The items of the chain that begins at `newest`; `pairs` (n, 2) are an item and the pair before it, -1 for none."""
    count, at = 0, newest
    while at >= 0:
        count += 1
        at = pairs[at, 1]
    items, at = np.empty(count, dtype=np.int32), newest
    for k in range(count):
        items[k] = pairs[at, 0]
        at = pairs[at, 1]
    return items


class ClickedItems:
    """The distinct items that each user has clicked. Users are numbered from 0 as they come."""

    def __init__(self) -> None:
        self._keys: U64 = np.zeros(2 * FIRST_USERS, dtype=np.uint64)  # 0: free
        self._numbers: I32 = np.zeros(2 * FIRST_USERS, dtype=np.int32)  # of the users at these places
        self._newest: I32 = np.full(FIRST_USERS, -1, dtype=np.int32)  # by user, the user's newest pair
        self._pairs: I32 = np.zeros((FIRST_USERS, 2), dtype=np.int32)  # the item, and the user's pair before
        self._users = self._count = 0

    def number(self, user_id: str) -> int:
        """The number of a user, or of anything else that is told apart by a text; a new one at the first call."""
        key = np.uint64(hash(user_id) & 0xFFFFFFFFFFFFFFFF or 1)
        place = place_of(self._keys, key)
        if not self._keys[place]:
            if self._users == len(self._newest):
                self._newest = _doubled(self._newest, -1)
                keys, numbers = np.zeros(4 * self._users, dtype=np.uint64), np.zeros(4 * self._users, dtype=np.int32)
                move(self._keys, self._numbers, keys, numbers)
                self._keys, self._numbers = keys, numbers
                place = place_of(self._keys, key)
            self._keys[place], self._numbers[place] = key, self._users
            self._users += 1
        return int(self._numbers[place])

    def items(self, user: int) -> I32:
        """The items that the user has clicked, newest first, (n,)."""
        return chain(self._pairs, int(self._newest[user]))

    def add(self, user: int, item: int) -> None:
        """Add an item that the user had not clicked before."""
        if self._count == len(self._pairs):
            self._pairs = _doubled(self._pairs, 0)
        self._pairs[self._count] = item, self._newest[user]
        self._newest[user] = self._count
        self._count += 1


def _doubled(array: Array, fill: int) -> Array:
    return np.concatenate([array, np.full_like(array, fill)])
