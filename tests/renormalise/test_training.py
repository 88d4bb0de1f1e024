"""Retraining: the history that learners are refitted on, and the exact replacement of their tables."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from learning import settings
from training import CHOSEN, Fed

from streamer.core.batch import CLICK, RATING, REPEATED, Events
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.settings import RenormalisationSettings
from streamer.models import REFITTED_BY
from streamer.renormalise.training import (
    Candidate,
    RefittedTables,
    candidate,
    candidates,
    history_batch,
    refit,
    replace_tables,
)
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Fed]:
    made = Fed(tmp_path)
    yield made
    made.store.close()


def test_the_history_equals_the_learned_batches(fed: Fed) -> None:
    history = history_batch(fed.memory, fed.events())
    for name in ("kinds", "items", "values", "clicks", "times_ms", "keys", "lows", "highs", "seen_counts"):
        learned = np.concatenate([getattr(batch, name) for batch in fed.batches])
        assert np.array_equal(getattr(history, name), learned), name
    begins = np.concatenate([batch.begins for batch in fed.batches])
    assert 0 < np.count_nonzero(begins != history.begins) < 0.01 * begins.sum()  # at first the gap was another one
    assert {RATING, CLICK, REPEATED} == set(history.kinds.tolist())
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


def test_counting_and_filtering_learners_refitted_on_all_events_keep_their_rows(all_of_them: Fed) -> None:
    fed, same = all_of_them, [name for name, by in REFITTED_BY.items() if by == "replay"]
    before = fed.store.digest()
    replace_tables(fed.memory, refit(fed.memory, fed.events(), [name for name in same if name in before.learners]))
    assert fed.store.digest() == before


def test_refitted_tables_depend_on_the_history_only(all_of_them: Fed) -> None:
    """They are the same for a state that was retrained, or has learned more: events outside the history leave no trace."""
    fed = all_of_them
    found = refit(fed.memory, fed.events())
    replace_tables(fed.memory, refit(fed.memory, fed.events(), chosen=Candidate(half_life_days=1.0, window_days=20.0)))
    again = refit(fed.memory, fed.events())
    assert bits(again) == bits(found)
    assert {"biased-mf", "bayesian-hybrid", "skip-gram", "transitions", "popularity-recent"} <= found.tables.keys()


def bits(found: RefittedTables) -> dict[tuple[str, str], bytes]:
    return {(name, of): values.tobytes() for name, tables in found.tables.items() for of, values in tables.items()}


def test_removed_events_leave_no_trace_after_a_refit(all_of_them: Fed) -> None:
    fed, gone = all_of_them, "u7"
    events = fed.events()
    without = events.select(events.users != events.user_ids.index(gone))
    fed.memory.users.forget(gone)
    fed.memory.commit()
    assert bits(refit(fed.memory, events)) == bits(refit(fed.memory, without))
    live = fed.memory.learners.by_name["biased-mf"].tables()["item"].values.copy()
    replace_tables(fed.memory, refit(fed.memory, events))
    assert not np.array_equal(fed.memory.learners.by_name["biased-mf"].tables()["item"].values, live)
    assert not fed.memory.users.view(gone).known


def test_replaced_tables_are_the_same_in_memory_and_in_the_store(fed: Fed, tmp_path: Path) -> None:
    replace_tables(fed.memory, refit(fed.memory, fed.events()))
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
        refit(fed.memory, other)


def test_a_learner_without_a_trainer_is_refused_by_name(all_of_them: Fed) -> None:
    with pytest.raises(StreamerError, match="no trainer refits 'click-blend'"):
        refit(all_of_them.memory, all_of_them.events(), ["click-blend"])


def test_an_empty_state_can_be_retrained(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    memory = Memory(learners(settings()), settings(), store)
    columns = (np.int32, np.int32, np.uint8, np.float32, np.int64, np.uint64)
    nothing = Events([], [], *(np.empty(0, dtype=column) for column in columns))
    replace_tables(memory, refit(memory, nothing))
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
def test_the_name_of_a_candidate_parses_to_itself(text: str) -> None:
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
def test_other_candidates_are_refused_with_a_list_of_valid_ones(text: str) -> None:
    with pytest.raises(BadSettings, match=r"wanted all, window:DAYS, half-life:DAYS, warm, model:NAME"):
        candidate(text)


def test_a_missing_file_of_vectors_is_refused_unless_the_renormaliser_is_external(tmp_path: Path) -> None:
    there, missing = tmp_path / "there.bin", tmp_path / "missing.bin"
    there.touch()
    chosen = RenormalisationSettings(candidates=("all", f"vectors:{there}"))
    assert [one.name for one in candidates(chosen)] == ["all", f"vectors:{there}"]
    wanting = msgspec.structs.replace(chosen, candidates=(f"fixed-vectors:{missing}",))
    with pytest.raises(BadSettings, match=rf"there is none at {missing}"):
        candidates(wanting)
    assert candidates(msgspec.structs.replace(wanting, renormaliser="external"))[0].fixed


def test_a_warm_candidate_starts_from_the_live_rows_and_leaves_other_learners_alone(all_of_them: Fed) -> None:
    """For histories that do not go back to the beginning: users without events in them keep their rows."""
    fed = all_of_them
    late = fed.events().select(np.arange(2500, len(fed.events())))
    users = np.unique(late.users)
    told = Events(
        [late.user_ids[n] for n in users], late.item_ids, np.searchsorted(users, late.users).astype(np.int32), late.items,
        late.kinds, late.values, late.times_ms, late.keys,
    )  # fmt: skip
    found = refit(fed.memory, told, chosen=Candidate(warm=True))
    assert set(found.tables) == {"biased-mf"}
    live = fed.memory.learners.by_name["biased-mf"].tables()["item"].values.copy()
    replace_tables(fed.memory, found)
    after = fed.memory.learners.by_name["biased-mf"].tables()["item"].values
    seen = np.unique(told.items[told.kinds == RATING])
    rest = np.setdiff1d(np.arange(len(fed.memory.items)), seen)
    assert not np.array_equal(after[seen], live[seen])
    assert np.array_equal(after[rest], live[rest])


def test_every_learner_has_churn(all_of_them: Fed) -> None:
    found = refit(all_of_them.memory, all_of_them.events())
    assert found.churn.keys() == found.tables.keys()
    assert found.churn["transitions"].top_ten_overlap == 1.0  # a replay of everything
    assert 0.2 < found.churn["biased-mf"].top_ten_overlap < 1.0
    assert found.churn["biased-mf"].item_cosine is not None


def test_an_incomplete_history_does_not_lose_what_was_learned(
    all_of_them: Fed, caplog: pytest.LogCaptureFixture
) -> None:
    """The history lacks the beginning: only learners that can start from the live rows are refitted."""
    fed = all_of_them
    events = fed.events()
    assert len(refit(fed.memory, events.select(np.arange(20, len(events)))).tables) > 5
    assert not caplog.records
    late = refit(fed.memory, events.select(np.arange(1000, len(events))))
    assert set(late.tables) == {"biased-mf"}
    assert "of the 2997 events that were learned" in caplog.text
