"""Profiles: what users say of themselves, as learners read it, for the users in memory.

Preferences go by number of category; a name that the catalogue does not know yet waits until it does. A user's attributes
make groups, `["occupation","writer"]`, with numbers by first appearance, kept for ever: 256 of them, 64 an attribute, 8 a user, so
that zip codes leave room for the rest. All of it follows from the profiles, the catalogue and their order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F32, I32
from streamer.core.batch import CATEGORIES, GROUPS, MEMBERSHIPS
from streamer.core.batch import Profiles as Said
from streamer.core.errors import BadState
from streamer.core.events import UserUpdate
from streamer.core.protocols import Row, StateStore
from streamer.stream.catalogue.categories import Categories, stepped

VALUES = 64  # groups of one attribute
_ENCODER, _DECODER = msgspec.json.Encoder(), msgspec.json.Decoder(tuple[str, str])
SLOT_BYTES = 4 * (CATEGORIES + MEMBERSHIPS)


class Profiles:
    """Profiles by user row; protocols.Persistent for the names of groups. The engine's thread writes."""

    def __init__(self, categories: Categories, steps: Mapping[str, float]) -> None:
        """`steps`: attributes that are numbers -> the width of a step; all others are taken as they are."""
        self._categories, self._steps = categories, dict(steps)
        self.group_of: dict[str, int] = {}
        self._values: Counter[str] = Counter()  # groups of each attribute
        self._new = 0  # numbers from here on are not committed
        self._slots: I32 = np.full(0, -1, dtype=np.int32)
        self._preferences: F32 = np.empty((0, CATEGORIES), dtype=np.float32)
        self._groups: I32 = np.empty((0, MEMBERSHIPS), dtype=np.int32)
        self._free: list[int] = []
        self._waiting: dict[int, UserUpdate] = {}  # user rows whose preferences name what is not known
        self._names = 0  # categories when last looked at

    def beside(self) -> "Profiles":
        """Profiles of other rows, with nobody's in them yet, under the same numbers of categories and groups. Only to be read."""
        other = Profiles(self._categories, self._steps)
        other.group_of = dict(self.group_of)
        return other

    @property
    def used_bytes(self) -> int:
        """Of the slots that are taken."""
        return (len(self._preferences) - len(self._free)) * SLOT_BYTES

    def said(self) -> Said:
        """As a batch carries them."""
        return Said(self._slots, self._preferences, self._groups)

    def enrol(self, user: UserUpdate) -> None:
        """Give numbers to the groups that nobody was in before; when the profile arrives, so that the order is the log's."""
        for attribute, name in self._named(user):
            if name not in self.group_of and len(self.group_of) < GROUPS and self._values[attribute] < VALUES:
                self.group_of[name] = len(self.group_of)
                self._values[attribute] += 1

    def read(self, user: UserUpdate | None) -> tuple[dict[int, float], tuple[int, ...]]:
        """The preferences by number, and the groups, ascending. Pure."""
        if user is None:
            return {}, ()
        preferences: dict[int, float] = {}
        for name, value in sorted(user.preferences.items()):
            preferences.update(dict.fromkeys(self._categories.numbers(name), value))
        groups = sorted(self.group_of[name] for _, name in self._named(user) if name in self.group_of)
        return preferences, tuple(groups[:MEMBERSHIPS])

    def of(self, row: int) -> tuple[dict[int, float], tuple[int, ...]]:
        """What `read` said of the user in `row`."""
        slot = self._slots[row] if row < len(self._slots) else -1
        if slot < 0:
            return {}, ()
        preferences, groups = self._preferences[slot], self._groups[slot]
        stated = np.flatnonzero(~np.isnan(preferences))
        numbers = dict(zip(stated.tolist(), preferences[stated].tolist(), strict=True))
        return numbers, tuple(groups[groups >= 0].tolist())

    def put(self, row: int, user: UserUpdate | None) -> None:
        """The profile of the user in `row` now; None: there is none."""
        self.clear([row])
        preferences, groups = self.read(user)
        if user is not None and not all(self._categories.numbers(name) for name in user.preferences):
            self._waiting[row] = user
        if not preferences and not groups:
            return
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._preferences[slot] = np.nan
        self._preferences[slot, list(preferences)] = list(preferences.values())
        self._groups[slot] = -1
        self._groups[slot, : len(groups)] = groups
        self.reserve(row + 1)
        self._slots[row] = slot

    def reserve(self, rows: int) -> None:
        """Make room for user rows, by doubling."""
        if rows > len(self._slots):
            slots = np.full(max(rows, 2 * len(self._slots), 64), -1, dtype=np.int32)
            slots[: len(self._slots)] = self._slots
            self._slots = slots

    def clear(self, rows: Sequence[int]) -> None:
        """Forget the profiles of these rows."""
        for row in rows:
            self._waiting.pop(row, None)
            if row < len(self._slots) and self._slots[row] >= 0:
                self._free.append(int(self._slots[row]))
                self._slots[row] = -1

    def catch_up(self) -> None:
        """The catalogue may know more categories now than it did: hear those who waited for them."""
        if len(self._categories.names) != self._names:
            self._names = len(self._categories.names)
            for row, user in list(self._waiting.items()):
                self.put(row, user)

    def _named(self, user: UserUpdate) -> list[tuple[str, str]]:
        """The user's attributes, and the names of their groups."""
        found = []
        for attribute, value in sorted(user.attributes.items()):
            if value is not None:
                found.append(
                    (attribute, _ENCODER.encode((attribute, stepped(value, self._steps.get(attribute, 0.0)))).decode())
                )
        return found

    def _grow(self) -> None:
        count, more = len(self._preferences), max(16, len(self._preferences))
        preferences = np.full((count + more, CATEGORIES), np.nan, dtype=np.float32)
        groups = np.full((count + more, MEMBERSHIPS), -1, dtype=np.int32)
        preferences[:count], groups[:count] = self._preferences, self._groups
        self._preferences, self._groups = preferences, groups
        self._free.extend(range(count + more - 1, count - 1, -1))

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent; after the categories and the items."""
        stored = sorted((int.from_bytes(value, "little"), key.decode()) for key, value in store.scan("groups"))
        if [number for number, _ in stored] != list(range(len(stored))):
            raise BadState(
                f"the state holds {len(stored)} groups of users, but not one of each number: restore a backup"
            )
        self.group_of = {name: number for number, name in stored}
        self._values = Counter(attribute_of(name)[0] for _, name in stored)
        self._new, self._names = len(stored), len(self._categories.names)

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        new = list(self.group_of.items())[self._new :]
        return [Row("groups", name.encode(), number.to_bytes(4, "little")) for name, number in new]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._new = len(self.group_of)


def attribute_of(group: str) -> tuple[str, str]:
    """The attribute and the value that a group's name stands for."""
    return _DECODER.decode(group)
