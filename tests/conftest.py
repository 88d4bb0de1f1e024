"""Fixtures that several files use, the markers of every test, and the order in which tests run."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import broker, fresh_broker, own_broker
from needs import needs, shared_fixtures

__all__ = ["broker", "fresh_broker", "own_broker"]

OF_LIBRARIES = ("uname", "ldconfig", "gcc", "ld")  # commands that libraries run once, when they are imported

started: list[str] = []  # the processes that the running test has started


def _notice(event: str, arguments: tuple[object, ...]) -> None:
    if event == "subprocess.Popen" and Path(str(arguments[0])).name not in OF_LIBRARIES:
        started.append(str(arguments[1]))


sys.addaudithook(_notice)


@pytest.fixture(autouse=True)
def _processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts a process but is not marked for it: `make test-fast` would not leave it out."""
    yield
    marked = any(request.node.get_closest_marker(marker) for marker in ("process", "browser", "kafka"))
    found = list(started)
    started.clear()
    assert marked or not found, f"mark this test with @pytest.mark.process: it starts {found[0]}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Stop where groups have no effect, as with pytest 9.2 and pytest-xdist 3.8: each worker would start a broker of its own."""
    grouped = node.config.getoption("dist") == "loadgroup" and any("/test_kafka_source.py" in one for one in ids)
    if grouped and not any(one.endswith("@broker") for one in ids):
        pytest.exit("tests that share a broker run on several workers: this pytest does not fit this pytest-xdist", 1)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with what it needs.

    Tests that share a broker, a browser or a module's fixture run on one worker. Those with the broker, which take longest and wait
    most, come first, and then those that start processes.
    """
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
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    return 0 if "broker" in getattr(item, "fixturenames", ()) else 1 if item.get_closest_marker("process") else 2


@pytest.fixture(scope="session")
def movielens() -> Path:
    """The folder of ml-latest-small; without it the test is skipped, or fails if CI=true."""
    folder = Path(os.environ.get("STREAMER_TEST_DATA", "no STREAMER_TEST_DATA"))
    if not folder.is_dir():
        reason = f"no ml-latest-small: {folder} is not a folder; set STREAMER_TEST_DATA to one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of Prometheus' own checker; without it the test is skipped, or fails if CI=true."""
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no promtool: install Debian's package prometheus, which `make setup` does as root")
        pytest.skip("no promtool: install Debian's package prometheus")
    return found
