"""A simulated world of people and films, as arrays: interactions with their times, ratings, and the expected ratings.

    mean = 3.2 + b_u + b_i + p_u(t) . q_i          rating = half stars(mean + N(0, .84)), .5 to 5
    p_u(t) = cos(a_u t) p_u + sin(a_u t) p'_u      tastes turn, each user's at a pace of its own

At a shock, some users' p_u jump to another centroid; before it the world is the same as without a shock.
Tastes and items lie around the centroids of categories. The popularity of items follows rank^-.55, and the activity of
users a log-normal distribution. Users act in sessions, and users and items arrive over time. People are offered popular
items and choose those that they like, so exposure is biased, as in real data. The same settings and NumPy version give the
same arrays. Cost: about .7 us an event.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, U8
from streamer.producers.titles import CATEGORIES, numbers

START_MS = 1_704_067_200_000  # 2024-01-01, when every world begins
DAY_MS = 86_400_000
VIEW, CLICK, PURCHASE, RATED = 0, 1, 2, 3  # kinds of interactions

DIM = 4
MEAN = 3.2
NOISE = 0.84
BIAS_USER, BIAS_ITEM = 0.4, 0.35
TASTE = 1.4  # length of a taste vector; an item's vector has a length of about 1
SPREAD = 0.25  # share of the variance of tastes and items that is their own; the rest is their centroid's
TURN = 0.5  # default number of radians by which a typical taste turns over the whole time
POPULARITY = 0.55  # exponent of Zipf's law
ACTIVITY = 1.0  # sigma of the log-normal
SESSION_EVENTS = 8  # on average
GAP_MS = 40_000  # between two events of a session, on average
CHOICES = 6  # how many popular items a person is offered
PICKINESS = 1.0  # weight of liking in the choice
RATED_SHARE = 0.7  # share of first interactions with an item that are ratings
_NEVER_MS = 1 << 62
_TABLE = 1 << 18
_CHUNK = 1 << 16


class Shock(NamedTuple):
    """At the beginning of `day`, counted from 0, the tastes of a share of the users jump."""

    day: float
    share: float


@dataclass(frozen=True, slots=True)
class Interactions:
    """n interactions in order of time, and the items, numbered in order of arrival."""

    users: I32  # (n,)
    items: I32  # (n,)
    kinds: U8  # (n,) VIEW, CLICK, PURCHASE or RATED
    halves: U8  # (n,) the rating in half stars, 1 to 10, for all kinds
    means: F32  # (n,) the rating's mean before noise and rounding
    times_ms: I64  # (n,)
    sessions: I32  # (n,)
    arrivals_ms: I64  # (items,), ascending
    titles: I32  # (items,) numbers of titles
    years: I32  # (items,)
    categories: I32  # (items, 2); both equal for an item with one category


@dataclass(frozen=True, slots=True)
class _Side:
    """The hidden truth about users, or about items."""

    vectors: F32  # (rows, DIM)
    turns_to: F32  # (rows, DIM), the vector to which a taste turns
    pace: F32  # (rows,), radians per millisecond
    biases: F32  # (rows,)
    arrivals_ms: I64  # (rows,) since START_MS
    jumped: F32  # (rows, DIM), replaces `vectors` from the shock on
    shock_ms: int  # since START_MS; after all events if there is no shock


def simulate(
    users: int, items: int, events: int, days: int, seed: int, turn: float = TURN, shock: Shock | None = None
) -> Interactions:
    """Simulate `events` interactions of `users` with `items` over `days`; a typical taste turns by `turn` radians in all.

    Cost: see above; memory: 30 bytes an event, and temporarily some 40 MB.
    """
    random = np.random.default_rng(seed)
    centroids = _directions(len(CATEGORIES), random)
    categories = _categories(items, random)
    films = _simulate_films(items, days, centroids[categories].mean(axis=1), random)
    people = _simulate_people(users, days, centroids, turn, random)
    if shock is not None:
        people = _with_shock(people, centroids, shock, np.random.default_rng([seed, 1]))
    event_users, times, sessions = _sessions(events, days, people.arrivals_ms, random)
    table = _popularity_table(items, random)
    met_items = np.empty(events, np.int32)
    liking = np.empty(events, np.float32)
    for start in range(0, events, _CHUNK):
        cut = slice(start, start + _CHUNK)
        met_items[cut], liking[cut] = _choose_items(people, event_users[cut], times[cut], films, table, random)
    means = (MEAN + people.biases[event_users] + liking).astype(np.float32)
    noise = random.standard_normal(events, np.float32)
    return Interactions(
        users=event_users,
        items=met_items,
        kinds=_kinds(event_users, met_items, means, random),
        halves=np.clip(np.rint(2 * (means + NOISE * noise)), 1, 10).astype(np.uint8),
        means=means,
        times_ms=START_MS + times,
        sessions=sessions,
        arrivals_ms=START_MS + films.arrivals_ms,
        titles=numbers(items, random),
        years=random.integers(1950, 2024, items, dtype=np.int32),
        categories=categories,
    )


def _directions(n: int, random: np.random.Generator) -> F32:
    vectors = random.standard_normal((n, DIM), np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _around(centres: F32, random: np.random.Generator) -> F32:
    """Vectors of a length of about 1 around `centres`, (n, DIM)."""
    own = random.standard_normal(centres.shape, np.float32) / np.float32(DIM**0.5)
    return np.asarray((1 - SPREAD) ** 0.5 * centres + SPREAD**0.5 * own, np.float32)


def _categories(items: int, random: np.random.Generator) -> I32:
    first = random.choice(len(CATEGORIES), items, p=_shares(len(CATEGORIES), 0.5))
    step = random.integers(1, len(CATEGORIES), items) * (random.random(items) < 0.5)
    return np.stack([first, (first + step) % len(CATEGORIES)], axis=1).astype(np.int32)


def _shares(n: int, exponent: float) -> F64:
    """Shares by Zipf's law, (n,), with sum 1."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum(), np.float64)


def _simulate_films(n: int, days: int, centres: F32, random: np.random.Generator) -> _Side:
    vectors = _around(centres, random)
    biases = (BIAS_ITEM * random.standard_normal(n)).astype(np.float32)
    arrivals_ms = _arrivals(n, 0.6, days, random)
    return _Side(vectors, vectors, np.zeros(n, np.float32), biases, arrivals_ms, vectors, _NEVER_MS)


def _simulate_people(n: int, days: int, centroids: F32, turn: float, random: np.random.Generator) -> _Side:
    start, target = (TASTE * _around(centroids[random.integers(len(centroids), size=n)], random) for _ in "ab")
    pace = (turn / (days * DAY_MS) * np.abs(random.standard_normal(n))).astype(np.float32)
    biases = (BIAS_USER * random.standard_normal(n)).astype(np.float32)
    return _Side(start, target, pace, biases, _arrivals(n, 0.4, days, random), start, _NEVER_MS)


def _with_shock(people: _Side, centroids: F32, shock: Shock, random: np.random.Generator) -> _Side:
    """`people`, but with some tastes that jump to the surroundings of a centroid other than the nearest one."""
    chosen = random.permutation(len(people.vectors))[: round(shock.share * len(people.vectors))]
    home = np.argmax(people.vectors[chosen] @ centroids.T, axis=1)
    other = (home + random.integers(1, len(centroids), len(chosen))) % len(centroids)
    jumped = people.vectors.copy()
    jumped[chosen] = TASTE * _around(centroids[other], random)
    return replace(people, jumped=jumped, shock_ms=round(shock.day * DAY_MS))


def _arrivals(n: int, at_once: float, days: int, random: np.random.Generator) -> I64:
    """Arrival times (n,) in ascending order: a share `at_once` at the start, the others over the first nine tenths of the time."""
    arrivals = 0.9 * days * DAY_MS * random.random(n)
    arrivals[: max(1, round(at_once * n))] = 0
    return np.sort(arrivals).astype(np.int64)


def _sessions(events: int, days: int, arrivals_ms: I64, random: np.random.Generator) -> tuple[I32, I64, I32]:
    """User, time and session of each event, (events,) each, in order of time."""
    lengths = random.geometric(1 / SESSION_EVENTS, events)  # more than enough
    ends = np.cumsum(lengths)
    count = int(np.searchsorted(ends, events)) + 1
    lengths, ends = lengths[:count], ends[:count]
    end_ms = days * DAY_MS
    activity = random.lognormal(0, ACTIVITY, len(arrivals_ms)) * (1 - arrivals_ms / end_ms)
    session_users = random.choice(len(arrivals_ms), count, p=activity / activity.sum())
    starts_ms = arrivals_ms[session_users] + random.random(count) * (end_ms - arrivals_ms[session_users])
    sessions = np.repeat(np.arange(count), lengths)[:events]
    waited = np.cumsum(random.standard_exponential(events)) * GAP_MS
    first = (ends - lengths)[sessions]
    times = (starts_ms[sessions] + waited - waited[first]).astype(np.int64)
    order = np.argsort(times, kind="stable")
    return session_users[sessions][order].astype(np.int32), times[order], sessions[order].astype(np.int32)


def _popularity_table(items: int, random: np.random.Generator) -> I32:
    """A table (_TABLE,) in which items occur in proportion to their popularity: a uniform draw from it is a draw by popularity."""
    ranked = random.permutation(items).astype(np.int32)
    places = (np.arange(_TABLE) + 0.5) / _TABLE
    drawn = np.searchsorted(np.cumsum(_shares(items, POPULARITY)), places)
    return np.asarray(ranked[np.minimum(drawn, items - 1)], np.int32)


def _choose_items(
    people: _Side, event_users: I32, times: I64, films: _Side, table: I32, random: np.random.Generator
) -> tuple[I32, F32]:
    """The chosen item of each event, and how much the user likes it, (n,) each: by softmax of liking among a few popular items."""
    arrived_count = np.searchsorted(films.arrivals_ms, times, side="right")
    offered = table[random.integers(_TABLE, size=(len(event_users), CHOICES))] % arrived_count[:, None]
    angles = (people.pace[event_users] * (times - people.arrivals_ms[event_users]))[:, None].astype(np.float32)
    here = people.vectors[event_users]
    after = times >= people.shock_ms
    here[after] = people.jumped[event_users[after]]
    tastes = np.cos(angles) * here + np.sin(angles) * people.turns_to[event_users]  # (n, DIM)
    liking = np.einsum("nd,nkd->nk", tastes, films.vectors[offered]) + films.biases[offered]
    waits = random.standard_exponential(liking.shape, np.float32)  # the shortest wait is a draw by softmax of liking
    best = np.argmin(waits * np.exp(-PICKINESS * liking), axis=1)[:, None]
    taken, liked = (np.take_along_axis(array, best, axis=1)[:, 0] for array in (offered, liking))
    return taken.astype(np.int32), liked.astype(np.float32)


def _kinds(event_users: I32, met_items: I32, means: F32, random: np.random.Generator) -> U8:
    """Kinds of the events: a first interaction may be a rating; all others are views, clicks or purchases, by liking."""
    eager = means + random.standard_normal(len(event_users), np.float32)
    kinds = (eager > 3.9).astype(np.uint8) + (eager > 5.3)
    first = np.zeros(len(event_users), np.bool_)
    first[np.unique(event_users.astype(np.int64) * (int(met_items.max()) + 1) + met_items, return_index=True)[1]] = True
    kinds[first & (random.random(len(event_users)) < RATED_SHARE)] = RATED
    return kinds.astype(np.uint8)
