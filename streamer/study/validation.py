"""Looks at a file without learning from it: what is understood, what would be rejected, and what looks odd."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import numpy as np

from streamer.core.events import Click, Event, ItemRemoval, ItemUpdate, Rating, Record
from streamer.core.protocols import Noted, Stream
from streamer.core.settings import LearningSettings
from streamer.stream.examination import Examination, examine

_FIRST = 3  # events that are shown
_SCIENTIFIC = re.compile(r"[0-9.]+[eE][+-]?[0-9]+")
_EARLIEST_MS, _DAY_MS = 631_152_000_000, 86_400_000  # 1990: nobody logged a click before
_ODD_SHARE = 0.01  # repeated events above this share are odd
_FAR = 1.5  # a rating beyond the others' range by more than this many times its width is odd


class Validation(msgspec.Struct, kw_only=True):
    """What `streamer validate` found; counts are of events that can be used."""

    path: str
    columns: dict[str, str]  # what a column is -> its name in the header; empty for other files
    time_unit: str  # of the file's times, "" where it has none or is no delimited file
    events: int  # rows, with those that cannot be used
    rejected: list[str]  # sentences
    ratings: int
    clicks: int
    catalogue: int
    users: int
    items: int
    users_with_one_event: float  # their share, 0 to 1
    earliest: str  # ISO 8601, "" without times
    latest: str
    rating_min: float | None
    rating_max: float | None
    rating_values: int  # distinct ones
    repeated: int  # events that say the same as one before: user, item, value and time
    unknown_to_catalogue: int  # items with events that the catalogue does not have, where there is one
    first: list[str]  # the first events, as JSON
    warnings: list[str]


def validate(
    stream: Stream, path: str, columns: Mapping[str, str], time_unit: str, learning: LearningSettings, now_ms: int
) -> tuple[Validation, Examination]:
    """Decode all events and describe them. Cost: about 5 us an event; memory: some 200 bytes an event."""
    seen = _Seen()
    found = examine(stream, learning, on_event=seen.add)
    times, values = np.array(seen.times_ms, dtype=np.int64), np.array(seen.values, dtype=np.float64)
    items = set(seen.items)
    validation = Validation(
        path=path, columns=dict(columns), time_unit=time_unit,
        events=len(stream), rejected=found.sentences(), ratings=len(values), clicks=seen.clicks,
        catalogue=len(seen.catalogue), users=len(seen.users), items=len(items),
        users_with_one_event=sum(count == 1 for count in seen.users.values()) / max(1, len(seen.users)),
        earliest=_moment(int(times.min())) if len(times) else "", latest=_moment(int(times.max())) if len(times) else "",
        rating_min=float(values.min()) if len(values) else None, rating_max=float(values.max()) if len(values) else None,
        rating_values=len(np.unique(values)), repeated=seen.repeated,
        unknown_to_catalogue=len(items - seen.catalogue) if seen.catalogue else 0, first=seen.first, warnings=[],
    )  # fmt: skip
    validation.warnings = [
        *(stream.notes if isinstance(stream, Noted) else ()), *_odd_times(times, now_ms), *_odd_ratings(values), *_odd_ids("user", seen.users), *_odd_ids("item", seen.items),
        *_odd_counts(validation),
    ]  # fmt: skip
    return validation, found


class _Seen:
    """Sums over the events."""

    def __init__(self) -> None:
        self.users, self.items = Counter[str](), Counter[str]()
        self.catalogue: set[str] = set()
        self.times_ms: list[int] = []
        self.values: list[float] = []
        self.clicks = self.repeated = 0
        self.first: list[str] = []
        self._said: set[tuple[object, ...]] = set()

    def add(self, event: Event, record: Record) -> None:
        if isinstance(event, ItemUpdate | ItemRemoval):
            self.catalogue.add(event.item_id)
        if not isinstance(event, Rating | Click):
            return
        self.users[event.user_id] += 1
        self.items[event.item_id] += 1
        said: float | str
        if isinstance(event, Rating):
            said = event.rating
            self.values.append(event.rating)
        else:
            said = event.kind
            self.clicks += 1
        if event.timestamp_ms is not None:
            self.times_ms.append(event.timestamp_ms)
        same = (event.user_id, event.item_id, said, event.timestamp_ms)
        self.repeated += same in self._said
        self._said.add(same)
        if len(self.first) < _FIRST:
            self.first.append((record.value or b"").decode(errors="replace"))


def _moment(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"


def _odd_times(times: np.ndarray, now_ms: int) -> list[str]:
    if not len(times):
        return [
            "there are no times: events are learned in the order of the file, and count as happening when they are read"
        ]
    odd = int(((times < _EARLIEST_MS) | (times > now_ms + _DAY_MS)).sum())
    found = []
    if len(times) > 1 and times.min() == times.max():
        found.append(f"all times are the same, {_moment(int(times[0]))}: the order of events is not known")
    if odd:
        found.append(
            f"{odd:,} of {len(times):,} times are before 1990 or in the future, such as {_moment(int(times.max()))}: "
            "is their unit the one that is understood?"
        )
    return found


def _odd_ratings(values: np.ndarray) -> list[str]:
    found = []
    if len(values) > 1 and values.min() == values.max():
        found.append(f"all ratings are {values[0]:g}: nothing can be learned from their values; are they clicks?")
    if len(values) >= 100:
        low, high = np.quantile(values, [0.005, 0.995])
        width = max(high - low, 1e-9)
        far = values[(values < low - _FAR * width) | (values > high + _FAR * width)]
        if len(far):
            found.append(
                f"{len(far):,} of {len(values):,} ratings are far from the others, which are {low:g} to {high:g}, such as "
                f"{far[0]:g}: --rating-min and --rating-max reject them"
            )
        if low < 0 < high:
            found.append(
                "ratings are negative and positive: the highest fifth of the scale counts as likes (like_share)"
            )
    return found


def _odd_ids(what: str, ids: Counter[str]) -> list[str]:
    found = []
    scientific = [one for one in ids if _SCIENTIFIC.fullmatch(one)]
    if scientific:
        found.append(
            f"{len(scientific):,} {what} ids are in scientific notation, such as {scientific[0]!r}: different ids may have become one"
        )
    for form, shown in (
        (str.casefold, "in case"),
        (str.strip, "by blanks at their ends"),
        (_composed, "in their Unicode form"),
    ):
        forms: dict[str, str] = {}
        pairs = [(forms[form(one)], one) for one in ids if forms.setdefault(form(one), one) != one]
        if pairs:
            found.append(
                f"{len(pairs):,} {what} ids differ from another one only {shown}, such as {pairs[0][1]!r} and {pairs[0][0]!r}"
            )
    return found


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _odd_counts(found: Validation) -> list[str]:
    events, warnings = found.ratings + found.clicks, list[str]()
    if events and found.repeated > _ODD_SHARE * events:
        warnings.append(f"{found.repeated:,} of {events:,} events repeat one before: is the data in the file twice?")
    if found.users_with_one_event > 0.8 and found.users > 1:
        warnings.append(
            f"{found.users_with_one_event:.0%} of the users have one event: little can be learned about them"
        )
    if found.unknown_to_catalogue:
        warnings.append(f"{found.unknown_to_catalogue:,} of {found.items:,} items with events are not in the catalogue")
    if found.users == 1 and events > 1:
        warnings.append("all events are of one user: is the right column the user's?")
    return warnings
