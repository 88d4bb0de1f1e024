"""Which column is what in a table without a header, by what is in it; only where that leaves no doubt."""

import re
from collections.abc import Sequence

from streamer.consumers.delimited.rows import times_of
from streamer.core.times import EARLIEST_MS, LATEST_MS

_SCALE_TO, _SCALE_VALUES = 10.0, 21  # ratings are at most that high, with that many values: 0.5 to 10 in halves, or 0
_KNOWN = (["rating"], ["time"], ["rating", "time"], ["time", "rating"])
_ASIN, _REVIEWER = re.compile(r"B0[0-9A-Z]{8}|[0-9]{9}[0-9X]"), re.compile(r"A[0-9A-Z]{9,20}")


def columns_by_content(rows: Sequence[Sequence[str]]) -> Sequence[str]:
    """What each column is, "" for one that is not read; empty where the content does not say.

    Two ids, then a rating or a time or both: user, item, and these. An id, a time, an id: the clicks of sessions.
    """
    width = len(rows[0]) if rows else 0
    if width not in (3, 4, 5) or len({len(row) for row in rows}) > 1:
        return ()
    columns = [[field.strip() for field in column] for column in zip(*rows, strict=True)]
    looks = ["time" if _times(one) else "rating" if _ratings(one) else "" for one in columns]
    if _ids(columns[0]) and _ids(columns[1]) and "time" not in looks[:2] and looks[2:] in _KNOWN:
        first = ["item", "user"] if _all(_ASIN, columns[0]) and _all(_REVIEWER, columns[1]) else ["user", "item"]
        return [*first, *looks[2:]]
    if looks[1] == "time" and _ids(columns[0]) and _ids(columns[2]) and "time" not in (looks[0], *looks[2:]):
        rest = looks[3:]
        if not rest or (rest == ["rating"] and len(set(columns[3])) > 1):  # a rating, or the number of a category?
            return ()
        return ["user", "time", "item", *[""] * len(rest)]
    return ()


def likely_columns(rows: Sequence[Sequence[str]]) -> Sequence[str]:
    """What each column of the first row's may be, "-" for one more: not certain, for advice."""
    width = len(rows[0])
    columns = zip(*(row for row in rows if len(row) == width), strict=True)
    rest, likely, timed = iter(("user", "item", "rating")), list[str](), False
    for column in columns:
        if not timed and width > 2 and _times([field.strip() for field in column]):
            timed = True
            likely.append("time")
        else:
            likely.append(next(rest, "-"))
    return likely


def _all(pattern: re.Pattern[str], texts: Sequence[str]) -> bool:
    return all(map(pattern.fullmatch, texts))


def _ids(texts: Sequence[str]) -> bool:
    return all(texts) and not any("." in text and _number(text) is not None for text in texts)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _ratings(texts: Sequence[str]) -> bool:
    """Whether all are numbers on a scale as people have: at most 10, few different ones."""
    values = {_number(text) for text in set(texts)}
    known = {value for value in values if value is not None}
    return len(known) == len(values) <= _SCALE_VALUES and all(0 <= value <= _SCALE_TO for value in known)


def _times(texts: Sequence[str]) -> bool:
    """Whether all are times between 1990 and 2100."""
    try:
        times = times_of(texts)
    except ValueError:
        return False
    return bool(len(times)) and bool(((times >= EARLIEST_MS) & (times < LATEST_MS)).all())
