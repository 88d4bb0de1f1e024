"""Tables of items and of users as catalogue events: titles, categories and years, and what is known of people.

Those of Gorse and Personalize, and the films, books and artists of well-known data sets.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from streamer.consumers.delimited.header import columns_of, listed, session_of, spelled
from streamer.core.events import ItemUpdate, UserUpdate

# What is read of an item -> names that people give it, the first found wins.
_OF_ITEMS: Mapping[str, Sequence[str]] = {
    "title": (
        "title", "booktitle", "movietitle", "itemtitle", "producttitle", "name", "itemname", "productname", "artistname", "trackname",
        "songname", "hotelname", "businessname", "venuename", "originaltitle",
    ),
    "categories": ("genres", "genre", "categories", "category", "labels", "tags", "maincategory", "class"),
    "year": ("year", "yearofpublication", "originalpublicationyear", "publicationyear", "releaseyear", "releasedate", "released"),
    "hidden": ("hidden", "ishidden"),
}  # fmt: skip
# Of users every column is read; one of these shows that they are users.
_OF_USERS = {"age", "gender", "sex", "occupation", "country", "city", "location", "zip", "zipcode", "state", "region", "language",
             "labels", "comment", "job", "birthyear", "nationality", "income", "education", "segment", "registered"}  # fmt: skip
_YEAR_OF_TITLE = re.compile(r"\((\d{4})(?:\s*[-\u2013]\s*(?:\d{4})?)?\s*\)\s*$")  # (1995), (2007-), (1975-1979)
_YEAR = re.compile(r"(?<!\d)(1[0-9]{3}|20[0-9]{2})(?!\d)")
_NO_CATEGORY = {"", "unknown", "(no genres listed)", "nan", "null", "none"}
_TRUE = {"true", "t", "1", "yes", "y"}
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_WHOLE = re.compile(r"[0-9]{1,15}")


def catalogue_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`items` or `users` for a table of these, "" for any other. Each item or user has one row there."""
    found, names = columns_of(header), {spelled(name) for name in header}
    if ("user" in found) == ("item" in found) or found.keys() & {"rating", "kind"} or session_of(header) is not None:
        return ""
    what = "item" if "item" in found else "user"
    ids = [row[found[what]] for row in rows if len(row) > found[what]]
    known = names & _OF_USERS if what == "user" else names & {*_OF_ITEMS["title"], *_OF_ITEMS["categories"], "hidden"}
    return f"{what}s" if known and len(set(ids)) == len(ids) else ""


def columns_read(header: Sequence[str], of: str) -> tuple[dict[str, int], str]:
    """What is read of a table of items or users -> its column, and a sentence about that."""
    names, found = [spelled(name) for name in header], columns_of(header)
    if of == "users":
        read = {re.sub(r":.*", "", name.strip().lower()): n for n, name in enumerate(header) if n != found["user"] and name.strip()}  # fmt: skip
        return {"id": found["user"], **read}, f"is a table of users, with {', '.join(map(repr, read))}"
    read = {}
    for what, known in _OF_ITEMS.items():
        column = next((names.index(name) for name in known if name in names), None)
        if column is not None and column != found["item"]:
            read[what] = column
    said = ", ".join(
        f"{'availability' if what == 'hidden' else what} from {header[column].strip()!r}"
        for what, column in read.items()
    )
    unread = [name for n, name in enumerate(header) if n not in (found["item"], *read.values())]
    left = f"; not read: {listed(unread)}" if unread else ""
    if "categories" in read and header[read["categories"]].strip().endswith("_seq"):
        read["words"] = read.pop("categories")  # as RecBole writes lists
    return {"id": found["item"], **read}, f"is a table of items, with their {said}{left}"


def item(
    item_id: str, title: str, categories: Iterable[str], released: str = "", *, available: bool = True
) -> ItemUpdate:
    """An item; its year is at the end of the title, or in the text that says when it was released."""
    year = _YEAR_OF_TITLE.search(title) or _YEAR.search(released)
    known = tuple(name for name in categories if name.lower() not in _NO_CATEGORY)
    return ItemUpdate(item_id.strip(), title.strip(), known, {"year": int(year[1])} if year else {}, available)


def item_of(row: Sequence[str], read: Mapping[str, int]) -> ItemUpdate:
    """The item in a row of a table whose columns are read like this."""
    field = {what: row[column].strip() for what, column in read.items()}
    hidden = field.get("hidden", "").lower() in _TRUE
    categories = field["words"].split() if "words" in field else categories_in(field.get("categories", ""))
    return item(field["id"], field.get("title", ""), categories, field.get("year", ""), available=not hidden)


def user_of(row: Sequence[str], read: Mapping[str, int]) -> UserUpdate:
    """The user in a row of a table whose columns are read like this."""
    attributes: dict[str, str | float | bool | None] = {}
    for name, column in read.items():
        text = row[column].strip()
        if name != "id" and text.lower() not in _NO_CATEGORY:
            attributes[name] = int(text) if name == "age" and _WHOLE.fullmatch(text) else text
    return UserUpdate(row[read["id"]].strip(), attributes)


def categories_in(text: str) -> list[str]:
    """The categories in a field: a list in JSON or as Python prints it, or texts between bars, semicolons or commas."""
    if text.startswith("["):
        with suppress(ValueError):
            return [str(one).strip() for one in json.loads(text)]
        return [(one or two).strip() for one, two in _QUOTED.findall(text)]
    between = next((mark for mark in ("|", ";", ",") if mark in text), "\n")
    return [one.strip() for one in text.split(between)]
