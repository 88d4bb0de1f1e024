"""YouTube's two stages: a network retrieves candidates for a history, a second one ranks them.

    u = m + MLP(m), m = sum of e_i over the last n items / n^.5,    s_j = u . e_j + b_j,    minimise  ln sum_j exp s_j - s_next
    among the `candidates` with the highest s:   r_j = s_j + MLP(features of history and j), minimise  ln sum_j exp r_j - r_next

Retrieval is a sampled softmax with its correction (`next_item`); each item has one vector, for input and scores. The features of
a candidate are what retrieval loses by taking a mean: its similarity to the last item, the nearest and the whole history, in
vectors and in categories, the difference of years, its popularity, and s itself. The ranking network learns from each
user's last clicks, with candidates from a retrieval that has not seen them; after that, retrieval is fitted on all clicks.
Cost: two fits of retrieval, O(dim (watched + dim + negatives)) a click and epoch each: on ml-latest-small 30 s of CPU.

Covington, Adams, Sargin (2016), Deep neural networks for YouTube recommendations, RecSys.
Deviations: a sum over the root of n and not a mean, to which the network adds, so that it starts as a sum of vectors;
histories alone, without search, demography or the example's age, since a query has no time; ranking is listwise among the
candidates and not by watch time; vectors are tied.
"""

from collections.abc import Callable, Sequence
from math import nan

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset, SideInformation
from streamer.core.protocols import Epoch, Factors, Kind
from streamer.models.offline import fitting
from streamer.models.offline.clicks.next_item import (
    SLICE,
    AveragedWeights,
    Noise,
    Vocabulary,
    by_user_in_time,
    concatenate,
    last_clicks,
    sampled_softmax,
    windows,
)

FEATURES = 8


class YouTubeDNNParameters(msgspec.Struct, frozen=True):
    """Sizes, histories, steps and the number of candidates."""

    dim: int = 64
    """Length of an item's and a user's vector."""
    hidden: int = 128
    """Width of the retrieval network's hidden layer."""
    watched: int = 20
    """Number of last clicks that are read of a history."""
    candidates: int = 200
    """Number of candidates that the second network ranks; 0: there is no second network."""
    last_clicks: int = 10
    """Number of last clicks of each user from which the ranking network learns."""
    ranking_hidden: int = 32
    """Width of the ranking network's hidden layer."""
    epochs: int = 30
    """Largest number of passes, for each network."""
    batch: int = 512
    """Clicks in a step."""
    patience: int = 3
    """Number of passes without a better validation loss after which a fit ends."""
    learning_rate: float = 0.003
    """Adam's, for retrieval."""
    ranking_learning_rate: float = 0.01
    """Adam's, for ranking."""
    ranking_batch: int = 64
    """Clicks in a step of ranking."""
    dropout: float = 0.5
    """Share of the components of vectors that are dropped in a step of retrieval."""
    negatives: int = 1024
    """Negatives sampled for each step; with no more items than this the softmax is over all."""
    noise_exponent: float = 0.75
    """Negatives are sampled in proportion to popularity to this power."""
    noise: float = 0.1
    """Standard deviation of the initial vectors."""
    average: float = 0.995
    """Decay, at each step, of the running mean of retrieval's weights, which is the result."""


class _Retrieval(nn.Module):
    def __init__(self, vocabulary: Vocabulary, p: YouTubeDNNParameters) -> None:
        super().__init__()
        self.items = nn.Embedding(len(vocabulary) + 1, p.dim, padding_idx=len(vocabulary))
        nn.init.normal_(self.items.weight, 0.0, p.noise)
        with torch.no_grad():
            self.items.weight[len(vocabulary)] = 0.0
        self.layers = nn.Sequential(
            nn.Linear(p.dim, p.hidden), nn.ReLU(), nn.Dropout(p.dropout), nn.Linear(p.hidden, p.dim)
        )
        popularity = torch.log(fitting.tensor(vocabulary.counts).float())
        self.biases = nn.Parameter(popularity - popularity.mean())
        self.dropout = nn.Dropout(p.dropout)

    def users(self, rows: Tensor) -> Tensor:
        """Vectors (n, dim) of histories (n, watched) of words; 0 for an empty one, which leaves popularity."""
        present = (rows >= 0).sum(1, keepdim=True)
        vectors = self.items(torch.where(rows >= 0, rows, len(self.biases)))
        mean = vectors.sum(1) / present.clamp(min=1).sqrt()
        found: Tensor = torch.where(present > 0, self.layers(self.dropout(mean)) + mean, 0.0)
        return found

    def scores(self, users: Tensor) -> Tensor:
        return users @ self.items.weight[:-1].T + self.biases


class _Content:
    """Categories, year and popularity of each word, (words, ...)."""

    def __init__(self, side: SideInformation, vocabulary: Vocabulary) -> None:
        self.categories = normalize(fitting.tensor(side.categories[vocabulary.items]), dim=1)
        years = side.years[vocabulary.items].astype(np.float64)
        spread = float(np.nanstd(years)) if np.isfinite(years).any() else 0.0
        middle = float(np.nanmean(years)) if np.isfinite(years).any() else 0.0
        self.years = fitting.tensor(np.nan_to_num((years - middle) / (spread or 1.0)).astype(np.float32))
        self.popularity = torch.log(fitting.tensor(vocabulary.counts).float())


def _features(retrieval: _Retrieval, content: _Content, rows: Tensor, chosen: Tensor, first: Tensor) -> Tensor:
    """Features (n, candidates, FEATURES) for histories (n, watched), candidates and their scores (n, candidates)."""
    present = (rows >= 0).float()
    total = present.sum(1, keepdim=True).clamp(min=1)
    spots = rows.clamp(min=0)
    vectors = normalize(retrieval.items.weight, dim=1)
    near = vectors[chosen] @ vectors[spots].transpose(1, 2) * present[:, None]  # (n, candidates, watched)
    last = (total.long() - 1)[:, None].expand(-1, chosen.shape[1], 1)
    alike = content.categories[chosen] @ content.categories[spots].transpose(1, 2) * present[:, None]
    apart = (content.years[chosen][:, :, None] - content.years[spots][:, None]).abs() * present[:, None]
    return torch.stack(
        [
            first - first.max(1, keepdim=True).values, content.popularity[chosen], near.amax(2), near.sum(2) / total,
            near.gather(2, last).squeeze(2), alike.sum(2) / total, alike.gather(2, last).squeeze(2), apart.gather(2, last).squeeze(2),
        ],
        2,
    )  # fmt: skip


class _Ranking(nn.Module):
    """Adds to a candidate's retrieval score a network of its features, which starts at 0."""

    def __init__(self, features: Tensor, hidden: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        flat = features.reshape(-1, FEATURES)
        self.register_buffer("mean", flat.mean(0) if len(flat) else torch.zeros(FEATURES))
        self.register_buffer("scale", flat.std(0).clamp(min=1e-3) if len(flat) > 1 else torch.ones(FEATURES))
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), last)

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = features[..., 0] + self.layers((features - self.mean) / self.scale).squeeze(-1)
        return found


class YouTubeDNN:
    """A protocols.NextItem and Factorised."""

    kind: Kind = "clicks"
    Parameters = YouTubeDNNParameters

    def __init__(self, name: str, parameters: YouTubeDNNParameters, *, seed: int) -> None:
        """`seed` determines initial weights, dropout, negatives and the order of clicks."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._vocabulary: Vocabulary
        self._retrieval: _Retrieval
        self._content: _Content
        self._ranking: nn.Module | None = None
        self._factors: Factors

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel.

        The epochs reported are those of retrieval, then of ranking, whose validation loss is lower as it is among candidates
        only, then of retrieval on all clicks, which has no validation loss.
        """
        p, clicks, held_out = self.parameters, train.clicked(), validation.clicked()
        fitting.set_seed(self._seed)
        vocabulary = self._vocabulary = Vocabulary(clicks)
        self._content = _Content(train.side, vocabulary)
        count = 0

        def report(epoch: Epoch) -> None:
            nonlocal count
            count += 1
            on_progress(epoch._replace(number=count, of=3 * p.epochs))

        items, events, left = windows(clicks, p.watched)
        rows, targets = fitting.tensor(vocabulary.of(items)), fitting.tensor(vocabulary.of(clicks.items[events]))
        late = fitting.tensor(left < p.last_clicks)
        if not p.candidates or bool(late.all()):
            late[:] = False
        kept = self._fit_retrieval(
            rows[~late], targets[~late], vocabulary.loss(self._retrieval_scores, clicks, held_out), p, report
        )
        if bool(late.any()):
            self._fit_ranking(rows[late], targets[late], self._validation_examples(clicks, held_out), report)
            self._fit_retrieval(rows, targets, lambda: nan, msgspec.structs.replace(p, epochs=kept), report)
        self._factors = self._vectors(clicks)

    def _fit_retrieval(
        self, rows: Tensor, targets: Tensor, validate: Callable[[], float], p: YouTubeDNNParameters,
        on_progress: Callable[[Epoch], None],
    ) -> int:  # fmt: skip
        """Fit retrieval on histories (n, watched) and the words that followed (n,); return the number of the epoch that
        was kept."""
        vocabulary = self._vocabulary
        network = _Retrieval(vocabulary, p).to(fitting.device())
        averaged = AveragedWeights(network, p.average)
        self._retrieval = averaged.mean
        noise = Noise(vocabulary.counts, p.noise_exponent)

        def loss(chosen: Tensor) -> Tensor:
            users, y = network.users(rows[chosen]), targets[chosen]
            if len(vocabulary) <= p.negatives:
                return cross_entropy(network.scores(users), y)
            drawn = noise.draw(p.negatives)
            own = (users * network.items(y)).sum(1) + network.biases[y]
            others = users @ network.items(drawn).T + network.biases[drawn]
            return sampled_softmax(own, y, others, drawn, noise).mean()

        return fitting.descend(
            averaged, len(rows), loss, validate, fitting.adam(network.parameters(), p.learning_rate), p, on_progress,
            after_step=averaged.after_step,
        )  # fmt: skip

    def _validation_examples(self, clicks: Dataset, held_out: Dataset) -> tuple[Tensor, Tensor]:
        """Histories (n, watched) and targets (n,) of the validation clicks that can be scored."""
        both = concatenate(clicks, held_out)
        items, events, _ = windows(both, self.parameters.watched)
        targets = self._vocabulary.of(both.items[events])
        scorable = (events >= len(clicks)) & (targets >= 0)
        return fitting.tensor(self._vocabulary.of(items[scorable])), fitting.tensor(targets[scorable])

    def _fit_ranking(
        self, rows: Tensor, targets: Tensor, held_out: tuple[Tensor, Tensor], on_progress: Callable[[Epoch], None]
    ) -> None:
        """Fit the ranking network on clicks that retrieval has not seen, where they are among the candidates."""
        p = self.parameters
        examples, ranks = self._ranking_examples(rows, targets)
        to_check, check_ranks = self._ranking_examples(*held_out)
        network = _Ranking(examples, p.ranking_hidden).to(fitting.device())

        def loss(chosen: Tensor) -> Tensor:
            return cross_entropy(network(examples[chosen]), ranks[chosen])

        def validate() -> float:
            return float(cross_entropy(network(to_check), check_ranks)) if len(to_check) else nan

        chosen = msgspec.structs.replace(p, batch=p.ranking_batch)
        fitting.descend(
            network,
            len(examples),
            loss,
            validate,
            fitting.adam(network.parameters(), p.ranking_learning_rate),
            chosen,
            on_progress,
        )
        self._ranking = network

    @torch.no_grad()
    def _ranking_examples(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Features of candidates (n, candidates, FEATURES), and the index of the target, (n,), for examples where it is a candidate."""
        found, which = [], []
        for start in range(0, len(rows), SLICE):
            history, y = rows[start : start + SLICE], targets[start : start + SLICE]
            chosen, features = self._candidates(history)
            here = chosen == y[:, None]
            found.append(features[here.any(1)])
            which.append(here[here.any(1)].int().argmax(1))
        return (
            (torch.cat(found), torch.cat(which))
            if found
            else (torch.empty(0, 1, FEATURES), torch.empty(0, dtype=torch.int64))
        )

    def _candidates(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The words (n, candidates) with the highest retrieval scores that are not in the histories, and their features."""
        scores = self._retrieval.scores(self._retrieval.users(rows))
        here, spots = (rows >= 0).nonzero(as_tuple=True)
        scores[here, rows[here, spots]] = -1e9
        first, chosen = scores.topk(min(self.parameters.candidates, max(1, scores.shape[1] - rows.shape[1])), dim=1)
        return chosen, _features(self._retrieval, self._content, rows, chosen, first)

    def _retrieval_scores(self, histories: Sequence[I32]) -> Tensor:
        """Scores of retrieval, (n, words)."""
        rows, _ = last_clicks(histories, self.parameters.watched)
        return self._retrieval.scores(self._retrieval.users(fitting.tensor(rows)))

    def _ranked_scores(self, histories: Sequence[I32]) -> Tensor:
        """Scores (n, words): candidates have scores above 0, by ranking; all others have lower ones, by retrieval."""
        scores = self._retrieval_scores(histories)
        scores = scores - scores.max(1, keepdim=True).values - 1
        if self._ranking is not None:
            chosen, features = self._candidates(fitting.tensor(last_clicks(histories, self.parameters.watched)[0]))
            score_histories = self._ranking(features)
            scores.scatter_(1, chosen, score_histories - score_histories.min(1, keepdim=True).values)
        return scores

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        """See protocols.NextItem; depends on the histories alone."""
        return self._vocabulary.score_histories(self._ranked_scores, histories)

    def export(self) -> Factors:
        """See protocols.Factorised: the vectors of retrieval, of users at the end of the training part."""
        return self._factors

    @torch.no_grad()
    def _vectors(self, clicks: Dataset) -> Factors:
        vocabulary, dim, ordered = self._vocabulary, self.parameters.dim, by_user_in_time(clicks)
        users, items = (
            np.zeros((clicks.user_count, dim), dtype=np.float32),
            np.zeros((clicks.item_count, dim), dtype=np.float32),
        )
        biases = np.zeros(clicks.item_count, dtype=np.float32)
        user_rows = np.unique(clicks.users)
        for start in range(0, len(user_rows), SLICE):
            some = user_rows[start : start + SLICE]
            histories = [
                vocabulary.of(ordered[0].items[ordered[1][user] : ordered[1][user + 1]]) for user in some.tolist()
            ]
            rows, _ = last_clicks(histories, self.parameters.watched)
            users[some] = fitting.array(self._retrieval.users(fitting.tensor(rows)))
        items[vocabulary.items] = fitting.array(self._retrieval.items.weight[:-1])
        biases[vocabulary.items] = fitting.array(self._retrieval.biases)
        return Factors(users, items, np.zeros(clicks.user_count, dtype=np.float32), biases, 0.0)
