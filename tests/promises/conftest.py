"""Fixtures of the tests of promises."""

import shutil
from pathlib import Path

import pytest
from learning import learn
from recovering import RECORDS, publish

from streamer.storage.log import EmbeddedLog


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as a kill leaves it: offsets 0 to 199 in a table, 200 to 399 in the write-ahead log, all learned."""
    folder = tmp_path_factory.mktemp("killed")
    log = EmbeddedLog(folder / "running")
    publish(log, RECORDS[:200])
    log.close()
    log = EmbeddedLog(folder / "running")
    publish(log, RECORDS[200:])
    shutil.copytree(folder / "running", folder / "data")
    log.close()
    learn(folder / "data", RECORDS)
    return folder / "data"
