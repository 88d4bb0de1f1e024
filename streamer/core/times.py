"""Times as people write them, in milliseconds since 1970: numbers of any unit, told apart by their size, and dates in ISO 8601.

A number below each of these bounds is in seconds, milliseconds, microseconds: in the next smaller unit it would be before
March 1973. A time without a zone is in UTC.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

SECONDS_BELOW, MILLISECONDS_BELOW, MICROSECONDS_BELOW = 10**11, 10**14, 10**17
LATEST = 10**20  # beyond it a number is no time in any unit
EARLIEST_MS, LATEST_MS = 631_152_000_000, 4_102_444_800_000  # 1990: nobody logged an event before; and 2100
DAY_MS = 86_400_000

# Beside ISO 8601, where day and month cannot be mistaken for each other: in C's way, in that of mail, and with slashes.
_FORMATS = (
    "%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S %z", "%d %b %Y", "%b %d, %Y",
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%Y-%m-%d %H:%M:%S %z",
)  # fmt: skip
_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)


def unit_of(number: float) -> str:
    """The unit of a time that is a number."""
    size = abs(number)
    for below, unit in (
        (SECONDS_BELOW, "seconds"),
        (MILLISECONDS_BELOW, "milliseconds"),
        (MICROSECONDS_BELOW, "microseconds"),
    ):
        if size < below:
            return unit
    return "nanoseconds"


def milliseconds(time: float | str) -> int:
    """A time in any unit, or as text, in milliseconds. Raises ValueError, with a sentence."""
    if isinstance(time, str):
        number = _number(time)
        return date_ms(time) if number is None else milliseconds(number)
    size = abs(time)
    if not size < LATEST:  # also for NaN
        raise ValueError(f"the time {time} is out of range")
    if size < SECONDS_BELOW:
        return round(time * 1000)
    if size < MILLISECONDS_BELOW:
        return round(time)
    return round(time / (1000 if size < MICROSECONDS_BELOW else 1_000_000))


def stated_milliseconds(time: float | str) -> int:
    """A time that its producer calls milliseconds. It is in another unit where only that makes it a time of 1990 to 2100.

    Raises ValueError, with a sentence.
    """
    number = _number(time) if isinstance(time, str) else time
    if number is not None and abs(number) < SECONDS_BELOW and not EARLIEST_MS <= number * 1000 < LATEST_MS:
        return round(number)  # in seconds it would be no better
    return milliseconds(time)


def date_ms(text: str) -> int:
    """The moment that a text names, in milliseconds. Raises ValueError, with a sentence. Cost: 1 us in ISO 8601, 10 otherwise."""
    written = text.strip().removesuffix(" UTC")
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        moment = _other_date(written)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND


def _other_date(text: str) -> datetime:
    for form in _FORMATS:
        with suppress(ValueError):
            return datetime.strptime(text, form)  # its zone is set by the caller
    raise ValueError(f"the time {text[:100]!r} is neither a number nor a date")


def _number(text: str) -> float | None:
    """The number in a text, None if it is none. Whole numbers stay exact."""
    try:
        return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return None
