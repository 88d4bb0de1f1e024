"""The contents of a state, for people and programs. The state is opened read-only, and a streamer may run on it."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from streamer.core.errors import BadState
from streamer.core.events import ItemUpdate, UserUpdate
from streamer.core.kinds import Kinds
from streamer.core.protocols import Kind
from streamer.core.tables import Table
from streamer.monitoring.scale import Scale
from streamer.serving.opening import load_memory, recorded_learner, recorded_memory, recorded_settings
from streamer.serving.posterior import posterior
from streamer.serving.questions import questions
from streamer.serving.recommend import POPULARITY, Recommender
from streamer.storage.state import LEARNED, Digest, Meta, RocksStore
from streamer.stream.dead_letters import dead_letters
from streamer.stream.history_rows import KEPT_EVENTS, RETRACTION, stored_events
from streamer.stream.ledger import journal
from streamer.study.diagnosis import count_of

SHOWN_EVENTS = 10

Answered = TypeVar("Answered")


class Answer(msgspec.Struct):
    """Sentences and a table for people, and the same as objects for programs."""

    sentences: list[str]
    columns: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]
    objects: list[dict[str, object]]
    closing: Sequence[str] = ()  # sentences below the table

    def json_lines(self) -> Iterator[str]:
        """The objects as JSON, one on each line."""
        for found in self.objects:
            yield msgspec.json.encode(found).decode()


class Inspection:
    """A state directory, opened read-only."""

    def __init__(self, folder: str) -> None:
        """Raises BadState if there is no state, or one of another format."""
        self._store = RocksStore(Path(folder), read_only=True)
        meta = self._store.meta()
        if meta is None:
            raise BadState(f"the state in {folder} is empty: nothing was ever learned into it")
        self._meta: Meta = meta

    def digest(self) -> Digest:
        """See RocksStore.digest. Cost: about 1 us a row and its bytes."""
        return self._store.digest()

    def look(self, what: str, external_id: str) -> Answer:
        """The answer about `what`, one of user, item, offsets, stats, dead-letters; `external_id` is a user's or an item's."""
        match what:
            case "user":
                return self._user(external_id)
            case "item":
                return self._item(external_id)
            case "offsets":
                return self._offsets()
            case "stats":
                return self._stats()
            case _:
                return self._dead_letters()

    def questions(self, user_id: str, limit: int, port: int) -> Answer:
        """The questions for a user (see serving/questions.py), and how to answer them on `port`.

        Raises StreamerError where no learner keeps beliefs about users, and where all ratings are equal.
        """
        memory = recorded_memory(self._store, self._meta)
        found = questions(memory, Recommender(memory, memory.learners.by_name[POPULARITY]), user_id, limit)
        rows = [
            (one.item_id, one.title, f"{one.known_to:.0%}", f"{one.narrows:.1%}", f"{one.deviation:.2f}")
            for one in found.questions
        ]
        columns = ("item", "title", "rated by", "narrows by", "then known to") if rows else ()
        return Answer(found.sentences(), columns, rows, [msgspec.to_builtins(found)], found.how_to_answer(port))

    def _learners(self) -> dict[str, dict[str, Table]]:
        made = self._meta.settings["learners"]
        assert isinstance(made, dict)
        return {name: dict(recorded_learner(name, 0, given).tables()) for name, given in made.items()}

    def _vectors(self, side: str, external_id: str) -> dict[str, list[float]]:
        found = {}
        for name, tables in self._learners().items():
            for table_name, table in tables.items():
                if table.side == side:
                    (value,) = self._store.read(f"{LEARNED}/{name}/{table_name}", [external_id.encode()])
                    if value is not None:
                        found[f"{name}/{table_name}"] = table.parse(value).tolist()
        return found

    def _user(self, user_id: str) -> Answer:
        key = user_id.encode()
        head, profile = (self._store.read(table, [key])[0] for table in ("users/head", "users/profile"))
        known = msgspec.json.decode(profile, type=UserUpdate) if profile else None
        believed = posterior(recorded_memory(self._store, self._meta), user_id) if head or known else None
        in_words = [
            *([f"profile: {msgspec.json.encode(known).decode()}"] if known else []),
            *(believed.sentences() if believed else []),
        ]
        about: dict[str, object] = {"posterior": msgspec.to_builtins(believed)} if believed else {}
        if head is None:
            given = "follow from the profile" if believed else "are the popular items"
            sentences = [f"user {user_id!r} was never seen: recommendations {given}"]
            about = {"user_id": user_id, "known": False} | about
            about |= {"profile": msgspec.to_builtins(known)} if known else {}
            return Answer([*sentences, *in_words], (), [], [about])
        events, seen, clicks, last_ms = np.frombuffer(head, dtype=np.int64, count=4).tolist()
        items = self._items_by_row()
        kinds = self._kinds()
        rows = [
            (
                _when(int(e["time_ms"])),
                {0: "rating", RETRACTION: "retraction"}.get(int(e["kind"])) or kinds.named(int(e["kind"])),
                round(float(e["value"]), 3),
                items[e["item"]],
                self._title(items[e["item"]]),
            )
            for e in self._history(user_id)
        ]
        vectors = self._vectors("user", user_id)
        sentences = [
            f"user {user_id!r}: {count_of(events, 'event')}, {clicks:,} of them clicks or likes, {count_of(seen, 'item')} seen, last {_when(last_ms)}",
            *in_words,
            *(f"{name}: a row of {len(row)} numbers" for name, row in vectors.items()),
            f"the newest {min(SHOWN_EVENTS, len(rows))} of {count_of(len(rows), 'event')} kept:",
        ]
        found: dict[str, object] = {
            "user_id": user_id, "known": True, "events": events, "clicks": clicks, "seen": seen, "last_ms": last_ms,
            "profile": msgspec.to_builtins(known) if known else None, "rows": vectors,
            "history": [dict(zip(("time", "kind", "value", "item_id", "title"), row, strict=True)) for row in rows],
        } | about  # fmt: skip
        return Answer(sentences, ("time", "kind", "value", "item", "title"), rows[:SHOWN_EVENTS], [found])

    def _kinds(self) -> Kinds:
        return Kinds(recorded_settings(self._meta).learning)

    def _history(self, user_id: str) -> list[np.void]:
        """The events that are kept, the last to arrive first."""
        return list(stored_events(self._store, user_id))[-KEPT_EVENTS:][::-1]

    def _items_by_row(self) -> dict[int, str]:
        return {int.from_bytes(value, "little"): key.decode() for key, value in self._store.scan("items")}

    def _catalogue(self, item_id: str) -> ItemUpdate | None:
        (value,) = self._store.read("catalogue", [item_id.encode()])
        return msgspec.json.decode(value, type=ItemUpdate) if value else None

    def _title(self, item_id: str) -> str:
        item = self._catalogue(item_id)
        return item.title if item else ""

    def _item(self, item_id: str) -> Answer:
        (row,), item = self._store.read("items", [item_id.encode()]), self._catalogue(item_id)
        if row is None:
            return Answer([f"item {item_id!r} was never seen"], (), [], [{"item_id": item_id, "known": False}])
        vectors = self._vectors("item", item_id)
        sentences = [f"item {item_id!r}, number {int.from_bytes(row, 'little') + 1:,} to arrive"]
        if item is not None:
            sentences.append(f"title: {item.title or '(none)'}; categories: {', '.join(item.categories) or '(none)'}")
            sentences.append("available" if item.available else "not available: never recommended")
        sentences += [f"{name}: a row of {len(v)} numbers" for name, v in vectors.items()]
        about = msgspec.to_builtins(item) if item else None
        return Answer(sentences, (), [], [{"item_id": item_id, "known": True, "catalogue": about, "rows": vectors}])

    def _offsets(self) -> Answer:
        offsets = sorted(self._store.offsets().items())
        runs = len(journal(self._store))
        sentences = [f"the state covers everything before these offsets; the apply journal has {runs:,} runs"]
        rows: list[tuple[object, ...]] = [(at.topic, at.partition, offset) for at, offset in offsets]
        found = {f"{at.topic}/{at.partition}": offset for at, offset in offsets}
        return Answer(
            sentences, ("topic", "partition", "next offset"), rows, [{"offsets": found, "journal_runs": runs}]
        )

    def _stats(self) -> Answer:
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for table, value in self._store.sizes():
            counts[table] = counts.get(table, 0) + 1
            sizes[table] = sizes.get(table, 0) + value
        rows: list[tuple[object, ...]] = [(name, f"{counts[name]:,}", f"{sizes[name]:,}") for name in sorted(counts)]
        settings = msgspec.json.encode(self._meta.settings).decode()
        scale, like_share = Scale(), float(self._meta.settings["like_share"])
        scale.restore(self._store)
        answering = {**self._meta.champions, **self._store.promoted()}
        sentences = [
            f"format {self._meta.format}, generation {self._meta.generation}, made with {settings}",
            *(f"{name} answers for {kind}{self._instead_of(kind, name)}" for kind, name in answering.items()),
            *_describe(scale, like_share),
            *(f"{name} began at {msgspec.json.encode(at).decode()}" for name, at in self._meta.since.items()),
        ]
        about: dict[str, object] = {
            "format": self._meta.format, "generation": self._meta.generation,
            "champions": answering, "promoted": self._store.promoted(), "since": self._meta.since,
        }  # fmt: skip
        about["scale"] = {
            "low": scale.low, "high": scale.high, "like": scale.like(like_share), "changes": scale.changes, "wild": scale.wild,
        } if scale.low <= scale.high else None  # fmt: skip
        tables = {name: {"rows": counts[name], "bytes": sizes[name]} for name in sorted(counts)}
        return Answer(
            sentences, ("table", "rows", "bytes"), rows, [{**about, "settings": self._meta.settings, "tables": tables}]
        )

    def _instead_of(self, kind: Kind, name: str) -> str:
        named = self._meta.champions[kind]
        return "" if name == named else f": promoted, where the settings name {named}"

    def _dead_letters(self) -> Answer:
        letters = list(dead_letters(self._store))
        rows: list[tuple[object, ...]] = [
            (f"{letter.topic}/{letter.partition}@{letter.offset}", letter.reason, letter.message, letter.value[:60].decode(errors="replace"))
            for letter in letters
        ]  # fmt: skip
        objects = [
            {**msgspec.structs.asdict(letter), "value": letter.value.decode(errors="replace")} for letter in letters
        ]
        return Answer(
            [f"{len(letters):,} dead letters, the newest first"], ("origin", "reason", "what", "value"), rows, objects
        )

    def close(self) -> None:
        """Safe to call twice."""
        self._store.close()


def answer_from_state(folder: str, ask: Callable[[Recommender], Answered]) -> Answered:
    """The answer that `ask` gets from a recommender on this state, as of its last commit; raises BadState."""
    store = RocksStore(Path(folder), read_only=True)
    try:
        memory, _ = load_memory(store)
        return ask(Recommender(memory, memory.learners.by_name[POPULARITY]))
    finally:
        store.close()


def _when(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"


def _describe(scale: Scale, like_share: float) -> list[str]:
    """A sentence on the scale of ratings; none before the first one."""
    if scale.low > scale.high:
        return []
    return [
        f"{scale.kind()} from {scale.low:g} to {scale.high:g}, {scale.like(like_share)}; {count_of(scale.changes, 'change')} of scale, "
        f"{count_of(scale.wild, 'rating')} far outside the scale of their time"
    ]
