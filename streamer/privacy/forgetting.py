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
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from streamer.core.answers import ReceiptShown
from streamer.core.errors import SourceUnavailable, StreamerError
from streamer.core.events import Message, Offsets, UserRemoval, message
from streamer.privacy.eraser import RETRY_S, Eraser, naming
from streamer.storage import generations
from streamer.storage.archive.archiver import Archiver
from streamer.storage.log import EmbeddedLog
from streamer.stream.decoder import check_id
from streamer.stream.memory import Memory
from streamer.stream.removals import Removal, newest_number, read_removal, unfinished

APPLIED_S = 30.0  # how long whoever asks waits for the removal to be learned and committed
LOOK_S = 0.02
_LOGGER = logging.getLogger("streamer.forgetting")


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
        """Of the data directory `folder`; `between`: see Engine.between; `maintenance` is held while files are worked on."""
        self._folder, self._memories, self._log, self._maintenance = folder, memories, log, maintenance
        self._woken, self._stop = threading.Event(), threading.Event()
        self._eraser = Eraser(folder, memories, log, archiver, between, self._stop)
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
        number = newest_number(store)
        for one in [user_id, *self._same(user_id)]:
            (place,) = publish([message(UserRemoval(one))]).items()
            found.append(self._awaited(place[0], place[1] - 1, number + 1))
        return [self.shown(number) for number in found]

    def _same(self, user_id: str) -> list[str]:
        """Whom the user's profile names, and whose profiles name the user."""
        users = self._memories()[0].users
        profile = users.profile(user_id)
        named = {profile.same_as} if profile is not None and profile.same_as is not None else set()
        return sorted(({other for other, _ in naming(self._memories()[0].store, {user_id})} | named) - {user_id})

    def _awaited(self, at: tuple[str, int], offset: int, first: int) -> int:
        """The number of the receipt of a removal; `first` is the first that it may have."""
        until = time.monotonic() + APPLIED_S
        while time.monotonic() < until and not self._stop.wait(LOOK_S):
            store = self._memories()[0].store
            while (found := read_removal(store, first)) is not None:
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
        found = read_removal(memory.store, number)
        if found is None:
            raise StreamerError(f"no receipt {number}: {newest_number(memory.store)} were given")
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
                self._eraser.erase(pending)
            left = unfinished(live)
            swept = [found for found in left if found.stage == "erased"]
            if swept and not self._stop.is_set() and self._eraser.sweep(swept):
                left = [found for found in left if found.stage != "erased"]
        self.trouble = ""
        return left


def _name(found: Removal) -> str:
    return f"{found.topic}/{found.partition}"
