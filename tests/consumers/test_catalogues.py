"""Tables of items and users in the shapes that people have. To add a shape, add a line."""

import json
from pathlib import Path
from typing import Any

import pytest

from streamer.consumers.delimited.header import ReadOptions, parse_columns
from streamer.consumers.files import read
from streamer.core.protocols import Located, Noted

# Tables of items and users: what is read, and what is said.
CATALOGUES: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "Gorse, items": (
        "item_id,hidden,categories,time_stamp,labels,description\n1,false,a|b,2022-06-24,c,Good\n2,true,,2022-06-24,,Bad\n",
        [{"item_id": "1", "categories": ["a", "b"]}, {"item_id": "2", "available": False}],
        "is a table of items, with their categories from 'categories', availability from 'hidden'; not read: 'time_stamp', 'labels', 'description'",
    ),
    "Gorse, users": ("user_id,labels\n7,a|b\n8,\n", [{"user_id": "7", "attributes": {"labels": "a|b"}}, {"user_id": "8"}], "is a table of users, with 'labels'"),
    "Amazon Personalize, items": (
        "ITEM_ID,GENRES,CREATION_TIMESTAMP\n1,Action|Comedy,1656105611\n2,Drama,1656105611\n",
        [{"item_id": "1", "categories": ["Action", "Comedy"]}, {"item_id": "2", "categories": ["Drama"]}],
        "categories from 'GENRES'; not read: 'CREATION_TIMESTAMP'",
    ),
    "Amazon Personalize, users": (
        "USER_ID,AGE,GENDER\n7,20,f\n8,,m\n",
        [{"user_id": "7", "attributes": {"age": 20, "gender": "f"}}, {"user_id": "8", "attributes": {"gender": "m"}}],
        "is a table of users, with 'age', 'gender'",
    ),
    "Book-Crossing, books": (
        '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication"\n"1";"The \\"Best\\" of; all";"A";"2002"\n"2";"Two";"B";"0"\n',
        [{"item_id": "1", "title": 'The "Best" of; all', "attributes": {"year": 2002}}, {"item_id": "2", "title": "Two"}],
        "title from 'Book-Title', year from 'Year-Of-Publication'; not read: 'Book-Author'",
    ),
    "RecBole, items": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\tHeat\t1995\tAction Crime\n2\tAlien\t1979\tHorror\n",
        [
            {"item_id": "1", "title": "Heat", "categories": ["Action", "Crime"], "attributes": {"year": 1995}},
            {"item_id": "2", "title": "Alien", "categories": ["Horror"], "attributes": {"year": 1979}},
        ],
        "categories from 'class:token_seq', year from 'release_year:token'",
    ),
    "lists as Python prints them": (
        "product_id,name,tags\n1.0,Tea,\"['hot', 'green']\"\n2.0,Ice,\"[\"\"cold\"\"]\"\n",
        [{"item_id": "1", "title": "Tea", "categories": ["hot", "green"]}, {"item_id": "2", "title": "Ice", "categories": ["cold"]}],
        "title from 'name', categories from 'tags'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", CATALOGUES)
def test_tables_of_items_and_users_are_the_catalogue(tmp_path: Path, shape: str) -> None:
    text, wanted, said = CATALOGUES[shape]
    (tmp_path / "table.csv").write_text(text)
    stream = read(tmp_path / "table.csv")
    assert [json.loads(one.value or b"") for one in stream.messages(0, 9)] == wanted
    assert {one.topic for one in stream.messages(0, 9)} == {"items" if "item_id" in wanted[0] else "users"}
    assert isinstance(stream, Noted)
    assert said in stream.notes[-1]


@pytest.mark.parametrize("said", ["user=who,item=item_id,time=when", "user,item,time"])
def test_columns_that_are_given_are_those_of_the_events_beside_a_catalogue(tmp_path: Path, said: str) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n12,Heat\n9,Alien\n")
    head = "who,item_id,when\n" if "=" in said else ""
    (tmp_path / "events.csv").write_text(f"{head}7,12,2022-06-24\n8,9,2022-06-25\n")
    stream = read(tmp_path, options=ReadOptions(columns=parse_columns(said)))
    assert [(one.topic, one.key) for one in stream.messages(0, 9)] == [
        ("items", b"12"),
        ("items", b"9"),
        ("clicks", b"7"),
        ("clicks", b"8"),
    ]


def test_a_row_of_a_catalogue_that_is_too_short_is_a_bad_event(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"item_id,title,genres\n1,Caf\xc3\xa9,Crime\n2,Alien\n3,Caf\xe9,\n")
    stream = read(tmp_path / "table.csv")
    assert [(one.topic, one.key, one.value) for one in stream.messages(1, 9)] == [
        ("items", b"line 3", b"2,Alien"),
        ("items", b"line 4", b"3,Caf\xe9,"),
    ]
    assert isinstance(stream, Located)
    assert [stream.locate(row) for row in (1, 2)] == [
        (3, "it has 2 columns, and 3 are wanted"),
        (4, "it has bytes that are not UTF-8"),
    ]


def test_a_folder_may_have_the_tables_of_its_items_and_users_too(tmp_path: Path) -> None:
    for name, text in (
        ("feedback", "feedback_type,user_id,item_id,time_stamp\nstar,bob,2,2022-06-24 21:20:11 +0000 UTC\n"),
        ("items", "item_id,is_hidden,categories,time_stamp,labels,description\n2,false,Comedy,2020-01-01,,Toy Story\n"),
        ("users", "user_id,labels\nbob,a|b\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
    stream = read(tmp_path)
    assert [(one.topic, one.key) for one in stream.messages(0, 3)] == [
        ("items", b"2"),
        ("users", b"bob"),
        ("clicks", b"bob"),
    ]
    assert json.loads(stream.messages(2, 3)[0].value or b"")["timestamp_ms"] == 1656105611000
