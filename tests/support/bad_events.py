"""Events that the decoder must accept, each with its decoded form, and events that it must reject, each with its reason."""

from streamer.core.errors import Reason
from streamer.core.events import Click, Event, ItemUpdate, Rating, UserUpdate

RATING = b'{"user_id": %s, "item_id": "i9", "rating": %s, "timestamp_ms": %s}'


def rating(user_id: bytes = b'"u1"', value: bytes = b"4.5", timestamp_ms: bytes = b"1000") -> bytes:
    return RATING % (user_id, value, timestamp_ms)


GOOD: dict[str, tuple[str, bytes, Event]] = {
    "a rating": ("ratings", rating(), Rating("u1", "i9", 4.5, 1000)),
    "a whole number as a rating": ("ratings", rating(value=b"4"), Rating("u1", "i9", 4.0, 1000)),
    "the highest rating": ("ratings", rating(value=b"100"), Rating("u1", "i9", 100.0, 1000)),
    "a number as an id": ("ratings", rating(b"17"), Rating("17", "i9", 4.5, 1000)),
    "a number with twenty digits as an id": ("ratings", rating(b"1" * 20), Rating("1" * 20, "i9", 4.5, 1000)),
    "numbers as all ids": (
        "clicks", b'{"user_id": -3, "item_id": 0, "event_id": 5, "session_id": 6}',
        Click("-3", "0", event_id="5", session_id="6"),
    ),
    "a number with 300 digits in an unknown field": (
        "ratings", rating()[:-1] + b', "z": %s}' % (b"1" * 300), Rating("u1", "i9", 4.5, 1000),
    ),
    "whole numbers with a decimal point as ids": (
        "clicks", b'{"user_id": 7.0, "item_id": 12.00, "event_id": -0.0, "session_id": "7.0"}',
        Click("7", "12", event_id="0", session_id="7.0"),
    ),
    "a rating in quotes": ("ratings", rating(value=b'"4.5"'), Rating("u1", "i9", 4.5, 1000)),
    "a rating in quotes, with a sign and an exponent": ("ratings", rating(value=b'" +45e-1 "'), Rating("u1", "i9", 4.5, 1000)),
    "a time in quotes": ("ratings", rating(timestamp_ms=b'"1656105611000"'), Rating("u1", "i9", 4.5, 1656105611000)),
    "milliseconds with a fraction": ("ratings", rating(timestamp_ms=b"1656105611000.4"), Rating("u1", "i9", 4.5, 1656105611000)),
    "seconds called milliseconds": ("ratings", rating(timestamp_ms=b"1656105611"), Rating("u1", "i9", 4.5, 1656105611000)),
    "the seconds of 1990 called milliseconds": ("ratings", rating(timestamp_ms=b"631152000"), Rating("u1", "i9", 4.5, 631152000000)),
    "seconds before 1990 called milliseconds": ("ratings", rating(timestamp_ms=b"631151999"), Rating("u1", "i9", 4.5, 631151999)),
    "the seconds of 2100 called milliseconds": ("ratings", rating(timestamp_ms=b"4102444800"), Rating("u1", "i9", 4.5, 4102444800)),
    "microseconds called milliseconds": ("ratings", rating(timestamp_ms=b"1656105611000499"), Rating("u1", "i9", 4.5, 1656105611000)),
    "nanoseconds called milliseconds": ("ratings", rating(timestamp_ms=b"1656105611000000000"), Rating("u1", "i9", 4.5, 1656105611000)),
    "milliseconds of 1973": ("ratings", rating(timestamp_ms=b"100000000000"), Rating("u1", "i9", 4.5, 10**11)),
    "milliseconds of 5138": ("ratings", rating(timestamp_ms=b"99999999999999"), Rating("u1", "i9", 4.5, 10**14 - 1)),
    "a date called milliseconds": ("ratings", rating(timestamp_ms=b'"2022-06-24T21:20:11Z"'), Rating("u1", "i9", 4.5, 1656105611000)),
    **{
        f"{text} as timestamp": ("ratings", b'{"user_id": "u1", "item_id": "i9", "rating": 4.5, "timestamp": %s}' % text.encode(), Rating("u1", "i9", 4.5, ms))
        for text, ms in (
            ("1656105611", 1656105611000), ("1656105611.25", 1656105611250), ("1656105611000", 1656105611000),
            ("1656105611000.0", 1656105611000), ("1656105611000000", 1656105611000), ("1656105611000000000", 1656105611000),
            ("1.656105611E9", 1656105611000), ('"1656105611"', 1656105611000), ("99999999999", 99999999999000),
            ('"2022-06-24 21:20:11"', 1656105611000), ('"2022-06-24T21:20:11.5"', 1656105611500), ('"2022-06-24"', 1656028800000),
            ('"2022-06-24T21:20:11.123456789Z"', 1656105611123), ('"2022-06-24T23:20:11+02:00"', 1656105611000),
            ("null", None), ("0", 0), ("-1", -1000), ('"1969-12-31T23:59:59Z"', -1000),
        )
    },
    "two times": ("ratings", rating()[:-1] + b', "timestamp": "2022-06-24"}', Rating("u1", "i9", 4.5, 1000)),
    "a time in place of null": (
        "clicks", b'{"user_id": "u1", "item_id": "i9", "timestamp_ms": null, "timestamp": "2022-06-24"}',
        Click("u1", "i9", timestamp_ms=1656028800000),
    ),
    "everything at once": (
        "clicks", b'{"user_id": 1, "item_id": 2.0, "kind": "view", "timestamp": 1656105611, "event_id": 3, "recommendation_id": "r"}',
        Click("1", "2", "view", 1656105611000, "3", None, "r"),
    ),
    "numbers as ids of users": ("users", b'{"user_id": 17, "same_as": 18}', UserUpdate("17", same_as="18")),
    "a number as an item": ("items", b'{"item_id": 17}', ItemUpdate("17")),
    "no time": ("ratings", rating(timestamp_ms=b"null"), Rating("u1", "i9", 4.5)),
    "a negative time": ("ratings", rating(timestamp_ms=b"-5"), Rating("u1", "i9", 4.5, -5)),
    "a click, by default": ("clicks", b'{"user_id": "u1", "item_id": "i9"}', Click("u1", "i9", "click")),
    "a kind without a weight": ("clicks", b'{"user_id": "u1", "item_id": "i9", "kind": "wink"}', Click("u1", "i9", "wink")),
    "everything in a click": (
        "clicks",
        b'{"user_id": "u1", "item_id": "i9", "kind": "view", "timestamp_ms": 7, "event_id": "e", "session_id": "s",'
        b' "recommendation_id": "r"}',
        Click("u1", "i9", "view", 7, "e", "s", "r"),
    ),
    "unknown fields": ("ratings", rating()[:-1] + b', "mood": {"a": [1]}, "z": null}', Rating("u1", "i9", 4.5, 1000)),
    "a key twice": ("ratings", b'{"user_id": "bad\\u0000",' + rating()[1:], Rating("u1", "i9", 4.5, 1000)),
    "spaces around it": ("ratings", b" \n" + rating() + b"\t", Rating("u1", "i9", 4.5, 1000)),
    "slashes and spaces in an id": ("ratings", rating(b'"a/b c"'), Rating("a/b c", "i9", 4.5, 1000)),
    "an id of one space": ("ratings", rating(b'" "'), Rating(" ", "i9", 4.5, 1000)),
    "an id of 256 bytes": ("ratings", rating(b'"%s"' % (b"x" * 256)), Rating("x" * 256, "i9", 4.5, 1000)),
    "an id of 128 letters in 256 bytes": (
        "ratings", rating(b'"%s"' % ("é" * 128).encode()), Rating("é" * 128, "i9", 4.5, 1000),
    ),
    "an id beyond the first plane": ("ratings", rating(b'"\\ud83d\\ude00"'), Rating("😀", "i9", 4.5, 1000)),
    "JSON behind the prefix of a schema registry": ("ratings", b"\0\0\0\0\x07" + rating(), Rating("u1", "i9", 4.5, 1000)),
    "free types behind the prefix": ("items", b"\0\0\0\x22\x7b {" + b'"item_id": 7}', ItemUpdate("7")),
    "an item": ("items", b'{"item_id": "i9"}', ItemUpdate("i9")),
    "everything of an item": (
        "items",
        b'{"item_id": "i9", "title": "T", "categories": ["Drama"], "attributes": {"year": 1999, "a": "b", "c": null,'
        b' "d": true}, "available": false}',
        ItemUpdate("i9", "T", ("Drama",), {"year": 1999.0, "a": "b", "c": None, "d": True}, False),
    ),
    "a user": (
        "users",
        b'{"user_id": "u1", "preferences": {"Drama": 5}, "same_as": "anonymous-7"}',
        UserUpdate("u1", preferences={"Drama": 5.0}, same_as="anonymous-7"),
    ),
}  # fmt: skip


BAD: dict[str, tuple[str, bytes, Reason]] = {
    "nothing": ("ratings", b"", Reason.NOT_JSON),
    "text": ("ratings", b"u1,i9,4.5", Reason.NOT_JSON),
    "half of it": ("ratings", rating()[:-3], Reason.NOT_JSON),
    "more than one": ("ratings", rating() + rating(), Reason.NOT_JSON),
    "a byte order mark": ("ratings", b"\xef\xbb\xbf" + rating(), Reason.NOT_JSON),
    "NaN": ("ratings", rating(value=b"NaN"), Reason.NOT_JSON),
    "Infinity": ("ratings", rating(value=b"-Infinity"), Reason.NOT_JSON),
    "half of a surrogate pair": ("ratings", rating(b'"\\ud800"'), Reason.NOT_JSON),
    "an id that is not UTF-8": ("ratings", rating(b'"\xff"'), Reason.NOT_JSON),
    "a bare control character": ("ratings", rating(b'"a\nb"'), Reason.NOT_JSON),
    "nested without end": ("ratings", rating()[:-1] + b', "z": ' + b"[" * 7000 + b"]" * 7000 + b"}", Reason.NOT_JSON),
    "nested objects without end": (
        "items", b'{"item_id": "i9", "z": ' + b'{"":' * 2000 + b"1" + b"}" * 2001, Reason.NOT_JSON,
    ),
    "Avro behind the prefix of a schema registry": ("ratings", b"\0\0\0\0\x07\x04u1\x04i9\0\0\0\0\0\0\x12@", Reason.NO_SCHEMA),
    "Protobuf behind it": ("clicks", b'\0\0\0\0\x07\0\n\x02u1\x12\x02i9', Reason.NO_SCHEMA),
    "broken JSON behind it": ("ratings", b"\0\0\0\0\x07" + rating()[:-3], Reason.NOT_JSON),
    "deep nesting behind it": (
        "ratings", b"\0\0\0\0\x22" + rating()[:-1] + b', "z": ' + b"[" * 7000 + b"]" * 7000 + b"}", Reason.NOT_JSON,
    ),
    "only the prefix": ("ratings", b"\0\0\0\0\x07", Reason.NOT_JSON),
    "null": ("ratings", b"null", Reason.WRONG_TYPE),
    "a list": ("ratings", b"[" + rating() + b"]", Reason.WRONG_TYPE),
    "no item": ("ratings", b'{"user_id": "u1", "rating": 3}', Reason.WRONG_TYPE),
    "no rating": ("ratings", b'{"user_id": "u1", "item_id": "i9"}', Reason.WRONG_TYPE),
    "true as a rating": ("ratings", rating(value=b"true"), Reason.WRONG_TYPE),
    "a word as a rating": ("ratings", rating(value=b'"four"'), Reason.WRONG_TYPE),
    "NaN in quotes": ("ratings", rating(value=b'"NaN"'), Reason.WRONG_TYPE),
    "an empty text as a rating": ("ratings", rating(value=b'""'), Reason.WRONG_TYPE),
    "a word as a time": ("ratings", rating(timestamp_ms=b'"yesterday"'), Reason.WRONG_TYPE),
    "an object as a time": (
        "ratings", b'{"user_id": "u1", "item_id": "i9", "rating": 4, "timestamp": {"a": 1}}', Reason.WRONG_TYPE,
    ),
    "true as a time": ("ratings", b'{"user_id": "u1", "item_id": "i9", "rating": 4, "timestamp": true}', Reason.WRONG_TYPE),
    "a number in scientific notation as an id": ("ratings", rating(b"1.5E+09"), Reason.WRONG_TYPE),
    "a whole number as an id that no float holds": ("ratings", rating(b"9007199254740993.0"), Reason.WRONG_TYPE),
    "a fraction as an id": ("ratings", rating(b"17.5"), Reason.WRONG_TYPE),
    "true as an id": ("ratings", rating(b"true"), Reason.WRONG_TYPE),
    "a number as an id, and no rating": ("ratings", b'{"user_id": 17, "item_id": "i9"}', Reason.WRONG_TYPE),
    "an id of 300 digits": ("ratings", rating(b"1" * 300), Reason.BAD_ID),
    "a list as an attribute": ("items", b'{"item_id": "i9", "attributes": {"a": [1]}}', Reason.WRONG_TYPE),
    "one category without a list": ("items", b'{"item_id": "i9", "categories": "Drama"}', Reason.WRONG_TYPE),
    "1e999": ("ratings", rating(value=b"1e999"), Reason.OUT_OF_RANGE),
    "401 digits": ("ratings", rating(value=b"1" + b"0" * 400), Reason.OUT_OF_RANGE),
    "above the highest rating": ("ratings", rating(value=b"1000000.1"), Reason.OUT_OF_RANGE),
    "below the lowest rating": ("ratings", rating(value=b"-1000000.1"), Reason.OUT_OF_RANGE),
    "a time past nanoseconds": ("ratings", rating(timestamp_ms=b"100000000000000000000"), Reason.OUT_OF_RANGE),
    "a time of 21 digits": ("ratings", rating(timestamp_ms=b"-999999999999999999999"), Reason.OUT_OF_RANGE),
    "an empty id": ("ratings", rating(b'""'), Reason.BAD_ID),
    "an id of 257 bytes": ("ratings", rating(b'"%s"' % (b"x" * 257)), Reason.BAD_ID),
    "an id of 129 letters in 257 bytes": ("ratings", rating(b'"x%s"' % ("é" * 128).encode()), Reason.BAD_ID),
    "NUL in an id": ("ratings", rating(b'"u\\u0000"'), Reason.BAD_ID),
    "an escaped line break in an id": ("ratings", rating(b'"a\\nb"'), Reason.BAD_ID),
    "delete in an id": ("ratings", rating(b'"\\u007f"'), Reason.BAD_ID),
    "a control character past ASCII": ("ratings", rating(b'"\\u0085"'), Reason.BAD_ID),
    "an empty id of an item": ("items", b'{"item_id": ""}', Reason.BAD_ID),
    "an empty alias": ("users", b'{"user_id": "u1", "same_as": ""}', Reason.BAD_ID),
    "a kind that is no text": ("clicks", b'{"user_id": "u1", "item_id": "i9", "kind": 7}', Reason.WRONG_TYPE),
    "a topic that is not ours": ("likes", b"{}", Reason.UNKNOWN_TOPIC),
    "one byte too many": ("ratings", rating() + b" " * (16385 - len(rating())), Reason.TOO_LARGE),
}  # fmt: skip
