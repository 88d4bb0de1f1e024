"""GRU4Rec: a gated recurrent network reads a session click by click and predicts the next click after each.

    h_t = GRU(e_(i_t), h_(t-1)),    s_j = h_t . e_j + b_j,    minimise  mean over clicks of ln sum_j exp s_j - s_(i_(t+1))

Each item has one vector e_j, used as input and for scores (tied); b_j starts as the log of the item's popularity. With up to
`full_items` items the sum is over all of them, with more over `negatives` sampled ones, see `next_item`. There is dropout on
the network's input and output. A third of the steps read sessions backwards, since items clicked together are related in
either order. A history is read as one session, its last `longest` clicks; users without clicks get popular items.
Cost: O(dim (dim + items or negatives)) a click and epoch: on ml-latest-small 2 s of CPU an epoch, 10 to 25 epochs.

Hidasi, Karatzoglou, Baltrunas, Tikk (2016), Session-based recommendations with recurrent neural networks, ICLR; Hidasi,
Karatzoglou (2018), Recurrent neural networks with top-k gains for session-based recommendations, CIKM.
Deviations: cross-entropy with a bias, on negatives that the batch shares and corrected for their sampling, instead of BPR-max;
each row of a batch is one session from its beginning, without further sessions following in the same row; Adam.
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
    AveragedWeights,
    Noise,
    Vocabulary,
    last_clicks,
    reverse_sessions,
    sampled_softmax,
    sessions,
)


class GRU4RecParameters(msgspec.Struct, frozen=True):
    """Size, sessions and steps."""

    dim: int = 64
    """Length of an item's vector and of the network's state."""
    gap_s: float = 1e12
    """Seconds without a click that end a session. By default a history is one session."""
    longest: int = 50
    """Clicks of a session that are read; longer ones are cut into several."""
    epochs: int = 30
    """Largest number of passes; most fits stop at 10 to 15."""
    batch: int = 32
    """Sessions in a step."""
    patience: int = 3
    """Number of passes without a better validation loss after which the fit ends."""
    learning_rate: float = 0.01
    """Adam's."""
    dropout: float = 0.6
    """Share of the components of vectors and states that are dropped in a step. With .3 the validation loss on
    ml-latest-small is .1 higher."""
    backwards: float = 0.33
    """Share of the steps that read sessions backwards."""
    full_items: int = 4096
    """Up to this many items the softmax is over all of them."""
    negatives: int = 1024
    """With more items, the number of negatives sampled for each step."""
    noise_exponent: float = 0.75
    """Negatives are sampled in proportion to popularity to this power."""
    noise: float = 0.1
    """Standard deviation of the initial vectors."""
    average: float = 0.998
    """Decay, at each step, of the running mean of the weights, which is the result."""


class Network(nn.Module):
    """The recurrent network, and the items' vectors and biases; the last vector is for padding and stays 0."""

    def __init__(self, vocabulary: Vocabulary, p: GRU4RecParameters) -> None:
        super().__init__()
        self.items = nn.Embedding(len(vocabulary) + 1, p.dim, padding_idx=len(vocabulary))
        nn.init.normal_(self.items.weight, 0.0, p.noise)
        with torch.no_grad():
            self.items.weight[len(vocabulary)] = 0.0
        self.gru = nn.GRU(p.dim, p.dim, batch_first=True)
        popularity = torch.log(fitting.tensor(vocabulary.counts).float())
        self.biases = nn.Parameter(popularity - popularity.mean())
        self.dropout = nn.Dropout(p.dropout)

    def states(self, rows: Tensor) -> Tensor:
        """The states after each click of sessions, (n, clicks, dim)."""
        vectors = self.items(torch.where(rows >= 0, rows, len(self.biases)))
        found: Tensor = self.dropout(self.gru(self.dropout(vectors))[0])
        return found

    def scores(self, states: Tensor, vocabulary: Tensor | None = None) -> Tensor:
        """The scores of the words `vocabulary`, or of all words, after each of the states, (n, words)."""
        vectors = self.items.weight[:-1] if vocabulary is None else self.items(vocabulary)
        return states @ vectors.T + (self.biases if vocabulary is None else self.biases[vocabulary])


class GRU4Rec:
    """protocols.NextItem."""

    kind: Kind = "clicks"
    Parameters = GRU4RecParameters

    def __init__(self, name: str, parameters: GRU4RecParameters, *, seed: int) -> None:
        """`seed` determines initial weights, dropout, negatives and the order of sessions."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self.vocabulary: Vocabulary
        self.network: Network

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel.

        The validation loss is that of the full softmax for each user's click after the training part.
        """
        p, clicks = self.parameters, train.clicked()
        fitting.set_seed(self._seed)
        vocabulary = self.vocabulary = Vocabulary(clicks)
        network = Network(vocabulary, p).to(fitting.device())
        averaged = AveragedWeights(network, p.average)
        self.network = averaged.mean
        items, sizes = sessions(clicks, p.gap_s, p.longest)
        rows, lengths = fitting.tensor(vocabulary.of(items)), fitting.tensor(sizes)
        noise = Noise(vocabulary.counts, p.noise_exponent)

        def loss(chosen: Tensor) -> Tensor:
            size = lengths[chosen]
            session = rows[chosen, : int(size.max())]
            if float(torch.rand(())) < p.backwards:
                session = reverse_sessions(session, size)
            targets = session[:, 1:]
            present = targets >= 0
            states, targets = network.states(session[:, :-1])[present], targets[present]
            if len(vocabulary) <= p.full_items:
                return cross_entropy(network.scores(states), targets)
            drawn = noise.draw(p.negatives)
            own = (states * network.items(targets)).sum(1) + network.biases[targets]
            return sampled_softmax(own, targets, network.scores(states, drawn), drawn, noise).mean()

        fitting.descend(
            averaged, len(rows), loss, vocabulary.loss(self._scored, clicks, validation.clicked()),
            fitting.adam(network.parameters(), p.learning_rate), p, on_progress, after_step=averaged.after_step,
        )  # fmt: skip

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        """See protocols.NextItem; depends on the histories alone."""
        return self.vocabulary.score_histories(self._scored, histories)

    def _scored(self, histories: Sequence[I32]) -> Tensor:
        rows, lengths = last_clicks(histories, self.parameters.longest)
        states = self.network.states(fitting.tensor(rows))
        last = fitting.tensor(lengths)
        found = states[torch.arange(len(rows), device=states.device), (last - 1).clamp(min=0)]
        return self.network.scores(torch.where(last[:, None] > 0, found, 0.0))
