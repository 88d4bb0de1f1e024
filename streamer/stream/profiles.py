"""The profiles of cached users as arrays for the learners.

Preferences are kept by category number. A preference for a category that is not yet in the catalogue waits until it is. A
user's attributes make groups, such as `["occupation","writer"]`, which are numbered by first appearance for ever. There are at
most 256 groups, 64 of one attribute and 8 of one user, so that zip codes leave room for other attributes. All of it is
determined by the profiles, the catalogue and the order of both.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F32, I32
from streamer.core.batch import CATEGORIES, GROUPS, MEMBERSHIPS
from streamer.core.batch import Profiles as ProfileArrays
from streamer.core.errors import BadState
from streamer.core.events import UserUpdate
from streamer.core.protocols import Row, StateStore
from streamer.stream.catalogue.categories import Categories, binned

GROUPS_PER_ATTRIBUTE = 64  # most groups of one attribute
_ENCODER, _DECODER = msgspec.json.Encoder(), msgspec.json.Decoder(tuple[str, str])
SLOT_BYTES = 4 * (CATEGORIES + MEMBERSHIPS)


class Profiles:
    """Profiles by user row; protocols.Persistent for the names of groups. Only the engine's thread writes."""

    def __init__(self, categories: Categories, steps: Mapping[str, float]) -> None:
        """`steps`: numeric attribute -> bin width; each value of another attribute is a group."""
        self._categories, self._steps = categories, dict(steps)
        self.group_of: dict[str, int] = {}
        self._groups_of_attribute: Counter[str] = Counter()  # how many groups each attribute has
        self._committed_groups = 0  # groups with this number or a higher one are not committed
        self._slots: I32 = np.full(0, -1, dtype=np.int32)
        self._preferences: F32 = np.empty((0, CATEGORIES), dtype=np.float32)
        self._groups: I32 = np.empty((0, MEMBERSHIPS), dtype=np.int32)
        self._free: list[int] = []
        self._waiting: dict[int, UserUpdate] = {}  # user rows with preferences for unknown categories
        self._known_categories = 0  # how many categories there were at the last `resolve_waiting`

    def empty_copy(self) -> "Profiles":
        """Profiles without any user, with the same numbers of categories and groups. Groups must not be added to the copy."""
        other = Profiles(self._categories, self._steps)
        other.group_of = dict(self.group_of)
        return other

    @property
    def used_bytes(self) -> int:
        """The size of the used slots."""
        return (len(self._preferences) - len(self._free)) * SLOT_BYTES

    def arrays(self) -> ProfileArrays:
        """The profiles as a batch has them."""
        return ProfileArrays(self._slots, self._preferences, self._groups)

    def add_groups(self, user: UserUpdate) -> None:
        """Number the user's new groups. Called when the profile arrives, so that numbers follow the order of the log."""
        for attribute, name in self._group_names(user):
            if (
                name not in self.group_of
                and len(self.group_of) < GROUPS
                and self._groups_of_attribute[attribute] < GROUPS_PER_ATTRIBUTE
            ):
                self.group_of[name] = len(self.group_of)
                self._groups_of_attribute[attribute] += 1

    def read(self, user: UserUpdate | None) -> tuple[dict[int, float], tuple[int, ...]]:
        """The user's preferences by category number, and group numbers in ascending order. Changes nothing."""
        if user is None:
            return {}, ()
        preferences: dict[int, float] = {}
        for name, value in sorted(user.preferences.items()):
            preferences.update(dict.fromkeys(self._categories.numbers(name), value))
        groups = sorted(self.group_of[name] for _, name in self._group_names(user) if name in self.group_of)
        return preferences, tuple(groups[:MEMBERSHIPS])

    def at_row(self, row: int) -> tuple[dict[int, float], tuple[int, ...]]:
        """The result of `read` for the user in `row`."""
        slot = self._slots[row] if row < len(self._slots) else -1
        if slot < 0:
            return {}, ()
        preferences, groups = self._preferences[slot], self._groups[slot]
        stated = np.flatnonzero(~np.isnan(preferences))
        numbers = dict(zip(stated.tolist(), preferences[stated].tolist(), strict=True))
        return numbers, tuple(groups[groups >= 0].tolist())

    def put(self, row: int, user: UserUpdate | None) -> None:
        """Set the profile of the user in `row`; None for no profile."""
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
        """Remove the profiles of these rows."""
        for row in rows:
            self._waiting.pop(row, None)
            if row < len(self._slots) and self._slots[row] >= 0:
                self._free.append(int(self._slots[row]))
                self._slots[row] = -1

    def resolve_waiting(self) -> None:
        """If the catalogue has new categories, apply the preferences that waited for them."""
        if len(self._categories.names) != self._known_categories:
            self._known_categories = len(self._categories.names)
            for row, user in list(self._waiting.items()):
                self.put(row, user)

    def _group_names(self, user: UserUpdate) -> list[tuple[str, str]]:
        """The user's attributes, each with the name of its group."""
        found = []
        for attribute, value in sorted(user.attributes.items()):
            if value is not None:
                found.append(
                    (attribute, _ENCODER.encode((attribute, binned(value, self._steps.get(attribute, 0.0)))).decode())
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
        """See protocols.Persistent. Must follow the categories and the items."""
        stored = sorted((int.from_bytes(value, "little"), key.decode()) for key, value in store.scan("groups"))
        if [number for number, _ in stored] != list(range(len(stored))):
            raise BadState(
                f"the state has {len(stored)} groups of users, but their numbers have gaps: restore a backup"
            )
        self.group_of = {name: number for number, name in stored}
        self._groups_of_attribute = Counter(attribute_and_value(name)[0] for _, name in stored)
        self._committed_groups, self._known_categories = len(stored), len(self._categories.names)

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        new = list(self.group_of.items())[self._committed_groups :]
        return [Row("groups", name.encode(), number.to_bytes(4, "little")) for name, number in new]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._committed_groups = len(self.group_of)


def attribute_and_value(group: str) -> tuple[str, str]:
    """The attribute and the value in the name of a group."""
    return _DECODER.decode(group)
