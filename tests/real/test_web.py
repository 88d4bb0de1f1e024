"""The status page in a real browser."""

import re
from pathlib import Path

import httpx
import msgspec
import pytest
from browser import Seen, browser
from playwright.sync_api import Browser, expect

from streamer import web
from streamer.api.memory import MemoryAnswers
from streamer.api.thread import serving
from streamer.core.answers import Generation, Generations, LearnerStatus, RollingRmse, Score, Status
from streamer.core.events import Click, ItemUpdate, Rating, message
from streamer.core.settings import SecuritySettings, ServerSettings

__all__ = ["browser"]
WAIT_MS = 20_000


@pytest.fixture
def answers() -> MemoryAnswers:
    memory = MemoryAnswers()
    memory.publish([message(ItemUpdate("heat", "Heat (1995) <b>&</b>")), message(Rating("u1", "heat", 4.0))])
    memory.publish([message(Click("u1", "alien"))])
    return memory


def test_the_page_shows_learned_events_and_recommends_for_a_user(browser: Browser, answers: MemoryAnswers) -> None:
    with serving(answers, ServerSettings(port=0), SecuritySettings()) as url:
        page = browser.new_page()
        seen = Seen(page, url)
        page.goto(url)
        expect(page.locator("#state")).to_have_text("learning", timeout=WAIT_MS)
        expect(page.locator("#tiles")).to_contain_text("3events learned")
        expect(page.locator("#learners")).to_contain_text("biased-mf")
        expect(page.locator("#learners")).to_contain_text("0.9000")
        expect(page.locator("#events")).to_contain_text("ratings")
        expect(page.locator("#lag")).to_contain_text("log")
        expect(page.locator("#dead")).to_contain_text("none")
        expect(page.locator("#warning")).to_be_hidden()
        page.fill("#user", "nobody <i>")
        page.click("button")
        expect(page.locator("#items li")).to_have_count(2, timeout=WAIT_MS)
        expect(page.locator("#items li").first).to_contain_text("Heat (1995) <b>&</b>")
        expect(page.locator("#items li").first).to_contain_text("popularity")
        expect(page.locator("#answer")).to_have_text("For user nobody <i>:")
        answers.publish([message(Click("u2", "brazil"))] * 4)
        expect(page.locator("#tiles")).to_contain_text("7events learned", timeout=WAIT_MS)
        expect(page.locator("#chart polyline")).to_have_count(1, timeout=WAIT_MS)
        assert seen.complaints == []
        page.close()


def test_the_page_warns_when_events_do_not_arrive_and_when_the_server_is_gone(
    browser: Browser, answers: MemoryAnswers
) -> None:
    page = browser.new_page()
    with serving(answers, ServerSettings(port=0), SecuritySettings()) as url:
        page.goto(url)
        expect(page.locator("#state")).to_have_text("learning", timeout=WAIT_MS)
        answers.ingestion = "Kafka at localhost:9092 does not answer."
        expect(page.locator("#warning")).to_contain_text("Kafka at localhost:9092 does not answer.", timeout=WAIT_MS)
        answers.ingestion = "ok"
        expect(page.locator("#warning")).to_be_hidden(timeout=WAIT_MS)
    expect(page.locator("#warning")).to_contain_text("does not answer", timeout=WAIT_MS)
    page.close()


class Crowded(MemoryAnswers):
    """As many ratings learners as with `--shadow stack,biased-mf`."""

    def status(self) -> Status:
        """See Answers."""
        learners = tuple(
            LearnerStatus(f"learner-{n}", "ratings", n == 0, (RollingRmse(1000, 0.8 + n / 100),)) for n in range(7)
        )
        return msgspec.structs.replace(super().status(), learners=learners)


def test_each_of_seven_learners_has_a_colour_of_its_own(browser: Browser) -> None:
    with serving(Crowded(), ServerSettings(port=0), SecuritySettings()) as url:
        page = browser.new_page()
        page.goto(url)
        expect(page.locator("#chart polyline")).to_have_count(7, timeout=WAIT_MS)
        curves = page.locator("#chart polyline").evaluate_all("all => all.map(one => getComputedStyle(one).stroke)")
        dots = page.locator("#learners .dot").evaluate_all(
            "all => all.map(one => getComputedStyle(one).backgroundColor)"
        )
        assert curves == dots
        assert len(set(curves)) == 7
        page.close()


class Renormalised(MemoryAnswers):
    """A live generation, a rejected one, and one being trained."""

    now = "g3: train 43%"

    def status(self) -> Status:
        """See Answers."""
        return msgspec.structs.replace(super().status(), generation="g1", renormalisation=self.now)

    def generations(self) -> Generations:
        """See Answers."""
        gate = (
            Score(learner="bias", ratings=9),
            Score(learner="biased-mf", ratings=2000, before_rmse=0.9, after_rmse=0.88),
        )
        watched = (Score(learner="biased-mf", ratings=3456, before_rmse=0.91, after_rmse=0.87),)
        worse = (Score(learner="biased-mf", ratings=2500, before_rmse=0.85, after_rmse=0.95),)
        made = (
            Generation(id="g0", stage="kept", why="g1 answers", cut_ms=1),
            Generation(
                id="g1",
                parent="g0",
                live=True,
                stage="live",
                trigger="schedule",
                cut_events=52125,
                scores=gate,
                watched=watched,
            ),
            Generation(
                id="g2",
                parent="g1",
                stage="rejected",
                trigger="drift",
                why="worse: <b>",
                cut_events=60000,
                scores=worse,
            ),
            Generation(id="g3", parent="g1", stage="cut", trigger="by hand", cut_events=70000),
        )
        return Generations(made if self.now else made[:3], self.now)


def test_the_page_lists_generations_with_their_scores_and_what_is_running(browser: Browser) -> None:
    answers = Renormalised()
    with serving(answers, ServerSettings(port=0), SecuritySettings()) as url:
        page = browser.new_page()
        seen = Seen(page, url)
        page.goto(url)
        rows = page.locator("#generations tr")
        expect(rows).to_have_count(4, timeout=WAIT_MS)
        expect(page.locator("#now")).to_have_text("g3: train 43%")
        expect(rows.nth(0)).to_contain_text("g3cutby hand")
        for said in ("g2rejecteddrift", "60,0000.85000.95002,500worse: <b>"):
            expect(rows.nth(1)).to_contain_text(said)
        for said in ("g1liveschedule", "52,1250.91000.87003,456"):
            expect(rows.nth(2)).to_contain_text(said)
        expect(rows.nth(3)).to_have_text("g0kept––––––g1 answers")
        answers.now = ""
        expect(page.locator("#now")).to_have_text("no retraining is running", timeout=WAIT_MS)
        expect(rows).to_have_count(3, timeout=WAIT_MS)
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert seen.complaints == []
        page.close()


def test_the_page_says_so_before_the_first_retraining(browser: Browser, answers: MemoryAnswers) -> None:
    with serving(answers, ServerSettings(port=0), SecuritySettings()) as url:
        page = browser.new_page()
        page.goto(url)
        expect(page.locator("#generations")).to_have_text(
            "g0 is live. It has learned online only: there was no retraining yet.", timeout=WAIT_MS
        )
        assert answers.requests["streamer.v1.AdminService/ListGenerations", "ok"] == 1
        expect(page.locator("#now")).to_have_text("no retraining is running")
        answers.publish([message(Click("u2", "brazil"))])
        expect(page.locator("#tiles")).to_contain_text("4events learned", timeout=WAIT_MS)
        assert answers.requests["streamer.v1.AdminService/ListGenerations", "ok"] == 1, (
            "unchanged generations are not requested again"
        )
        page.close()


def test_the_page_fits_a_phone(browser: Browser, answers: MemoryAnswers) -> None:
    with serving(answers, ServerSettings(port=0), SecuritySettings()) as url:
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.goto(url)
        expect(page.locator("#learners tr")).to_have_count(2, timeout=WAIT_MS)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.close()


def test_a_browser_gives_the_token_as_its_password(browser: Browser, answers: MemoryAnswers, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("correct-horse")
    security = SecuritySettings(token_file=str(tmp_path / "token"))
    with serving(answers, ServerSettings(port=0), security) as url:
        context = browser.new_context(http_credentials={"username": "any", "password": "correct-horse"})
        page = context.new_page()
        page.goto(url)
        expect(page.locator("#state")).to_have_text("learning", timeout=WAIT_MS)
        context.close()


def test_the_page_contacts_no_other_server_and_runs_no_other_script(answers: MemoryAnswers) -> None:
    text = web.PAGE.decode()
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert not re.findall(r"<[^>]+\son\w+=", text)
    with serving(answers, ServerSettings(port=0), SecuritySettings()) as url:
        answer = httpx.get(url)
        policy = answer.headers["content-security-policy"]
        assert httpx.head(url).content == b""
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
