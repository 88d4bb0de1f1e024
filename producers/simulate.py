"""The simulated world as a stream: items when they arrive, then what people do with them; the same for the same settings.

Beside what happens, a stream has what streams have: events that come twice, late, or broken. And a rating says what was
to be `expected` of it, given the truth: learners never see that field; the monitor takes regret over the oracle from it.
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
from streamer.producers.world import RATED, TURN, Happenings, Shock, happen

_KINDS = (b"view", b"click", b"purchase")
_HALVES = [b"%.1f" % (half / 2) for half in range(11)]
_AGAIN_MS = (1_000, 3_600_000)  # after how long an event is repeated
_LATE_MS = (3_600_000, 86_400_000)  # by how long one is late

# Broken events by turns; they are given the user, the item and the time.
_RATING = b'{"user_id":"%b","item_id":"i%d","rating":'
_BROKEN: tuple[tuple[str, Callable[[bytes, int, int], bytes]], ...] = (
    (RATINGS, lambda user, item, at: _RATING % (user, item)),  # cut off
    (RATINGS, lambda user, item, at: (_RATING + b'999.0,"timestamp_ms":%d}') % (user, item, at)),  # out of range
    (RATINGS, lambda user, item, at: (_RATING + b'NaN,"timestamp_ms":%d}') % (user, item, at)),  # not JSON
    (RATINGS, lambda user, item, at: (_RATING + b'4.0,"timestamp_ms":%d}') % (b"", item, at)),  # a bad id
    (RATINGS, lambda user, item, at: (_RATING + b'"good","timestamp_ms":%d}') % (user, item, at)),  # a wrong type
    (CLICKS, lambda user, item, at: b'{"user_id":"%b","item_id":"i%d","kind":"poke","timestamp_ms":%d}' % (user, item, at)),  # an unknown kind
)  # fmt: skip

_LIMITS = {
    "users": (1, 10**8), "items": (1, 10**8), "events": (1, 10**9), "days": (1, 36_500), "turn": (0, 1e6), "shock_share": (0, 1),
    "duplicates": (0, 1), "late": (0, 1), "bad": (0, 1),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """Settings of a world. The defaults are the one that `make run` shows."""

    users: int = 1_000
    items: int = 500
    events: int = 60_000  # ratings and clicks, without the repeated and the broken ones
    days: int = 60
    seed: int = 1
    turn: float = TURN  # radians that a typical taste turns over all the days
    shock_day: float | None = None  # when tastes jump, in days from the beginning
    shock_share: float = 0.3  # of the users
    duplicates: float = 0.001  # share of the events that come again, with the same event_id
    late: float = 0.001  # share of the events that come hours after they happened
    bad: float = 0.001  # broken events, as a share of `events` and beside them

    def __post_init__(self) -> None:
        """Raises BadSettings for a world without anybody or anything in it, and for what is no share."""
        for name, found in asdict(self).items():
            if found is None:
                continue
            least, most = _LIMITS.get(name, (0, inf))
            if not least <= found <= most:  # NaN is not either
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

    def happenings(self) -> Happenings:
        """What happens in it, as arrays."""
        shock = None if self.shock_day is None else Shock(self.shock_day, self.shock_share)
        return happen(self.users, self.items, self.events, self.days, self.seed, self.turn, shock)

    def stream(self, *, catalogue_first: bool = False, truth: bool = True) -> "Simulation":
        """What happens in it, as a stream."""
        return Simulation(self, self.happenings(), catalogue_first=catalogue_first, truth=truth)


class Simulation:
    """protocols.Stream of a world."""

    def __init__(
        self, world: World, happenings: Happenings, *, catalogue_first: bool = False, truth: bool = True
    ) -> None:
        """Of what happens in `world`. An item's record comes just before anybody could meet it, or with `catalogue_first` before every event.

        With `truth`, ratings say what was to be `expected`. Cost: about .3 us an event; memory: 80 bytes an event.
        """
        self.world, self.happenings, self._truth = world, happenings, truth
        self.expected: F64 = expected(happenings.means)  # (events,) what the rating is on average, given the truth
        self.rated = happenings.kinds == RATED  # (events,)
        random = np.random.default_rng([world.seed, 2])  # of its own: what happens is the same with and without
        again, late, broken = (
            _some(share, world.events, random) for share in (world.duplicates, world.late, world.bad)
        )
        arrived = happenings.times_ms.copy()
        arrived[late] += random.integers(*_LATE_MS, len(late))
        repeated = arrived[again] + random.integers(*_AGAIN_MS, len(again))
        self.duplicates, self.late, self.bad = len(again), len(late), len(broken)
        # Numbers: items, events, repeated events, broken ones; rows are numbers in the order of arrival.
        self._event = np.concatenate([np.zeros(world.items, np.int64), np.arange(world.events), again, broken])
        items = np.zeros(world.items, np.int64) if catalogue_first else happenings.arrivals_ms
        self._times: I64 = np.concatenate([happenings.arrivals_ms, arrived, repeated, happenings.times_ms[broken]])
        self._order: I64 = np.argsort(np.concatenate([items, self._times[world.items :]]), kind="stable")
        self._sha256 = _digest(happenings, self._order, self._event, self._times)

    @property
    def sha256(self) -> str:
        """See protocols.Stream."""
        return self._sha256

    def __len__(self) -> int:
        return len(self._order)

    @property
    def oracle_rmse(self) -> float | None:
        """The RMSE of whoever predicts what is to be expected, on the ratings of this world; None where there are none."""
        if not self.rated.any():
            return None
        errors = self.happenings.halves[self.rated] / 2 - self.expected[self.rated]
        return float(np.sqrt(np.mean(np.square(errors))))

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream: when each row arrived; a late event says itself when it happened."""
        return [int(at) for at in self._times[self._order[start:stop]].tolist()]

    def parts(self, start: int, stop: int) -> MessageParts:
        """See protocols.Stream."""
        return parts(self.messages(start, stop))

    def messages(self, start: int, stop: int) -> list[Message]:
        """See protocols.Stream. Cost: about 1.7 us an event."""
        numbers, happenings = self._order[start:stop], self.happenings
        events, items = self._event[numbers], self.world.items
        first_bad = len(self._order) - self.bad
        columns = (
            happenings.users, happenings.items, happenings.kinds, happenings.halves, happenings.sessions,
            happenings.times_ms, self.expected,
        )  # fmt: skip
        lists = [column[events].tolist() for column in columns]
        truth, named = self._truth, self.duplicates > 0  # who repeats events gives them ids
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
            event_id = b',"event_id":"e%d"' % event if named else b""
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
        happenings = self.happenings
        year = int(happenings.years[item])
        categories = dict.fromkeys(CATEGORIES[number] for number in happenings.categories[item])
        name = title(int(happenings.titles[item]), year)
        return message(ItemUpdate(f"i{item}", name, tuple(categories), {"year": year}))


def _some(share: float, events: int, random: np.random.Generator) -> I64:
    """So many of the events, without one twice, in no order."""
    return random.permutation(events)[: round(share * events)]


def _digest(happenings: Happenings, *rows: Array) -> str:
    digest = hashlib.sha256(b"world 2")
    for array in (*(getattr(happenings, field.name) for field in fields(happenings)), *rows):
        digest.update(array.tobytes())
    return digest.hexdigest()
