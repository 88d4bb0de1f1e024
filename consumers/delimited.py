"""Reads ratings or clicks from a CSV or TSV file with a header: `userId,movieId,rating,timestamp` and common variants."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamer.consumers.columns import Columns
from streamer.consumers.rows import Layout, read_columns, time_unit
from streamer.core.errors import BadSettings
from streamer.core.events import CLICKS, RATINGS

NAMES = {
    "user": ("userid", "user"),
    "item": ("itemid", "movieid", "item", "movie"),
    "kind": ("kind", "event"),
    "rating": ("rating", "score", "value"),
    "time": ("timestamp", "timestampms", "time"),
}
_WANTED = (
    "wanted a header with a user column (userId, user_id, user), an item column (itemId, item_id, movieId, item), for ratings "
    "rating (or score, value), for clicks kind (or event), and, for the order, timestamp (or timestamp_ms, time)"
)


def read_delimited(path: Path) -> Columns:
    """The events of `path` in file order: clicks if the file has kinds or no ratings, otherwise ratings.

    Raises BadSettings for a header without user or item column, OSError.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        header = lines.readline()
        if not header.strip():
            raise BadSettings(f"{path} has no header on its first line: {_WANTED}")
        delimiter = max("\t,;", key=header.count)
        texts = next(csv.reader([header], delimiter=delimiter))
        found = _column_numbers(texts, NAMES)
        if "user" not in found or "item" not in found:
            columns = ", ".join(repr(text.strip()) for text in texts[:12])
            raise BadSettings(
                f"{_WANTED}; found {columns} on the first line of {path}: name its columns, or convert it"
            )
        clicks = "kind" in found or "rating" not in found
        layout = Layout(
            topic=CLICKS if clicks else RATINGS,
            delimiter=delimiter,
            width=len(texts),
            user=found["user"],
            item=found["item"],
            value=found.get("kind" if clicks else "rating"),
            time=found.get("time"),
        )
        return read_columns(lines, layout, first_line=2)


@dataclass(frozen=True, slots=True)
class Shape:
    """How a delimited file is understood."""

    columns: Mapping[str, str]  # user, item, kind, rating, time -> the column's name in the header
    time_unit: str  # as in "seconds", "" without a time


def shape_of(path: Path) -> Shape:
    """How `read_delimited` understands a file, by its header and first row. Raises OSError, BadSettings."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        header = lines.readline()
        rows = csv.reader([header, lines.readline()], delimiter=max("\t,;", key=header.count))
        names, first = next(rows, []), next(rows, [])
    found = _column_numbers(names, NAMES)
    if "kind" in found:
        found.pop("rating", None)  # not read where there are kinds
    time = first[found["time"]].strip() if "time" in found and len(first) == len(names) else ""
    return Shape({what: names[column].strip() for what, column in found.items()}, time_unit(time))


def _column_numbers(texts: Sequence[str], names: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The columns of a header by name; `names` lists the spellings of each. Case, spaces, "_" and "-" do not matter."""
    spelled = [text.strip().lower().replace("_", "").replace("-", "").replace(" ", "") for text in texts]
    found = {}
    for name, spellings in names.items():
        for spelling in spellings:
            if spelling in spelled:
                found[name] = spelled.index(spelling)
                break
    return found
