"""Retraining: what it is fitted on, and that putting it in is exact."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from learning import settings
from training import CHOSEN, Fed

from streamer.core.batch import CLICK, RATING, Events
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.settings import RenormalisationSettings
from streamer.models import REFITTED_BY
from streamer.renormalise.training import Candidate, Retrained, candidate, candidates, put_in, retrained, whole
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Fed]:
    made = Fed(tmp_path)
    yield made
    made.store.close()


def test_the_history_is_what_was_learned(fed: Fed) -> None:
    history = whole(fed.memory, fed.events())
    for name in ("kinds", "items", "values", "clicks", "times_ms", "keys", "lows", "highs", "seen_counts"):
        learned = np.concatenate([getattr(batch, name) for batch in fed.batches])
        assert np.array_equal(getattr(history, name), learned), name
    assert {RATING, CLICK} == set(history.kinds.tolist())
    for row, user_id in enumerate(fed.events().user_ids):
        counts, page_of = history.seen.counts[row], history.seen.page_of[row]
        seen = history.seen.pages[page_of].ravel()[:counts]
        assert seen.tolist() == fed.memory.users.view(user_id).seen.tolist()


EVERYTHING = settings(
    rating_learner="biased-mf", shadow=("bias", "bayesian-hybrid", "popularity"), user_cache_bytes=200_000
)


@pytest.fixture
def all_of_them(tmp_path: Path) -> Iterator[Fed]:
    made = Fed(tmp_path, EVERYTHING)
    assert made.memory.users.cached < len(set(made.user_ids))  # some are in the store alone
    yield made
    made.store.close()


def test_counts_and_filters_refitted_on_everything_are_what_they_were(all_of_them: Fed) -> None:
    fed, same = all_of_them, [name for name, by in REFITTED_BY.items() if by == "replay"]
    before = fed.store.digest()
    put_in(fed.memory, retrained(fed.memory, fed.events(), [name for name in same if name in before.learners]))
    assert fed.store.digest() == before


def test_what_is_refitted_depends_on_the_history_alone(all_of_them: Fed) -> None:
    """Whoever is in it no more has left no trace: so it is for a state that has been retrained, or has learned more."""
    fed = all_of_them
    found = retrained(fed.memory, fed.events())
    put_in(fed.memory, retrained(fed.memory, fed.events(), chosen=Candidate(half_life_days=1.0, window_days=20.0)))
    again = retrained(fed.memory, fed.events())
    assert bits(again) == bits(found)
    assert {"biased-mf", "bayesian-hybrid", "skip-gram", "transitions", "popularity-recent"} <= found.tables.keys()


def bits(found: Retrained) -> dict[tuple[str, str], bytes]:
    return {(name, of): values.tobytes() for name, tables in found.tables.items() for of, values in tables.items()}


def test_what_learned_events_left_goes_with_them(all_of_them: Fed) -> None:
    fed, gone = all_of_them, "u7"
    events = fed.events()
    without = events.select(events.users != events.user_ids.index(gone))
    fed.memory.users.forget(gone)
    fed.memory.commit()
    assert bits(retrained(fed.memory, events)) == bits(retrained(fed.memory, without))
    live = fed.memory.learners.by_name["biased-mf"].tables()["item"].values.copy()
    put_in(fed.memory, retrained(fed.memory, events))
    assert not np.array_equal(fed.memory.learners.by_name["biased-mf"].tables()["item"].values, live)
    assert not fed.memory.users.view(gone).known


def test_what_is_put_in_is_the_same_in_memory_and_in_the_store(fed: Fed, tmp_path: Path) -> None:
    put_in(fed.memory, retrained(fed.memory, fed.events()))
    fed.store.close()
    store = RocksStore(tmp_path)
    again = Memory(learners(CHOSEN), CHOSEN, store)
    for user_id in fed.events().user_ids[::7]:
        live, stored = fed.memory.users.view(user_id), again.users.view(user_id)
        assert {name: row.tobytes() for name, row in live.rows.items()} == {
            name: row.tobytes() for name, row in stored.rows.items()
        }
    for name, learner in fed.memory.learners.by_name.items():
        for called, table in learner.tables().items():
            if table.side != "user":
                rows = len(fed.memory.items) if table.side == "item" else 1
                other = again.learners.by_name[name].tables()[called]
                assert table.values[:rows].tobytes() == other.values[:rows].tobytes()
    store.close()


def test_events_of_another_state_are_refused(fed: Fed) -> None:
    found = fed.events()
    other = Events(
        found.user_ids,
        [f"x{n}" for n in found.item_ids],
        *[getattr(found, name) for name in ("users", "items", "kinds", "values", "times_ms", "keys")],
    )
    with pytest.raises(StreamerError, match="'xi0'"):
        retrained(fed.memory, other)


def test_a_learner_without_a_trainer_is_refused_by_name(all_of_them: Fed) -> None:
    with pytest.raises(StreamerError, match="no trainer refits 'click-blend'"):
        retrained(all_of_them.memory, all_of_them.events(), ["click-blend"])


def test_a_state_that_nothing_happened_to_yet_can_be_retrained(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    memory = Memory(learners(settings()), settings(), store)
    columns = (np.int32, np.int32, np.uint8, np.float32, np.int64, np.uint64)
    nothing = Events([], [], *(np.empty(0, dtype=column) for column in columns))
    put_in(memory, retrained(memory, nothing))
    store.close()


@pytest.mark.parametrize(
    "text",
    [
        "all",
        "warm",
        "window:30",
        "half-life:1.5",
        "model:word2vec",
        "model:als",
        "vectors:a/b:c.bin",
        "fixed-vectors:v.txt",
    ],
)
def test_candidates_are_read_as_they_are_named(text: str) -> None:
    assert candidate(f" {text} ").name == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "best",
        "window",
        "window:",
        "window:-1",
        "window:x",
        "all:3",
        "half-life:inf",
        "vectors:",
        "model:bias",
        "model:best",
    ],
)
def test_other_candidates_are_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(BadSettings, match=r"wanted all, window:DAYS, half-life:DAYS, warm, model:NAME"):
        candidate(text)


def test_vectors_that_are_not_there_start_nothing_unless_they_are_elsewhere(tmp_path: Path) -> None:
    there, missing = tmp_path / "there.bin", tmp_path / "missing.bin"
    there.touch()
    chosen = RenormalisationSettings(candidates=("all", f"vectors:{there}"))
    assert [one.name for one in candidates(chosen)] == ["all", f"vectors:{there}"]
    wanting = msgspec.structs.replace(chosen, candidates=(f"fixed-vectors:{missing}",))
    with pytest.raises(BadSettings, match=rf"there is none at {missing}"):
        candidates(wanting)
    assert candidates(msgspec.structs.replace(wanting, renormaliser="external"))[0].fixed


def test_a_warm_candidate_goes_on_from_the_live_rows_and_leaves_others_alone(all_of_them: Fed) -> None:
    """For histories that do not go back to the beginning: whom they do not tell of keeps what was learned."""
    fed = all_of_them
    late = fed.events().chosen(np.arange(2500, len(fed.events())))
    users = np.unique(late.users)
    told = Events(
        [late.user_ids[n] for n in users], late.item_ids, np.searchsorted(users, late.users).astype(np.int32), late.items,
        late.kinds, late.values, late.times_ms, late.keys,
    )  # fmt: skip
    found = retrained(fed.memory, told, chosen=Candidate(warm=True))
    assert set(found.tables) == {"biased-mf"}
    live = fed.memory.learners.by_name["biased-mf"].tables()["item"].values.copy()
    put_in(fed.memory, found)
    after = fed.memory.learners.by_name["biased-mf"].tables()["item"].values
    seen = np.unique(told.items[told.kinds == RATING])
    rest = np.setdiff1d(np.arange(len(fed.memory.items)), seen)
    assert not np.array_equal(after[seen], live[seen])
    assert np.array_equal(after[rest], live[rest])


def test_churn_of_every_learner_is_told(all_of_them: Fed) -> None:
    found = retrained(all_of_them.memory, all_of_them.events())
    assert found.churn.keys() == found.tables.keys()
    assert found.churn["transitions"].top_ten_overlap == 1.0  # a replay of everything
    assert 0.2 < found.churn["biased-mf"].top_ten_overlap < 1.0
    assert found.churn["biased-mf"].item_cosine is not None


def test_a_history_with_holes_makes_nobody_forget(all_of_them: Fed, caplog: pytest.LogCaptureFixture) -> None:
    """What came before it is not in it: only who can go on from the live rows is refitted."""
    fed = all_of_them
    events = fed.events()
    assert len(retrained(fed.memory, events.select(np.arange(20, len(events)))).tables) > 5
    assert not caplog.records
    late = retrained(fed.memory, events.select(np.arange(1000, len(events))))
    assert set(late.tables) == {"biased-mf"}
    assert "of the 3000 events that were learned" in caplog.text
