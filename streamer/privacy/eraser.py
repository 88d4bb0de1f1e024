"""Takes users out of every file of a data directory: the log, the archive, the states, and the files of generations.

Each step can be done twice. Records are blanked only after the state that has learned the removal is durable: a replay finds
either the removal or nothing of the user before it.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from streamer.core.errors import StreamerError
from streamer.core.events import LOG, Record, UserUpdate
from streamer.core.protocols import Row
from streamer.core.tables import Table
from streamer.privacy.erasure import Erasure
from streamer.renormalise import manifest
from streamer.storage import generations
from streamer.storage.archive.archive import FOLDER, Archive
from streamer.storage.archive.archiver import Archiver
from streamer.storage.log import EmbeddedLog
from streamer.storage.state import RocksStore
from streamer.stream.dead_letters import dead_letters, deletions
from streamer.stream.memory import Memory
from streamer.stream.removals import Removal, removal_rows

ARCHIVED_TRIES = 10  # of RETRY_S each, before it is said that the archive keeps us waiting
RETRY_S = 1.0  # when something is in the way
_PROFILE = msgspec.json.Decoder(UserUpdate)
_ENCODER = msgspec.json.Encoder(order="deterministic")
_T = TypeVar("_T")


class Eraser:
    """Of the data directory `folder`, while it is learned into; one thread at a time."""

    def __init__(
        self,
        folder: Path,
        memories: Callable[[], Sequence[Memory]],
        log: EmbeddedLog | None,
        archiver: Archiver | None,
        between: Callable[[Callable[[], Any]], "Future[Any]"],
        stop: threading.Event,
    ) -> None:
        """`memories`: the live one first; `between`: see Engine.between; `stop` is set when it is to end between two steps."""
        self._folder, self._memories, self._log, self._archiver = folder, memories, log, archiver
        self._between, self._stop = between, stop
        self._span: tuple[int, int] | None = None  # runs of the log written anew, of the receipts that are erased
        self._spanned: set[int] = set()  # receipts whose runs `_span` covers
        self._swept: set[int] = set()  # receipts whose files are written anew

    def erase(self, pending: Sequence[Removal]) -> None:
        """Make them 'erased': everything but bytes that files still hold; raises StreamerError for what has to come first."""
        memories = self._memories()
        self._check_none_is_made()
        for memory in memories:
            memory.store.sync()
            behind = [found for found in pending if memory.store.offsets().get(found.at, 0) <= found.offset]
            if behind:
                raise StreamerError("a generation in the shadow has not learned the removal yet")
        until = {found.user_id: found.offset for found in pending}  # the newest of several
        erasure = Erasure(until)

        def change(record: Record) -> Record:
            if self._stop.is_set():
                raise CancelledError
            return erasure(record)

        self._unarchive(pending)
        if self._log is not None:
            self._cover(self._log.rewrite(change, max(until.values()) + 1), {found.number for found in pending})
        named = naming(self._memories()[0].store, set(until))
        counts, *_ = self._answer(self._between(lambda: [_clean(memory, erasure, named) for memory in memories]))
        done = []
        for found in pending:
            user_id, first = found.user_id, until.pop(found.user_id, None) is not None  # counted once
            done.append(
                msgspec.structs.replace(
                    found,
                    stage="erased",
                    user_id="",
                    records=erasure.records[user_id] if first else 0,
                    dead_letters=counts.letters[user_id] if first else 0,
                    event_ids=counts.event_ids[user_id] if first else 0,
                )
            )
        tables = {name: learner.tables() for name, learner in memories[0].learners.by_name.items()}
        for generation in generations.read_records(self._folder):
            place = generations.generation_folder(self._folder, generation.id)
            manifest.erase(place, erasure.records, lambda learner, name: _of_users(tables, learner, name))
        for store in self._kept():
            _clean_kept(store, memories[0], erasure, list(erasure.records), done)
        for memory in memories:
            memory.store.commit(removal_rows(done), {})

    def _check_none_is_made(self) -> None:
        """Raises StreamerError while a generation is: it began with what the user had left at its cut."""
        mine = {memory.store.generation for memory in self._memories()}
        for generation in generations.read_records(self._folder):
            if generation.stage in generations.UNDER_WAY and generation.id not in mine:
                raise StreamerError(
                    f"generation {generation.id} is being made of what there was before: when it is done"
                )

    def _kept(self) -> Iterator[RocksStore]:
        """States of other generations, which nobody has open, one open at a time."""
        mine = {memory.store.generation for memory in self._memories()}
        for generation in generations.read_records(self._folder):
            if generation.id not in mine and generations.state_folder(self._folder, generation.id).exists():
                store = RocksStore(self._folder, generation=generation.id)
                try:
                    yield store
                finally:
                    store.close()

    def _unarchive(self, pending: Sequence[Removal]) -> None:
        """Take them out of the archive, which has to come to their removals first: it reads the log for itself."""
        if self._archiver is not None:
            removals = {found.at: found.offset + 1 for found in sorted(pending, key=lambda found: found.offset)}
            tries = range(ARCHIVED_TRIES)
            if not any(not self._stop.is_set() and self._archiver.wait_for(removals, RETRY_S) for _ in tries):
                trouble = self._archiver.trouble
                raise StreamerError(f"the archive has not come to the removal yet{trouble and ': ' + trouble}")
            self._archiver.archive.purge()
        elif (self._folder / FOLDER).exists():  # of a time when there was one
            archive = Archive(self._folder)
            archive.open()
            archive.commit({}, {}, {found.user_id for found in pending})
            archive.purge()

    def _answer(self, asked: "Future[_T]") -> _T:
        """What the engine's thread found; raises CancelledError when we are to end, as an engine that waits for Kafka may not answer."""
        while True:
            try:
                return asked.result(RETRY_S)
            except TimeoutError:
                if self._stop.is_set() and asked.cancel():
                    raise CancelledError from None

    def _cover(self, span: tuple[int, int] | None, numbers: set[int]) -> None:
        """Remember which runs are to be swept."""
        if self._span is None or span is None:
            self._span = self._span or span
        else:
            self._span = min(self._span[0], span[0]), max(self._span[1], span[1])
        self._spanned |= numbers

    def sweep(self, swept: Sequence[Removal]) -> bool:
        """Write every file anew; whether none holds anything of them any more, and they are 'complete'."""
        self._check_none_is_made()
        memories, numbers = self._memories(), {found.number for found in swept}
        if not numbers <= self._swept:
            for memory in memories:
                memory.store.sweep()
            for store in self._kept():
                store.sweep()  # whoever opens it next deletes what is left over
            if self._log is not None and not numbers <= self._spanned:  # a crash forgot which runs
                self._log.sweep(None)
            elif self._log is not None and self._span is not None:
                self._log.sweep(self._span)
            self._swept |= numbers
        lean = [*(memory.store.has_only_live_files for memory in memories), self._log is None or self._log.has_only_live_files]
        if not all(lean):
            return False  # tables that somebody still reads
        done = [msgspec.structs.replace(found, stage="complete") for found in swept]
        for memory in memories:
            memory.store.commit(removal_rows(done), {})
        self._span, self._spanned, self._swept = None, set(), set()
        return True


def naming(store: RocksStore, user_ids: set[str]) -> list[tuple[str, str]]:
    """Committed profiles that name one of these: whose, and whom."""
    found = []
    for key, value in store.scan("users/profile"):
        if b"same_as" in value:
            same_as = _PROFILE.decode(value).same_as
            if same_as in user_ids and same_as is not None:
                found.append((key.decode(), same_as))
    return found


def _of_users(tables: Mapping[str, Mapping[str, Table]], learner: str, name: str) -> bool:
    """Whether rows of a table are users'."""
    return learner in tables and name in tables[learner] and tables[learner][name].side == "user"


class _Counts(NamedTuple):
    """What a memory kept, by user."""

    letters: Counter[str]
    event_ids: dict[str, int]


def _clean(memory: Memory, erasure: Erasure, naming: Sequence[tuple[str, str]]) -> _Counts:
    """Take out what a memory keeps of them beside their rows. In the engine's thread, with nothing uncommitted."""
    ids = {user_id: memory.dedupe.forget(LOG, named) for user_id, named in erasure.event_ids.items()}
    for user_id, same_as in naming:
        profile = memory.users.profile(user_id)
        if profile is not None and profile.same_as == same_as:
            memory.users.put(msgspec.structs.replace(profile, same_as=None))
    memory.commit()
    letters = {letter: whose for letter in dead_letters(memory.store) if (whose := erasure.whose(letter))}
    memory.store.commit(deletions(letters), {})
    return _Counts(Counter(letters.values()), ids)


def _clean_kept(
    store: RocksStore, like: Memory, erasure: Erasure, user_ids: Sequence[str], done: Sequence[Removal]
) -> None:
    """Take them out of a state that nobody learns into, which has the tables of `like`, and leave their receipts in it."""
    changed = [row for user_id in user_ids for row in like.users.stored.deletions(user_id)]
    known = store.read("users/head", [user_id.encode() for user_id in user_ids])
    (count,) = store.read("users", [b"count"])
    if count is not None:
        left = int.from_bytes(count, "little") - sum(head is not None for head in known)
        changed.append(Row("users", b"count", left.to_bytes(8, "little")))
    for key, value in store.scan("users/profile"):
        if b"same_as" in value and (profile := _PROFILE.decode(value)).same_as in user_ids:
            changed.append(Row("users/profile", key, _ENCODER.encode(msgspec.structs.replace(profile, same_as=None))))
    letters = [letter for letter in dead_letters(store) if erasure.whose(letter)]
    store.commit([*changed, *deletions(letters), *removal_rows(done)], {})
