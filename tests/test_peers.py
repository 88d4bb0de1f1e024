"""The peers written here from papers do what the papers say: each against a direct computation of its equation."""

from collections import Counter
from math import inf, log

import numpy as np
import pytest

from benchmarks.peers.ease import EASE, EASESettings
from benchmarks.peers.gru4rec import GRU4Rec, GRU4RecSettings
from benchmarks.peers.item_knn import FIRST_PAIRS, ItemKNN, ItemKNNSettings
from benchmarks.peers.session_neighbours import Sessions, Shape
from benchmarks.protocols import PeerContext

CLICKS = [(int(user), int(item)) for user, item in np.random.default_rng(3).integers(0, (7, 12), (150, 2))]


def context(events: int) -> PeerContext:
    return PeerContext((), events, 1)


@pytest.mark.parametrize(("shape", "idf", "k"), [("same", 0.0, 3), ("div", 2.0, 100), ("same", inf, 4)])
def test_session_neighbours_score_as_the_equation_says(shape: Shape, idf: float, k: int) -> None:
    made, sessions, session_of = Sessions(150, "session", last_items=5), list[list[int]](), dict[int, int]()
    changed: list[list[int]] = []  # by session the clicks that gave it a new item
    for n, (user, item) in enumerate(CLICKS):
        if n % 17 == 0:
            made.begin(user)
            session_of.pop(user, None)
        if user in session_of:
            assert made.score(user, 12, 1000, k, (shape, "linear"), idf).tolist() == pytest.approx(
                direct(sessions, changed, session_of[user], CLICKS[:n], shape, idf, k), rel=1e-4
            )
        made.learn(user, item)
        if user not in session_of:
            session_of[user] = len(sessions)
            sessions.append([])
            changed.append([])
        own = sessions[session_of[user]]
        if item in own:
            own.remove(item)
        else:
            changed[session_of[user]].append(n)
        own.append(item)


def direct(
    sessions: list[list[int]],
    changed: list[list[int]],
    session: int,
    clicks: list[tuple[int, int]],
    shape: Shape,
    idf: float,
    k: int,
) -> list[float]:
    own = sessions[session][-5:][::-1]
    near = []
    for t, items in enumerate(sessions):
        shared = [n for n, item in enumerate(own) if item in items]
        if t != session and shared:
            near.append(
                (
                    sum((len(own) - n) / len(own) if shape == "div" else 1 for n in shared),
                    changed[t][-1],
                    1 - 0.1 * (shared[0] + 1),
                    items,
                )
            )
    near.sort(key=lambda one: (-one[0], -one[1]))
    scores = [0.0] * 12
    for similarity, _, decay, items in near[:k]:
        for item in items:
            rarity = log(max(2, len(sessions)) / sum(item in other for other in sessions))
            scores[item] += similarity * decay * (rarity if idf == inf else 1 + idf * rarity)
    counts = Counter(item for _, item in clicks)
    return [score if score > 0 else -1 / (1 + counts[item]) for item, score in enumerate(scores)]


def test_item_neighbours_score_as_the_equation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FIRST_PAIRS > 8
    monkeypatch.setattr("benchmarks.peers.item_knn.FIRST_PAIRS", 8)  # so that the tables grow
    made = ItemKNN(ItemKNNSettings(window=3, last_items=2, decay=0.5, popularity=0.25, shrink=1.0), context(150))
    pairs, clicks, last = Counter[tuple[int, int]](), Counter[int](), dict[int, list[int]]()
    for user, item in CLICKS:
        recent = last.setdefault(user, [])
        if recent:
            wanted = []
            for j in range(12):
                found = sum(
                    0.5**steps * pairs[i, j] / ((clicks[i] + 1) ** 0.75 * (clicks[j] + 1) ** 0.25)
                    for steps, i in enumerate(recent[:-3:-1])
                )
                wanted.append(found if found > 0 else -1 / (1 + clicks[j]))
            assert made.score(user, 12).tolist() == pytest.approx(wanted, rel=1e-5)
        made.learn(user, item)
        for other in recent[-3:]:
            if other != item:
                pairs[item, other] += 1
                pairs[other, item] += 1
        clicks[item] += 1
        last[user] = [*(other for other in recent if other != item), item][-3:]


def test_ease_solves_a_ridge_regression_of_each_item_on_the_others() -> None:
    made, x = EASE(EASESettings(l2=3.0), context(150)), np.zeros((7, 12))
    for n, (user, item) in enumerate(CLICKS):
        made.learn(user, item)
        if n < 120:  # the last fit
            x[user, item] = 1
    user, scores = 3, np.empty(12)
    for item in range(12):
        others = np.arange(12) != item
        weights = np.linalg.solve(x[:, others].T @ x[:, others] + 3 * np.eye(11), x[:, others].T @ x[:, item])
        now = np.array([float((user, other) in CLICKS) for other in range(12)])
        scores[item] = now[others] @ weights
    assert made.score(user, 12).tolist() == pytest.approx(scores.tolist(), abs=1e-4)


@pytest.mark.slow
def test_the_state_of_gru4rec_is_that_of_torch_and_it_learns_what_follows_what() -> None:
    torch = pytest.importorskip("torch")
    made = GRU4Rec(GRU4RecSettings(dim=16, epochs=30, samples=12, learning_rate=0.02), context(400))
    for n in range(399):
        made.learn(user=n // 20, item=n % 5)  # 0 1 2 3 4 0 1 ...
    assert [int(np.argmax(made.score(19, 5))), (399 % 5)] == [4, 4]
    weights = {name: torch.from_numpy(value) for name, value in made._weights.items()}
    gru = torch.nn.GRU(16, 16, batch_first=True)
    gru.load_state_dict({name: weights[name] for name in gru.state_dict()})
    items = torch.tensor([[n % 5 for n in range(380, 399)]])
    states, _ = gru(weights["asked"][items])
    scores = weights["answers"] @ states[0, -1] + weights["bias"][:, 0]
    assert made.score(19, 5).tolist() == pytest.approx(scores.tolist(), abs=1e-4)
