"""`streamer report` on a small world with hostile names: one file, in a real browser, on a desktop, a phone and paper."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from browser import Seen, browser
from click.testing import CliRunner
from playwright.sync_api import Browser, Page

from streamer.cli import group
from streamer.cli.report import Written
from streamer.core.errors import BadSettings
from streamer.core.events import ItemUpdate, Rating, message

__all__ = ["browser"]
TITLE = "<script>document.title = 'owned'</script> {{ 7 * 7 }} $x$ & \"Heat\""
CATEGORY, USER = "<i>Drama</i>", "u0 <img src=x onerror=alert(1)>"
MODELS = "als,bias,transitions,popularity"
SECTIONS = [
    "models", "diagnosis", "curves", "distributions", "by-value", "by-popularity", "coverage", "top-tens", "user",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users in two halves with opposite tastes; the first user hates ten items that all others love."""
    drawn = np.random.default_rng(5)
    events: list[ItemUpdate | Rating] = [
        ItemUpdate(f"i{n}", f"{TITLE} {n}", ("Comedy" if n % 2 else CATEGORY,), {"year": 1950.0 + n}) for n in range(70)
    ]
    for user in range(60):
        for k, item in enumerate(drawn.permutation(70)[:55].tolist()):
            taste = float((4 if (user + item) % 2 == 0 else 3) + drawn.integers(0, 2) / 2)
            value = taste if item >= 10 else 1.0 if user == 0 else 5.0
            user_id = USER if user == 0 else f"u{user}"
            events.append(Rating(user_id, f"i{item}", value, 1_700_000_000_000 + 1000 * (100 * k + user)))
    file = tmp_path_factory.mktemp("world") / "world <b>.jsonl"
    file.write_bytes(b"\n".join(message(event).value or b"" for event in events))
    return file


def report(world: Path, file: Path, *options: str) -> Written:
    said = CliRunner().invoke(
        group, ["report", str(world), "--output", str(file), "--test-share", "0.4", "--json", *options]
    )
    if said.exception is not None and not isinstance(said.exception, SystemExit):
        raise said.exception
    assert said.exit_code == 0, said.output
    return msgspec.json.decode(said.stdout, type=Written)


@pytest.fixture(scope="module")
def made(world: Path) -> Path:
    file = world.parent / "report.html"
    said = report(world, file, "--models", MODELS)
    assert list(said.models) == MODELS.split(",")
    assert said.bytes == len(file.read_bytes())
    return file


def opened(browser: Browser, file: Path, width: int, scheme: str = "light") -> tuple[Page, Seen]:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    seen = Seen(page, file.as_uri())
    page.goto(file.as_uri())
    return page, seen


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_report_opens_without_errors_or_requests_and_fits_the_screen(
    browser: Browser, made: Path, width: int, scheme: str
) -> None:
    page, seen = opened(browser, made, width, scheme)
    assert page.locator("section").evaluate_all("all => all.map(one => one.id)") == SECTIONS
    assert page.locator("figure > svg[role=img]").count() == 10
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shown = "all => all.every(one => one.getBoundingClientRect().right <= innerWidth)"
    assert page.locator("svg, figcaption, summary, article").evaluate_all(shown)
    ids = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    contrast = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light = [sum(map(int, colour[4:-1].split(","))) > 380 for colour in contrast]
    assert light == ([False, True] if scheme == "light" else [True, False])
    assert seen.complaints == []
    page.close()


def test_text_in_pictures_is_large_enough_on_a_phone(browser: Browser, made: Path) -> None:
    page, _ = opened(browser, made, 390)
    heights = page.locator("figure > svg text").evaluate_all(
        "all => all.map(one => parseFloat(getComputedStyle(one).fontSize) * one.ownerSVGElement.getBoundingClientRect().width / 360)"
    )
    assert len(heights) > 100
    assert min(heights) > 7
    assert np.median(heights) > 9
    page.close()


def test_the_printed_report_is_dark_on_white_with_whole_pictures(browser: Browser, made: Path) -> None:
    page, seen = opened(browser, made, 680, "dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(22, 33, 31)"
    for part in ("figure:has(svg)", "article"):
        breaks = page.locator(part).evaluate_all("all => all.map(one => getComputedStyle(one).breakInside)")
        assert set(breaks) == {"avoid"}
    assert not page.locator("nav").is_visible()
    assert page.pdf(prefer_css_page_size=True)[:5] == b"%PDF-"
    assert seen.complaints == []
    page.close()


def test_names_from_events_are_shown_as_text(browser: Browser, made: Path) -> None:
    page, seen = opened(browser, made, 1280)
    assert page.title() == "world <b>.jsonl: models of the field"
    assert page.locator("script, img, i").count() == 0
    assert page.locator("#user h2").inner_text() == f"One user: {USER}"
    assert TITLE in page.locator("#user").inner_text()
    assert CATEGORY in page.locator("#user").inner_text()
    assert seen.complaints == []
    page.close()


def test_the_user_who_hates_what_others_love_is_shown_with_those_others(browser: Browser, made: Path) -> None:
    page, _ = opened(browser, made, 1280)
    first = page.locator("#user article").first.inner_text()
    assert "the user gave it 1" in first
    assert "It would have been shown: it is in the top ten of" in first
    assert "others gave it 5.0 on average" in first
    assert "Most similar users" in page.locator("#user").inner_text()
    page.close()


def test_the_same_history_gives_the_same_bytes(world: Path, made: Path) -> None:
    again = world.parent / "again.html"
    report(world, again, "--models", MODELS)
    assert again.read_bytes() == made.read_bytes()


@pytest.mark.parametrize("split", ["temporal", "unseen-users"])
def test_other_splits_can_be_reported_too(world: Path, split: str) -> None:
    file = world.parent / f"{split}.html"
    assert report(world, file, "--models", "bias,popularity", "--split", split).user
    assert f"split {split}" in file.read_text()


def test_a_user_can_be_chosen(world: Path) -> None:
    file = world.parent / "u7.html"
    assert report(world, file, "--models", "bias", "--user", "u7").user == "u7"
    assert "the user you asked for" in file.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--models", "nothing"], "no model 'nothing'; choose from: bias, als"),
        (
            ["--models", "popularity"],
            "wanted at least one model of ratings, found only models of clicks .popularity.: add als",
        ),
        (["--models", "bias", "--user", "nobody"], "no user 'nobody' in the history"),
        (
            ["--models", "bias", "--user", "u7", "--split", "temporal", "--test-share", "0.005"],
            "user 'u7' has no rating in the test",
        ),
        (["--models", "bias", "--output", "nowhere/report.html"], "there is no folder"),
        (["--models", "bias", "--output", "."], "it is a folder"),
    ],
)
def test_an_impossible_report_is_refused_with_a_sentence(world: Path, options: list[str], said: str) -> None:
    with pytest.raises(BadSettings, match=said):
        report(world, world.parent / "refused.html", *options)


def test_without_torch_the_report_shows_the_other_models_and_says_so(world: Path) -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom streamer.cli import main\nmain(['report', *sys.argv[1:]])"
    file = world.parent / "light.html"
    done = subprocess.run(
        [sys.executable, "-c", code, str(world), "--output", str(file), "--json"], capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    said = msgspec.json.decode(done.stdout, type=Written)
    assert list(said.models) == ["als", "bias", "transitions", "popularity"]
    assert "the model stochastic-mf needs torch" in "".join(said.missing)
    assert "Left out: the model stochastic-mf needs torch" in file.read_text()


def test_without_jinja2_a_sentence_says_what_to_install(world: Path) -> None:
    code = "import sys; sys.modules['jinja2'] = None\nfrom streamer.cli import main\nmain(['report', sys.argv[1]])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(world)], capture_output=True, text=True, check=False, timeout=60,
        cwd=world.parent,
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stderr == (
        "streamer: a report needs jinja2, which is not installed: pip install 'streamer-recs[offline]', or make setup\n"
    )
