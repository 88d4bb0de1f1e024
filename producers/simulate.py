"""The simulated world as a stream: items when they arrive, then what people do with them; the same for the same settings."""

import hashlib
from dataclasses import asdict, dataclass, fields

import numpy as np

from streamer.arrays import I64
from streamer.errors import BadSettings
from streamer.events import CLICKS, RATINGS, ItemUpdate, Message, message
from streamer.producers.titles import CATEGORIES, title
from streamer.producers.world import RATED, Happenings, happen

_KINDS = (b"view", b"click", b"purchase")
_HALVES = [b"%.1f" % (half / 2) for half in range(11)]


@dataclass(frozen=True)
class World:
    """Settings of a world. The defaults are the one that `make run` shows."""

    users: int = 1_000
    items: int = 500
    events: int = 60_000
    days: int = 60
    seed: int = 1

    def __post_init__(self) -> None:
        """Raises BadSettings for a world without anybody or anything in it."""
        for name, found in asdict(self).items():
            least = 0 if name == "seed" else 1
            if found < least:
                raise BadSettings(f"wanted a simulated world with {name} of at least {least}, found {found}: give more")

    def stream(self) -> "Simulation":
        """What happens in it."""
        return Simulation(self)


class Simulation:
    """protocols.Stream of a world: an item's record comes just before anybody could meet it."""

    def __init__(self, world: World) -> None:
        """Cost: about 2 us an event; memory: 40 bytes an event."""
        self.world = world
        self.happenings: Happenings = happen(**asdict(world))
        self._times: I64 = np.concatenate([self.happenings.arrivals_ms, self.happenings.times_ms])
        self._order: I64 = np.argsort(self._times, kind="stable")  # row -> item, or items + event
        self._sha256 = _digest(self.happenings)

    @property
    def sha256(self) -> str:
        """See protocols.Stream."""
        return self._sha256

    def __len__(self) -> int:
        return len(self._order)

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream."""
        return [int(at) for at in self._times[self._order[start:stop]].tolist()]

    def messages(self, start: int, stop: int) -> list[Message]:
        """See protocols.Stream. Cost: about 1.2 us an event."""
        order, happenings, items = self._order[start:stop], self.happenings, self.world.items
        events = np.maximum(order - items, 0)
        columns = (happenings.users, happenings.items, happenings.kinds, happenings.halves, happenings.sessions)
        lists = [column[events].tolist() for column in columns]
        times = self._times[order].tolist()
        messages = []
        for row, user, item, kind, half, session, at in zip(order.tolist(), *lists, times, strict=True):
            key = b"u%d" % user
            if row < items:
                messages.append(self._item(row))
            elif kind == RATED:
                value = b'{"user_id":"%b","item_id":"i%d","rating":%b,"timestamp_ms":%d}' % (
                    key,
                    item,
                    _HALVES[half],
                    at,
                )
                messages.append(Message(RATINGS, key, value))
            else:
                value = b'{"user_id":"%b","item_id":"i%d","kind":"%b","timestamp_ms":%d,"session_id":"s%d"}' % (
                    key, item, _KINDS[kind], at, session,
                )  # fmt: skip
                messages.append(Message(CLICKS, key, value))
        return messages

    def _item(self, item: int) -> Message:
        happenings = self.happenings
        year = int(happenings.years[item])
        categories = dict.fromkeys(CATEGORIES[number] for number in happenings.categories[item])
        name = title(int(happenings.titles[item]), year)
        return message(ItemUpdate(f"i{item}", name, tuple(categories), {"year": year}))


def _digest(happenings: Happenings) -> str:
    digest = hashlib.sha256(b"world 1")
    for field in fields(happenings):
        digest.update(getattr(happenings, field.name).tobytes())
    return digest.hexdigest()
