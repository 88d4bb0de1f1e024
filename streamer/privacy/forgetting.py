"""Forgetting: erases a user's data from every file of the data directory, even if the process is killed meanwhile.

A removal is an event. Once it is learned, the user is treated like one never seen, and its record (stream/removals.py) is
committed with it. A thread here processes these records; for a removal in stage

    pending   it blanks the user's records in the log, deletes dead letters, event ids and references in other profiles, and
              rewrites the archive; from then on the removal's record has nothing of the user
    erased    it rewrites every file that may still have bytes of deleted data
    complete  nothing is left to do: a search of the data directory for the id finds nothing

Each step can be repeated, so after a crash work continues at the recorded stage. Records are blanked only after the state
that has learned the removal is durable: a replay finds either the removal, or nothing of the user before it.
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
from streamer.privacy.eraser import RETRY_S, Eraser, profiles_naming
from streamer.storage import generations
from streamer.storage.archive.archiver import Archiver
from streamer.storage.log import EmbeddedLog
from streamer.stream.decoder import check_id
from streamer.stream.memory import Memory
from streamer.stream.removals import Removal, newest_number, read_removal, unfinished

APPLY_TIMEOUT_S = 30.0  # how long `forget` waits for the removal to be learned and committed
POLL_S = 0.02
_LOGGER = logging.getLogger("streamer.forgetting")


class Forgetting:
    """Publishes removals, and processes those in `memories()`, the live one first. `start` it once."""

    def __init__(
        self,
        folder: Path,
        memories: Callable[[], Sequence[Memory]],
        log: EmbeddedLog | None,
        archiver: Archiver | None,
        run_between_steps: Callable[[Callable[[], Any]], "Future[Any]"],
        maintenance: threading.Lock,
    ) -> None:
        """For the data directory `folder`. `run_between_steps` is that of Engine; `maintenance` is held while files are changed."""
        self._folder, self._memories, self._log, self._maintenance = folder, memories, log, maintenance
        self._run_between_steps = run_between_steps
        self._wake, self._stop = threading.Event(), threading.Event()
        self._eraser = Eraser(folder, memories, log, archiver, run_between_steps, self._stop)
        self._thread = threading.Thread(target=self._run, name="forgetting", daemon=True)
        self.trouble = ""  # a sentence that says why work cannot go on; empty while all is well

    def start(self) -> None:
        """Start the thread, which first continues work that a stop interrupted."""
        self._wake.set()
        self._thread.start()

    def committed(self) -> None:
        """The engine has committed: wake the thread if there are new removals."""
        if any(memory.removals.waiting for memory in self._memories()):
            self._wake.set()

    def close(self) -> None:
        """Stop between two steps; the next start continues. Safe to call twice."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    # Called by threads of the endpoint.

    def forget(self, user_id: str, publish: Callable[[Sequence[Message]], Offsets]) -> list[ReceiptShown]:
        """Remove the user and all aliases by `same_as`; returns the receipts once the removals are committed.

        Raises BadEvent for an invalid id, SourceUnavailable, StoreUnavailable.
        """
        check_id(user_id, "the user's id")
        try:  # commits what is learned: a profile that names the user may have come a moment ago
            self._run_between_steps(lambda: None).result(APPLY_TIMEOUT_S)
        except (CancelledError, TimeoutError):
            raise SourceUnavailable(
                f"nothing is removed: what was learned last could not be committed within {APPLY_TIMEOUT_S:.0f} s; try again"
            ) from None
        removal = []
        store = self._memories()[0].store
        number = newest_number(store)
        for one in [user_id, *self._aliases(user_id)]:
            (place,) = publish([message(UserRemoval(one))]).items()
            removal.append(self._wait_for_removal(place[0], place[1] - 1, number + 1))
        return [self.receipt(number) for number in removal]

    def _aliases(self, user_id: str) -> list[str]:
        """The users that the user's profile names in `same_as`, and those whose profiles name the user."""
        users = self._memories()[0].users
        profile = users.profile(user_id)
        named = {profile.same_as} if profile is not None and profile.same_as is not None else set()
        return sorted(
            ({other for other, _ in profiles_naming(self._memories()[0].store, {user_id})} | named) - {user_id}
        )

    def _wait_for_removal(self, at: tuple[str, int], offset: int, first: int) -> int:
        """Wait until the removal at this offset is committed; returns its number, which is `first` or higher."""
        until = time.monotonic() + APPLY_TIMEOUT_S
        while time.monotonic() < until and not self._stop.wait(POLL_S):
            store = self._memories()[0].store
            while (removal := read_removal(store, first)) is not None:
                if (removal.topic, removal.partition, removal.offset) == (*at, offset):
                    return first
                first += 1
        raise SourceUnavailable(
            f"the removal is published, but was not learned within {APPLY_TIMEOUT_S:.0f} s ({at[0]}/{at[1]} at {offset}): "
            "it will be learned; forget the user again later to get a receipt"
        )

    def receipt(self, number: int) -> ReceiptShown:
        """How far a removal has come; raises StreamerError for a number that was never given."""
        memory = self._memories()[0]
        removal = read_removal(memory.store, number) if number > 0 else None
        if removal is None:
            raise StreamerError(f"there is no receipt {number}: the newest has number {newest_number(memory.store)}")
        counts = (removal.records, removal.dead_letters, removal.event_ids)
        return ReceiptShown(number, removal.stage, *counts, tuple(self._remaining(removal)))

    def _remaining(self, removal: Removal) -> list[str]:
        waits = []
        if removal.stage == "pending":
            waits.append("rows and answers are gone; records, dead letters and event ids are being erased")
        if removal.stage != "complete":
            waits.append("files are being rewritten until none has bytes of deleted data")
            waits += [self.trouble] if self.trouble else []
        if (
            generations.read_record(self._folder, generations.live(self._folder)).cut.get(_name(removal), 0)
            <= removal.offset
        ):
            waits.append("the next renormalisation removes what items have learned from the user's events")
        if self._log is None:
            waits.append(
                "Kafka's retention deletes records in the topics; event ids kept to recognise duplicates go when newer ones replace them"
            )
        return waits

    # From here on: the thread.

    def _run(self) -> None:
        waiting = True
        while not self._stop.is_set():
            self._wake.wait(RETRY_S if waiting else None)
            self._wake.clear()
            try:
                waiting = bool(self._work())
            except (StreamerError, OSError) as error:
                if str(error) != self.trouble:
                    _LOGGER.warning("forgetting users cannot go on yet: %s", error)
                waiting, self.trouble = True, str(error)
            except CancelledError:  # the engine has ended; the next start continues
                waiting = True

    def _work(self) -> list[Removal]:
        """Process all removals once; returns those that are not complete."""
        for memory in self._memories():
            memory.removals.waiting = False
        live = self._memories()[0].store
        if not unfinished(live):
            return []
        with self._maintenance:
            pending = [removal for removal in unfinished(live) if removal.stage == "pending"]
            if pending and not self._stop.is_set():
                self._eraser.erase(pending)
            left = unfinished(live)
            swept = [removal for removal in left if removal.stage == "erased"]
            if swept and not self._stop.is_set() and self._eraser.sweep(swept):
                left = [removal for removal in left if removal.stage != "erased"]
        self.trouble = ""
        return left


def _name(removal: Removal) -> str:
    return f"{removal.topic}/{removal.partition}"
