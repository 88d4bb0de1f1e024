"""What looks odd in the events of a file: one id written in two ways, different ids that became one, times that cannot be.

It never says that an event cannot be used; `streamer.stream.examination` does.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from streamer.core.events import Click, Event, ItemRemoval, ItemUpdate, Rating, Record
from streamer.core.times import DAY_MS, EARLIEST_MS

_SCIENTIFIC = re.compile(r"[+-]?[0-9.,]+[eE][+-]?[0-9]+")
_NO_FRACTION = re.compile(r"[.,]0+$")
_NAMES = {"user", "userid", "item", "itemid", "movieid", "visitorid", "productid", "customerid", "uid", "iid"}
_NAME_MOST = 16  # characters of the longest of these, in any spelling
_NOBODY = {"na", "n/a", "nan", "null", "(null)", "none", "nil", "undefined", r"\n", "-", "?"}


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _whole(text: str) -> str:
    return _NO_FRACTION.sub("", text) if text[-1:] == "0" and text[:1].isdigit() else text


# A form that ids may have in common, what tells such ids apart, and what to do about it.
_FORMS: tuple[tuple[Callable[[str], str], str, str], ...] = (
    (str.casefold, "in case", ""),
    (str.strip, "by blanks at their ends", ""),
    (_composed, "in their Unicode form", "; --id-form nfc makes them one"),
    (_whole, "by a fraction of 0", ""),
)


class Oddities:
    """Sums over the events of a file."""

    def __init__(self, now_ms: int, most_users: int | None = None) -> None:
        """Looks at the ids of the first `most_users` users only, so that a file of millions takes no more memory."""
        self._latest_ms, self._most_users = now_ms + DAY_MS, most_users
        self.times = self.odd_times = 0
        self._odd_time_ms = 0
        self.users, self.items = Counter[str](), Counter[str]()  # with their ratings and clicks
        self.catalogue: set[str] = set()
        self.further_users = False  # whether there are users that were not looked at

    def add(self, event: Event, record: Record) -> None:
        """Take one more event into account. Cost: about .4 us."""
        if isinstance(event, Rating | Click):
            if event.user_id in self.users or self._most_users is None or len(self.users) < self._most_users:
                self.users[event.user_id] += 1
            else:
                self.further_users = True
            self.items[event.item_id] += 1
            if event.timestamp_ms is not None:
                self.times += 1
                if not EARLIEST_MS <= event.timestamp_ms <= self._latest_ms:
                    self.odd_times += 1
                    self._odd_time_ms = event.timestamp_ms
        elif isinstance(event, ItemUpdate):
            self.catalogue.add(event.item_id)
        elif isinstance(event, ItemRemoval):
            self.catalogue.discard(event.item_id)

    @property
    def unknown(self) -> int:
        """How many items with events the catalogue does not have, where there is one."""
        return len(self.items.keys() - self.catalogue) if self.catalogue else 0

    def warnings(self) -> list[str]:
        """Sentences about what looks odd, with counts and an example."""
        found = []
        if self.odd_times:
            found.append(
                f"{self.odd_times:,} of {self.times:,} times {'is' if self.odd_times == 1 else 'are'} before 1990 or in the future, such as "
                f"{moment(self._odd_time_ms)}: is their unit the one that is understood?"
            )
        if self.further_users:
            found.append(
                f"there are more than {len(self.users):,} users, and only the ids of the first ones were compared with each other; "
                "`streamer validate` compares all"
            )
        found += [*_odd("user", self.users, self.users), *_odd("item", self.items.keys() | self.catalogue, self.items)]
        if self.unknown:
            found.append(
                f"the catalogue knows {len(self.items) - self.unknown:,} of the {len(self.items):,} items with events; the others, "
                f"such as {next(one for one in self.items if one not in self.catalogue)!r}, have no title and no categories"
            )
        return found


def counted(count: int, one: str, more: str) -> str:
    """A count with what follows it, such as 1 event is or 2,000 events are."""
    return f"{count:,} {one if count == 1 else more}"


def moment(time_ms: int) -> str:
    """A time in ISO 8601, or in milliseconds if it is beyond what that has."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"


def _is_nobody(text: str) -> bool:
    return text.lower() in _NOBODY


def _is_name(text: str) -> bool:
    return text[:1].isalpha() and len(text) < _NAME_MOST and re.sub(r"[\s_-]", "", text.lower()) in _NAMES


def _odd(what: str, ids: Collection[str], counts: Mapping[str, int]) -> list[str]:
    found = [
        f"{counted(counts[one], 'event is', 'events are')} of the {what} {one!r}, which may stand for none"
        for one in sorted(filter(_is_nobody, counts))
    ]
    found += [
        f"{counted(counts[one], 'event is', 'events are')} of the {what} {one!r}, which is the name of a column: is there a header between the rows?"
        for one in sorted(filter(_is_name, counts))
    ]
    scientific = [one for one in ids if ("E" in one or "e" in one) and _SCIENTIFIC.fullmatch(one)]
    if scientific:
        found.append(
            f"{counted(len(scientific), f'{what} id is', f'{what} ids are')} in scientific notation, such as {min(scientific)!r}: different ids may have become one"
        )
    for form, shown, advice in _FORMS:
        if len(set(map(form, ids))) == len(ids):
            continue
        forms: dict[str, str] = {}
        pairs = [(forms[form(one)], one) for one in sorted(ids) if forms.setdefault(form(one), one) != one]
        found.append(
            f"{counted(len(pairs), f'{what} id differs', f'{what} ids differ')} from another one only {shown}, such as {pairs[0][1]!r} "
            f"and {pairs[0][0]!r}{advice}"
        )
    return found
