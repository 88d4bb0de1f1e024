"""Fixtures that several files use, and what every test is told: what it needs, and with which others it runs."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import broker, fresh_broker, own_broker
from needs import needs, shared_fixtures

__all__ = ["broker", "fresh_broker", "own_broker"]

OF_LIBRARIES = ("uname", "ldconfig", "gcc", "ld")  # what they ask the machine once, when they are imported

started: list[str] = []  # the processes of the running test


def _notice(event: str, arguments: tuple[object, ...]) -> None:
    if event == "subprocess.Popen" and Path(str(arguments[0])).name not in OF_LIBRARIES:
        started.append(str(arguments[1]))


sys.addaudithook(_notice)


@pytest.fixture(autouse=True)
def _processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that starts a process, a browser or a broker is marked so: `make test-fast` leaves it out."""
    yield
    marked = any(request.node.get_closest_marker(marker) for marker in ("process", "browser", "kafka"))
    found = list(started)
    started.clear()
    assert marked or not found, f"mark this test with @pytest.mark.process: it starts {found[0]}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what each test needs; on one worker keep together what shares something made once; the longest begin first."""
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        for marker in sorted(needs(item)):
            item.add_marker(marker)
        if "broker" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("broker"))
        elif "browser" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("browser"))
        elif shared_fixtures(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("process") is None)


@pytest.fixture(scope="session")
def movielens() -> Path:
    """The folder of ml-latest-small; without it a test is skipped, and fails where CI says that it must be there."""
    folder = Path(os.environ.get("STREAMER_TEST_DATA", "no STREAMER_TEST_DATA"))
    if not folder.is_dir():
        reason = f"no ml-latest-small: {folder} is not a folder; set STREAMER_TEST_DATA to one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own checker; without it a test is skipped, and fails where CI says that it must be there."""
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no promtool: install Debian's package prometheus, which `make setup` does as root")
        pytest.skip("no promtool: install Debian's package prometheus")
    return found
