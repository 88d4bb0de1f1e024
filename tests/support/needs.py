"""What a test needs beyond this process, read from its code, so that nobody has to mark it by hand.

A test needs a broker or a browser when it asks for that fixture. It needs a process when its code names `subprocess`,
or calls a function or asks for a fixture of the tests that does. Product code that starts one is not seen; the hook in
conftest.py says so when it happens, and then the test is marked by hand: `@pytest.mark.process`.
"""

import inspect
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

TESTS = str(Path(__file__).parents[1])
KAFKA = {"broker", "own_broker"}
_SEEN: dict[FunctionType, bool] = {}


def needs(item: pytest.Function) -> set[str]:
    """The markers of a test: of kafka, browser and process those that hold."""
    found = set()
    if KAFKA & set(item.fixturenames):
        found.add("kafka")
    if "browser" in item.fixturenames:
        found.add("browser")
    if any(_starts_a_process(function) for function in (item.function, *_fixtures(item))):
        found.add("process")
    return found


def shared_fixtures(item: pytest.Function) -> bool:
    """Whether it asks for a fixture that its module makes once for several tests."""
    module = item.nodeid.partition("::")[0]
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(last.scope != "function" and last.baseid == module for *_, last in definitions)


def _fixtures(item: pytest.Function) -> Iterator[Callable[..., Any]]:
    for *_, last in item._fixtureinfo.name2fixturedefs.values():
        yield last.func


def _starts_a_process(found: object) -> bool:
    """Whether the code of a function or class of the tests, or what it calls there, names `subprocess`."""
    if found is subprocess:
        return True
    if inspect.isclass(found):
        return any(_starts_a_process(part) for part in vars(found).values() if callable(part))
    function = inspect.unwrap(found) if callable(found) else None
    if not isinstance(function, FunctionType) or not _of_the_tests(function):
        return False
    if function not in _SEEN:
        _SEEN[function] = False  # until it is known: functions may call one another
        scope = function.__globals__
        _SEEN[function] = any(_starts_a_process(scope.get(name)) for name in _names(function.__code__))
    return _SEEN[function]


def _of_the_tests(function: FunctionType) -> bool:
    return function.__code__.co_filename.startswith(TESTS)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
