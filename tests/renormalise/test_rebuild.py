"""A state is rebuilt from its journal over swaps, with partitions in another order and the tables of two generations."""

from pathlib import Path

import numpy as np
import pytest
from learning import digest, settings
from partitions import Shuffled, partitioned

from streamer.app import open_generation
from streamer.core.arrays import Array
from streamer.core.errors import BadGeneration, SourceLost
from streamer.renormalise import manifest
from streamer.renormalise.rebuild import install_generation, rebuild
from streamer.renormalise.training import RefittedTables
from streamer.storage import generations
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.ledger import WENT_LIVE, Run, journal, note
from streamer.stream.memory import Memory

FLAGS = {"rating_learner": "biased-mf", "click_learner": "skip-gram", "max_records": 50}
PARTITIONS = partitioned(900)


def turned(memory: Memory) -> RefittedTables:
    """Tables that differ from the learned ones: every row of the ratings learner reversed."""
    user_ids = sorted(memory.users.row_of)
    learner = memory.learners.by_name["biased-mf"]
    tables: dict[str, Array] = {}
    for name, table in learner.tables().items():
        if table.side == "user":
            tables[name] = np.ascontiguousarray(memory.users.learned_rows("biased-mf", user_ids)[:, ::-1])
        elif table.side == "item":
            tables[name] = np.ascontiguousarray(table.values[: len(memory.items), ::-1])
    return RefittedTables(user_ids, list(memory.items.ids), {"biased-mf": tables}, {})


@pytest.fixture(scope="module")
def live_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state into which two generations were put in the middle of its stream."""
    folder = tmp_path_factory.mktemp("lived")
    live = open_generation(settings(data=str(folder), **FLAGS))
    memory = live.memory
    engine = Engine(Shuffled(PARTITIONS, seed=1), memory, NullObserver(), max_records=50, commit_interval_s=3600.0)
    steps = idle = 0
    while idle < 3:
        idle = 0 if engine.step(0.0) else idle + 1
        steps += 1
        if steps in (12, 24):
            engine.commit()
            name = "g1" if steps == 12 else "g2"
            where, found = generations.generation_folder(folder, name), turned(memory)
            where.mkdir(parents=True)
            manifest.write(
                where,
                manifest.Manifest(
                    generation=name,
                    parent="g0",
                    cut={},
                    events=0,
                    settings={},
                    trained={of: sorted(tables) for of, tables in found.tables.items()},
                    candidate="all",
                    churn={},
                ),
                found,
            )
            install_generation(memory, name, found)
            memory.ledger.add_note(note(WENT_LIVE, name))
    engine.commit()
    assert steps > 30
    live.close()
    return folder


def runs_of(folder: Path) -> list[Run]:
    live = open_generation(settings(data=str(folder), **FLAGS))
    found = journal(live.memory.store)
    live.close()
    return found


@pytest.mark.parametrize("max_records", [7, 2000])
def test_over_two_swaps_the_rebuilt_state_equals_the_live_one_byte_for_byte(
    live_state: Path, tmp_path: Path, max_records: int
) -> None:
    again = open_generation(settings(data=str(tmp_path / "again"), **FLAGS))
    rebuild(again.memory, Shuffled(PARTITIONS, seed=3), runs_of(live_state), live_state, max_records=max_records)
    again.close()
    assert digest(tmp_path / "again") == digest(live_state)


def test_without_the_tables_the_rebuilt_state_differs(live_state: Path, tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    plain = open_generation(settings(data=str(tmp_path / "plain"), **FLAGS))
    runs = [run for run in runs_of(live_state) if run.first >= 0]
    rebuild(plain.memory, Shuffled(PARTITIONS, seed=3), runs, live_state)
    plain.close()
    found, wanted = digest(tmp_path / "plain"), digest(live_state)
    assert found.offsets == wanted.offsets
    assert found.learners["biased-mf"] != wanted.learners["biased-mf"]
    assert found.learners["skip-gram"] == wanted.learners["skip-gram"]


def test_missing_records_and_files_are_reported(live_state: Path, tmp_path: Path) -> None:
    fewer = open_generation(settings(data=str(tmp_path / "fewer"), **FLAGS))
    with pytest.raises(BadGeneration, match="g1"):
        rebuild(fewer.memory, Shuffled(PARTITIONS, seed=3), runs_of(live_state), tmp_path)
    fewer.close()
    none = open_generation(settings(data=str(tmp_path / "none"), **FLAGS))
    with pytest.raises(SourceLost, match="no records after"):
        rebuild(none.memory, Shuffled([], seed=3), runs_of(live_state), live_state)
    none.close()
