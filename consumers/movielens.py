"""Reads MovieLens folders of any edition: ratings, films as items, and people as users if the edition has them.

| edition | ratings | films | people |
|---|---|---|---|
| ml-latest, ml-latest-small, ml-20m, ml-25m, ml-32m | ratings.csv | movies.csv | |
| ml-1m, ml-10m | ratings.dat (`::`) | movies.dat | users.dat (ml-1m) |
| ml-100k | u.data (tabs) | u.item, u.genre | u.user |

Harper, Konstan (2015), The MovieLens datasets: history and context, ACM TiiS 5(4), 19.
"""

import csv
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

from streamer.consumers.columns import Columns
from streamer.consumers.delimited.catalogue import item
from streamer.consumers.delimited.encoding import open_text
from streamer.consumers.delimited.fields import Layout
from streamer.consumers.delimited.header import ReadOptions, spelled
from streamer.consumers.delimited.reader import read_delimited
from streamer.consumers.delimited.rows import read_columns, without_decimals
from streamer.core.events import ItemUpdate, Message, UserUpdate, message

_GENRES_100K = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|Mystery|"
    "Romance|Sci-Fi|Thriller|War|Western"
)
_OCCUPATIONS_1M = (
    "other|academic/educator|artist|clerical/admin|college/grad student|customer service|doctor/health care|"
    "executive/managerial|farmer|homemaker|K-12 student|lawyer|programmer|retired|sales/marketing|scientist|self-employed|"
    "technician/engineer|tradesman/craftsman|unemployed|writer"
)
_PEOPLE = {"u.user": ("age", "gender", "occupation", "zip"), "users.dat": ("gender", "age", "occupation", "zip")}


_EDITIONS = (
    (("ratings.csv", "movies.csv"), ()),
    (("u.data", "u.item"), ("u.genre", "u.user")),
    (("ratings.dat", "movies.dat"), ("users.dat",)),
)


_OF_MOVIELENS = {"ratings.csv", "movies.csv", "links.csv", "tags.csv", "genome-scores.csv", "genome-tags.csv"}
_HEADER_CHARACTERS = 1000


def find_files(folder: Path) -> list[Path]:
    """The files of the edition in `folder`, ratings first, then films; empty where it is none. Raises OSError."""
    for names, further in _EDITIONS:
        files = [folder / name for name in names]
        if all(file.is_file() for file in files) and (files[1].suffix != ".csv" or _is_films(files[1])):
            return files + [folder / name for name in further if (folder / name).is_file()]
    return []


def _is_films(file: Path) -> bool:
    """Whether a table has MovieLens' columns: others may have films in a file of that name too."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        header = next(csv.reader([lines.readline(_HEADER_CHARACTERS)]), [])
    return [spelled(name) for name in header] == ["movieid", "title", "genres"]


def read_movielens(files: list[Path], options: ReadOptions | None = None) -> tuple[list[Message], Columns]:
    """The catalogue and the ratings in file order, from the files of `find_files`. Raises OSError."""
    ratings, films = files[0], files[1]
    if ratings.suffix == ".csv":
        text, notes = _text(films, options)
        columns = read_delimited(ratings, options)
        notes = [*_left(ratings.parent), *notes, *columns.notes]
        return [message(film) for film in _items_csv(text)], replace(columns, notes=notes)
    catalogue = [message(film) for film in _items_text(films, files[2:])]
    catalogue += [message(user) for file in files[2:] if file.name in _PEOPLE for user in _people(file)]
    layout = Layout("::" if ratings.suffix == ".dat" else "\t", 4, user=0, item=1, rating=2, time=3, quoted=False)
    with ratings.open(encoding="utf-8", errors="surrogateescape") as lines:
        return catalogue, read_columns(lines, layout)


def _left(folder: Path) -> list[str]:
    """A sentence about tables that are not read and that MovieLens does not have."""
    left = sorted(file.name for file in folder.glob("*.csv") if file.name not in _OF_MOVIELENS)
    return [f"{', '.join(left)} beside MovieLens' files: not read; give such a file by itself"] if left else []


def _lines(file: Path) -> Iterator[str]:
    """The lines of a small file, decoded as UTF-8 (ml-10m) if possible, otherwise as Latin-1 (ml-100k, ml-1m)."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return (line for line in text.replace("\r\n", "\n").split("\n") if line)


def _text(file: Path, options: ReadOptions | None) -> tuple[str, list[str]]:
    with file.open("rb") as content:
        text, notes = open_text(content, file.name, options.encoding if options else "")
        read = text.read()
    whole = read.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    odd = whole.count("\ufffd") - read.count("\ufffd")
    lost = f"1 letter in {file.name} is" if odd == 1 else f"{odd:,} letters in {file.name} are"
    return whole, [*notes, f"{lost} not UTF-8 and lost"] if odd else notes


def _items_csv(text: str) -> Iterator[ItemUpdate]:
    rows = csv.reader(StringIO(text))
    next(rows, None)  # movieId,title,genres
    films = [(*row, "", "")[:3] for row in rows if row]
    ids = without_decimals([film[0].strip() for film in films])
    for item_id, (_, title, genres) in zip(ids, films, strict=True):
        yield item(item_id, title, genres.split("|"))


def _items_text(file: Path, further: list[Path]) -> Iterator[ItemUpdate]:
    if file.suffix == ".dat":
        for line in _lines(file):
            item_id, title, genres = (*line.split("::"), "", "")[:3]
            yield item(item_id, title, genres.split("|"))
        return
    genre_names = _GENRES_100K.split("|")
    for genre_file in (path for path in further if path.name == "u.genre"):
        genre_names = [line.rpartition("|")[0] for line in _lines(genre_file)]
    for line in _lines(file):  # id|title|released|on video|address|a flag for each genre
        item_id, title, released, *fields = (*line.split("|"), "", "")
        flagged = [name for name, flag in zip(genre_names, fields[2:], strict=False) if flag == "1"]
        yield item(item_id, title, flagged, released)


def _people(file: Path) -> Iterator[UserUpdate]:
    names, delimiter = _PEOPLE[file.name], "::" if file.suffix == ".dat" else "|"
    occupations = _OCCUPATIONS_1M.split("|")
    for line in _lines(file):
        user_id, *fields = line.split(delimiter)
        attributes: dict[str, str | float | bool | None] = dict(zip(names, fields, strict=False))
        for name, text in list(attributes.items()):
            if name == "age" and isinstance(text, str) and text.isdigit():
                attributes[name] = int(text)
            if name == "occupation" and isinstance(text, str) and text.isdigit() and int(text) < len(occupations):
                attributes[name] = occupations[int(text)]
        yield UserUpdate(user_id, attributes)
