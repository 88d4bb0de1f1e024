"""Pictures: their numbers, their bytes, and that two of them can stand in one page."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from streamer.report.figures import compared

NAMES, VALUES, INTERVALS = ["als", "bias"], [0.87, 0.88], [(0.86, 0.88), (0.87, 0.89)]


def texts(svg: str) -> list[str]:
    return ["".join(found.itertext()) for found in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_models_are_compared_in_digits_under_their_names() -> None:
    found = texts(compared(NAMES, VALUES, INTERVALS, what="RMSE <of> $x$ & $y$", reference=("best", 0.865)))
    assert {"als", "bias", "0.8700", "0.8800", "RMSE <of> $x$ & $y$", "best"} <= set(found)


def test_the_same_numbers_are_the_same_bytes_and_ids_are_the_pictures_own() -> None:
    one, again, other = (compared(NAMES, VALUES, INTERVALS, what="RMSE", name=name) for name in ("a", "a", "b"))
    assert one == again
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', one)) <= ids[0]
    assert "<style" not in one


def test_without_matplotlib_one_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['matplotlib'] = None\nimport streamer.report.figures"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.splitlines()[-1] == (
        "streamer.errors.MissingExtra: pictures need matplotlib, which is not installed: "
        "pip install 'streamer-recs[offline]', or make setup"
    )
