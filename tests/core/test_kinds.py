"""Which clicks are learned, and with what weight."""

import pytest

from streamer.core.kinds import UNKNOWN_CODE, Kinds
from streamer.core.settings import LearningSettings

DEFAULT, STRICT = LearningSettings(), LearningSettings(unknown_kinds="reject")
OWN = {"wink": 3.0, "Big_Buy": 5.0, "bigbuy": 6.0}
WEIGHTS: list[tuple[LearningSettings, str, float | None]] = [
    *((DEFAULT, kind, weight) for kind, weight in (
        ("view", 0.2), ("click", 1.0), ("cart", 2.0), ("purchase", 4.0), ("dislike", -1.0),
        ("addtocart", 2.0), ("add_to_cart", 2.0), ("Add to cart", 2.0), ("transaction", 4.0), ("like", 2.0), ("skip", -0.2),
        ("VIEW", 0.2), ("Purchase", 4.0), ("wink", 1.0), ("", 1.0), ("w" * 9000, 1.0),
    )),
    *((STRICT, kind, weight) for kind, weight in (
        ("Purchase", 4.0), ("add-to-cart", 2.0), ("transaction", 4.0), ("wink", None), ("", None),
    )),
    *((LearningSettings(kinds=OWN), kind, weight) for kind, weight in (
        ("wink", 3.0), ("WINK", 3.0), ("Big_Buy", 5.0), ("bigbuy", 6.0), ("BIGBUY", 5.0), ("dislike", -1.0), ("purchase", 4.0), ("nod", 1.0),
    )),
    *((LearningSettings(kinds=OWN, unknown_kinds="reject"), kind, weight) for kind, weight in (
        ("Wink", 3.0), ("purchase", None), ("transaction", None),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "kind", "weight"), WEIGHTS)
def test_a_kind_has_its_weight_however_it_is_spelled(
    settings: LearningSettings, kind: str, weight: float | None
) -> None:
    kinds = Kinds(settings)
    assert kinds.weights[kind] == kinds.weights[kind] == weight


def test_codes_in_histories_are_those_of_older_states_and_say_which_kind_it_was() -> None:
    """What is in histories is part of the state: codes must never change."""
    kinds = Kinds(DEFAULT)
    codes = {"cart": 1, "click": 2, "dislike": 3, "purchase": 4, "view": 5, "Purchase": 4}
    codes |= {"addtocart": 65536, "transaction": 65537, "like": 65538, "skip": 65539, "wink": UNKNOWN_CODE}
    assert {kind: kinds.codes[kind] for kind in codes} == codes
    assert [kinds.named(code) for code in (1, 5, 65538, UNKNOWN_CODE, 4711)] == [
        "cart",
        "view",
        "like",
        "other",
        "other",
    ]
    assert Kinds(LearningSettings(kinds={"wink": 1.0})).codes["dislike"] == 65544


def test_producers_cannot_fill_the_memory_with_spellings() -> None:
    weights = Kinds(DEFAULT).weights
    assert {weights[f"k{n}"] for n in range(5000)} == {1.0}
    assert len(weights) == 1000
