"""The list of mutants fits the source: when a line is rewritten, its mutant must be rewritten as well."""

from functools import cache

import pytest

from tests.mutants.run import ROOT, Mutant, Stale, mutants

LISTED = mutants()
AREAS = {
    "encoder", "eviction", "dedupe", "ledger", "gate", "freshness", "click-blend", "hybrid", "forgetting", "log", "archive",
}  # fmt: skip


def test_there_are_forty_or_more_over_all_areas_of_the_core() -> None:
    assert len(LISTED) >= 40
    assert {mutant.area for mutant in LISTED} >= AREAS
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in LISTED}) == len(LISTED)


@cache
def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def test_each_breaks_one_line_that_is_there_once() -> None:
    wrong = []
    for mutant in LISTED:
        before = read(mutant.file).splitlines()
        try:
            after = mutant.applied("\n".join(before)).splitlines()
        except Stale as stale:
            wrong.append(str(stale))
            continue
        if len(after) != len(before) or sum(map(str.__ne__, before, after)) != 1:
            wrong.append(f"mutant {mutant.number} ({mutant.area}) does not change one line of {mutant.file}")
    assert not wrong


def test_the_tests_that_must_catch_it_are_there() -> None:
    missing = []
    for mutant in LISTED:
        assert mutant.tests, f"mutant {mutant.number} ({mutant.area}) names no test"
        for test in mutant.tests:
            file, _, name = test.partition("[")[0].partition("::")
            if f"def {name}" not in read(file):
                missing.append(f"mutant {mutant.number} ({mutant.area}): {test}")
    assert not missing


def test_a_line_that_is_not_there_or_there_twice_is_said() -> None:
    mutant = Mutant(7, "gate", "gate.py", "a = 1", "a = 2", "a is two", ("tests/test_gate.py",))
    assert mutant.applied("a = 1\nb = 1\n") == "a = 2\nb = 1\n"
    for text, times in (("b = 1\n", 0), ("a = 1\na = 1\n", 2)):
        with pytest.raises(Stale, match=f"mutant 7 .* once in gate.py, and it is there {times} times"):
            mutant.applied(text)
