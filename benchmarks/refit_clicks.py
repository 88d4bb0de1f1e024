"""What refitting a learner of clicks is worth: the learner is refitted once in mid-stream, and every later click is ranked before it is learned.

    python -m benchmarks.refit_clicks path/to/ml-latest-small [skip-gram | click-blend [model:word2vec | model:youtube-dnn]]

Ranks are those of `streamer evaluate` (streamer.study.ranking). The baseline is the candidate `all`, which replays the history and so changes nothing. Prints
a table; its intervals are those of the paired difference of hits, from the means of 40 blocks of consecutive clicks.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.tables import table
from streamer.consumers.files import FileSource
from streamer.core.arrays import Bool
from streamer.core.batch import Batch, Events
from streamer.core.settings import load
from streamer.renormalise.training import candidate, refit, replace_tables
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory
from streamer.study.ranking import Ranking

CUTS = (0.2, 0.5, 0.8)
BLOCKS, T = 40, 2.02


def hits(path: str, champion: str, cut: float, chosen: str) -> Bool:
    """Whether the clicked item is among the first ten, (queries,), for the clicks after the share `cut` of the events."""
    settings = load({"rating_learner": "bias", "click_learner": champion}, environ={})
    with tempfile.TemporaryDirectory() as folder:
        store = RocksStore(Path(folder))
        memory, source = Memory(learners(settings), settings, store), FileSource(path, 1)
        ranking, batches, user_ids, before = Ranking(memory.learners, memory.users), list[Batch](), list[str](), 0
        total = source.lag()
        left = cut * sum(n for partitions in total.values() for n in partitions.values())
        while records := source.poll(2000, 0.0):
            for part, batch in memory.encoder.encode(records, memory.commit):
                memory.monitor.observe(batch, ranking.learn(batch))
                memory.ledger.advance(part)
                batches += [batch] if len(batch) else []
                user_ids += [memory.users.ids[row] for row in batch.users.tolist()]
            left -= len(records)
            if left <= 0 and not before:
                memory.commit()
                replace_tables(
                    memory, refit(memory, _events(memory, batches, user_ids), ["skip-gram"], candidate(chosen))
                )
                before = len(ranking.ranks)
        source.close()
        store.close()
    return np.asarray(ranking.ranks)[before:] <= 10


def _events(memory: Memory, batches: Sequence[Batch], user_ids: Sequence[str]) -> Events:
    number = {user_id: n for n, user_id in enumerate(dict.fromkeys(user_ids))}
    names = ("items", "kinds", "values", "times_ms", "keys")
    columns = [np.concatenate([getattr(batch, name) for batch in batches]) for name in names]
    users = np.array([number[user_id] for user_id in user_ids], dtype=np.int32)
    return Events(list(number), list(memory.items.ids), users, *columns)


def main(path: str, champion: str = "skip-gram", chosen: str = "model:word2vec") -> None:
    """Print the table."""
    rows = []
    for cut in CUTS:
        plain, refitted = (hits(path, champion, cut, one) for one in ("all", chosen))
        means = [block.mean() for block in np.array_split(refitted.astype(float) - plain, BLOCKS)]
        width = T * np.std(means, ddof=1) / np.sqrt(BLOCKS)
        gained = f"{refitted.mean() - plain.mean():+.4f} +- {width:.4f}"
        rows.append([f"{cut:.0%}", f"{len(plain):,}", f"{plain.mean():.4f}", f"{refitted.mean():.4f}", gained])
    heads = ("cut after", "clicks ranked", "HR@10, replayed", chosen, "difference")
    print("\n".join(table(heads, rows)))


if __name__ == "__main__":
    main(*sys.argv[1:])
