"""The list of mutants fits the source: when a line is rewritten, its mutant must be rewritten as well."""

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


@pytest.mark.parametrize("mutant", LISTED, ids=lambda mutant: f"{mutant.number} {mutant.area}")
def test_each_breaks_one_line_that_is_there_once(mutant: Mutant) -> None:
    before = (ROOT / mutant.file).read_text(encoding="utf-8").splitlines()
    after = mutant.applied("\n".join(before)).splitlines()
    assert len(after) == len(before)
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize("mutant", LISTED, ids=lambda mutant: f"{mutant.number} {mutant.area}")
def test_the_tests_that_must_catch_it_are_there(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("[")[0].partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")


def test_a_line_that_is_not_there_or_there_twice_is_said() -> None:
    mutant = Mutant(7, "gate", "gate.py", "a = 1", "a = 2", "a is two", ("tests/test_gate.py",))
    assert mutant.applied("a = 1\nb = 1\n") == "a = 2\nb = 1\n"
    for text, times in (("b = 1\n", 0), ("a = 1\na = 1\n", 2)):
        with pytest.raises(Stale, match=f"mutant 7 .* once in gate.py, and it is there {times} times"):
            mutant.applied(text)
