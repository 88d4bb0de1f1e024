"""A small stream with every kind of event, and a way to learn it in this process, with crashes as entries of the stream."""

from collections.abc import Callable, Sequence
from pathlib import Path

from streamer.consumers.memory import Abort, Entry, MemorySource
from streamer.core.events import Click, Event, ItemUpdate, Rating, Record, UserRemoval, UserUpdate, message
from streamer.core.settings import SERVED_RECORDS, Settings, load
from streamer.serving.opening import learners
from streamer.storage.state import Digest, RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory

USERS, ITEMS = 40, 401


def settings(**flags: object) -> Settings:
    """The default settings with `flags` set; environment variables are ignored."""
    return load(flags, environ={})


def events(count: int) -> list[Event | bytes]:
    """Ratings, clicks, dislikes, duplicates, catalogue and profile changes, forgotten users and bad events, in a fixed order.

    Some ratings replace the user's earlier one or withdraw it, and some clicks are made twice within a second.
    """
    found: list[Event | bytes] = [ItemUpdate(f"i{n}", f"Item {n}", ("Drama",)) for n in range(5)]
    for n in range(count):
        user, item, time_ms = f"u{n * 7 % USERS}", f"i{n * n * 13 % ITEMS}", 1_700_000_000_000 + n * 1000
        match n % 10:
            case 3:
                found.append(Click(user, item, "purchase", time_ms))
            case 5:
                found.append(Click(user, item, "dislike", time_ms))
            case 7:
                found.append(Rating(user, item, 1.0 + n % 5, time_ms, f"e{n // 40}"))  # mostly duplicates
            case _:
                found.append(Rating(user, item, 0.5 * (1 + (n + n // 16_000) % 10), time_ms))  # then pairs begin anew
        if n % 10 == 3 and n % 20 == 3:
            found.append(Click(user, item, "purchase", time_ms + 900))
        if n % 6 == 2:
            k = n - n % 4 * 10 - 2  # an event of this user or of another one, some time ago
            again = None if n % 5 == 1 else 0.5 * (1 + n % 9)
            found.append(Rating(f"u{k * 7 % USERS}", f"i{k * k * 13 % ITEMS}", again, time_ms + 10))
        if n % 97 == 50:
            found.append(b'{"user_id": "u1", "item_id": "i1", "rating": NaN}')
        if n % 131 == 60:
            attributes: dict[str, str | float | bool | None] = {"year": 1950.0 + n % 70}
            found.append(ItemUpdate(item, f"Item {item} again", ("Comedy",), attributes, available=n % 2 == 0))
        if n % 41 == 20:  # the first profiles name `Comedy` before the catalogue does
            about: dict[str, str | float | bool | None] = {"age": 18.0 + n % 50, "job": f"job {n % 3}"}
            found.append(UserUpdate(user, about, {"Drama": 1.0 + n % 5, "Comedy": 5.0 - n % 3}))
        if n % 171 == 90:
            found.append(UserRemoval(user))
            found.append(UserUpdate(user, preferences={"Drama": 5.0}))
    return found


def records(chosen: Sequence[Event | bytes], start: int = 0) -> list[Record]:
    """The events as records of the embedded log, with offsets from `start`."""
    made = []
    for n, event in enumerate(chosen, start):
        if isinstance(event, bytes):
            made.append(Record("ratings", -1, n, 1_700_000_000_000, b"u1", event))
        else:
            sent = message(event)
            made.append(Record(sent.topic, -1, n, 1_700_000_000_000 + n, sent.key, sent.value))
    return made


Alter = Callable[[Engine], None]


def learn(
    folder: Path,
    entries: Sequence[Entry],
    *,
    commit_every: int = 5,
    alter: Alter = lambda engine: None,
    **flags: object,
) -> int:
    """Learn all of `entries` into `folder`; restart after each Abort as after a kill, which loses memory but not the store.

    Commits every `commit_every` steps. Returns how many crashes there were; `alter` may change each new engine.
    """
    chosen = settings(**flags)
    crashes = 0
    while True:
        store = RocksStore(folder)
        try:
            memory = Memory(learners(chosen), chosen, store)
            source = MemorySource(entries)
            source.seek(memory.ledger.offsets)
            engine = Engine(
                source,
                memory,
                NullObserver(),
                max_records=chosen.learning.max_records or SERVED_RECORDS,
                commit_interval_s=3600.0,
            )
            alter(engine)
            steps = 0
            while engine.step(0.0):
                steps += 1
                if steps % commit_every == 0:
                    engine.commit()
            engine.commit()
            return crashes
        except Abort:
            crashes += 1
        finally:
            store.close()


def digest(folder: Path) -> Digest:
    """The digest of the state in `folder`."""
    store = RocksStore(folder, read_only=True)
    try:
        return store.digest()
    finally:
        store.close()
