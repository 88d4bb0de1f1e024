"""Forgetting: takes a user's data out of every file of the data directory, whatever is killed meanwhile.

The removal itself is an event: whoever learns it answers for the user as for somebody never seen, and commits a receipt with it
(receipts.py). This is who works the receipts off, in a thread of its own:

    pending   blank the user's records in the log, delete dead letters, event ids and what others say of the user, rewrite the
              archive; from then on the receipt has nothing of the user
    erased    write every file anew that may still hold bytes of what was deleted
    complete  a search of the data directory for the id finds nothing

Each step can be done twice, so after a crash it begins at the step that the receipt names. Records are blanked only after the
state that has learned the removal is durable: a replay finds either the removal or nothing of the user before it.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from streamer.core.answers import ReceiptShown
from streamer.core.errors import SourceUnavailable, StreamerError
from streamer.core.events import LOG, Message, Offsets, Record, UserRemoval, UserUpdate, message
from streamer.core.protocols import Row
from streamer.core.tables import Table
from streamer.privacy.erasure import Erasure
from streamer.renormalise import manifest
from streamer.storage import generations
from streamer.storage.archive.archive import FOLDER, Archive
from streamer.storage.archive.archiver import Archiver
from streamer.storage.log import EmbeddedLog
from streamer.storage.state import RocksStore
from streamer.stream.dead_letters import dead_letters, deleted
from streamer.stream.decoder import check_id
from streamer.stream.memory import Memory
from streamer.stream.removals import Removal, newest, receipt, rows, unfinished

APPLIED_S = 30.0  # how long whoever asks waits for the removal to be learned and committed
LOOK_S = 0.02
ARCHIVED_TRIES = 10  # of RETRY_S each, before it is said that the archive keeps us waiting
RETRY_S = 1.0  # when something is in the way
_LOGGER = logging.getLogger("streamer.forgetting")
_PROFILE = msgspec.json.Decoder(UserUpdate)
_ENCODER = msgspec.json.Encoder(order="deterministic")
_T = TypeVar("_T")


class Forgetting:
    """Works off the receipts of `memories()`, the live one first. `start` it once."""

    def __init__(
        self,
        folder: Path,
        memories: Callable[[], Sequence[Memory]],
        log: EmbeddedLog | None,
        archiver: Archiver | None,
        between: Callable[[Callable[[], Any]], "Future[Any]"],
        maintenance: threading.Lock,
    ) -> None:
        """Of the data directory `folder`; `between`: see Engine.between; `upkeep` is held while files are worked on."""
        self._folder, self._archiver = folder, archiver
        self._memories, self._log, self._between, self._maintenance = memories, log, between, maintenance
        self._woken, self._stop = threading.Event(), threading.Event()
        self._span: tuple[int, int] | None = None  # runs of the log written anew, of the receipts that are erased
        self._spanned: set[int] = set()  # receipts whose runs `_span` covers
        self._swept: set[int] = set()  # receipts whose files are written anew
        self._thread = threading.Thread(target=self._run, name="forgetting", daemon=True)
        self.trouble = ""  # a sentence while something is in the way

    def start(self) -> None:
        """Go on with what a crash cut off."""
        self._woken.set()
        self._thread.start()

    def committed(self) -> None:
        """The engine committed: there may be receipts."""
        if any(memory.removals.waiting for memory in self._memories()):
            self._woken.set()

    def close(self) -> None:
        """End between two steps; the next start goes on. Safe to call twice."""
        self._stop.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join()

    # Threads of the endpoint.

    def forget(self, user_id: str, publish: Callable[[Sequence[Message]], Offsets]) -> list[ReceiptShown]:
        """Remove the user, and who is the same person by `same_as` now; the receipts, when the removals are committed.

        Raises BadEvent for what is no id, SourceUnavailable, StoreUnavailable.
        """
        check_id(user_id, "the user's id")
        found = []
        store = self._memories()[0].store
        number = newest(store)
        for one in [user_id, *self._same(user_id)]:
            (place,) = publish([message(UserRemoval(one))]).items()
            found.append(self._awaited(place[0], place[1] - 1, number + 1))
        return [self.shown(number) for number in found]

    def _same(self, user_id: str) -> list[str]:
        """Whom the user's profile names, and whose profiles name the user."""
        users = self._memories()[0].users
        profile = users.profile(user_id)
        named = {profile.same_as} if profile is not None and profile.same_as is not None else set()
        return sorted(({other for other, _ in self._naming({user_id})} | named) - {user_id})

    def _naming(self, user_ids: set[str]) -> list[tuple[str, str]]:
        """Committed profiles that name one of these: whose, and whom."""
        found = []
        for key, value in self._memories()[0].store.scan("users/profile"):
            if b"same_as" in value:
                same_as = _PROFILE.decode(value).same_as
                if same_as in user_ids and same_as is not None:
                    found.append((key.decode(), same_as))
        return found

    def _awaited(self, at: tuple[str, int], offset: int, first: int) -> int:
        """The number of the receipt of a removal; `first` is the first that it may have."""
        until = time.monotonic() + APPLIED_S
        while time.monotonic() < until and not self._stop.wait(LOOK_S):
            store = self._memories()[0].store
            while (found := receipt(store, first)) is not None:
                if (found.topic, found.partition, found.offset) == (*at, offset):
                    return first
                first += 1
        raise SourceUnavailable(
            f"the removal is published and was not learned within {APPLIED_S:.0f} s ({at[0]}/{at[1]} at {offset}): "
            "it will be; ask again for its receipt"
        )

    def shown(self, number: int) -> ReceiptShown:
        """How far it is; raises StreamerError for a number that was never given."""
        memory = self._memories()[0]
        found = receipt(memory.store, number)
        if found is None:
            raise StreamerError(f"no receipt {number}: {newest(memory.store)} were given")
        counts = (found.records, found.dead_letters, found.event_ids)
        return ReceiptShown(number, found.stage, *counts, tuple(self._waits(found)))

    def _waits(self, found: Removal) -> list[str]:
        waits = []
        if found.stage == "pending":
            waits.append("rows and answers are gone; records, dead letters and event ids are being erased")
        if found.stage != "complete":
            waits.append("files are written anew, until none holds bytes of what was deleted")
            waits += [self.trouble] if self.trouble else []
        if (
            generations.read_record(self._folder, generations.live(self._folder)).cut.get(_name(found), 0)
            <= found.offset
        ):
            waits.append("the next renormalisation: what the user's events left in the vectors of items")
        if self._log is None:
            waits.append(
                "Kafka's retention: records in the topics, and event ids remembered against duplicates until newer ones push them out"
            )
        return waits

    # The thread of its own.

    def _run(self) -> None:
        waiting = True
        while not self._stop.is_set():
            self._woken.wait(RETRY_S if waiting else None)
            self._woken.clear()
            try:
                waiting = bool(self._work())
            except (StreamerError, OSError) as error:
                if str(error) != self.trouble:
                    _LOGGER.warning("forgetting users waits: %s", error)
                waiting, self.trouble = True, str(error)
            except CancelledError:  # the engine ended; the next start goes on
                waiting = True

    def _work(self) -> list[Removal]:
        """One round; answers what is left."""
        for memory in self._memories():
            memory.removals.waiting = False
        live = self._memories()[0].store
        if not unfinished(live):
            return []
        with self._maintenance:
            pending = [found for found in unfinished(live) if found.stage == "pending"]
            if pending and not self._stop.is_set():
                self._erase(pending)
            left = unfinished(live)
            swept = [found for found in left if found.stage == "erased"]
            if swept and not self._stop.is_set() and self._sweep(swept):
                left = [found for found in left if found.stage != "erased"]
        self.trouble = ""
        return left

    def _erase(self, pending: Sequence[Removal]) -> None:
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
        naming = self._naming(set(until))
        counts, *_ = self._answer(self._between(lambda: [_clean(memory, erasure, naming) for memory in memories]))
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
            memory.store.commit(rows(done), {})

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
            if not any(not self._stop.is_set() and self._archiver.reach(removals, RETRY_S) for _ in tries):
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

    def _sweep(self, swept: Sequence[Removal]) -> bool:
        """Whether no file holds anything of them any more."""
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
        lean = [*(memory.store.lean for memory in memories), self._log is None or self._log.lean]
        if not all(lean):
            return False  # tables that somebody still reads
        done = [msgspec.structs.replace(found, stage="complete") for found in swept]
        for memory in memories:
            memory.store.commit(rows(done), {})
        self._span, self._spanned, self._swept = None, set(), set()
        return True


def _of_users(tables: Mapping[str, Mapping[str, Table]], learner: str, name: str) -> bool:
    """Whether rows of a table are users'."""
    return learner in tables and name in tables[learner] and tables[learner][name].side == "user"


def _name(found: Removal) -> str:
    return f"{found.topic}/{found.partition}"


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
    memory.store.commit(deleted(letters), {})
    return _Counts(Counter(letters.values()), ids)


def _clean_kept(
    store: RocksStore, like: Memory, erasure: Erasure, user_ids: Sequence[str], done: Sequence[Removal]
) -> None:
    """Take them out of a state that nobody learns into, which has the tables of `like`, and leave their receipts in it."""
    changed = [row for user_id in user_ids for row in like.users.stored.gone(user_id)]
    known = store.read("users/head", [user_id.encode() for user_id in user_ids])
    (count,) = store.read("users", [b"count"])
    if count is not None:
        left = int.from_bytes(count, "little") - sum(head is not None for head in known)
        changed.append(Row("users", b"count", left.to_bytes(8, "little")))
    for key, value in store.scan("users/profile"):
        if b"same_as" in value and (profile := _PROFILE.decode(value)).same_as in user_ids:
            changed.append(Row("users/profile", key, _ENCODER.encode(msgspec.structs.replace(profile, same_as=None))))
    letters = [letter for letter in dead_letters(store) if erasure.whose(letter)]
    store.commit([*changed, *deleted(letters), *rows(done)], {})
