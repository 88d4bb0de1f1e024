"""Reads an archive as a stream: the catalogue, then ratings and clicks in the order in which they were learned.

Forgotten users are left out. Memory: some 50 bytes an event, plus its event_id.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from streamer.core.arrays import F64, I32, I64
from streamer.core.events import CATALOGUE_TOPICS, CLICKS, RATINGS, TOPICS, Message, MessageParts, parts
from streamer.storage.archive import parquet
from streamer.storage.archive.records import EVENT_COLUMNS, catalogue_message, event_message


@dataclass(frozen=True, slots=True)
class ArchiveStream:
    """protocols.Stream of an archive. `users`, `items` and `kinds` are indices into `texts`."""

    catalogue: Sequence[Message]
    topics: I32  # (n,) indices into TOPICS
    users: I32  # (n,)
    items: I32  # (n,)
    kinds: I32  # (n,), -1 for ratings
    ratings: F64  # (n,), NaN for clicks and for ratings withdrawn
    times: I64  # (n,)
    texts: tuple[Sequence[str], Sequence[str], Sequence[str]]  # distinct user ids, item ids and kinds
    rest: Sequence[
        Any
    ]  # Parquet columns (n,): event_ids, session_ids, recommendation_ids, expectations, when they were appended
    sha256: str

    def __len__(self) -> int:
        return len(self.catalogue) + len(self.topics)

    def messages(self, start: int, stop: int) -> list[Message]:
        """See protocols.Stream; the same bytes as from `streamer.core.events.message`. Cost: about 2 us an event."""
        first = len(self.catalogue)
        return [*self.catalogue[start:stop], *self._events(max(start - first, 0), max(stop - first, 0))]

    def _events(self, start: int, stop: int) -> list[Message]:
        cut = slice(start, min(stop, len(self.topics)))
        user_ids, item_ids, kinds = self.texts
        rest = [column[cut].to_pylist() for column in self.rest]
        return [
            event_message(user_ids[user], item_ids[item], kinds[kind] if kind >= 0 else None, rating, time_ms, *others)
            for user, item, kind, rating, time_ms, *others in zip(
                self.users[cut].tolist(), self.items[cut].tolist(), self.kinds[cut].tolist(),
                self.ratings[cut].tolist(), self.times[cut].tolist(), *rest, strict=True,
            )
        ]  # fmt: skip

    def parts(self, start: int, stop: int) -> MessageParts:
        """See protocols.Stream."""
        return parts(self.messages(start, stop))

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream; the catalogue has the time of the first event."""
        first, begin = len(self.catalogue), int(self.times[0]) if len(self.times) else 0
        head = len(self.catalogue[start:stop])
        return [begin] * head + cast(list[int], self.times[max(start - first, 0) : max(stop - first, 0)].tolist())


def read_archive(folder: Path) -> ArchiveStream:
    """Read the archive in `folder`. Raises BadState. Cost: about .3 us an event."""
    catalogue = [catalogue_message(*row) for row in _catalogue(folder)]
    rows, order, topics = parquet.in_order(folder, (RATINGS, CLICKS), EVENT_COLUMNS, None)
    user_ids, users = parquet.encode_texts(rows, "user_id", order)
    item_ids, items = parquet.encode_texts(rows, "item_id", order)
    kind_names, kinds = parquet.encode_texts(rows, "kind", order)
    ratings, times = parquet.numbers(rows, "rating")[order], parquet.numbers(rows, "timestamp_ms")[order]
    digest = hashlib.sha256(b"archive 1")
    for array in (topics[order], users, items, kinds, ratings, times):
        digest.update(array.tobytes())
    for text in (*user_ids, *item_ids, *kind_names, *map(repr, catalogue)):
        digest.update(text.encode() + b"\0")
    rest = [parquet.select(rows, name, order) for name in EVENT_COLUMNS[5:]]
    return ArchiveStream(
        catalogue, topics[order], users, items, kinds, ratings, times, (user_ids, item_ids, kind_names), rest,
        digest.hexdigest(),
    )  # fmt: skip


def _catalogue(folder: Path) -> list[tuple[str, Any, Any, str | None]]:
    rows, order, topics = parquet.in_order(folder, CATALOGUE_TOPICS, ("user_id", "item_id", "value"), None)
    columns = [parquet.select(rows, name, order).to_pylist() for name in ("user_id", "item_id", "value")]
    return list(zip([TOPICS[topic] for topic in topics[order].tolist()], *columns, strict=True))
