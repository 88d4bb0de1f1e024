"""Checks of sources, to run over your own:

    def subject() -> Subject:
        sink = MemorySink()
        return Subject(open=lambda: MemorySource(sink.records), publish=sink.publish)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_source(check):
        check(subject())

Each check needs a new subject, to which nothing has been published yet. It raises AssertionError with what was wanted
and what was found.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streamer.core.errors import SourceLost
from streamer.core.events import (
    ITEMS,
    USERS,
    Click,
    ItemUpdate,
    Message,
    Offsets,
    Rating,
    Record,
    TopicPartition,
    UserUpdate,
    message,
    sequence_of,
)
from streamer.core.protocols import Source

BLOCKED_S = 10.0  # a poll that takes this much longer than its timeout counts as blocked


@dataclass(frozen=True)
class Subject:
    """How to publish messages and how to open a source that reads them."""

    open: Callable[[], Source]  # opens a new source over the messages published so far; checks seek before they poll
    publish: Callable[[Sequence[Message]], object]  # returns when a source that is opened now will find the messages
    grows: bool = True  # whether an open source also returns messages published later
    arrival_s: float = 10.0  # how long it may take until a published record is returned
    cuts: int = 30  # the number of positions from which resuming is tried; give fewer if opening is expensive


def some_messages(n: int = 10) -> list[Message]:
    """n updates of items and users, then n ratings and n clicks; ids with spaces, slashes, quotes and non-ASCII characters."""
    ids = [f"plain {k}" if k % 2 else f'a/b é世 "{k}"' for k in range(n)]
    catalogue = [message(ItemUpdate(i, title=f"Title of {i}", categories=("Drama",), attributes={"year": 1990})) for i in ids[::2]]  # fmt: skip
    catalogue += [message(UserUpdate(u, attributes={"age": 30.0}, preferences={"Drama": 4.0})) for u in ids[::2]]
    events = [message(Rating(ids[k % 3], ids[k % n], 0.5 + k % 10 / 2, 1_700_000_000_000 + k)) for k in range(n)]
    events += [message(Click(ids[k % 3], ids[k % n], "view", 1_700_000_000_000 + n + k)) for k in range(n)]
    return catalogue + events


def _poll(source: Source, max_records: int, timeout_s: float = 0.2) -> Sequence[Record]:
    polled = source.poll(max_records, timeout_s)
    assert polled is not None, "wanted an empty sequence from poll when there is nothing, found None"
    assert len(polled) <= max_records, f"wanted at most {max_records} records from a poll, found {len(polled)}"
    return polled


def drain(source: Source, wanted: int, subject: Subject, max_records: int = 100) -> list[Record]:
    """Poll until `wanted` records came or `arrival_s` passed without one, then once more for records too many."""
    records: list[Record] = []
    until = time.monotonic() + subject.arrival_s
    while len(records) < wanted and time.monotonic() < until:
        polled = _poll(source, max_records)
        records.extend(polled)
        if polled:
            until = time.monotonic() + subject.arrival_s
    records.extend(_poll(source, max_records))
    return records


def _opened(subject: Subject, offsets: Offsets) -> Source:
    source = subject.open()
    source.seek(offsets)
    return source


def _drained(subject: Subject, offsets: Offsets, wanted: int, max_records: int = 100) -> list[Record]:
    source = _opened(subject, offsets)
    try:
        return drain(source, wanted, subject, max_records)
    finally:
        source.close()


def _advance(offsets: Mapping[TopicPartition, int], records: Sequence[Record]) -> dict[TopicPartition, int]:
    return {**offsets, **{sequence_of(record): record.offset + 1 for record in records}}


def _same(records: Sequence[Record], messages: Sequence[Message]) -> None:
    found = Counter((record.topic, record.key, record.value) for record in records)
    wanted = Counter((sent.topic, sent.key, sent.value) for sent in messages)
    missing, extra = wanted - found, found - wanted
    assert not missing, f"{missing.total()} published records were not returned, the first is {next(iter(missing))}"
    assert not extra, f"{extra.total()} records too many were returned, the first is {next(iter(extra))}"


def gives_each_record_once_as_it_was_published(subject: Subject) -> None:
    """Polls return all records with the published topic, key and value, each once, and no others."""
    messages = some_messages()
    subject.publish(messages)
    _same(_drained(subject, {}, len(messages)), messages)


def keeps_the_order_of_each_key(subject: Subject) -> None:
    """Offsets rise within a partition, and one user's events come in the order in which they were published."""
    messages = some_messages()
    subject.publish(messages)
    last: dict[TopicPartition, int] = {}
    orders: dict[tuple[str, bytes | None], list[bytes | None]] = {}
    for record in _drained(subject, {}, len(messages)):
        sequence = sequence_of(record)
        assert record.offset > last.get(sequence, -1), (
            f"{sequence} returned offset {record.offset} after {last[sequence]}"
        )
        last[sequence] = record.offset
        orders.setdefault((record.topic, record.key), []).append(record.value)
    for (topic, key), values in orders.items():
        wanted = [sent.value for sent in messages if (sent.topic, sent.key) == (topic, key)]
        assert values == wanted, f"the records of {key!r} on {topic} came out of order: wanted {wanted}, found {values}"


def gives_at_most_max_records(subject: Subject) -> None:
    """Polls for 1, 3 or 7 records at a time return the same records."""
    messages = some_messages()
    subject.publish(messages)
    for max_records in (1, 3, 7):
        _same(_drained(subject, {}, len(messages), max_records), messages)


def is_empty_at_the_end_and_does_not_block(subject: Subject) -> None:
    """A poll without new records returns an empty sequence, not None, after its timeout."""
    messages = some_messages()
    subject.publish(messages)
    source = _opened(subject, {})
    try:
        drain(source, len(messages), subject)
        for timeout_s in (0.0, 0.05):
            begun = time.monotonic()
            polled = _poll(source, 10, timeout_s)
            blocked_s = time.monotonic() - begun
            assert len(polled) == 0, f"wanted nothing after the last record, found {list(polled)}"
            assert blocked_s < timeout_s + BLOCKED_S, (
                f"poll blocked for {blocked_s:.1f} s, its timeout was {timeout_s} s"
            )
    finally:
        source.close()


def resumes_exactly_from_any_offsets(subject: Subject) -> None:
    """A new source that seeks to where another stopped returns exactly the rest."""
    messages = some_messages()
    subject.publish(messages)
    records = _drained(subject, {}, len(messages))
    step = max(1, -(-len(records) // subject.cuts))
    for cut in {*range(0, len(records) + 1, step), len(records)}:
        rest = _drained(subject, _advance({}, records[:cut]), len(records) - cut)
        wanted, found = ({(sequence_of(r), r.offset) for r in part} for part in (records[cut:], rest))
        assert found == wanted, (
            f"after seeking behind record {cut} of {len(records)}, {len(wanted - found)} of the rest are missing "
            f"and {len(found - wanted)} were returned again"
        )
        assert len(rest) == len(found), (
            f"after seeking behind record {cut}, {len(rest) - len(found)} records came twice"
        )


def starts_other_sequences_at_their_beginning(subject: Subject) -> None:
    """With offsets for one partition only, the others are read from their beginning."""
    messages = some_messages()
    subject.publish(messages)
    records = _drained(subject, {}, len(messages))
    named = sequence_of(records[0])
    count = sum(sequence_of(record) == named for record in records)
    rest = _drained(subject, _advance({}, [r for r in records if sequence_of(r) == named]), len(records) - count)
    assert len(rest) == len(records) - count, (
        f"wanted the {len(records) - count} records outside {named}, found {len(rest)}"
    )
    assert all(sequence_of(record) != named for record in rest), f"{named} was read again after seeking to its end"


def raises_source_lost_beyond_the_end(subject: Subject) -> None:
    """For an offset beyond the end, `seek` or the first polls raise SourceLost; the source never jumps silently."""
    messages = some_messages()
    subject.publish(messages)
    records = _drained(subject, {}, len(messages))
    offsets = _advance({}, records)
    beyond = {**offsets, sequence_of(records[-1]): offsets[sequence_of(records[-1])] + 1000}
    source = subject.open()
    try:
        source.seek(beyond)
        until = time.monotonic() + subject.arrival_s
        while time.monotonic() < until:
            polled = _poll(source, 10)
            assert not polled, f"{len(polled)} records came after seeking beyond the end: wanted SourceLost"
            if not subject.grows:
                break
    except SourceLost:
        return
    finally:
        source.close()
    raise AssertionError("nothing was raised after seeking beyond the end: wanted SourceLost")


def lag_counts_what_is_left(subject: Subject) -> None:
    """The lag is at most the number of records left, and 0 everywhere once all are returned."""
    messages = some_messages()
    subject.publish(messages)
    source = _opened(subject, {})
    try:
        handed_out = len(_poll(source, 1, subject.arrival_s))
        left = _total(source)
        assert 0 <= left <= len(messages) - handed_out, (
            f"wanted a lag of at most {len(messages) - handed_out}, found {left}"
        )
        drain(source, len(messages) - handed_out, subject)
        until = time.monotonic() + subject.arrival_s
        while _total(source) and time.monotonic() < until:
            source.poll(1, 0.1)
        assert _total(source) == 0, f"wanted a lag of 0 when all records are returned, found {source.lag()}"
    finally:
        source.close()


def _total(source: Source) -> int:
    return sum(count for partitions in source.lag().values() for count in partitions.values())


def closes_twice(subject: Subject) -> None:
    """Closing twice does no harm, before and after the source was polled."""
    subject.publish(some_messages())
    for polled in (False, True):
        source = _opened(subject, {})
        if polled:
            source.poll(1, 0.2)
        source.close()
        source.close()


def hands_out_later_records(subject: Subject) -> None:
    """If it grows, an open source returns records published after it was drained, including removals (null values)."""
    if not subject.grows:
        return
    messages = some_messages()
    subject.publish(messages)
    source = _opened(subject, {})
    try:
        drain(source, len(messages), subject)
        later = [Message(ITEMS, b"gone", None), Message(USERS, b"gone", None), *messages[-3:]]
        subject.publish(later)
        _same(drain(source, len(later), subject), later)
    finally:
        source.close()


CHECKS: tuple[Callable[[Subject], None], ...] = (
    gives_each_record_once_as_it_was_published,
    keeps_the_order_of_each_key,
    gives_at_most_max_records,
    is_empty_at_the_end_and_does_not_block,
    resumes_exactly_from_any_offsets,
    starts_other_sequences_at_their_beginning,
    raises_source_lost_beyond_the_end,
    lag_counts_what_is_left,
    closes_twice,
    hands_out_later_records,
)

# Former names, for plug-ins that import them.
gives_at_most_what_is_asked = gives_at_most_max_records
goes_on_exactly_from_any_offsets = resumes_exactly_from_any_offsets
starts_what_is_not_named_at_its_beginning = starts_other_sequences_at_their_beginning
is_lost_beyond_the_end = raises_source_lost_beyond_the_end
lags_by_what_is_left = lag_counts_what_is_left
hands_out_what_comes_later = hands_out_later_records
