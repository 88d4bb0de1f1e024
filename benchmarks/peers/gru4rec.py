"""GRU4Rec with torch: a GRU over the items of a session, trained anew after every 20% of the stream; what it is in between is the state.

    h = GRU(h, e_i),    score(j) = v_j . h + b_j,    loss: cross-entropy of the next item against shared samples (corrected by their odds)

It has no package on PyPI; torch is that of the extra `offline`. Between two fits its weights stay, and each click moves the state of its
user. It is fitted on the last `events` clicks. Before the first fit, and where a session has no item that it knows, items rank by popularity;
items that it does not know come behind.

Hidasi, Karatzoglou (2018), Recurrent neural networks with top-k gains for session-based recommendations, CIKM.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from benchmarks.protocols import FITS, PeerContext
from streamer.core.arrays import F32
from streamer.core.protocols import Kind

STEPS = 20  # clicks through which a gradient goes back, and from which the state is made anew after a fit
BATCH = 64  # sequences of a step


class GRU4RecSettings(msgspec.Struct, frozen=True):
    dim: int = 100
    learning_rate: float = 0.003
    epochs: int = 5
    samples: int = 1024  # negatives that a batch shares
    sample_exponent: float = 0.5
    dropout: float = 0.2
    unit: Literal["session", "history"] = "session"
    events: int = 50_000


class GRU4Rec:
    kind: ClassVar[Kind] = "clicks"
    package: ClassVar[str | None] = "torch"
    Settings = GRU4RecSettings
    tuned: ClassVar[GRU4RecSettings | None] = GRU4RecSettings(
        dim=100,
        learning_rate=0.01,
        epochs=10,
        samples=1024,
        sample_exponent=0.0,
        dropout=0.0,
        unit="history",
        events=50000,
    )
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "unit": ("session", "history"),
        "learning_rate": (0.001, 0.003, 0.01),
        "epochs": (3, 5, 10),
        "dropout": (0.0, 0.2, 0.5),
        "sample_exponent": (0.0, 0.5, 0.75),
        "dim": (50, 100),
    }

    def __init__(self, settings: GRU4RecSettings, context: PeerContext) -> None:
        self._settings, self._seed, self._every = settings, context.seed, max(1, context.events // FITS)
        self._torch = import_module("torch")
        self._torch.set_num_threads(1)
        self._sessions: list[list[int]] = []
        self._open: dict[int, int] = {}  # user -> number of the session
        self._states: dict[int, F32] = {}  # by session, of the weights as they are
        self._counts: F32 = np.zeros(context.events, dtype=np.float32)
        self._clicks, self._known = 0, 0
        self._weights: dict[str, F32] = {}

    def begin(self, user: int) -> None:
        if self._settings.unit == "session":
            self._open.pop(user, None)

    def score(self, user: int, count: int) -> F32:
        state = self._state(self._open[user]) if self._known and user in self._open else None
        if state is None:
            return self._counts[:count]
        scores: F32 = np.full(count, np.nan, dtype=np.float32)
        scores[: self._known] = self._weights["answers"] @ state + self._weights["bias"][:, 0]
        return scores

    def learn(self, user: int, item: int) -> None:
        if user not in self._open:
            self._open[user] = len(self._sessions)
            self._sessions.append([])
        session = self._open[user]
        before = self._state(session) if self._known else None
        self._sessions[session].append(item)
        self._counts[item] += 1
        self._clicks += 1
        if item < self._known:
            self._states[session] = self._step(before, item)
        if self._clicks % self._every == 0 and self._clicks < FITS * self._every:
            self._fit()

    def _state(self, session: int) -> F32 | None:
        """The state after the clicks so far; None if there was no item that the model knows."""
        if session not in self._states:
            state = None
            for item in [item for item in self._sessions[session][-STEPS:] if item < self._known]:
                state = self._step(state, item)
            if state is None:
                return None
            self._states[session] = state
        return self._states[session]

    def _step(self, state: F32 | None, item: int) -> F32:
        """torch's GRU cell, with the order of gates that it documents: reset, update, new."""
        of = self._weights
        state = np.zeros(self._settings.dim, dtype=np.float32) if state is None else state
        inner = of["weight_ih_l0"] @ of["asked"][item] + of["bias_ih_l0"]
        hidden = of["weight_hh_l0"] @ state + of["bias_hh_l0"]
        (i_r, i_z, i_n), (h_r, h_z, h_n) = np.split(inner, 3), np.split(hidden, 3)
        reset, update = 1 / (1 + np.exp(-(i_r + h_r))), 1 / (1 + np.exp(-(i_z + h_z)))
        moved: F32 = (1 - update) * np.tanh(i_n + reset * h_n) + update * state
        return moved

    def _fit(self) -> None:
        torch, settings = self._torch, self._settings
        torch.manual_seed(self._seed)
        random = np.random.default_rng(self._seed)
        self._known = int(np.count_nonzero(self._counts))
        nn, dim = torch.nn, settings.dim
        model = nn.ModuleDict({
            "asked": nn.Embedding(self._known + 1, dim, padding_idx=self._known), "gru": nn.GRU(dim, dim, batch_first=True),
            "answers": nn.Embedding(self._known, dim), "bias": nn.Embedding(self._known, 1),
        })  # fmt: skip
        nn.init.normal_(model["asked"].weight, std=dim**-0.5)
        nn.init.normal_(model["answers"].weight, std=dim**-0.5)
        nn.init.zeros_(model["bias"].weight)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        rows = self._sequences()
        odds = self._counts[: self._known] ** settings.sample_exponent
        odds /= odds.sum()
        running = np.cumsum(odds)
        log_odds = torch.from_numpy(np.log(odds))
        for _ in range(settings.epochs):
            for chosen in np.array_split(random.permutation(len(rows)), max(1, len(rows) // BATCH)):
                batch = torch.from_numpy(rows[chosen])
                asked, wanted = batch[:, :-1], batch[:, 1:]
                drawn = np.searchsorted(running, random.random(settings.samples)).clip(max=self._known - 1)
                negatives = torch.from_numpy(drawn)
                given = nn.functional.dropout(model["asked"](asked), settings.dropout)
                states = nn.functional.dropout(model["gru"](given)[0], settings.dropout)
                there = wanted < self._known
                states, wanted = states[there], wanted[there]
                right = (states * model["answers"](wanted)).sum(-1) + model["bias"](wanted)[:, 0] - log_odds[wanted]
                wrong = states @ model["answers"](negatives).T + model["bias"](negatives)[:, 0] - log_odds[negatives]
                wrong = wrong.masked_fill(wanted[:, None] == negatives[None, :], -torch.inf)
                scores = torch.cat([right[:, None], wrong], dim=1)
                loss = nn.functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self._weights = {
            name.removeprefix("gru.").removesuffix(".weight"): weight.detach().numpy().copy()
            for name, weight in model.named_parameters()
        }
        self._states.clear()

    def _sequences(self) -> Any:
        """Sessions in pieces of STEPS + 1 clicks that overlap by one, (rows, STEPS + 1), filled up at the end; the newest `events` clicks."""
        pieces, left = list[list[int]](), self._settings.events
        for session in reversed(self._sessions):
            for start in range(0, len(session) - 1, STEPS):
                piece = session[start : start + STEPS + 1]
                pieces.append(piece + [self._known] * (STEPS + 1 - len(piece)))
            left -= len(session)
            if left <= 0:
                break
        return np.array(pieces, dtype=np.int64).reshape(-1, STEPS + 1)
