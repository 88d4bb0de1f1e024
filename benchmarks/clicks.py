"""Ranks of each click just before it is learned: by a peer, or by our learners side by side in one pass.

Both are asked as streamer.study.ranking asks: among all items clicked before, once with the user's own items and once without.
"""

from array import array
from collections.abc import Sequence
from math import inf, nan
from pathlib import Path
from time import process_time

import msgspec
import numpy as np

from benchmarks.progress import SEEN_EVENTS, Progress, no_progress
from benchmarks.protocols import ClickPeer
from benchmarks.stream import Events, batches, memory
from streamer.core.garbage_collection import collect_seldom, leave_living_objects_alone
from streamer.core.settings import Settings
from streamer.models import LEARNERS, learner
from streamer.serving.opening import learners
from streamer.study.click_figures import Queries, earlier
from streamer.study.ranking import Ranking, Ranks, rank

_NOTHING = np.empty(0, dtype=np.int32)


def rank_clicks(events: Events, made: ClickPeer, progress: Progress = no_progress) -> tuple[Queries, Ranks, float]:
    """The clicks, their ranks by a peer, and the CPU seconds that it took to learn them."""
    chosen = np.flatnonzero(events.clicks > 0)
    users, sessions = events.users[chosen], events.sessions[chosen]
    positions: dict[int, int] = {}  # item -> its position among the clicked items
    clicked: list[dict[int, None]] = [{} for _ in range(events.user_count)]
    session_of: dict[int, int] = {}
    ranks, spent = Ranks(array("f"), array("f")), 0.0
    asked, repeats = array("i"), array("B")
    for n, (user, item, session) in enumerate(
        zip(users.tolist(), events.items[chosen].tolist(), sessions.tolist(), strict=True)
    ):
        if session_of.get(user) != session:
            session_of[user] = session
            made.begin(user)
        position, own = positions.get(item), clicked[user]
        repeated = position is not None and position in own
        if position is None:
            position = positions.setdefault(item, len(positions))
            ranks.excluded.append(inf)
            ranks.allowed.append(inf)
        else:
            scores = made.score(user, len(positions))
            ranks.allowed.append(rank(scores, position, _NOTHING))
            ranks.excluded.append(nan if repeated else rank(scores, position, np.array([*own], dtype=np.int32)))
        own[position] = None
        asked.append(position)
        repeats.append(repeated)
        began = process_time()
        made.learn(user, position)
        spent += process_time() - began
        if n % SEEN_EVENTS == 0:
            progress(n, len(chosen))
    queries = Queries(
        users, earlier(users), earlier(np.array(asked, dtype=np.int32)), np.array(repeats, dtype=np.bool_),
        earlier(sessions) > 0, allowed=False,
    )  # fmt: skip
    return queries, ranks, spent


def our_names() -> list[str]:
    """Our learners of clicks."""
    return [name for name in LEARNERS if learner(name, seed=1).kind == "clicks"]


def our_ranks(
    path: Path, settings: Settings, names: Sequence[str], progress: Progress = no_progress
) -> dict[str, tuple[dict[str, object], Queries, Ranks]]:
    """Parameters, clicks and ranks of the learners `names`, by name, in one pass with their default parameters."""
    collect_seldom()
    leave_living_objects_alone()
    learning = msgspec.structs.replace(settings.learning, shadow=tuple(names))
    settings = msgspec.structs.replace(settings, learning=learning)
    with memory(learners(settings), settings) as parts:
        ranking, done = Ranking(parts.learners, parts.users, names), 0
        for batch in batches(parts, path, settings):
            parts.monitor.observe(batch, ranking.learn(batch))
            done += len(batch)
            progress(done, done)
        queries = Queries.of(ranking, "exclude")
        return {
            name: (msgspec.to_builtins(parts.learners.by_name[name].parameters), queries, ranks)
            for name, ranks in ranking.by_learner.items()
        }
