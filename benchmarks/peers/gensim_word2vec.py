"""gensim's `Word2Vec`, trained continuously: users' histories are sentences, items words (item2vec).

Every so many clicks the vocabulary takes up new items and the model trains on the clicks since, each in the context of its
user's last items. A user is the mean of the vectors of the last items. Where there is nothing to go by, items rank by popularity.

Barkan, Koenigstein (2016), Item2vec: neural item embedding for collaborative filtering, MLSP.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from benchmarks.protocols import PeerContext
from streamer.core.arrays import F32
from streamer.core.protocols import Kind


class GensimWord2VecSettings(msgspec.Struct, frozen=True):
    dim: int = 100
    algorithm: Literal["cbow", "skip-gram"] = "cbow"
    window: int = 5
    negatives: int = 5
    noise_exponent: float = 0.75
    learning_rate: float = 0.025
    epochs: int = 5
    every_clicks: int = 500
    last_items: int = 10  # the number of the user's last items whose mean is the query
    answer: Literal["input", "output"] = "input"  # cosine to input vectors, or the network's own output


class GensimWord2Vec:
    kind: ClassVar[Kind] = "clicks"
    package = "gensim"
    Settings = GensimWord2VecSettings
    tuned = GensimWord2VecSettings(
        dim=100, algorithm="skip-gram", window=10, negatives=5, noise_exponent=0.0, learning_rate=0.01, epochs=1,
        every_clicks=250, last_items=5, answer="output",
    )  # fmt: skip
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "answer": ("input", "output"),
        "learning_rate": (0.01, 0.025, 0.05, 0.1, 0.2),
        "algorithm": ("cbow", "skip-gram"),
        "window": (3, 5, 10, 20),
        "epochs": (1, 2, 5),
        "every_clicks": (250, 500, 1000),
        "last_items": (3, 5, 10, 20),
        "noise_exponent": (0.0, 0.5, 0.75),
        "negatives": (5, 10),
        "dim": (32, 64, 100),
    }

    def __init__(self, settings: GensimWord2VecSettings, context: PeerContext) -> None:
        self._settings = settings
        self._model = import_module("gensim.models").Word2Vec(
            vector_size=settings.dim, sg=int(settings.algorithm == "skip-gram"), window=settings.window,
            negative=settings.negatives, ns_exponent=settings.noise_exponent, alpha=settings.learning_rate,
            min_alpha=settings.learning_rate, sample=0, min_count=1, workers=1, seed=context.seed,
        )  # fmt: skip
        self._last: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=settings.last_items))
        self._before: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=settings.window))
        self._since: defaultdict[int, list[int]] = defaultdict(list)
        self._clicks = 0
        self._counts: F32 = np.zeros(context.events, dtype=np.float32)
        self._asked: F32 = np.zeros((0, settings.dim), dtype=np.float32)  # items that existed when it was trained
        self._answers: F32 = self._asked

    def begin(self, user: int) -> None:
        """It knows nothing of sessions."""

    def score(self, user: int, count: int) -> F32:
        known = len(self._answers)
        last = [item for item in self._last[user] if item < known] if user in self._last else []
        if not last:
            return self._counts[:count]
        scores: F32 = np.full(count, np.nan, dtype=np.float32)
        scores[:known] = self._answers @ self._asked[last].mean(axis=0)
        return scores

    def learn(self, user: int, item: int) -> None:
        self._clicks += 1
        self._counts[item] += 1
        self._last[user].append(item)
        self._since[user].append(item)
        if self._clicks % self._settings.every_clicks == 0:
            self._train()

    def _train(self) -> None:
        sentences = []
        for user, items in self._since.items():
            sentences.append([str(item) for item in [*self._before[user], *items]])
            self._before[user].extend(items)
        self._since.clear()
        model, rate = self._model, self._settings.learning_rate
        model.build_vocab(sentences, update=bool(len(model.wv)))
        model.train(
            sentences, total_examples=len(sentences), epochs=self._settings.epochs, start_alpha=rate, end_alpha=rate
        )
        order = np.argsort(np.array([int(word) for word in model.wv.index_to_key]))
        vectors = model.wv.vectors[order]
        if self._settings.answer == "input":
            self._asked = self._answers = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        else:
            self._asked, self._answers = vectors, model.syn1neg[order]
