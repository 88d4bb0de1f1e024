"""The same few events in the shapes that people have. To add a shape, add a line."""

import json
from pathlib import Path

import pytest

from streamer.consumers.delimited.header import ReadOptions, parse_columns
from streamer.consumers.files import read
from streamer.core.errors import BadSettings
from streamer.core.events import Click, Rating, Record
from streamer.core.protocols import Located, Noted
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
    "blanks between commas and quotes": '"user", "item", "rating", "timestamp"\n"7", "12", "4", 1656105611\n"7" , "9" , 2.5 , "1656105671"\n"8", "12", 5, 1656105672\n',
    "blanks before commas": HEAD + "7 ,12 ,4 ,1656105611 \n7 ,9 ,2.5 ,1656105671 \n8 ,12 ,5 ,1656105672 \n",
    "Amazon": "rating,title,asin,parent_asin,user_id,timestamp\n4.0,Good,B1,12,7,1656105611000\n2.5,So so,B2,9,7,1656105671000\n5.0,\"Good, too\",B3,12,8,1656105672000\n",
    "Amazon, reviews": "reviewerID,asin,overall,unixReviewTime,reviewTime\n7,12,4.0,1656105611,\"06 24, 2022\"\n7,9,2.5,1656105671,\"06 24, 2022\"\n8,12,5.0,1656105672,\"06 24, 2022\"\n",
    "Amazon, ratings without a header": "7,12,4.0,1656105611\n7,9,2.5,1656105671\n8,12,5.0,1656105672\n",
    "Book-Crossing": '"User-ID";"ISBN";"Book-Rating";"Date"\n"7";"12";"4";"1656105611"\n"7";"9";"2.5";"1656105671"\n"8";"12";"5";"1656105672"\n',
    "Goodreads": "user_id,book_id,is_read,rating,is_reviewed,date_added\n7,12,1,4,0,2022-06-24 21:20:11\n7,9,1,2.5,0,2022-06-24 21:21:11\n8,12,1,5,1,2022-06-24 21:21:12\n",
    "Last.fm": "userID\tartistID\tweight\ttimestamp\n7\t12\t4\t1656105611000\n7\t9\t2.5\t1656105671000\n8\t12\t5\t1656105672000\n",
    "RecBole": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t12\t4\t1656105611\n7\t9\t2.5\t1656105671\n8\t12\t5\t1656105672\n",
    "Surprise": "uid,iid,r_ui,timestamp,details\n7,12,4.0,1656105611,{}\n7,9,2.5,1656105671,{}\n8,12,5.0,1656105672,{}\n",
    "Amazon Personalize": "USER_ID,ITEM_ID,EVENT_TYPE,EVENT_VALUE,TIMESTAMP\n7,12,rate,4,1656105611\n7,9,rate,2.5,1656105671\n8,12,rate,5,1656105672\n",
    "shops": "Customer ID,SKU,Review Score,Created At\n7,12,4,2022-06-24T21:20:11Z\n7,9,2.5,2022-06-24T21:21:11Z\n8,12,5,2022-06-24T21:21:12Z\n",
    "travel": "guest-id|hotel-id|stars|date\n7|12|4|2022-06-24 21:20:11\n7|9|2.5|2022-06-24 21:21:11\n8|12|5|2022-06-24 21:21:12\n",
    "MovieLens with double colons": "7::12::4::1656105611\n7::9::2.5::1656105671\n8::12::5::1656105672\n",
    "double colons with a header": "user::item::rating::timestamp\n7::12::4::2022-06-24 21:20:11\n7::9::2.5::2022-06-24 21:21:11\n8::12::5::2022-06-24 21:21:12\n",
    "tabs without a header": "7\t12\t4\t1656105611\n7\t9\t2.5\t1656105671\n8\t12\t5\t1656105672\n",
    "bars": "user|item|rating|timestamp\n7|12|4|1656105611\n7|9|2.5|1656105671\n8|12|5|1656105672\n",
    "runs of blanks": "user   item rating  timestamp\n7      12   4      1656105611\n7       9   2.5    1656105671\n8      12   5      1656105672\n",
    "runs of blanks without a header": "  7  12  4.0  1656105611\n  7   9  2.5  1656105671\n  8  12  5.0  1656105672  \n",
    "blanks and tabs, quoted": '"user" \t"item" "rating" "timestamp"\n"7" "12" 4 1656105611\n"7"\t"9" 2.5 1656105671\n"8" "12" 5 1656105672\n',
    "separators at the ends of rows": HEAD + "7,12,4,1656105611,\n7,9,2.5,1656105671,\n8,12,5,1656105672,\n",
    "separators at the ends of some rows": HEAD + "7,12,4,1656105611\n7,9,2.5,1656105671,\n8,12,5,1656105672\n",
    "separators at the ends of all lines": "user;item;rating;timestamp;\n7;12;4;1656105611;\n7;9;2.5;1656105671;\n8;12;5;1656105672;\n",
    "a separator at the end of the header": "user;item;rating;timestamp;\n7;12;4;1656105611\n7;9;2.5;1656105671\n8;12;5;1656105672\n",
    "rows with numbers, as pandas writes them": "\tuser id\titem id\trating\ttimestamp\n0\t7\t12\t4\t1656105611\n1\t7\t9\t2.5\t1656105671\n2\t8\t12\t5\t1656105672\n",
    "rows with numbers, as R writes them": '"user" "item" "rating" "timestamp"\n"1" "7" "12" 4 1656105611\n"2" "7" "9" 2.5 1656105671\n"3" "8" "12" 5 1656105672\n',
    "sep=": "sep=|\nuser|item|rating|timestamp\n7|12|4|1656105611\n7|9|2.5|1656105671\n8|12|5|1656105672\n",
    "sep= and a mark that is seldom used": "sep=^\nuser^item^rating^timestamp\n7^12^4^1656105611\n7^9^2.5^1656105671\n8^12^5^1656105672\n",
    "comments": "# ratings, exported today; from us\n#\n" + HEAD + "7,12,4,1656105611\n7,9,2.5,1656105671\n8,12,5,1656105672\n",
    "a comment as header": "#user,item,rating,timestamp\n7,12,4,1656105611\n7,9,2.5,1656105671\n8,12,5,1656105672\n",
    "lines of DOS": (HEAD + "7,12,4,1656105611\n7,9,2.5,1656105671\n8,12,5,1656105672\n").replace("\n", "\r\n"),
    "decimal commas": "user;item;rating;timestamp\n7;12;4,0;1656105611\n7;9;2,5;1656105671\n8;12;5;1656105672\n",
    "decimal commas, quoted": HEAD + '7,12,"4,0",1656105611\n7,9,"2,5",1656105671\n8,12,"5,0",1656105672\n',
    "decimal commas everywhere": "user;item;rating;timestamp\n7,0;12,0;4,0;1656105611,0\n7,0;9,0;2,5;1656105671,0\n8,0;12,0;5,0;1656105672,0\n",
    "quotes after backslashes": 'user,item,title,rating,timestamp\n7,12,"The \\"Best\\"",4,1656105611\n7,9,"say \\"hi\\", he said",2.5,1656105671\n8,12,"C:\\",5,1656105672\n',
    "ids that pandas made fractions": HEAD + "7.0,12.0,4.0,1656105611\n7.0,9.0,2.5,1656105671\n8.0,12.0,5.0,1656105672\n",
    "numbers as ids in JSON Lines": '{"user_id":7,"item_id":12,"rating":4,"timestamp_ms":1656105611000}\n'
    '{"user_id":7,"item_id":9,"rating":2.5,"timestamp_ms":1656105671000}\n'
    '{"user_id":8,"item_id":12,"rating":5,"timestamp_ms":1656105672000}\n',
    "seconds as timestamp in JSON Lines": '{"user_id":7,"item_id":12,"rating":4,"timestamp":1656105611}\n'
    '{"user_id":7,"item_id":9,"rating":2.5,"timestamp":1656105671.0}\n{"user_id":8,"item_id":12,"rating":5,"timestamp":"1656105672"}\n',
    "dates in JSON Lines": '{"user_id":7,"item_id":12,"rating":4,"timestamp":"2022-06-24 21:20:11"}\n'
    '{"user_id":7,"item_id":9,"rating":2.5,"timestamp":"2022-06-24T23:21:11+02:00"}\n'
    '{"user_id":8,"item_id":12,"rating":5,"timestamp_ms":"2022-06-24T21:21:12Z"}\n',
    "seconds and microseconds as timestamp_ms": '{"user_id":"7","item_id":"12","rating":4,"timestamp_ms":1656105611}\n'
    '{"user_id":"7","item_id":"9","rating":2.5,"timestamp_ms":1656105671000000}\n'
    '{"user_id":"8","item_id":"12","rating":5,"timestamp_ms":1656105672000000000}\n',
    "texts as ratings in JSON Lines": '{"user_id":"7","item_id":"12","rating":"4","timestamp_ms":1656105611000}\n'
    '{"user_id":"7","item_id":"9","rating":"2.5","timestamp_ms":1656105671000}\n'
    '{"user_id":"8","item_id":"12","rating":"5.0","timestamp_ms":1656105672000}\n',
    "fractions as ids in JSON Lines": '{"user_id":7.0,"item_id":12.0,"rating":4.0,"timestamp":1656105611.0}\n'
    '{"user_id":7.0,"item_id":9.0,"rating":2.5,"timestamp":1656105671.0}\n{"user_id":8.0,"item_id":12.0,"rating":5.0,"timestamp":1656105672.0}\n',
}  # fmt: skip


# What `--columns` says, and a file that needs it.
GIVEN: dict[str, tuple[str, str]] = {
    "names": ("user=visitor,item=thing,rating=liked,time=when", "when,liked,thing,visitor\n1656105611,4,12,7\n1656105671,2.5,9,7\n1656105672,5,12,8\n"),
    "names in another case": ("user=who,item=what,rating=how-much,time=when", "Who,What,How Much,When\n7,12,4,1656105611\n7,9,2.5,1656105671\n8,12,5,1656105672\n"),
    "some names": ("item=thing", "userId,itemId,thing,rating,timestamp\n7,x,12,4,1656105611\n7,x,9,2.5,1656105671\n8,x,12,5,1656105672\n"),
    "a name that means another column": ("user=item", "item,product,rating,timestamp\n7,12,4,1656105611\n7,9,2.5,1656105671\n8,12,5,1656105672\n"),
    "a column that is not read": ("time=when", "user,item,timestamp,rating,when\n7,12,1,4,1656105611\n7,9,1,2.5,1656105671\n8,12,1,5,1656105672\n"),
    "an order": ("item,user,rating,timestamp", "12,7,4,1656105611\n9,7,2.5,1656105671\n12,8,5,1656105672\n"),
    "an order with gaps": ("time,-,item,user,rating", "1656105611;x;12;7;4\n1656105671;x;9;7;2.5\n1656105672;x;12;8;5\n"),
    "an order of the first columns": ("user,item,rating,time", "7 12 4 1656105611 a\n7 9 2.5 1656105671 b\n8 12 5 1656105672 c\n"),
    "an order that the header has as well": ("user,item,rating,timestamp", HEAD + "7,12,4,1656105611\n7,9,2.5,1656105671\n8,12,5,1656105672\n"),
}  # fmt: skip

# Other events: user, item, rating or kind of click, milliseconds since 1970 (None: no time).
OTHERS: dict[str, tuple[str, list[tuple[str, str, float | str, int | None]]]] = {
    "RetailRocket": (
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n1433224214164,992329,view,248676,\n",
        [("257597", "355908", "view", 1433221332117), ("992329", "248676", "view", 1433224214164)],
    ),
    "Yoochoose, whose sessions are users": (
        "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,0\n2,2014-04-07T13:56:37.614Z,214662742,S\n",
        [("1", "214536502", "click", 1396867869277), ("1", "214536500", "click", 1396868049868), ("2", "214662742", "click", 1396878997614)],
    ),
    "Yoochoose, with a header": (
        "session_id,timestamp,item_id,category\n1,2014-04-07T10:51:09.277Z,214536502,0\n2,2014-04-07T13:56:37.614Z,214662742,S\n",
        [("1", "214536502", "click", 1396867869277), ("2", "214662742", "click", 1396878997614)],
    ),
    "Diginetica, whose users are seldom known": (
        "sessionId;userId;itemId;timeframe;eventdate\n1;NA;81766;526309;2016-05-09\n1;NA;31331;1031018;2016-05-09\n2;7;32118;243569;2016-05-10\n",
        [("1", "81766", "click", 1462752526309), ("1", "31331", "click", 1462753031018), ("2", "32118", "click", 1462838643569)],
    ),
    "Gorse": (
        "feedback_type,user_id,item_id,time_stamp\nclick,7,12,2022-06-24 21:20:11\nview,8,9,2022-06-24 21:21:11\n",
        [("7", "12", "click", 1656105611000), ("8", "9", "view", 1656105671000)],
    ),
    "Gorse, whose value is no rating": (
        "feedback_type,user_id,item_id,value,timestamp\nclick,7,12,1,2022-06-24 21:20:11\nview,8,9,0,2022-06-24 21:21:11\n",
        [("7", "12", "click", 1656105611000), ("8", "9", "view", 1656105671000)],
    ),
    "Amazon Personalize, without values": (
        "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\n7,12,1656105611,click\n8,9,1656105671,purchase\n",
        [("7", "12", "click", 1656105611000), ("8", "9", "purchase", 1656105671000)],
    ),
    "RecBole, clicks": (
        "session_id:token\titem_id:token\ttimestamp:float\n7\t12\t1656105611.0\n8\t9\t1656105671.0\n",
        [("7", "12", "click", 1656105611000), ("8", "9", "click", 1656105671000)],
    ),
    "Last.fm, play counts": (
        "user_id,artist_id,plays\n7,12,73\n8,9,2\n", [("7", "12", 73.0, None), ("8", "9", 2.0, None)],
    ),
    "Surprise, without times": (
        "uid,iid,r_ui,est\n7,12,4.0,3.5\n8,9,2.5,3.1\n", [("7", "12", 4.0, None), ("8", "9", 2.5, None)],
    ),
    "what each row has": (
        "user,item,event,rating,time\n7,12,view,,1656105611\n7,12,rate,4,1656105671\n8,9,cart,NA,1656105672\n",
        [("7", "12", "view", 1656105611000), ("7", "12", 4.0, 1656105671000), ("8", "9", "cart", 1656105672000)],
    ),
    "what each row has, quoted": (
        'user,item,event,rating,time\n"7",12,view,"",1656105611\n7,"12",rate,4,1656105671\n8,9,cart,,1656105672\n',
        [("7", "12", "view", 1656105611000), ("7", "12", 4.0, 1656105671000), ("8", "9", "cart", 1656105672000)],
    ),
    "an item under a name of its own": (
        "user_id,joke_id,review_id,rating\n7,12,1,-7.82\n8,9,2,8.79\n", [("7", "12", -7.82, None), ("8", "9", 8.79, None)],
    ),
    "three columns without a header": ("7,12,4\n8,9,2.5\n", [("7", "12", 4.0, None), ("8", "9", 2.5, None)]),
    "clicks without a header": (
        "u7,i12,2022-06-24 21:20:11\nu8,i9,2022-06-24 21:21:11\n",
        [("u7", "i12", "click", 1656105611000), ("u8", "i9", "click", 1656105671000)],
    ),
    "Amazon, items before users, without a header": (
        "B00000JGVV,A2CX7LUOHB2NDG,5.0,1656105611\n0446530093,A1P6404F1VG29J,4.0,1656105671\n",
        [("A2CX7LUOHB2NDG", "B00000JGVV", 5.0, 1656105611000), ("A1P6404F1VG29J", "0446530093", 4.0, 1656105671000)],
    ),
}  # fmt: skip

# Ratings as they are written, what they are, and what is said of commas.
NUMERALS: dict[str, tuple[str, list[float], str]] = {
    "decimal commas": ("user;item;rating\nu;i;4,5\nv;i;3\n", [4.5, 3], "'4,5' is read as 4.5"),
    "three decimals": ("user;item;rating\nu;i;4,125\nv;i;3,500\n", [4.125, 3.5], "'3,500' is read as 3.5"),
    "thousands": ('user,item,rating\nu,i,"1,234"\nv,i,7\n', [1234, 7], "'1,234' is read as 1234"),
    "thousands and decimals": ('user,item,rating\nu,i,"1,234.5"\nv,i,7\n', [1234.5, 7], "'1,234.5' is read as 1234.5"),
    "thousands, decimal commas": ("user;item;rating\nu;i;1.234,5\nv;i;2.000\n", [1234.5, 2000], "'1.234,5' is read as 1234.5"),
    "thousands apart": ("user;item;rating\nu;i;1\u00a0234\nv;i;2'000\n", [1234, 2000], ""),
    "scientific": ("user,item,rating\nu,i,4.5e0\nv,i,3E+0\n", [4.5, 3], ""),
}  # fmt: skip

REFUSED: dict[str, tuple[str, str]] = {
    "two columns without a header": ("7,12\n8,9\n", r"--columns user,item$"),
    "counts without a header": ("7,12,1337\n8,9,2\n", r"--columns user,item,rating$"),
    "a category or a rating": (
        "7,2014-04-07T10:51:09Z,12,4\n8,2014-04-07T10:54:09Z,9,5\n", r"--columns user,time,item,rating$",
    ),
    "a user under an unknown name": ("who,item_id\na,1\nb,1\n", "found 'who', 'item_id' on the first line"),
    "two ids that may be items": ("user_id,joke_id,poem_id,rating\n7,1,2,4\n8,3,4,4\n", "found 'user_id', 'joke_id', 'poem_id'"),
    "items that come again": ("item_id,title\n1,Heat\n1,Heat\n", "found 'item_id', 'title' on the first line"),
    "no known name": ("a,b,c\nx,y,z\n", "found 'a', 'b', 'c' on the first line .*: say which is which with --columns user=NAME"),
}  # fmt: skip


def events(path: Path, columns: str = "") -> list[tuple[str, str, float | str, int | None]]:
    """What is learned from a file: its events in order, as the decoder understands them."""
    stream = read(path, options=ReadOptions(columns=parse_columns(columns) if columns else None))
    records = [Record(one.topic, -1, n, 0, one.key, one.value) for n, one in enumerate(stream.messages(0, len(stream)))]
    found = []
    for record, event in zip(records, Decoder(LearningSettings()).decode(records, (), ()), strict=True):
        assert isinstance(event, Rating | Click), (record, event)
        assert record.key == event.user_id.encode()
        value = event.rating if isinstance(event, Rating) else event.kind
        found.append((event.user_id, event.item_id, value, event.timestamp_ms))
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_read_as_the_same_events(tmp_path: Path, shape: str) -> None:
    path = tmp_path / ("ratings.jsonl" if SHAPES[shape].startswith("{") else "ratings.csv")
    path.write_text(SHAPES[shape], encoding="utf-8", newline="")
    assert events(path) == WANTED


@pytest.mark.parametrize("shape", GIVEN)
def test_columns_are_what_the_user_says(tmp_path: Path, shape: str) -> None:
    said, text = GIVEN[shape]
    (tmp_path / "ratings.csv").write_text(text)
    assert events(tmp_path / "ratings.csv", said) == WANTED


def test_a_column_is_left_out_where_nothing_is_named_for_it(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "user,item,rating,event,timestamp\n7,12,4,view,1656105611\n8,9,5,cart,1656105672\n"
    )
    found = events(tmp_path / "events.csv", "rating=,time=")
    assert found == [("7", "12", "view", None), ("8", "9", "cart", None)]


def test_columns_are_refused_where_they_are_known(tmp_path: Path) -> None:
    (tmp_path / "u.item").write_text("1|Toy Town (1995)|||x\n")
    (tmp_path / "u.data").write_text("5\t1\t3\t881250949\n")
    with pytest.raises(BadSettings, match="is a MovieLens folder whose columns and encoding are known: leave it out"):
        read(tmp_path, options=ReadOptions(columns=parse_columns("user=a,item=b")))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("usr,item", "'usr' is none of user, item, kind, rating, time"),
        ("user,rating", "has no item: name user and item"),
        ("user,item,user", "has two columns for the user"),
        ("user=a,item", "wanted WHAT=NAME for each column, found 'item'"),
    ],
)
def test_columns_that_say_nothing_are_refused(said: str, why: str) -> None:
    with pytest.raises(BadSettings, match=why):
        parse_columns(said)


def test_a_name_that_no_column_has_is_refused_with_the_names_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("who,what\n7,12\n")
    with pytest.raises(BadSettings, match="there is no column 'whom'; the columns are 'who', 'what'"):
        events(tmp_path / "events.csv", "user=whom,item=what")


@pytest.mark.parametrize("shape", OTHERS)
def test_each_shape_is_read_as_its_events(tmp_path: Path, shape: str) -> None:
    text, wanted = OTHERS[shape]
    (tmp_path / "events.csv").write_text(text)
    assert sorted(events(tmp_path / "events.csv"), key=str) == sorted(wanted, key=str)


@pytest.mark.parametrize("shape", NUMERALS)
def test_ratings_are_the_numbers_that_people_write(tmp_path: Path, shape: str) -> None:
    text, wanted, said = NUMERALS[shape]
    (tmp_path / "events.csv").write_text(text, encoding="utf-8")
    stream = read(tmp_path / "events.csv")
    assert isinstance(stream, Noted)
    assert [json.loads(one.value or b"")["rating"] for one in stream.messages(0, 9)] == wanted
    assert [note.partition("commas: ")[2] for note in stream.notes] == ([said] if said else [])


def test_a_time_within_a_day_that_is_no_number_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("userId;itemId;timeframe;eventdate\n1;2;3;2016-05-09\n1;2;x;2016-05-09\n")
    stream = read(tmp_path / "a.csv")
    assert isinstance(stream, Located)
    assert stream.locate(1) == (3, "'x' is no number of milliseconds since the time")


@pytest.mark.parametrize("shape", REFUSED)
def test_what_is_not_certain_is_refused_with_what_to_do(tmp_path: Path, shape: str) -> None:
    text, sentence = REFUSED[shape]
    (tmp_path / "events.csv").write_text(text)
    with pytest.raises(BadSettings, match=sentence):
        read(tmp_path / "events.csv")


def test_ids_that_are_fractions_in_one_file_alone_meet(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n12.0,Heat (1995),Crime\n9.0,Alien (1979),Horror\n")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7,12,4,1656105611\n7,9,2.5,1656105671\n")
    values = [json.loads(one.value or b"") for one in read(tmp_path).messages(0, 4)]
    assert [one["item_id"] for one in values] == ["12", "9", "12", "9"]


@pytest.mark.parametrize(
    "text", ["user,item\nzoe\u0308,e\u0301\n", '{"user_id":"zoe\\u0308","item_id":"e\u0301","kind":"view"}\n']
)
def test_unicode_forms_are_kept_unless_one_is_asked_for(tmp_path: Path, text: str) -> None:
    path = tmp_path / ("a.jsonl" if text.startswith("{") else "a.csv")
    path.write_text(text, encoding="utf-8")
    exact, composed = read(path), read(path, options=ReadOptions(id_form="nfc"))
    ids = [json.loads(stream.messages(0, 1)[0].value or b"") for stream in (exact, composed)]
    assert [(one["user_id"], one["item_id"]) for one in ids] == [("zoe\u0308", "e\u0301"), ("zo\u00eb", "\u00e9")]
    assert [stream.messages(0, 1)[0].key for stream in (exact, composed)] == ["zoe\u0308".encode(), "zo\u00eb".encode()]
    assert exact.sha256 != composed.sha256
    assert exact.times_ms(0, 1) == composed.times_ms(0, 1)


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
