"""Erases users from every file of a data directory: log, archive, states, and files of generations.

Each step can be repeated. Records are blanked only after the state that has learned the removal is durable: a replay finds
either the removal, or nothing of the user before it.
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
from streamer.stream.stored_users import everything

ARCHIVED_TRIES = 10  # how often to wait RETRY_S for the archive before it is reported as late
RETRY_S = 1.0  # pause before work that could not go on is tried again
_PROFILE = msgspec.json.Decoder(UserUpdate)
_ENCODER = msgspec.json.Encoder(order="deterministic")
_T = TypeVar("_T")


class Eraser:
    """Erases users from a data directory while the engine learns. Only one thread may use it at a time."""

    def __init__(
        self,
        folder: Path,
        memories: Callable[[], Sequence[Memory]],
        log: EmbeddedLog | None,
        archiver: Archiver | None,
        run_between_steps: Callable[[Callable[[], Any]], "Future[Any]"],
        stop: threading.Event,
    ) -> None:
        """`memories`: the live one first; `run_between_steps`: that of Engine; `stop`: set to make it end between two steps."""
        self._folder, self._memories, self._log, self._archiver = folder, memories, log, archiver
        self._run_between_steps, self._stop = run_between_steps, stop
        self._span: tuple[int, int] | None = None  # the runs of the log in which records were blanked
        self._spanned: set[int] = set()  # removals whose runs are in `_span`
        self._swept: set[int] = set()  # removals for which all files were rewritten

    def erase(self, pending: Sequence[Removal]) -> None:
        """Bring pending removals to the stage 'erased': no row and no record has the users' data, but files may have its bytes.

        Raises StreamerError when something else must happen first.
        """
        memories = self._memories()
        self._check_no_retraining()
        for memory in memories:
            memory.store.sync()
            behind = [removal for removal in pending if memory.store.offsets().get(removal.at, 0) <= removal.offset]
            if behind:
                raise StreamerError("a generation in the shadow has not learned the removal yet")
        until = {removal.user_id: removal.offset for removal in pending}  # a user's newest, if there are several
        erasure = Erasure(until)

        def change(record: Record) -> Record:
            if self._stop.is_set():
                raise CancelledError
            return erasure(record)

        self._erase_from_archive(pending)
        if self._log is not None:
            self._add_span(self._log.rewrite(change, max(until.values()) + 1), {removal.number for removal in pending})
        named = profiles_naming(self._memories()[0].store, set(until))
        counts, *_ = self._result_of(
            self._run_between_steps(lambda: [_erase_from_memory(memory, erasure, named) for memory in memories])
        )
        done = []
        for removal in pending:
            user_id, first = (
                removal.user_id,
                until.pop(removal.user_id, None) is not None,
            )  # counts go to a user's first removal
            done.append(
                msgspec.structs.replace(
                    removal,
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
        for store in self._other_states():
            _erase_from_state(store, memories[0], erasure, list(erasure.records), done)
        for memory in memories:
            memory.store.commit(removal_rows(done), {})

    def _check_no_retraining(self) -> None:
        """Raise StreamerError while a generation is being trained, because it may have the user's data from its cut."""
        mine = {memory.store.generation for memory in self._memories()}
        for generation in generations.read_records(self._folder):
            if generation.stage in generations.UNDER_WAY and generation.id not in mine:
                raise StreamerError(
                    f"generation {generation.id} is being trained on earlier events: erasure waits until it is done"
                )

    def _other_states(self) -> Iterator[RocksStore]:
        """Yield the states of other generations, which are not open, opening one at a time."""
        mine = {memory.store.generation for memory in self._memories()}
        for generation in generations.read_records(self._folder):
            if generation.id not in mine and generations.state_folder(self._folder, generation.id).exists():
                store = RocksStore(self._folder, generation=generation.id)
                try:
                    yield store
                finally:
                    store.close()

    def _erase_from_archive(self, pending: Sequence[Removal]) -> None:
        """Erase the users from the archive, once it has read up to their removals."""
        if self._archiver is not None:
            removals = {
                removal.at: removal.offset + 1 for removal in sorted(pending, key=lambda removal: removal.offset)
            }
            tries = range(ARCHIVED_TRIES)
            if not any(not self._stop.is_set() and self._archiver.wait_for(removals, RETRY_S) for _ in tries):
                trouble = self._archiver.trouble
                raise StreamerError(f"the archive has not reached the removal yet{trouble and ': ' + trouble}")
            self._archiver.archive.purge()
        elif (self._folder / FOLDER).exists():  # archiving is off now, but was on before
            archive = Archive(self._folder)
            archive.open()
            archive.commit({}, {}, {removal.user_id for removal in pending})
            archive.purge()

    def _result_of(self, asked: "Future[_T]") -> _T:
        """The result of a task in the engine's thread; raises CancelledError on `stop`, as an engine that waits may never run it."""
        while True:
            try:
                return asked.result(RETRY_S)
            except TimeoutError:
                if self._stop.is_set() and asked.cancel():
                    raise CancelledError from None

    def _add_span(self, span: tuple[int, int] | None, numbers: set[int]) -> None:
        """Remember runs of the log to sweep."""
        if self._span is None or span is None:
            self._span = self._span or span
        else:
            self._span = min(self._span[0], span[0]), max(self._span[1], span[1])
        self._spanned |= numbers

    def sweep(self, swept: Sequence[Removal]) -> bool:
        """Rewrite every file; return whether none has the users' data any more, so that the removals are 'complete'."""
        self._check_no_retraining()
        memories, numbers = self._memories(), {removal.number for removal in swept}
        if not numbers <= self._swept:
            for memory in memories:
                memory.store.sweep()
            for store in self._other_states():
                store.sweep()
            if self._log is not None and not numbers <= self._spanned:  # after a restart the runs are unknown
                self._log.sweep(None)
            elif self._log is not None and self._span is not None:
                self._log.sweep(self._span)
            self._swept |= numbers
        clean = [
            *(memory.store.has_only_live_files for memory in memories),
            # Opened anew, which deletes what was left when they were closed.
            *(store.has_only_live_files for store in self._other_states()),
            self._log is None or self._log.has_only_live_files,
        ]
        if not all(clean):
            return False  # old tables are still being read
        done = [msgspec.structs.replace(removal, stage="complete") for removal in swept]
        for memory in memories:
            memory.store.commit(removal_rows(done), {})
        self._span, self._spanned, self._swept = None, set(), set()
        return True


def profiles_naming(store: RocksStore, user_ids: set[str]) -> list[tuple[str, str]]:
    """Committed profiles whose `same_as` is one of these users: pairs of the profile's user and that one."""
    pairs = []
    for key, value in store.scan("users/profile"):
        if b"same_as" in value:
            same_as = _PROFILE.decode(value).same_as
            if same_as in user_ids and same_as is not None:
                pairs.append((key.decode(), same_as))
    return pairs


def _of_users(tables: Mapping[str, Mapping[str, Table]], learner: str, name: str) -> bool:
    """Whether a table has a row for each user."""
    return learner in tables and name in tables[learner] and tables[learner][name].side == "user"


class _Counts(NamedTuple):
    """How much was erased from a memory, by user."""

    letters: Counter[str]
    event_ids: dict[str, int]


def _erase_from_memory(memory: Memory, erasure: Erasure, naming: Sequence[tuple[str, str]]) -> _Counts:
    """Erase event ids, references in profiles and dead letters from a memory. In the engine's thread, with nothing uncommitted."""
    ids = {user_id: memory.dedupe.forget(LOG, named) for user_id, named in erasure.event_ids.items()}
    for user_id, same_as in naming:
        profile = memory.users.profile(user_id)
        if profile is not None and profile.same_as == same_as:
            memory.users.put(msgspec.structs.replace(profile, same_as=None))
    memory.commit()
    letters = {letter: owner for letter in dead_letters(memory.store) if (owner := erasure.owner_of(letter))}
    memory.store.commit(deletions(letters), {})
    return _Counts(Counter(letters.values()), ids)


def _erase_from_state(
    store: RocksStore, memory: Memory, erasure: Erasure, user_ids: Sequence[str], done: Sequence[Removal]
) -> None:
    """Erase users from a state that does not learn and has the tables of `memory`; record their removals in it."""
    known = store.read("users/head", [user_id.encode() for user_id in user_ids])
    changed = [
        row
        for user_id, head in zip(user_ids, known, strict=True)
        for row in memory.users.stored.deletions(user_id, everything(head))
    ]
    (count,) = store.read("users", [b"count"])
    if count is not None:
        left = int.from_bytes(count, "little") - sum(head is not None for head in known)
        changed.append(Row("users", b"count", left.to_bytes(8, "little")))
    for key, value in store.scan("users/profile"):
        if b"same_as" in value and (profile := _PROFILE.decode(value)).same_as in user_ids:
            changed.append(Row("users/profile", key, _ENCODER.encode(msgspec.structs.replace(profile, same_as=None))))
    letters = [letter for letter in dead_letters(store) if erasure.owner_of(letter)]
    store.commit([*changed, *deletions(letters), *removal_rows(done)], {})
