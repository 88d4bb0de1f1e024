"""Every kind of bad event is rejected with its reason, and none stops the stream."""

import numpy as np
import pytest
from bad_events import BAD, GOOD, rating

from streamer.core.errors import BadEvent, Reason
from streamer.core.events import Click, Event, ItemRemoval, ItemUpdate, Rating, Record, UserRemoval
from streamer.core.settings import LearningSettings
from streamer.stream.decoder import Decoder

DECODER = Decoder(LearningSettings())


def decode(topic: str, value: bytes | None, key: bytes | None = None, known: tuple[str, ...] = ()) -> Event | BadEvent:
    """Decode as in the stream; `parse`, which the endpoint uses, must give the same result."""
    (found,) = DECODER.decode([Record(topic, -1, 0, 0, key, value)], known, known)
    if isinstance(found, BadEvent):
        with pytest.raises(BadEvent) as raised:
            DECODER.parse(topic, key, value)
        assert (raised.value.reason, str(raised.value)) == (found.reason, str(found))
    else:
        assert DECODER.parse(topic, key, value) == found
    return found


@pytest.mark.parametrize("case", GOOD)
def test_good_events_are_decoded(case: str) -> None:
    topic, value, event = GOOD[case]
    assert decode(topic, value) == event
    assert decode(topic, value, known=("u1", "i9")) == event


@pytest.mark.parametrize("case", BAD)
def test_bad_events_are_rejected_with_their_reason(case: str) -> None:
    topic, value, reason = BAD[case]
    for known in ((), ("u1", "i9")):
        found = decode(topic, value, known=known)
        assert isinstance(found, BadEvent)
        assert (found.reason, bool(str(found))) == (reason, True)


def test_an_event_of_exactly_the_largest_size_is_accepted() -> None:
    value = rating() + b" " * (16384 - len(rating()))
    assert decode("ratings", value) == Rating("u1", "i9", 4.5, 1000)


def test_known_ids_skip_no_other_check() -> None:
    """For known ids only the checks of ids are skipped."""
    for value in (rating(value=b"1000001"), rating() + b" " * 20000):
        assert isinstance(decode("ratings", value, known=("u1", "i9")), BadEvent)


@pytest.mark.parametrize("depth", [100, 101, 700, 5000])
def test_the_limit_of_nesting_does_not_depend_on_the_stack(depth: int) -> None:
    """The same bytes must give the same event wherever they are decoded; brackets in strings do not count."""
    nested = rating()[:-1] + b', "z": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    text = rating()[:-1] + b', "z": "\\"' + b"[" * depth + b'"}'

    def deeper(frames: int) -> tuple[object, object]:
        return deeper(frames - 1) if frames else (decode("ratings", nested), decode("ratings", text))

    for frames in (0, 500):
        found, event = deeper(frames)
        assert isinstance(found, BadEvent) == (depth > 100)
        assert event == Rating("u1", "i9", 4.5, 1000)


@pytest.mark.parametrize(
    ("topic", "key", "wanted"),
    [
        ("items", b"i9", ItemRemoval("i9")),
        ("users", "ü/1".encode(), UserRemoval("ü/1")),
        ("items", None, Reason.BAD_ID),
        ("items", b"", Reason.BAD_ID),
        ("users", b"\xff", Reason.BAD_ID),
        ("users", b"a\0", Reason.BAD_ID),
        ("users", b"x" * 257, Reason.BAD_ID),
        ("ratings", b"u1", Reason.NOT_JSON),
        ("clicks", None, Reason.NOT_JSON),
        ("likes", b"u1", Reason.UNKNOWN_TOPIC),
    ],
)
def test_a_null_value_removes_the_user_or_item_in_its_key(
    topic: str, key: bytes | None, wanted: Event | Reason
) -> None:
    found = decode(topic, None, key)
    assert (found.reason if isinstance(found, BadEvent) else found) == wanted


def test_a_second_time_does_not_count() -> None:
    value = rating()[:-1] + b', "timestamp": {"a": 1}}'  # which is no time
    assert decode("ratings", value) == Rating("u1", "i9", 4.5, 1000)


def test_what_is_wrong_is_said_of_the_field_that_is_wrong() -> None:
    for value, said in (
        (rating(b"7", b'"four"'), "the rating 'four' is no number"),
        (rating(b"7", timestamp_ms=b'"soon"'), "the time 'soon' is neither a number nor a date"),
        (rating(b"1.5E+09"), "an id is in scientific notation, 1500000000.0: different ids may have become one; send ids as texts"),
        (b'{"user_id": 7, "item_id": "i9"}', "Object missing required field `rating`"),
    ):  # fmt: skip
        assert str(decode("ratings", value)) == said


def test_a_missing_or_foreign_key_is_accepted() -> None:
    for key in (None, b"", b"somebody else", b"\xff"):
        assert decode("ratings", rating(), key) == Rating("u1", "i9", 4.5, 1000)
        assert decode("items", b'{"item_id": "i9"}', key) == ItemUpdate("i9")


def test_kinds_range_and_size_are_settings() -> None:
    settings = LearningSettings(
        kinds={"wink": 1.0}, unknown_kinds="reject", rating_min=1, rating_max=5, event_max_bytes=256
    )
    decoder = Decoder(settings)
    assert decoder.parse("clicks", None, b'{"user_id": "u", "item_id": "i", "kind": "wink"}') == Click("u", "i", "wink")
    with pytest.raises(BadEvent, match=r"rating 0\.5 is not within 1 to 5"):
        decoder.parse("ratings", None, rating(value=b"0.5"))
    with pytest.raises(BadEvent, match="kind 'click' has no weight; there are: wink"):
        decoder.parse("clicks", None, b'{"user_id": "u", "item_id": "i"}')
    with pytest.raises(BadEvent, match="has 257 bytes; event_max_bytes is 256"):
        decoder.parse("ratings", None, rating() + b" " * (257 - len(rating())))


def test_no_bytes_stop_the_stream() -> None:
    """Good events with bytes changed, removed and doubled at random: each gives an event or a BadEvent."""
    random = np.random.default_rng(1)
    seeds = [value for _, value, _ in GOOD.values() if len(value) < 300]
    for n in range(3000):
        value = bytearray(seeds[n % len(seeds)])
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(len(value)))
            match random.integers(3):
                case 0:
                    value[at] = int(random.integers(256))
                case 1:
                    del value[at : at + int(random.integers(1, 5))]
                case _:
                    value[at:at] = value[at : at + int(random.integers(1, 9))]
            value = value or bytearray(b"x")
        for topic in ("ratings", "items"):
            decode(topic, bytes(value), known=("u1", "i9"))
