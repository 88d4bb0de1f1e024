"""Pictures of a report: their numbers, their bytes, and that one page can contain two of them."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from streamer.core.protocols import Epoch
from streamer.study.report.figures import COLOURS, Pictures, dot_plot

NAMES, VALUES, INTERVALS = ["als", "bias"], [0.87, 0.88], [(0.86, 0.88), (0.87, 0.89)]


def texts(svg: str) -> list[str]:
    return ["".join(found.itertext()) for found in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_dot_plot_shows_values_in_digits_with_names() -> None:
    found = texts(dot_plot(NAMES, VALUES, INTERVALS, what="RMSE <of> $x$ & $y$", reference=("best", 0.865)))
    assert {"als", "bias", "0.8700", "0.8800", "RMSE <of> $x$ & $y$", "best"} <= set(found)


def test_the_same_numbers_give_the_same_bytes_and_ids_are_unique_to_a_picture() -> None:
    one, again, other = (dot_plot(NAMES, VALUES, INTERVALS, what="RMSE", name=name) for name in ("a", "a", "b"))
    assert one == again
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', one)) <= ids[0]
    assert "<style" not in one


def marks(svg: str, colour: int) -> list[tuple[float, float]]:
    """The positions of the markers of a series, from the left and from below."""
    fill = f"fill: var(--series-{colour}, {COLOURS[colour]})"
    uses = [use.attrib for use in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}use")]
    return [(float(use["x"]), -float(use["y"])) for use in uses if use.get("style", "").startswith(fill)]


def test_dots_are_at_their_values() -> None:
    svg = dot_plot(["a", "b", "c"], [0.2, 0.4, 0.8], [(0.1, 0.3), (0.3, 0.5), (0.7, 0.9)], what="x")
    (a,), (b,), (c,) = (marks(svg, colour) for colour in range(3))
    assert c[0] - b[0] == pytest.approx(2 * (b[0] - a[0]), rel=1e-4)
    assert a[1] > b[1] > c[1]


def test_errors_are_drawn_to_scale_and_a_model_keeps_its_colour() -> None:
    rmse, mean_error = {"als": np.array([1.0, 2.0, 4.0])}, {"als": np.array([1.0, 0.0, -2.0])}
    svg = Pictures(["bias", "als"]).by_class(
        ["1", "2", "3"], np.array([5, 6, 7]), rmse, mean_error, along="rating", name="x"
    )
    above, middle = np.array(marks(svg, 1)[:3]), np.array(marks(svg, 1)[3:6])  # then the legend's
    heights = np.diff(above[:, 1])
    assert heights[1] == pytest.approx(2 * heights[0], rel=1e-4)
    depths = np.diff(middle[:, 1])
    assert depths[1] == pytest.approx(2 * depths[0], rel=1e-4)
    assert depths[0] < 0 < heights[0]
    assert marks(svg, 0) == []


def test_the_epoch_that_was_kept_is_marked_on_the_validation_curve() -> None:
    curve = [Epoch(1, 3, 3.0, 4.0), Epoch(2, 3, 2.0, 3.0), Epoch(3, 3, 1.0, 3.5)]
    pictures = Pictures(["als", "bias"])
    kept = [marks(pictures.curves({"als": curve}, {"als": n}, what="error", name="x"), 0)[-1] for n in (1, 2, 3)]
    assert kept[0][0] < kept[1][0] < kept[2][0]
    assert kept[0][1] > kept[2][1] > kept[1][1]


def test_an_upset_plot_shows_the_sizes_of_sets_and_of_intersections() -> None:
    parts = [((True, True), 1234), ((False, True), 321), ((True, False), 12)]
    svg = Pictures(["als"]).upset_plot(["rated highest", "als"], [1246, 1555], parts, name="x", what="items")
    assert {"rated highest (1,246)", "als (1,555)", "1.2k", "321", "12"} <= set(texts(svg))


def test_eight_models_can_be_distinguished_and_their_legend_fits() -> None:
    names = [f"a-rather-long-name-{n}" for n in range(8)]
    shares = {name: np.linspace(0, n / 8, 5) for n, name in enumerate(names)}
    svg = Pictures(names).shares(list("12345"), np.full(5, 0.2), shares, along="rating")
    assert set(names) <= set(texts(svg))
    assert all(len(marks(svg, colour)) >= 5 for colour in range(8))
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    places = [float(one.attrib.get("x", "0")) for one in found if (one.text or "").startswith("a-rather")]
    assert len(places) == 8
    assert max(places) + 6 * len(names[0]) < 360


def test_without_matplotlib_one_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['matplotlib'] = None\nimport streamer.study.report.figures"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.splitlines()[-1] == (
        "streamer.core.errors.MissingExtra: pictures need matplotlib, which is not installed: "
        "pip install 'streamer-recs[offline]', or make setup"
    )
