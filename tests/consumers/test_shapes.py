"""The same three ratings in the shapes that people have. To add a shape, add a line."""

import json
from pathlib import Path

import pytest

from streamer.consumers.files import read
from streamer.core.events import Rating, Record
from streamer.core.settings import LearningSettings
from streamer.stream.decoder import Decoder

# user, item, rating, milliseconds since 1970
WANTED = [("7", "12", 4.0, 1656105611000), ("7", "9", 2.5, 1656105671000), ("8", "12", 5.0, 1656105672000)]
HEAD = "user,item,rating,timestamp\n"

SHAPES: dict[str, str] = {
    "seconds": HEAD + "7,12,4,1656105611\n7,9,2.5,1656105671\n8,12,5,1656105672\n",
    "milliseconds": HEAD + "7,12,4,1656105611000\n7,9,2.5,1656105671000\n8,12,5,1656105672000\n",
    "microseconds": HEAD + "7,12,4,1656105611000000\n7,9,2.5,1656105671000000\n8,12,5,1656105672000000\n",
    "nanoseconds": HEAD + "7,12,4,1656105611000000000\n7,9,2.5,1656105671000000000\n8,12,5,1656105672000000000\n",
    "seconds with a fraction": HEAD + "7,12,4,1656105611.0\n7,9,2.5,1656105671.0\n8,12,5,1656105672.0\n",
    "seconds in scientific notation": HEAD + "7,12,4,1.656105611E9\n7,9,2.5,1.656105671E9\n8,12,5,1.656105672E9\n",
    "dates with times": HEAD + "7,12,4,2022-06-24 21:20:11\n7,9,2.5,2022-06-24 21:21:11\n8,12,5,2022-06-24 21:21:12\n",
    "dates with a T": HEAD + "7,12,4,2022-06-24T21:20:11\n7,9,2.5,2022-06-24T21:21:11\n8,12,5,2022-06-24T21:21:12\n",
    "dates in UTC": HEAD + "7,12,4,2022-06-24T21:20:11Z\n7,9,2.5,2022-06-24T21:21:11Z\n8,12,5,2022-06-24T21:21:12Z\n",
    "dates with fractions": HEAD + "7,12,4,2022-06-24T21:20:11.000Z\n7,9,2.5,2022-06-24T21:21:11.000Z\n8,12,5,2022-06-24T21:21:12.000Z\n",
    "dates with a zone": HEAD + "7,12,4,2022-06-24T23:20:11+02:00\n7,9,2.5,2022-06-24T23:21:11+02:00\n8,12,5,2022-06-24T16:21:12-05:00\n",
    "dates and numbers": HEAD + "7,12,4,1656105611\n7,9,2.5,2022-06-24 21:21:11\n8,12,5,1656105672000\n",
    "blanks after commas": "user, item, rating, timestamp\n7, 12, 4, 1656105611\n7, 9, 2.5, 1656105671\n8, 12, 5, 1656105672\n",
    "blanks before commas": HEAD + "7 ,12 ,4 ,1656105611 \n7 ,9 ,2.5 ,1656105671 \n8 ,12 ,5 ,1656105672 \n",
    "ids that pandas made fractions": HEAD + "7.0,12.0,4.0,1656105611\n7.0,9.0,2.5,1656105671\n8.0,12.0,5.0,1656105672\n",
    "numbers as ids in JSON Lines": '{"user_id":7,"item_id":12,"rating":4,"timestamp_ms":1656105611000}\n'
    '{"user_id":7,"item_id":9,"rating":2.5,"timestamp_ms":1656105671000}\n'
    '{"user_id":8,"item_id":12,"rating":5,"timestamp_ms":1656105672000}\n',
}  # fmt: skip


def events(path: Path) -> list[tuple[str, str, float, int]]:
    """What is learned from a file: its events in order, as the decoder understands them."""
    stream = read(path)
    records = [Record(one.topic, -1, n, 0, one.key, one.value) for n, one in enumerate(stream.messages(0, len(stream)))]
    found = []
    for record, event in zip(records, Decoder(LearningSettings()).decode(records, (), ()), strict=True):
        assert isinstance(event, Rating), (record, event)
        assert record.key == event.user_id.encode()
        found.append((event.user_id, event.item_id, event.rating, event.timestamp_ms or 0))
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_read_as_the_same_events(tmp_path: Path, shape: str) -> None:
    path = tmp_path / ("ratings.jsonl" if SHAPES[shape].startswith("{") else "ratings.csv")
    path.write_text(SHAPES[shape], encoding="utf-8")
    assert events(path) == WANTED


def test_dates_alone_are_their_midnight_in_utc(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEAD + "7,12,4,2022-06-24\n7,9,2.5,2022-06-25\n")
    assert [time for *_, time in events(tmp_path / "a.csv")] == [1656028800000, 1656115200000]


def test_ids_keep_their_decimals_unless_all_are_whole(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEAD + "1.0,a.0,4,1\n1.5,b,4,2\n2.0,3.0,4,3\n")
    assert [(user, item) for user, item, *_ in events(tmp_path / "a.csv")] == [
        ("1.0", "a.0"),
        ("1.5", "b"),
        ("2.0", "3.0"),
    ]


def test_catalogue_and_ratings_meet_although_one_has_blanks(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n 12,Heat (1995),Crime\n9 ,Alien (1979),Horror\n")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7, 12,4,1656105611\n7,9 ,2.5,1656105671\n")
    values = [json.loads(one.value or b"") for one in read(tmp_path).messages(0, 4)]
    assert [one["item_id"] for one in values] == ["12", "9", "12", "9"]
