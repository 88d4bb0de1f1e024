"""Everything that learning keeps in memory: built from the settings, restored from a store, and committed together."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from streamer.core.events import Record
from streamer.core.protocols import Persistent
from streamer.core.settings import Settings
from streamer.monitoring.monitor import Monitor
from streamer.storage.state import RocksStore
from streamer.stream.catalogue.categories import Categories
from streamer.stream.catalogue.items import Items
from streamer.stream.dead_letters import DeadLetters
from streamer.stream.dedupe import Dedupe
from streamer.stream.encoder import Encoder
from streamer.stream.learners import Learners
from streamer.stream.ledger import Ledger
from streamer.stream.profiles import Profiles
from streamer.stream.removals import Removals
from streamer.stream.users import Users

LOG = logging.getLogger("streamer.memory")


class Memory:
    """The state of one generation in memory, and the parts that work on it."""

    def __init__(self, learners: Learners, settings: Settings, store: RocksStore) -> None:
        """Restore everything from `store`; raises BadState when it was made with other settings or cannot be read."""
        learning, state = settings.learning, settings.state
        change = store.open_as(state_settings(learners, settings), learners.champions)
        for name in change.removed:
            LOG.warning("%s is no longer in the settings: what it had learned is deleted", name)
        for name in change.added:
            LOG.warning("%s begins now: it has learned nothing from earlier events", name)
        for name in store.promoted().values():
            learners.promote(name)
        self.store, self.learners = store, learners
        self._promoting = threading.Lock()
        self.ledger = Ledger()
        self.monitor = Monitor(
            [(name, learner.kind) for name, learner in learners.by_name.items()], learning.session_gap_s
        )
        self.categories = Categories(learning.category_attributes)
        self.items = Items(learners.item_tables(), self.categories, learning.seed)
        learners.attach(self.items)
        profiles = Profiles(self.categories, learning.group_steps)
        self.users = Users(learners.user_tables(), store, learning.seed, state.user_cache_bytes, profiles)
        self.dedupe, self.dead_letters, self.removals = Dedupe(state.dedupe_events), DeadLetters(), Removals()
        self.encoder = Encoder(
            learning,
            self.users,
            self.items,
            self.dedupe,
            self.dead_letters,
            self.monitor,
            self.removals,
            state.user_ttl_days,
        )
        self.ledger.start(store.offsets())
        for part in self._parts():
            part.restore(store)

    def _parts(self) -> tuple[Persistent, ...]:
        return (
            self.categories,
            self.items,
            self.learners,
            self.users,
            self.monitor,
            self.monitor.scale,
            self.monitor.sessions,
            self.encoder.clock,
            self.dedupe,
            self.dead_letters,
            self.removals,
            self.ledger,
        )

    def promote(self, name: str) -> None:
        """Make a running learner the champion of its kind, durably when it returns. May be called from any thread.

        Raises StreamerError for a learner that does not run, and StoreUnavailable, after which nothing has changed.
        """
        kind = self.learners.running(name).kind
        with self._promoting:  # of two promotions at once, the same one must win in the store and in memory
            self.store.promote(kind, None if name == self.learners.champions.get(kind) else name)
            self.learners.promote(name)

    def learn(self, records: Sequence[Record], commit: Callable[[], None]) -> Iterator[Sequence[Record]]:
        """Learn from records in parts, and yield each part once it is learned.

        `commit` is called before users with uncommitted rows are evicted.
        """
        for part, batch in self.encoder.encode(records, commit):  # usually one part, more at catalogue changes
            predictions = self.learners.learn(batch)  # one kernel call a learner: for each event predict, then move
            self.monitor.observe(batch, predictions)
            self.ledger.advance(part)  # next offsets, to be committed with the rows
            yield part

    def commit(self) -> None:
        """Commit all changes and the next offsets in one write batch. Raises StoreUnavailable, after which it can be repeated."""
        parts = self._parts()
        self.store.commit((row for part in parts for row in part.changed()), self.ledger.offsets)
        for part in parts:
            part.committed()

    def become(self, generation: str) -> None:
        """Commit, and make this the state of another generation; raises StoreUnavailable."""
        parts = self._parts()
        rows = [row for part in parts for row in part.changed()]
        self.store.commit([*rows, self.store.become(generation)], self.ledger.offsets)
        for part in parts:
            part.committed()


def state_settings(learners: Learners, settings: Settings) -> Mapping[str, object]:
    """The settings on which the state depends: they are recorded with it, and a state is not opened with others."""
    learning = settings.learning
    return {
        "source": "kafka" if settings.kafka.kafka else "embedded log",
        "seed": learning.seed,
        "like_share": learning.like_share,
        "click_window_s": learning.click_window_s,
        "kinds": learning.kinds,
        # left out where it is the default, so that older states, and the digests of all, stay what they are
        **({} if learning.unknown_kinds == "learn" else {"unknown_kinds": learning.unknown_kinds}),
        **({} if not learning.session_gap_s else {"session_gap_s": learning.session_gap_s}),
        "category_attributes": learning.category_attributes,
        "group_steps": learning.group_steps,
        "rating_min": learning.rating_min,
        "rating_max": learning.rating_max,
        "event_max_bytes": learning.event_max_bytes,
        "dedupe_events": settings.state.dedupe_events,
        "learners": {name: msgspec.to_builtins(learner.parameters) for name, learner in learners.by_name.items()},
        "experts": learners.experts,  # composed learners depend on which learners their experts are
    }
