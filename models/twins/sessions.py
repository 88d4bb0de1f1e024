"""The kernels of the learners of sessions, in plain NumPy."""

import numpy as np

from streamer.core.arrays import F64
from streamer.core.batch import Batch
from streamer.models.sessions.neighbours import Neighbours
from streamer.models.sessions.ring import CONTEXT, CURRENT, HOSTED, LISTED, NEXT, ROWS, TURN, TURN_BEFORE
from streamer.models.transitions.transitions import COUNT_SMALLEST
from streamer.models.twins.changes import clicked


def twin_neighbours(learner: Neighbours, batch: Batch) -> F64:
    """See neighbours.py; here sessions are looked up in all lists, and no number is as large as 2^31."""
    out = np.full(len(batch), np.nan)
    p, stream, popularity = learner.parameters, learner.stream.values[0], learner.popularity.values
    for k, back in clicked(batch):
        i, weight = int(batch.items[k]), float(batch.clicks[k])
        user = learner.user.values[batch.users[k]]
        recent = popularity[i, 0] * 0.5 ** ((stream[1] - popularity[i, 1]) / p.half_life)
        if back:
            _remove(learner, user, i)
            less = min(recent, back)
            recent -= less
            popularity[i], stream[0] = (recent, stream[1]), max(0.0, stream[0] - less)
        if weight < 0:
            _remove(learner, user, i)
        if weight <= 0:
            continue
        share = max(recent, COUNT_SMALLEST) / max(stream[0], COUNT_SMALLEST)
        sims, matched, total = _similarities(learner, user)
        votes = 0.0
        for session in set(_listed(learner, i)) & set(sims):
            items = _items(learner, session)
            if i in items and matched[session] in items:
                apart = items.index(i) - items.index(matched[session])
                near = p.nearness ** (abs(apart) - 1) * (1 - p.nearness) / (1 + p.before) * bool(apart)
                votes += sims[session] ** 1.5 * near * (p.before if apart < 0 else 1)
        out[k] = min((votes + p.pseudo_counts * share) / (total + p.pseudo_counts), 1.0)
        stream[ROWS] = max(stream[ROWS], i + 1)
        _add(learner, user, i)
        last = [i, *(c for c in user[CONTEXT:].tolist() if c not in (i, -1))][: p.window]
        user[CONTEXT:] = last + [-1] * (p.window - len(last))
        popularity[i] = recent + weight, stream[1]
        stream[:2] = (stream[0] + weight) * 0.5 ** (1 / p.half_life), stream[1] + 1
    return out


def _similarities(learner: Neighbours, user: F64) -> tuple[dict[int, float], dict[int, int], float]:
    """The sims of the user's neighbours and their newest clicks in common, by number of the session; and the sum of the sims."""
    p, n = learner.parameters, learner.stream.values[0, LISTED]
    sims, matched = dict[int, float](), dict[int, int]()
    context = [c for c in user[CONTEXT:].tolist() if c >= 0]
    weights = [p.decay**t * np.log(1 + (n + 1) / (learner.postings.values[c, 0] + 1)) for t, c in enumerate(context)]
    for c, weight in zip(context, weights, strict=True):
        for x, session in enumerate(_listed(learner, c)):
            if _slot(learner, session) >= 0 and session != user[CURRENT]:
                sims[session] = sims.get(session, 0.0) + weight / sum(weights) * p.ageing**x
                matched.setdefault(session, c)
    return sims, matched, sum(sims.values())


def _listed(learner: Neighbours, i: int) -> list[int]:
    """The sessions in an item's list, newest first; -1 where one was removed."""
    count, *ring = learner.postings.values[i].tolist()
    return [ring[(count - 1 - x) % len(ring)] for x in range(min(count, len(ring)))]


def _slot(learner: Neighbours, session: int) -> int:
    """The slot of a session, -1 if it was overwritten."""
    last, turn, before = (int(learner.stream.values[0, column]) for column in (NEXT, TURN, TURN_BEFORE))
    if turn <= session < last:
        return session - turn
    return session - before if before + last - turn <= session < turn else -1


def _items(learner: Neighbours, session: int) -> list[int]:
    row = learner.sessions.values.reshape(-1, learner.parameters.length)[_slot(learner, session)]
    return [int(i) for i in row if i >= 0]


def _write(learner: Neighbours, session: int, items: list[int]) -> None:
    p = learner.parameters
    learner.sessions.values.reshape(-1, p.length)[_slot(learner, session)] = items + [-1] * (p.length - len(items))


def _list(learner: Neighbours, i: int, session: int) -> None:
    row = learner.postings.values[i]
    row[1 + row[0] % (len(row) - 1)] = session
    row[0] += 1
    learner.stream.values[0, LISTED] += 1


def _remove(learner: Neighbours, user: F64, i: int) -> None:
    rest = [c for c in user[CONTEXT:].tolist() if c not in (i, -1)]
    user[CONTEXT:] = rest + [-1] * (learner.parameters.window - len(rest))
    session = int(user[CURRENT])
    if _slot(learner, session) >= 0 and i in (items := _items(learner, session)):
        _write(learner, session, [j for j in items if j != i])
        postings = learner.postings.values[i, 1:]
        postings[postings == session] = -1


def _add(learner: Neighbours, user: F64, i: int) -> None:
    stream, p = learner.stream.values[0], learner.parameters
    session = int(user[CURRENT])
    items = _items(learner, session) if _slot(learner, session) >= 0 else [-1] * p.length
    if i in items:
        return
    if len(items) == p.length:
        if stream[NEXT] - stream[TURN] >= stream[ROWS] * HOSTED:
            stream[TURN_BEFORE], stream[TURN] = stream[TURN], stream[NEXT]
        session = user[CURRENT] = int(stream[NEXT])
        stream[NEXT] += 1
        items = [c for c in user[CONTEXT : CONTEXT + p.overlap].tolist() if c not in (i, -1)][::-1]
        for c in items:
            _list(learner, c, session)
    _write(learner, session, [*items, i])
    _list(learner, i, session)
