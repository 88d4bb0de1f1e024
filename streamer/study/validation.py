"""Looks at a file without learning from it: what is understood, what would be rejected, and what looks odd."""

from collections import Counter

import msgspec
import numpy as np

from streamer.core.arrays import U8
from streamer.core.batch import CLICK
from streamer.core.events import Click, Event, Rating, Record
from streamer.core.kinds import UNKNOWN_CODE, Kinds
from streamer.core.protocols import Noted, Stream, Understood
from streamer.core.settings import LearningSettings
from streamer.monitoring.scale import RATINGS_OF_STARS, Scale, user_key
from streamer.monitoring.sessions import LAST_SESSION, Sessions, session_key
from streamer.stream.examination import Examination, examine
from streamer.study.oddities import Oddities, counted, moment

_FIRST, _KINDS_SHOWN = 3, 20  # events and kinds that are shown
_ODD_SHARE = 0.01  # repeated events above this share are odd
_ZEROS_SHARE = 0.05  # above it ratings of 0 are odd where all others are 1 or more


class Validation(msgspec.Struct, kw_only=True):
    """What `streamer validate` found; counts are of events that can be used."""

    path: str
    columns: dict[str, str]  # what a column is -> its name; empty where the format says it
    unread: list[str]  # the names of columns that are not read
    time_unit: str  # of the times in a table, "" where it has none
    events: int  # rows, with those that cannot be used
    rejected: list[str]  # sentences
    ratings: int
    clicks: int
    kinds: dict[str, int]  # of the clicks, as they are spelled, the most frequent ones
    catalogue: int
    users: int
    items: int
    users_with_one_event: float  # their share, 0 to 1
    earliest: str  # ISO 8601, "" without times
    latest: str
    rating_min: float | None
    rating_max: float | None
    rating_values: int  # distinct ones
    scale_min: float | None  # of the range that most ratings keep to, at the end of the file
    scale_max: float | None
    likes: int  # ratings that count as clicks too
    like: str  # which ones, at the end
    sessions: int  # of users, as far as times or session ids tell
    session_gap_s: float  # the pause after which a session begins, at the end
    session_gap: str  # the same in words
    repeated: int  # events that say the same as one before: user, item, value and time
    withdrawn: int  # ratings withdrawn: `"rating": null`
    not_rated: int  # of these, those without an earlier rating of that user and item
    unknown_to_catalogue: int  # items with events that the catalogue does not have, where there is one
    first: list[str]  # the first events, as JSON
    warnings: list[str]


def validate(stream: Stream, path: str, learning: LearningSettings, now_ms: int) -> tuple[Validation, Examination]:
    """Decode all events and describe them. Cost: about 5 us an event; memory: some 200 bytes an event."""
    seen = _Seen(now_ms)
    found = examine(stream, learning, on_event=seen.add)
    times, values = np.array(seen.times_ms, dtype=np.int64), np.array(seen.values, dtype=np.float64)
    odd, noted = seen.odd, stream if isinstance(stream, Noted) else None
    columns, time_unit, unread = noted.understood if noted else Understood()
    scale, likes = _scale(values, seen, learning.like_share)
    sessions, begun = seen.sessions(learning.session_gap_s)
    validation = Validation(
        path=path, columns=dict(columns), unread=list(unread), time_unit=time_unit,
        events=len(stream), rejected=found.sentences(), ratings=len(values), clicks=seen.kinds.total(),
        kinds=dict(seen.kinds.most_common(_KINDS_SHOWN)),
        catalogue=len(odd.catalogue), users=len(odd.users), items=len(odd.items),
        users_with_one_event=sum(count == 1 for count in odd.users.values()) / max(1, len(odd.users)),
        earliest=moment(int(times.min())) if len(times) else "", latest=moment(int(times.max())) if len(times) else "",
        rating_min=float(values.min()) if len(values) else None, rating_max=float(values.max()) if len(values) else None,
        rating_values=len(np.unique(values)), scale_min=scale.low if len(values) else None,
        scale_max=scale.high if len(values) else None, likes=int(likes.sum()), like=scale.like(learning.like_share), sessions=begun, session_gap_s=sessions.gap_s, session_gap=sessions.in_words(),
        repeated=seen.repeated, withdrawn=seen.withdrawn, not_rated=seen.not_rated, unknown_to_catalogue=odd.unknown, first=seen.first, warnings=[],
    )  # fmt: skip
    validation.warnings = [
        *(noted.notes if noted else ()), *_odd_times(times, len(values) + seen.kinds.total()), *_odd_ratings(values, scale), *_odd_zeros(values),
        *odd.warnings(), *_odd_kinds(seen.kinds, learning), *_odd_counts(validation),
    ]  # fmt: skip
    return validation, found


def _scale(values: np.ndarray, seen: "_Seen", like_share: float) -> tuple[Scale, U8]:
    """The scale after these ratings in this order, and whether each is a like, (n,)."""
    scale = Scale()
    scale.silent = True
    rated, items = np.ones(len(values), dtype=np.bool_), np.array(seen.rated, dtype=np.int32)
    users = np.array(seen.raters, dtype=np.uint64)
    return scale, scale.follow(rated, values.astype(np.float32), users, items, like_share).likes


class _Seen:
    """Sums over the events."""

    def __init__(self, now_ms: int) -> None:
        self.odd = Oddities(now_ms)
        self.times_ms: list[int] = []
        self.values: list[float] = []
        self.raters: list[int] = []  # keys of their users
        self.rated: list[int] = []  # numbers of their items
        self._numbers: dict[str, int] = {}
        self.kinds = Counter[str]()
        self.repeated = self.withdrawn = self.not_rated = 0
        self._rated: set[tuple[str, str]] = set()
        self.first: list[str] = []
        self._said: set[tuple[object, ...]] = set()
        self._users: dict[str, int] = {}  # numbers
        self._latest_ms: list[int] = []  # of each user
        self._acts: list[tuple[int, int, int]] = []  # user, pause in ms, hash of the session's id, of each event

    def add(self, event: Event, record: Record) -> None:
        self.odd.add(event, record)
        if not isinstance(event, Rating | Click):
            return
        said: float | str
        if isinstance(event, Rating):
            said = self._rating(event)
        else:
            said = event.kind
            self.kinds[event.kind] += 1
        if event.timestamp_ms is not None or record.timestamp_ms > 0:  # a record of a topic has a time of its own
            self.times_ms.append(record.timestamp_ms if event.timestamp_ms is None else event.timestamp_ms)
        self._act(event, record)
        same = (event.user_id, event.item_id, said, event.timestamp_ms)
        self.repeated += same in self._said
        self._said.add(same)
        if len(self.first) < _FIRST:
            self.first.append((record.value or b"").decode(errors="replace"))

    def _act(self, event: Rating | Click, record: Record) -> None:
        time_ms = record.timestamp_ms if event.timestamp_ms is None else event.timestamp_ms
        user = self._users.setdefault(event.user_id, len(self._users))
        if user == len(self._latest_ms):
            self._latest_ms.append(time_ms)
            pause_ms = -1
        else:
            pause_ms = max(time_ms - self._latest_ms[user], 0)
            self._latest_ms[user] = max(time_ms, self._latest_ms[user])
        self._acts.append((user, pause_ms, session_key(event.session_id if isinstance(event, Click) else None)))

    def sessions(self, gap_s: float) -> tuple[Sessions, int]:
        """How sessions are told apart after all events, and how many there were."""
        found = Sessions(gap_s)
        users, pauses_ms, names = np.array(self._acts, dtype=np.int64).reshape(-1, 3).T.copy()
        heads = np.zeros((len(self._users), LAST_SESSION + 1), dtype=np.int64)
        begins = found.follow(users.astype(np.int32), np.full(len(users), CLICK, np.uint8), pauses_ms, names, heads)
        return found, int(np.count_nonzero(begins))

    def _rating(self, event: Rating) -> float | str:
        pair = event.user_id, event.item_id
        if event.rating is None:
            self.withdrawn += 1
            self.not_rated += pair not in self._rated
            self._rated.discard(pair)
            return "withdrawn"
        self.values.append(event.rating)
        self.raters.append(user_key(event.user_id))
        self.rated.append(self._numbers.setdefault(event.item_id, len(self._numbers)))
        self._rated.add(pair)
        return event.rating


def _odd_times(times: np.ndarray, events: int) -> list[str]:
    if not events:
        return []
    if not len(times):
        return [
            "there are no times: events are learned in the order of the file, and count as happening when they are read"
        ]
    if len(times) > 1 and times.min() == times.max():
        return [f"all times are the same, {moment(int(times[0]))}: the order of events is not known"]
    return []


def _odd_ratings(values: np.ndarray, scale: Scale) -> list[str]:
    found = []
    if len(values) > 1 and values.min() == values.max():
        found.append(f"all ratings are {values[0]:g}: nothing can be learned from their values; are they clicks?")
    if scale.changes:
        found.append(
            f"the scale of ratings changes {counted(scale.changes, 'time', 'times')}, and is {scale.low:g} to {scale.high:g} at the end: "
            "what was learned is converted each time"
        )
    rounded = values.astype(np.float32)  # as the scale knows them
    far = values[(rounded < scale.low) | (rounded > scale.high)]
    if scale.wild and scale.changes:
        are = "is" if scale.wild == 1 else "are"
        found.append(f"{scale.wild:,} of {len(values):,} ratings {are} far outside the scale of the time")
    elif len(far):
        found.append(
            f"{len(far):,} of {len(values):,} ratings {'is' if len(far) == 1 else 'are'} far outside the scale, which is {scale.low:g} to "
            f"{scale.high:g}, such as {far[0]:g}: the nearest end is learned instead; --rating-min and --rating-max reject such ratings"
        )
    if scale.kind() != RATINGS_OF_STARS:
        found.append(f"ratings are {scale.kind()}")
    return found


def _odd_zeros(values: np.ndarray) -> list[str]:
    """Data sets of books write 0 where nothing was rated."""
    zeros = int((values == 0).sum())
    others = values[values != 0]
    if not zeros or not len(others) or others.min() < 1 or zeros < _ZEROS_SHARE * len(values):
        return []
    return [
        f"{zeros:,} of {len(values):,} ratings {'is' if zeros == 1 else 'are'} 0 and the others are {others.min():g} to {others.max():g}: if 0 means that nothing "
        f"was rated, --rating-min {others.min():g} leaves these out"
    ]


def _odd_kinds(kinds: Counter[str], learning: LearningSettings) -> list[str]:
    codes = Kinds(learning).codes
    unknown = [kind for kind, _ in kinds.most_common() if codes[kind] == UNKNOWN_CODE]
    if not unknown:
        return []
    more = ", ..." if len(unknown) > 5 else ""
    named = ", ".join(f"{kind[:40]!r} ({kinds[kind]:,})" for kind in unknown[:5]) + more
    return [
        f"clicks of kinds without a weight are learned with weight 1: {named}; give one with --kinds name=weight,..."
    ]


def _odd_counts(found: Validation) -> list[str]:
    events, warnings = found.ratings + found.clicks, list[str]()
    if events and found.repeated > _ODD_SHARE * events:
        repeat = "repeats" if found.repeated == 1 else "repeat"
        warnings.append(f"{found.repeated:,} of {events:,} events {repeat} one before: is the data in the file twice?")
    if found.not_rated > found.withdrawn / 2:
        warnings.append(
            f"{found.not_rated:,} of {found.withdrawn:,} ratings that are null {'withdraws' if found.not_rated == 1 else 'withdraw'} nothing: is null written for a rating "
            "that is missing?"
        )
    if found.users_with_one_event > 0.8 and found.users > 1:
        warnings.append(
            f"{found.users_with_one_event:.0%} of the users have one event: little can be learned about them"
        )
    if found.users == 1 and events > 1:
        warnings.append("all events are of one user: is the right column the user's?")
    return warnings
