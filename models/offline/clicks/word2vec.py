"""gensim's Word2Vec as a trainer: refits skip-gram's items on all clicks, in the learner's own space or in that of a file.

    maximise  sum_(i, j near) log s(v_i . x_j) + sum_{k negatives m} log s(-v_i . x_m),    m ~ n_m^.75

A user's clicks, in order, are a sentence and items its words (item2vec). v, the vectors in word2vec's files and those behind
similar items, are gensim's `wv.vectors`; x, the vectors of the context, its `syn1neg`. Which of the two is called input does
not matter, as nearness is symmetric. **Both** start from the result of a pass of the learner over the history (or, with `warm`,
from the live rows): if only one did, the first epoch would drag the rows away. At the end one matrix is scaled down and
the other up until their lengths have the same ratio as before, which changes no product: a learner's step is proportional to
the rows of the other side. Both are scaled down where they grew by more than half, since the learner's steps suit its own lengths.

`vectors` names a file (see vector_file.py): its items start from its vectors. The file has no x for that space, so these start at 0
and are trained first, with the file's v locked (`vectors_lockf` 0); other items start like new ones. With `fixed` the file's
vectors stay locked to the end, so that **only new items are trained**, into the existing space: the file's rows come out
bit for bit. Users' vectors are then learned in another pass of the learner, during which its items are restored again and
again. Counts stay those of the history.
Cost: some 3 us a click and epoch at 32 factors, plus the learner's own. One thread; needs the extra `offline`.

Mikolov, Sutskever, Chen, Corrado, Dean (2013), Distributed representations of words and phrases and their
compositionality, NIPS; Barkan, Koenigstein (2016), Item2vec: neural item embedding for collaborative filtering, MLSP.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np

from streamer.core.arrays import F32, I32, I64, Array, Bool
from streamer.core.batch import Batch
from streamer.core.dataset import SideInformation
from streamer.core.errors import MissingExtra, StreamerError
from streamer.core.protocols import OnlineLearner
from streamer.models.offline.clicks.vector_file import read
from streamer.models.replay import learn_whole
from streamer.models.skip_gram import SkipGram

SENTENCE = 10_000  # gensim ignores the words of a sentence after this many
PUT_BACK_EVENTS = 1_000  # while users are learned, items are restored after this many events
GROWN_LARGEST = 1.5  # the largest growth of items' lengths: the gate refuses 2
PASS = 0.3  # the share of progress of a pass of the learner


class Word2VecParameters(msgspec.Struct, frozen=True):
    """Epochs, steps and start of gensim's fit. Window, negatives and noise are the learner's."""

    epochs: int = 3
    """Passes over all clicks. 3 and 5 gain alike on ml-latest-small, 1 a little less."""
    learning_rate: float = 0.025
    """Step of the first click, falling to a tenth at the last. The paper's."""
    seed: int = 1
    """Determines negatives and windows."""
    warm: bool = False
    """Start from the live rows and not with a pass over the history: for histories that do not go back to the first event."""
    vectors: str | None = None
    """A file of vectors; its items start from them."""
    fixed: bool = False
    """Keep the vectors of that file and train only the other items."""


class Word2Vec:
    """A protocols.Trainer of skip-gram."""

    Parameters = Word2VecParameters

    def __init__(self, name: str, parameters: Word2VecParameters) -> None:
        """Raises MissingExtra where gensim is not installed."""
        self.name, self.parameters = name, parameters
        self._made = _gensim()
        self._item_ids: Sequence[str] = ()
        self._tables: Mapping[str, Array] = {}

    def inform(self, side: SideInformation) -> None:
        """See protocols.Informed: item ids are the words in files."""
        self._item_ids = side.item_ids

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """See protocols.Trainer.

        Raises StreamerError for a learner that is not a SkipGram, or a file of another dimension or without known items.
        """
        if not isinstance(learner, SkipGram):
            raise StreamerError(
                f"the trainer {self.name} fits skip-gram, not {learner.name}: name another trainer for it"
            )
        p, dim, items = self.parameters, learner.parameters.dim, learner.item.values
        rows, given = self._file_vectors(learner)
        first = items[:, :dim].copy()
        if not p.warm:
            learn_whole(learner, history, lambda share: on_progress(PASS * share))
        v, x = items[:, :dim].copy(), items[:, dim : 2 * dim].copy()
        clicked = np.unique(history.items[history.clicks > 0])
        before = v[clicked], x[clicked]
        held = np.zeros(len(items), dtype=np.bool_)
        if p.vectors:
            v, x = first, np.zeros_like(x)
            v[rows], held[rows] = given, True
        on_progress(PASS)
        self._train(learner, history, v, x, held, lambda share: on_progress(PASS + (1.0 - 2 * PASS) * share))
        if not p.fixed:
            scales = scales_for_learner(before, (v[clicked], x[clicked]))
            v, x = v * scales[0], x * scales[1]
        items[:, :dim], items[:, dim : 2 * dim] = v, x
        on_progress(1.0 - PASS)
        if p.vectors:
            learn_users(learner, history, lambda share: on_progress(1.0 - PASS + PASS * share))
        on_progress(1.0)
        self._tables = {name: table.values for name, table in learner.tables().items()}

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables

    def _file_vectors(self, learner: SkipGram) -> tuple[I32, F32]:
        """Rows of the items that the file has vectors of, and these vectors. Raises StreamerError as in `fit`."""
        dim, file = learner.parameters.dim, self.parameters.vectors
        if not file:
            return np.empty(0, dtype=np.int32), np.empty((0, dim), dtype=np.float32)
        named, vectors = read(Path(file))
        if vectors.shape[1] != dim:
            raise StreamerError(
                f"vectors in {file} have {vectors.shape[1]} numbers, those of {learner.name} here {dim}: "
                "train them in that length, or learn into another --data directory with that --dim"
            )
        row_of = {item_id: row for row, item_id in enumerate(self._item_ids)}
        known = [n for n, item_id in enumerate(named) if item_id in row_of]
        if not known:
            first = f"{named[0][:40]!r}" if named else "none"
            raise StreamerError(
                f"none of the {len(named)} items in {file} is known to this state (the first is {first}): words must be item ids"
            )
        return np.array([row_of[named[n]] for n in known], dtype=np.int32), vectors[known]

    def _train(
        self, learner: SkipGram, history: Batch, v: F32, x: F32, held: Bool, on_progress: Callable[[float], None]
    ) -> None:
        """Train the rows of `v` and `x` (rows, dim) of clicked items, in place; rows of v that are `held` are locked."""
        p, of = self.parameters, learner.parameters
        sentences, counts = _sentences(history, len(v))
        rows = np.flatnonzero(counts)
        if not len(rows):
            return
        model = self._made(
            vector_size=of.dim, window=of.window, negative=of.negatives, ns_exponent=of.noise_exponent, sg=1, min_count=1,
            sample=0, sorted_vocab=0, workers=1, seed=p.seed, hashfxn=_hash,
        )  # fmt: skip
        model.build_vocab_from_freq({str(row): int(counts[row]) for row in rows}, corpus_count=len(sentences))
        words = [str(row) for row in rows]
        model.wv.add_vectors(words, v[rows], replace=True)
        model.syn1neg[:] = x[rows]
        stages = [held[rows], held[rows] & p.fixed] if held[rows].any() else [held[rows]]
        done, all_epochs = 0, p.epochs * len(stages)
        for locked in stages:
            model.wv.vectors_lockf = np.where(locked, 0.0, 1.0).astype(np.float32)
            for epoch in range(p.epochs):
                start, end = (p.learning_rate * (1.0 - 0.9 * (epoch + n) / p.epochs) for n in (0, 1))
                model.train(sentences, total_examples=len(sentences), epochs=1, start_alpha=start, end_alpha=end)
                done += 1
                on_progress(done / all_epochs)
        v[rows], x[rows] = model.wv.vectors, model.syn1neg


def _gensim() -> Any:
    """gensim's class, imported only now, as it takes seconds."""
    try:
        from gensim.models import Word2Vec as Gensims
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "gensim":
            raise
        raise MissingExtra(
            "the trainer word2vec needs gensim, which is not installed: pip install 'streamer-recs[offline]', or make setup"
        ) from None
    logging.getLogger("gensim").setLevel(logging.ERROR)  # it warns about few words, and about repeated calls of train
    return Gensims


def _sentences(history: Batch, items: int) -> tuple[list[list[str]], I64]:
    """Each user's clicks in order as a sentence of words, and the number of clicks on each item, (items,)."""
    clicks = np.flatnonzero(history.clicks > 0)
    clicks = clicks[np.argsort(history.users[clicks], kind="stable")]
    users, clicked = history.users[clicks], history.items[clicks]
    ends = np.flatnonzero(np.diff(users)) + 1
    words = np.array([str(row) for row in range(items)], dtype=object)[clicked]
    whole = [part.tolist() for part in np.split(words, ends) if len(part)]
    sentences = [one[start : start + SENTENCE] for one in whole for start in range(0, len(one), SENTENCE)]
    return sentences, np.bincount(clicked, minlength=items)


def learn_users(learner: SkipGram, history: Batch, on_progress: Callable[[float], None]) -> None:
    """Learn users' vectors anew for the items as they are; nothing else changes."""
    dim, user, item = learner.parameters.dim, learner.user, learner.item
    tables = [table for name, table in learner.tables().items() if name != "item"]
    kept, items = [table.values.copy() for table in tables], item.values.copy()
    for table in tables:
        table.values[:] = table.start
    learner.restored()
    item.clean(item.dirty())
    for start in range(0, len(history), PUT_BACK_EVENTS):
        learner.learn(history.part(start, min(start + PUT_BACK_EVENTS, len(history))))
        moved = item.dirty()
        item.values[moved] = items[moved]
        item.clean(moved)
        on_progress(min(1.0, (start + PUT_BACK_EVENTS) / len(history)))
    learned = user.values[:, :dim].copy()
    for table, values in zip(tables, kept, strict=True):
        table.values[:] = values
    user.values[:, :dim] = learned
    learner.restored()


def scales_for_learner(before: tuple[F32, F32], after: tuple[F32, F32]) -> tuple[np.float32, np.float32]:
    """The factors for the trained v and x with which the learner's steps suit them (see the top of this file)."""
    lengths = [[np.linalg.norm(rows.astype(np.float64), axis=1) for rows in pair] for pair in (before, after)]
    (v, x), (new_v, new_x) = [[np.sqrt(np.square(one).mean()) if len(one) else 0.0 for one in pair] for pair in lengths]
    if min(v, x, new_v, new_x) <= 0.0:
        return np.float32(1.0), np.float32(1.0)
    share = np.sqrt(new_v * x / (new_x * v))
    old, new = np.median(np.hypot(*lengths[0])), np.median(np.hypot(lengths[1][0] / share, lengths[1][1] * share))
    shorter = min(1.0, GROWN_LARGEST * old / new)
    return np.float32(shorter / share), np.float32(shorter * share)


def _hash(word: str) -> int:
    """A hash that is the same in every process, unlike Python's own."""
    return crc32(word.encode())
