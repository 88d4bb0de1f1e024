"""The simulated world as a stream of catalogue records and events; the same settings give the same stream.

Like real streams it also has duplicates, late events and broken events. Ratings have a field `expected`, their expectation
given the true tastes. Learners never see it; the monitor uses it for the regret over the oracle.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from math import inf

import numpy as np

from streamer.core.arrays import F64, I64, Array
from streamer.core.errors import BadSettings
from streamer.core.events import CLICKS, RATINGS, ItemUpdate, Message, MessageParts, message, parts
from streamer.producers.oracle import expected
from streamer.producers.titles import CATEGORIES, title
from streamer.producers.world import RATED, TURN, Interactions, Shock, simulate

_KINDS = (b"view", b"click", b"purchase")
_HALVES = [b"%.1f" % (half / 2) for half in range(11)]
_REPEATED_AFTER_MS = (1_000, 3_600_000)  # how long after an event its duplicate arrives
_LATE_BY_MS = (3_600_000, 86_400_000)  # by how much a late event is late

# Kinds of broken events, used in turn; each is a function of user, item and time.
_RATING = b'{"user_id":"%b","item_id":"i%d","rating":'
_BROKEN: tuple[tuple[str, Callable[[bytes, int, int], bytes]], ...] = (
    (RATINGS, lambda user, item, at: _RATING % (user, item)),  # cut off
    (RATINGS, lambda user, item, at: (_RATING + b'1e12,"timestamp_ms":%d}') % (user, item, at)),  # out of range
    (RATINGS, lambda user, item, at: (_RATING + b'NaN,"timestamp_ms":%d}') % (user, item, at)),  # not JSON
    (RATINGS, lambda user, item, at: (_RATING + b'4.0,"timestamp_ms":%d}') % (b"", item, at)),  # a bad id
    (RATINGS, lambda user, item, at: (_RATING + b'"good","timestamp_ms":%d}') % (user, item, at)),  # a wrong type
    (CLICKS, lambda user, item, at: b'{"user_id":"%b","item_id":"i%d","kind":["poke"],"timestamp_ms":%d}' % (user, item, at)),  # a kind that is no text
)  # fmt: skip

_LIMITS = {
    "users": (1, 10**8), "items": (1, 10**8), "events": (1, 10**9), "days": (1, 36_500), "turn": (0, 1e6), "shock_share": (0, 1),
    "duplicates": (0, 1), "late": (0, 1), "bad": (0, 1),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """The settings of a simulated world. The defaults are those of `make run`."""

    users: int = 1_000
    items: int = 500
    events: int = 60_000  # ratings and clicks, without duplicates and broken events
    days: int = 60
    seed: int = 1
    turn: float = TURN  # radians by which a typical taste turns over all days
    shock_day: float | None = None  # when tastes jump, in days from the beginning; None: never
    shock_share: float = 0.3  # share of users whose tastes jump
    duplicates: float = 0.001  # share of events that arrive again, with the same event_id
    late: float = 0.001  # share of events that arrive hours after they happened
    bad: float = 0.001  # number of additional broken events, as a share of `events`

    def __post_init__(self) -> None:
        """Check all values; raises BadSettings."""
        for name, found in asdict(self).items():
            if found is None:
                continue
            least, most = _LIMITS.get(name, (0, inf))
            if not least <= found <= most:  # also for NaN
                raise BadSettings(
                    f"wanted a simulated world with {name} of at least {least}"
                    + (f" and at most {most}" if most < inf else "")
                    + f", found {found}: give {'more' if found < least else 'less' if found > most else 'a number'}"
                )
        if self.shock_day is not None and self.shock_day >= self.days:
            raise BadSettings(
                f"wanted a shock within the {self.days} days of a simulated world, found shock_day {self.shock_day:g}: "
                "give an earlier one"
            )

    def interactions(self) -> Interactions:
        """Simulate the world, as arrays."""
        shock = None if self.shock_day is None else Shock(self.shock_day, self.shock_share)
        return simulate(self.users, self.items, self.events, self.days, self.seed, self.turn, shock)

    def stream(self, *, catalogue_first: bool = False, truth: bool = True) -> "Simulation":
        """Simulate the world, as a stream; for the options see `Simulation`."""
        return Simulation(self, self.interactions(), catalogue_first=catalogue_first, truth=truth)


class Simulation:
    """protocols.Stream of a simulated world."""

    def __init__(
        self, world: World, interactions: Interactions, *, catalogue_first: bool = False, truth: bool = True
    ) -> None:
        """An item's record comes when the item arrives, before any event with it, or with `catalogue_first` before all events.

        With `truth`, ratings have the field `expected`. Cost: about .3 us an event; memory: 80 bytes an event.
        """
        self.world, self.interactions, self._truth = world, interactions, truth
        self.expected: F64 = expected(interactions.means)  # (events,) expectation of the rating, given the true tastes
        self.rated = interactions.kinds == RATED  # (events,)
        random = np.random.default_rng(
            [world.seed, 2]
        )  # a generator of its own, so that duplicates and late or broken events change nothing else
        repeats, late, broken = (
            _sample(share, world.events, random) for share in (world.duplicates, world.late, world.bad)
        )
        arrived = interactions.times_ms.copy()
        arrived[late] += random.integers(*_LATE_BY_MS, len(late))
        repeats_ms = arrived[repeats] + random.integers(*_REPEATED_AFTER_MS, len(repeats))
        self.duplicates, self.late, self.bad = len(repeats), len(late), len(broken)
        # Numbers count items, events, duplicates, then broken events; rows are numbers sorted by arrival.
        self._event = np.concatenate([np.zeros(world.items, np.int64), np.arange(world.events), repeats, broken])
        items = np.zeros(world.items, np.int64) if catalogue_first else interactions.arrivals_ms
        self._times: I64 = np.concatenate(
            [interactions.arrivals_ms, arrived, repeats_ms, interactions.times_ms[broken]]
        )
        self._order: I64 = np.argsort(np.concatenate([items, self._times[world.items :]]), kind="stable")
        self._sha256 = _digest(interactions, self._order, self._event, self._times)

    @property
    def sha256(self) -> str:
        """See protocols.Stream."""
        return self._sha256

    def __len__(self) -> int:
        return len(self._order)

    @property
    def oracle_rmse(self) -> float | None:
        """The RMSE of the oracle, which predicts expectations, on this world's ratings; None without ratings."""
        if not self.rated.any():
            return None
        errors = self.interactions.halves[self.rated] / 2 - self.expected[self.rated]
        return float(np.sqrt(np.mean(np.square(errors))))

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream: when each row arrived; a late event has the time when it happened in its JSON."""
        return [int(at) for at in self._times[self._order[start:stop]].tolist()]

    def parts(self, start: int, stop: int) -> MessageParts:
        """See protocols.Stream."""
        return parts(self.messages(start, stop))

    def messages(self, start: int, stop: int) -> list[Message]:
        """See protocols.Stream. Cost: about 1.7 us an event."""
        numbers, interactions = self._order[start:stop], self.interactions
        events, items = self._event[numbers], self.world.items
        first_bad = len(self._order) - self.bad
        columns = (
            interactions.users, interactions.items, interactions.kinds, interactions.halves, interactions.sessions,
            interactions.times_ms, self.expected,
        )  # fmt: skip
        lists = [column[events].tolist() for column in columns]
        truth, with_ids = self._truth, self.duplicates > 0  # only a world with duplicates needs ids
        messages = []
        for number, event, user, item, kind, half, session, at, mean in zip(
            numbers.tolist(), events.tolist(), *lists, strict=True
        ):
            key = b"u%d" % user
            if number < items:
                messages.append(self._item(number))
                continue
            if number >= first_bad:
                topic, broken = _BROKEN[(number - first_bad) % len(_BROKEN)]
                messages.append(Message(topic, key, broken(key, item, at)))
                continue
            event_id = b',"event_id":"e%d"' % event if with_ids else b""
            if kind == RATED:
                value = b'{"user_id":"%b","item_id":"i%d","rating":%b,"timestamp_ms":%d%b%b}' % (
                    key, item, _HALVES[half], at, event_id, b',"expected":%.4f' % mean if truth else b"",
                )  # fmt: skip
                messages.append(Message(RATINGS, key, value))
            else:
                value = b'{"user_id":"%b","item_id":"i%d","kind":"%b","timestamp_ms":%d%b,"session_id":"s%d"}' % (
                    key, item, _KINDS[kind], at, event_id, session,
                )  # fmt: skip
                messages.append(Message(CLICKS, key, value))
        return messages

    def _item(self, item: int) -> Message:
        interactions = self.interactions
        year = int(interactions.years[item])
        categories = dict.fromkeys(CATEGORIES[number] for number in interactions.categories[item])
        name = title(int(interactions.titles[item]), year)
        return message(ItemUpdate(f"i{item}", name, tuple(categories), {"year": year}))


def _sample(share: float, events: int, random: np.random.Generator) -> I64:
    """A random sample of event numbers without replacement, in random order."""
    return random.permutation(events)[: round(share * events)]


def _digest(interactions: Interactions, *rows: Array) -> str:
    digest = hashlib.sha256(b"world 2")
    for array in (*(getattr(interactions, field.name) for field in fields(interactions)), *rows):
        digest.update(array.tobytes())
    return digest.hexdigest()
