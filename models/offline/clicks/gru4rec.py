"""GRU4Rec: a gated recurrent network reads a session click by click, and says after each what is clicked next.

    h_t = GRU(e_(i_t), h_(t-1)),    s_j = h_t . e_j + b_j,    minimise  mean over clicks of ln sum_j exp s_j - s_(i_(t+1))

One vector e_j an item, read and scored with (tied); b_j begins as the log of the item's popularity. Up to `full_items`
items the sum is over all of them, beyond over `negatives` drawn ones, see `next_item`. Dropout on what goes into the
network and on what comes out; a third of the steps read sessions backwards, as what is clicked together is no matter of
order alone. A history is read as one session, its last `longest` clicks; whoever has none is shown what is popular.
Cost: O(dim (dim + items or negatives)) a click and epoch: on ml-latest-small 2 s of CPU an epoch, 10 to 25 epochs.

Hidasi, Karatzoglou, Baltrunas, Tikk (2016), Session-based recommendations with recurrent neural networks, ICLR; Hidasi,
Karatzoglou (2018), Recurrent neural networks with top-k gains for session-based recommendations, CIKM.
Deviations: cross-entropy with a bias, on negatives shared by the batch and corrected for how they are drawn, and not BPR-max;
sessions are rows of a batch from their beginning, not lanes that others go on in; Adam.
"""

from collections.abc import Callable, Sequence

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Kind
from streamer.models.offline import fitting
from streamer.models.offline.clicks.next_item import (
    Averaged,
    Noise,
    Places,
    backwards,
    latest,
    sampled_softmax,
    sessions,
)


class GRU4RecParameters(msgspec.Struct, frozen=True):
    """Size, sessions and steps."""

    dim: int = 64
    """Length of an item's vector and of the network's state."""
    gap_s: float = 1e12
    """Seconds without a click that end a session. By default none does."""
    longest: int = 50
    """Clicks that are read of a session; longer ones are cut."""
    epochs: int = 30
    """Passes at most; most fits stop at 10 to 15."""
    batch: int = 32
    """Sessions a step."""
    patience: int = 3
    """Passes without a better validation loss before it ends."""
    learning_rate: float = 0.01
    """Adam's."""
    dropout: float = 0.6
    """Share of the numbers of vectors and states that a step goes without. On ml-latest-small the validation loss is .1 higher with .3."""
    backwards: float = 0.33
    """Share of the steps that read sessions backwards."""
    full_items: int = 4096
    """Up to so many items the softmax is over all."""
    negatives: int = 1024
    """Items that it is over otherwise, drawn for each step."""
    noise_exponent: float = 0.75
    """Power of popularity that they are drawn from."""
    noise: float = 0.1
    """Standard deviation of the first vectors."""
    average: float = 0.998
    """What the mean of the weights, which is used, keeps at a step."""


class Network(nn.Module):
    """The recurrent network, and the items' vectors and biases; the place behind the last is nobody's, 0 for ever."""

    def __init__(self, places: Places, p: GRU4RecParameters) -> None:
        super().__init__()
        self.items = nn.Embedding(len(places) + 1, p.dim, padding_idx=len(places))
        nn.init.normal_(self.items.weight, 0.0, p.noise)
        with torch.no_grad():
            self.items.weight[len(places)] = 0.0
        self.gru = nn.GRU(p.dim, p.dim, batch_first=True)
        popularity = torch.log(fitting.tensor(places.counts).float())
        self.biases = nn.Parameter(popularity - popularity.mean())
        self.dropout = nn.Dropout(p.dropout)

    def states(self, rows: Tensor) -> Tensor:
        """The state after each click of sessions, (n, clicks, dim)."""
        vectors = self.items(torch.where(rows >= 0, rows, len(self.biases)))
        found: Tensor = self.dropout(self.gru(self.dropout(vectors))[0])
        return found

    def scores(self, states: Tensor, places: Tensor | None = None) -> Tensor:
        """(n, places), of all places where none are named."""
        vectors = self.items.weight[:-1] if places is None else self.items(places)
        return states @ vectors.T + (self.biases if places is None else self.biases[places])


class GRU4Rec:
    """protocols.NextItem."""

    kind: Kind = "clicks"
    Parameters = GRU4RecParameters

    def __init__(self, name: str, parameters: GRU4RecParameters, *, seed: int) -> None:
        """`seed` draws first weights, dropout, negatives and the order of sessions."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self.places: Places
        self.network: Network

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel; the validation loss is the full softmax's of each user's click after the training ones."""
        p, clicks = self.parameters, train.clicked()
        fitting.seeded(self._seed)
        places = self.places = Places(clicks)
        network = Network(places, p).to(fitting.device())
        averaged = Averaged(network, p.average)
        self.network = averaged.mean
        items, sizes = sessions(clicks, p.gap_s, p.longest)
        rows, lengths = fitting.tensor(places.of(items)), fitting.tensor(sizes)
        noise = Noise(places.counts, p.noise_exponent)

        def loss(chosen: Tensor) -> Tensor:
            size = lengths[chosen]
            session = rows[chosen, : int(size.max())]
            if float(torch.rand(())) < p.backwards:
                session = backwards(session, size)
            wanted = session[:, 1:]
            there = wanted >= 0
            states, wanted = network.states(session[:, :-1])[there], wanted[there]
            if len(places) <= p.full_items:
                return cross_entropy(network.scores(states), wanted)
            drawn = noise.draw(p.negatives)
            own = (states * network.items(wanted)).sum(1) + network.biases[wanted]
            return sampled_softmax(own, wanted, network.scores(states, drawn), drawn, noise).mean()

        fitting.descend(
            averaged, len(rows), loss, places.loss(self._scored, clicks, validation.clicked()),
            fitting.adam(network.parameters(), p.learning_rate), p, on_progress, after_step=averaged.after_step,
        )  # fmt: skip

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        """See protocols.NextItem; whose history it is does not matter."""
        return self.places.ranked(self._scored, histories)

    def _scored(self, histories: Sequence[I32]) -> Tensor:
        rows, lengths = latest(histories, self.parameters.longest)
        states = self.network.states(fitting.tensor(rows))
        last = fitting.tensor(lengths)
        found = states[torch.arange(len(rows), device=states.device), (last - 1).clamp(min=0)]
        return self.network.scores(torch.where(last[:, None] > 0, found, 0.0))
