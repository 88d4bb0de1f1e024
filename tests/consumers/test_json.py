"""JSON Lines and arrays: whose objects are what, under which names, and where they are."""

from pathlib import Path

from streamer.consumers.files import read
from streamer.core.events import Click, ItemUpdate, Record, UserUpdate
from streamer.core.protocols import Located
from streamer.core.settings import LearningSettings
from streamer.stream.decoder import Decoder


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_gorses_users_items_and_feedback_are_read(tmp_path: Path) -> None:
    """https://gorse.io/docs: exported as JSON Lines, each in a file of its own."""
    written(
        tmp_path / "users.jsonl",
        b'{"UserId":"bob","Labels":["m",{"x":1}],"Subscribe":[],"Comment":"first"}\n{"UserId":"amy","Labels":{"age":30,"likes":["a"]},"Comment":""}\n',
    )
    written(
        tmp_path / "items.jsonl",
        b'{"ItemId":"2","IsHidden":false,"Categories":["Comedy","Animation"],"Timestamp":"2020-01-01T00:00:00Z","Labels":["Toy"],"Comment":"Toy Story (1995)"}\n{"ItemId":"3","IsHidden":true,"Categories":null,"Labels":null,"Comment":""}\n',
    )
    written(
        tmp_path / "feedback.jsonl",
        b'{"FeedbackType":"star","UserId":"bob","ItemId":"2","Value":0,"Timestamp":"2022-06-24T21:20:11Z","Comment":""}\n{"FeedbackType":"read","UserId":"amy","ItemId":"3","Timestamp":"2022-06-24 21:20:12 +0000 UTC"}\n',
    )
    stream = read(tmp_path)
    records = [Record(one.topic, -1, n, 0, one.key, one.value) for n, one in enumerate(stream.messages(0, len(stream)))]
    assert Decoder(LearningSettings()).decode(records, (), ()) == [
        ItemUpdate("2", "Toy Story (1995)", ("Comedy", "Animation", "Toy")), ItemUpdate("3", available=False),
        UserUpdate("bob", {"m": True}), UserUpdate("amy", {"a": True, "age": 30.0}),
        Click("bob", "2", "star", 1656105611000), Click("amy", "3", "read", 1656105612000),
    ]  # fmt: skip


def test_entries_of_a_catalogue_keep_their_names(tmp_path: Path) -> None:
    lines = b'{"item_id":"a","title":"T","type":"film","weight":3,"date":"x"}\n{"asin":"b","title":"U"}\n{"user_id":"u","attributes":{"age":4},"product":"p"}\n'
    stream = read(written(tmp_path / "r.jsonl", lines))
    assert [(one.topic, one.key) for one in stream.messages(0, 3)] == [
        ("items", b"a"),
        ("items", b"b"),
        ("users", b"u"),
    ]


def test_the_line_of_an_element_of_an_array_is_that_on_which_it_begins(tmp_path: Path) -> None:
    content = b'[\n  {"user_id": "u",\n   "item_id": "i", "rating": "x"},\n  7, {"user_id": "u", "item_id": "i", "rating": 1}\n]'
    stream = read(written(tmp_path / "r.json", content))
    assert isinstance(stream, Located)
    assert [stream.locate(row)[0] for row in range(3)] == [2, 4, 4]
    assert stream.messages(0, 1)[0].value == b'{"user_id":"u","item_id":"i","rating":"x"}'


def test_an_object_without_a_rating_is_a_click_of_its_kind(tmp_path: Path) -> None:
    lines = b'{"user_id":"u","item_id":"i","kind":"view","rating":null}\n{"visitorid":"u","itemid":"i","event":"view","score":null}\n'
    stream = read(written(tmp_path / "r.jsonl", lines + b'{"user_id":"u","item_id":"i","kind":"view","rating":4}\n'))
    assert [one.topic for one in stream.messages(0, 3)] == ["clicks", "clicks", "ratings"]
    records = [Record(one.topic, -1, n, 0, one.key, one.value) for n, one in enumerate(stream.messages(0, 2))]
    assert Decoder(LearningSettings()).decode(records, (), ()) == [Click("u", "i", "view")] * 2
