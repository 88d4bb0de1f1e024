"""YouTube's two stages: a network retrieves candidates for what was watched, a second one puts them in order.

    u = m + MLP(m), m = sum of e_i over the last n items / n^.5,    s_j = u . e_j + b_j,    minimise  ln sum_j exp s_j - s_next
    among the `candidates` with the highest s:   r_j = s_j + MLP(features of history and j), minimise  ln sum_j exp r_j - r_next

Retrieval is a sampled softmax with its correction (`next_item`), one vector an item for reading and scoring. Features of a
candidate are what retrieval loses by taking a mean: how near it lies to the last item, to the nearest and to all of the
history, in what was learned and in categories, how far its year is, how popular it is, and s itself. The ranking network learns from
each user's last clicks, with candidates of a retrieval that has not seen them; only then is retrieval fitted on all.
Cost: two fits of retrieval, O(dim (watched + dim + negatives)) a click and epoch each: on ml-latest-small 30 s of CPU.

Covington, Adams, Sargin (2016), Deep neural networks for YouTube recommendations, RecSys.
Deviations: a sum over the root of n and not a mean, and the network adds to it, so that it begins as a sum of vectors;
histories alone, without search, demography or the example's age, as whoever asks gives no time; ranking is among the
candidates (listwise) and not by watch time; vectors are tied.
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
    Averaged,
    Noise,
    Places,
    in_order,
    joined,
    latest,
    sampled_softmax,
    windows,
)

FEATURES = 8


class YouTubeDNNParameters(msgspec.Struct, frozen=True):
    """Size, histories, steps, and how many candidates are put in order."""

    dim: int = 64
    """Length of an item's and a user's vector."""
    hidden: int = 128
    """Width of the retrieval network's hidden layer."""
    watched: int = 20
    """Last clicks that a history is read by."""
    candidates: int = 200
    """That are put in order by the second network; 0: there is none."""
    last_clicks: int = 10
    """Of each user, from which the ranking network learns."""
    ranking_hidden: int = 32
    """Width of the ranking network's hidden layer."""
    epochs: int = 30
    """Passes at most, of either network."""
    batch: int = 512
    """Clicks a step."""
    patience: int = 3
    """Passes without a better validation loss before it ends."""
    learning_rate: float = 0.003
    """Adam's, of retrieval."""
    ranking_learning_rate: float = 0.01
    """Adam's, of ranking."""
    ranking_batch: int = 64
    """Clicks a step of ranking."""
    dropout: float = 0.5
    """Share of the numbers of vectors that a step of retrieval goes without."""
    negatives: int = 1024
    """Items that the softmax is over, drawn for each step; with no more items than these it is over all."""
    noise_exponent: float = 0.75
    """Power of popularity that they are drawn from."""
    noise: float = 0.1
    """Standard deviation of the first vectors."""
    average: float = 0.995
    """What the mean of retrieval's weights, which is used, keeps at a step."""


class _Retrieval(nn.Module):
    def __init__(self, places: Places, p: YouTubeDNNParameters) -> None:
        super().__init__()
        self.items = nn.Embedding(len(places) + 1, p.dim, padding_idx=len(places))
        nn.init.normal_(self.items.weight, 0.0, p.noise)
        with torch.no_grad():
            self.items.weight[len(places)] = 0.0
        self.layers = nn.Sequential(
            nn.Linear(p.dim, p.hidden), nn.ReLU(), nn.Dropout(p.dropout), nn.Linear(p.hidden, p.dim)
        )
        popularity = torch.log(fitting.tensor(places.counts).float())
        self.biases = nn.Parameter(popularity - popularity.mean())
        self.dropout = nn.Dropout(p.dropout)

    def users(self, rows: Tensor) -> Tensor:
        """Vectors (n, dim) of histories (n, watched) of places; 0 for one of nothing, which leaves popularity."""
        there = (rows >= 0).sum(1, keepdim=True)
        vectors = self.items(torch.where(rows >= 0, rows, len(self.biases)))
        mean = vectors.sum(1) / there.clamp(min=1).sqrt()
        found: Tensor = torch.where(there > 0, self.layers(self.dropout(mean)) + mean, 0.0)
        return found

    def scores(self, users: Tensor) -> Tensor:
        return users @ self.items.weight[:-1].T + self.biases


class _Content:
    """What the catalogue says of each place."""

    def __init__(self, side: SideInformation, places: Places) -> None:
        self.categories = normalize(fitting.tensor(side.categories[places.items]), dim=1)
        years = side.years[places.items].astype(np.float64)
        spread = float(np.nanstd(years)) if np.isfinite(years).any() else 0.0
        middle = float(np.nanmean(years)) if np.isfinite(years).any() else 0.0
        self.years = fitting.tensor(np.nan_to_num((years - middle) / (spread or 1.0)).astype(np.float32))
        self.popularity = torch.log(fitting.tensor(places.counts).float())


def _features(retrieval: _Retrieval, content: _Content, rows: Tensor, chosen: Tensor, first: Tensor) -> Tensor:
    """(n, candidates, FEATURES) of histories (n, watched), candidates and their scores (n, candidates)."""
    there = (rows >= 0).float()
    total = there.sum(1, keepdim=True).clamp(min=1)
    spots = rows.clamp(min=0)
    vectors = normalize(retrieval.items.weight, dim=1)
    near = vectors[chosen] @ vectors[spots].transpose(1, 2) * there[:, None]  # (n, candidates, watched)
    last = (total.long() - 1)[:, None].expand(-1, chosen.shape[1], 1)
    alike = content.categories[chosen] @ content.categories[spots].transpose(1, 2) * there[:, None]
    apart = (content.years[chosen][:, :, None] - content.years[spots][:, None]).abs() * there[:, None]
    return torch.stack(
        [
            first - first.max(1, keepdim=True).values, content.popularity[chosen], near.amax(2), near.sum(2) / total,
            near.gather(2, last).squeeze(2), alike.sum(2) / total, alike.gather(2, last).squeeze(2), apart.gather(2, last).squeeze(2),
        ],
        2,
    )  # fmt: skip


class _Ranking(nn.Module):
    """What is added to a candidate's score by retrieval; nothing at first."""

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
    """protocols.NextItem and Factorised."""

    kind: Kind = "clicks"
    Parameters = YouTubeDNNParameters

    def __init__(self, name: str, parameters: YouTubeDNNParameters, *, seed: int) -> None:
        """`seed` draws first weights, dropout, negatives and the order of clicks."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._places: Places
        self._retrieval: _Retrieval
        self._content: _Content
        self._ranking: nn.Module | None = None
        self._factors: Factors

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel. Epochs are those of retrieval; then of ranking, whose validation loss is among the
        candidates alone and so is lower; then of retrieval on all, with none."""
        p, clicks, checked = self.parameters, train.clicked(), validation.clicked()
        fitting.seeded(self._seed)
        places = self._places = Places(clicks)
        self._content = _Content(train.side, places)
        count = 0

        def heard(epoch: Epoch) -> None:
            nonlocal count
            count += 1
            on_progress(epoch._replace(number=count, of=3 * p.epochs))

        items, events, left = windows(clicks, p.watched)
        rows, wanted = fitting.tensor(places.of(items)), fitting.tensor(places.of(clicks.items[events]))
        late = fitting.tensor(left < p.last_clicks)
        if not p.candidates or bool(late.all()):
            late[:] = False
        kept = self._retrieve(rows[~late], wanted[~late], places.loss(self._first, clicks, checked), p, heard)
        if bool(late.any()):
            self._rank(rows[late], wanted[late], self._checked(clicks, checked), heard)
            self._retrieve(rows, wanted, lambda: nan, msgspec.structs.replace(p, epochs=kept), heard)
        self._factors = self._vectors(clicks)

    def _retrieve(
        self, rows: Tensor, wanted: Tensor, validate: Callable[[], float], p: YouTubeDNNParameters,
        on_progress: Callable[[Epoch], None],
    ) -> int:  # fmt: skip
        """Fit retrieval on histories (n, watched) and what came next (n,); which epoch was kept."""
        places = self._places
        network = _Retrieval(places, p).to(fitting.device())
        averaged = Averaged(network, p.average)
        self._retrieval = averaged.mean
        noise = Noise(places.counts, p.noise_exponent)

        def loss(chosen: Tensor) -> Tensor:
            users, y = network.users(rows[chosen]), wanted[chosen]
            if len(places) <= p.negatives:
                return cross_entropy(network.scores(users), y)
            drawn = noise.draw(p.negatives)
            own = (users * network.items(y)).sum(1) + network.biases[y]
            others = users @ network.items(drawn).T + network.biases[drawn]
            return sampled_softmax(own, y, others, drawn, noise).mean()

        return fitting.descend(
            averaged, len(rows), loss, validate, fitting.adam(network.parameters(), p.learning_rate), p, on_progress,
            after_step=averaged.after_step,
        )  # fmt: skip

    def _checked(self, clicks: Dataset, checked: Dataset) -> tuple[Tensor, Tensor]:
        """Histories (n, watched) and next items (n,) of the validation clicks that can be scored."""
        both = joined(clicks, checked)
        items, events, _ = windows(both, self.parameters.watched)
        wanted = self._places.of(both.items[events])
        mine = (events >= len(clicks)) & (wanted >= 0)
        return fitting.tensor(self._places.of(items[mine])), fitting.tensor(wanted[mine])

    def _rank(
        self, rows: Tensor, wanted: Tensor, checked: tuple[Tensor, Tensor], on_progress: Callable[[Epoch], None]
    ) -> None:
        """Fit the ranking network on clicks that retrieval has not seen, where they are among the candidates."""
        p = self.parameters
        examples, ranks = self._candidates_of(rows, wanted)
        to_check, check_ranks = self._candidates_of(*checked)
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
    def _candidates_of(self, rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Features of candidates (n, candidates, FEATURES), and which of them came next, (n,), where it is among them."""
        found, which = [], []
        for start in range(0, len(rows), SLICE):
            history, y = rows[start : start + SLICE], wanted[start : start + SLICE]
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
        """The places (n, candidates) that retrieval puts first after histories, without those in them, and their features."""
        scores = self._retrieval.scores(self._retrieval.users(rows))
        here, spots = (rows >= 0).nonzero(as_tuple=True)
        scores[here, rows[here, spots]] = -1e9
        first, chosen = scores.topk(min(self.parameters.candidates, max(1, scores.shape[1] - rows.shape[1])), dim=1)
        return chosen, _features(self._retrieval, self._content, rows, chosen, first)

    def _first(self, histories: Sequence[I32]) -> Tensor:
        """(n, places) of retrieval."""
        rows, _ = latest(histories, self.parameters.watched)
        return self._retrieval.scores(self._retrieval.users(fitting.tensor(rows)))

    def _both(self, histories: Sequence[I32]) -> Tensor:
        """(n, places): candidates above 0 in their order by ranking, all others below in that by retrieval."""
        scores = self._first(histories)
        scores = scores - scores.max(1, keepdim=True).values - 1
        if self._ranking is not None:
            chosen, features = self._candidates(fitting.tensor(latest(histories, self.parameters.watched)[0]))
            ranked = self._ranking(features)
            scores.scatter_(1, chosen, ranked - ranked.min(1, keepdim=True).values)
        return scores

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        """See protocols.NextItem; whose history it is does not matter."""
        return self._places.ranked(self._both, histories)

    def export(self) -> Factors:
        """See protocols.Factorised: retrieval's, of users as of the end of the training part."""
        return self._factors

    @torch.no_grad()
    def _vectors(self, clicks: Dataset) -> Factors:
        places, dim, ordered = self._places, self.parameters.dim, in_order(clicks)
        users, items = (
            np.zeros((clicks.user_count, dim), dtype=np.float32),
            np.zeros((clicks.item_count, dim), dtype=np.float32),
        )
        biases = np.zeros(clicks.item_count, dtype=np.float32)
        who = np.unique(clicks.users)
        for start in range(0, len(who), SLICE):
            some = who[start : start + SLICE]
            histories = [places.of(ordered[0].items[ordered[1][user] : ordered[1][user + 1]]) for user in some.tolist()]
            rows, _ = latest(histories, self.parameters.watched)
            users[some] = fitting.array(self._retrieval.users(fitting.tensor(rows)))
        items[places.items] = fitting.array(self._retrieval.items.weight[:-1])
        biases[places.items] = fitting.array(self._retrieval.biases)
        return Factors(users, items, np.zeros(clicks.user_count, dtype=np.float32), biases, 0.0)
