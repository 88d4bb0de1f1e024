"""Which column of a table is the user, the item, the rating, the kind of click and the time: by its name, or as the reader is told.

Names are compared without regard to case, blanks, `-`, `_` and `.`, and without the types of RecBole's headers (`user_id:token`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from streamer.consumers.delimited.numerals import MISSING
from streamer.core.errors import BadSettings
from streamer.core.protocols import Understood

# What a column is -> names that people give it, the first found wins. Films, books, music, shops, travel, and what recommender
# libraries write.
NAMES: Mapping[str, Sequence[str]] = {
    "user": (
        "userid", "user", "uid", "username", "visitorid", "reviewerid", "customerid", "customer", "memberid", "accountid",
        "clientid", "personid", "profileid", "listenerid", "readerid", "guestid", "travelerid", "visitor", "reviewer", "useridx",
        "usersha1", "fullvisitorid",
    ),
    "item": (
        "itemid", "item", "movieid", "movie", "filmid", "film", "parentasin", "asin", "isbn", "bookid", "book", "artistid",
        "trackid", "songid", "albumid", "productid", "product", "iid", "sku", "articleid", "newsid", "videoid", "gameid", "appid",
        "animeid", "showid", "podcastid", "recipeid", "courseid", "businessid", "venueid", "hotelid", "listingid", "placeid",
        "poiid", "locationid", "attractionid", "destinationid", "offerid", "adid", "contentid", "beerid", "aid", "artist",
        "track", "song", "stockcode", "artistname", "trackname", "songname", "movietitle", "booktitle", "productname", "hotelname",
    ),
    "kind": (
        "kind", "event", "eventtype", "eventname", "feedbacktype", "feedback", "action", "actiontype", "behavior",
        "behaviour", "behaviortype", "behaviourtype", "interaction", "interactiontype", "type",
    ),
    "rating": (
        "rating", "score", "value", "overall", "stars", "starrating", "bookrating", "userrating", "ratingscore", "ratingvalue",
        "reviewscore", "reviewrating", "rui", "myrating", "eventvalue", "plays", "playcount", "listencount", "listeningcount",
        "weight",
    ),
    "time": (
        "timestamp", "timestampms", "time", "unixreviewtime", "ts", "eventtime", "eventtimestamp", "ratingtimestamp",
        "unixtime", "datetime", "createdat", "updatedat", "ratedat", "date", "eventdate", "ratingdate", "dateadded", "reviewdate",
        "ratetime", "visittime", "listenedat", "playedat", "watchedat", "purchasedat", "invoicedate", "orderdate",
        "visitdate", "dateofvisit", "staydate", "dateofstay", "bookingdate", "travelday", "traveldate", "reviewtime",
    ),
}  # fmt: skip
SESSION = ("sessionid", "session")  # who acts, in files that have no users
_TYPES = re.compile(r":(token|float)(_seq)?$")  # of RecBole's atomic files
# Parts of the names of ids that are no item's.
_NO_ITEM = ("review", "rating", "order", "transaction", "event", "session", "invoice", "row", "record", "request", "category", "genre",
            "brand", "store", "device", "city", "country", "region", "group", "type", "parent", "log", "valid")  # fmt: skip
_NOT_READ = {"", "-", "_"}


@dataclass(frozen=True, slots=True)
class GivenColumns:
    """The columns of a file as a user gives them: by name where the file has a header, in their order where it has none."""

    named: Mapping[str, str]  # user, item, kind, rating, time -> the column's name; "": there is none
    ordered: Sequence[str] = ()  # what each column is; "": not read


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a user says of a file; the rest is found out."""

    columns: GivenColumns | None = None
    encoding: str = ""
    id_form: Literal["exact", "nfc"] = "exact"


def parse_columns(text: str) -> GivenColumns:
    """`user=visitorid,item=itemid,time=timestamp`, or `user,item,rating,timestamp` for a file without a header. Raises BadSettings."""
    parts = [part.strip() for part in text.split(",")]
    if any("=" in part for part in parts):
        named = {}
        for part in parts:
            what, equals, name = part.partition("=")
            if not equals:
                raise BadSettings(f"--columns {text}: wanted WHAT=NAME for each column, found {part!r}")
            named[_role(what, text)] = name.strip()
        return GivenColumns(named)
    ordered = ["" if part in _NOT_READ else _role(part, text) for part in parts]
    for what in ("user", "item"):
        if what not in ordered:
            raise BadSettings(
                f"--columns {text} has no {what}: name user and item, and - for a column that is not read"
            )
    for what in ordered:
        if what and ordered.count(what) > 1:
            raise BadSettings(f"--columns {text} has two columns for the {what}: put - for the one that is not read")
    return GivenColumns({}, ordered)


def _role(text: str, given: str) -> str:
    for what, names in {**NAMES, "user": (*NAMES["user"], *SESSION)}.items():
        if spelled(text) == what or spelled(text) in names:
            return what
    raise BadSettings(
        f"--columns {given}: {text.strip()!r} is none of {', '.join(NAMES)}: give user=NAME,item=NAME for a file with a header, "
        "or user,item,rating,time in the order of a file without one, with - for a column that is not read"
    )


def spelled(name: str) -> str:
    """A column's name as it is compared."""
    return re.sub(r"[\s_.-]", "", _TYPES.sub("", name.strip()).lower())


def columns_of(header: Sequence[str], given: GivenColumns | None = None) -> dict[str, int]:
    """What is known -> its column, by the names of a header. Raises BadSettings for a given name that is not there."""
    names, found = [spelled(name) for name in header], dict[str, int]()
    for what, name in given.named.items() if given else ():
        if name:
            found[what] = _place(name, header, names)
    taken = set(found.values())
    for what, known in NAMES.items():
        if what in found or (given and what in given.named):
            continue
        for name in known:
            if name in names and names.index(name) not in taken:
                found[what] = names.index(name)
                taken.add(found[what])
                break
    if "rating" in found and not (given and "rating" in given.named) and _is_gorse(names, found):
        del found["rating"]
    return found


def find_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], given: GivenColumns | None, name: str
) -> tuple[dict[str, int], Sequence[str]]:
    """What is known -> its column, also by the first rows where no user or no item has a known name; and notes that say so.

    Raises like `columns_of`.
    """
    found = columns_of(header, given)
    return found, [*_use_session(header, rows, found, name), *_use_only_id(header, found, name)]


def _use_session(
    header: Sequence[str], rows: Sequence[Sequence[str]], found: dict[str, int], name: str
) -> Sequence[str]:
    """Take the session for the user if there are no users, or hardly any is known; say so."""
    session = session_of(header)
    if session is None or "item" not in found:
        return ()
    if "user" in found:
        users = [row[found["user"]].strip().lower() for row in rows if len(row) > found["user"]]
        if sum(user in MISSING for user in users) <= len(users) // 2:
            return ()
    found["user"] = session
    return (f"{name}: each session counts as a user, by its column {header[session].strip()!r}",)


def _use_only_id(header: Sequence[str], found: dict[str, int], name: str) -> Sequence[str]:
    """Take the only other id for the item, where there are users who rate or click something; say so."""
    other = _only_other_id(header, found)
    if "user" not in found or "item" in found or other is None or not found.keys() & {"rating", "kind"}:
        return ()
    found["item"] = other
    return (f"{name}: the item is taken from its column {header[other].strip()!r}",)


def _is_gorse(names: Sequence[str], found: Mapping[str, int]) -> bool:
    """Whether it is Gorse's feedback, whose value is no rating."""
    return "kind" in found and names[found["kind"]] == "feedbacktype" and names[found["rating"]] == "value"


def has_all(header: Sequence[str], given: GivenColumns) -> bool:
    """Whether all columns that are given by name are in a header."""
    return {spelled(name) for name in given.named.values() if name} <= {spelled(name) for name in header}


def _place(name: str, header: Sequence[str], names: Sequence[str]) -> int:
    exact = [text.strip() for text in header]
    if name in exact:
        return exact.index(name)
    if spelled(name) in names:
        return names.index(spelled(name))
    raise BadSettings(f"--columns: there is no column {name!r}; the columns are {listed(header)}")


def session_of(header: Sequence[str]) -> int | None:
    """The column of the session, None without one."""
    names = [spelled(name) for name in header]
    return next((names.index(name) for name in SESSION if name in names), None)


def _only_other_id(header: Sequence[str], found: Mapping[str, int]) -> int | None:
    """The column of an id under another name, as in `user_id,joke_id,rating`; None if there are several or none."""
    names = {n: spelled(name) for n, name in enumerate(header) if n not in found.values()}
    ids = [n for n, name in names.items() if name.endswith("id") and not any(word in name for word in _NO_ITEM)]
    return ids[0] if len(ids) == 1 else None


def since_of(header: Sequence[str]) -> int | None:
    """The column of the milliseconds since the time, which Diginetica's dates have beside them; None without one."""
    names = [spelled(name) for name in header]
    return names.index("timeframe") if "timeframe" in names else None


def understood_of(
    header: Sequence[str], rows: Sequence[Sequence[str]], found: Mapping[str, int], time_unit: str
) -> Understood:
    """How a table is understood. A column without a name counts by its number, and not at all if the first rows have nothing there."""
    names = [name.strip() or f"column {n}" for n, name in enumerate(header, 1)]
    read = {*found.values(), since_of(header) if "time" in found else None}
    unread = [
        names[n] for n, name in enumerate(header)
        if n not in read and (name.strip() or any(row[n].strip() for row in rows if len(row) > n))
    ]  # fmt: skip
    return Understood({what: names[found[what]] for what in NAMES if what in found}, time_unit, unread)


def listed(header: Sequence[str]) -> str:
    """The names of columns for a message."""
    more = f" and {len(header) - 20} more" if len(header) > 20 else ""
    return ", ".join(repr(name.strip()) for name in header[:20]) + more
