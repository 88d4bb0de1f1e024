"""Promotion: another learner becomes champion at once, and still is after the process is killed."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from commands import run
from learning import learn, records, settings
from process import Streamer, streamer

from streamer.api import METHODS
from streamer.api.memory import MemoryAnswers
from streamer.api.thread import serving
from streamer.app import App
from streamer.core.events import Event, ItemUpdate, Rating, UserUpdate
from streamer.core.settings import SecuritySettings, ServerSettings
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULARITY, Recommender
from streamer.storage import generations
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory

PROMOTE = "/streamer.v1.AdminService/Promote"
CSV = "user,item,rating,timestamp\n" + "".join(
    f"u{n % 9},i{n % 23},{1 + n % 5},{1_600_000_000 + n}\n" for n in range(1000)
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A state of 1,000 ratings with bias and popularity as shadows."""
    (tmp_path / "ratings.csv").write_text(CSV)
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", tmp_path / "ratings.csv", "--until-drained",
        "--shadow", "bias, popularity")  # fmt: skip
    return tmp_path / "d"


def rated_by(process: Streamer) -> str:
    """The learner that predicts ratings."""
    return str(process.call("RecommendationService/Predict", userId="u1", itemId="i1")["source"])


def answering(process: Streamer) -> dict[str, bool]:
    """Each champion, and whether it was promoted."""
    learners = process.call("AdminService/GetStatus")["learners"]
    assert isinstance(learners, list)
    return {one["name"]: one.get("promoted", False) for one in learners if one.get("champion")}


def champions(process: Streamer) -> set[str]:
    """The champions according to the metrics."""
    prefix = "streamer_champion{"
    return {
        name.split('learner="')[1].rstrip('"}')
        for name, value in process.metrics().items()
        if name.startswith(prefix) and value == 1
    }


def test_a_promoted_learner_answers_at_once_and_after_a_kill(data: Path) -> None:
    shadows = ("--shadow", "bias,popularity,biased-mf")
    with streamer(data, *shadows) as process:
        assert rated_by(process) == "bayesian-hybrid"
        said = run("promote", "learner", "bias", "--url", process.url)
        assert said.startswith("bias answers for ratings from now on\n")
        assert rated_by(process) == "bias"
        process.kill()
    with streamer(data, *shadows) as process:
        assert rated_by(process) == "bias"
        assert answering(process) == {"bias": True, "click-blend": False}
        assert champions(process) == {"bias", "click-blend"}
        assert "the champion for ratings is bias, which was promoted; the settings name bayesian-hybrid" in (
            process.output.read_text()
        )
    with streamer(data) as process:  # named no more, but promoted: it runs on; biased-mf is gone
        assert rated_by(process) == "bias"
        assert "biased-mf is no longer in the settings: what it had learned is deleted" in process.output.read_text()
        answer = json.loads(run("promote", "learner", "bayesian-hybrid", "--url", process.url, "--json"))
        assert {one["name"] for one in answer["learners"] if one["champion"]} == {"bayesian-hybrid", "click-blend"}
        assert rated_by(process) == "bayesian-hybrid"
        process.kill()
    with streamer(data, *shadows) as process:
        assert answering(process) == {"bayesian-hybrid": False, "click-blend": False}
        assert "biased-mf begins now" in process.output.read_text()


def test_commands_on_a_state_answer_with_the_promoted_learner(data: Path) -> None:
    with streamer(data, "--shadow", "bias,popularity") as process:
        run("promote", "learner", "popularity", "--url", process.url)
        event = {"click": {"userId": "u1", "itemId": "i1"}}
        process.call("EventService/Publish", events=[event, {"click": {"userId": "u2", "itemId": "new"}}])
        process.stop()
    assert "popularity answers for clicks: promoted, where the settings name click-blend" in run(
        "inspect", "stats", "--data", data
    )
    answer = json.loads(run("recommend", "u1", "--data", data, "--json"))
    assert {item["source"] for item in answer["items"]} == {"popularity"}


def test_a_promotion_does_not_change_what_is_learned(data: Path) -> None:
    def digest() -> str:
        return run("inspect", "--digest", "--data", data).splitlines()[-1]

    before = digest()
    with streamer(data, "--shadow", "bias,popularity") as process:
        run("promote", "learner", "bias", "--url", process.url)
    assert digest() == before


def test_a_promoted_learner_stays_champion_when_the_settings_name_another(tmp_path: Path) -> None:
    clicks = ("--click-learner", "skip-gram")  # no expert of it is the champion for ratings
    with streamer(tmp_path / "d", "--shadow", "bias,bayesian-hybrid", *clicks) as process:
        run("promote", "learner", "bias", "--url", process.url)
    with streamer(tmp_path / "d", "--rating-learner", "biased-mf", "--shadow", "bayesian-hybrid", *clicks) as process:
        assert rated_by(process).startswith("bias ")
        assert "which was promoted; the settings name biased-mf" in process.output.read_text()
        run("promote", "learner", "biased-mf", "--url", process.url)
        assert rated_by(process).startswith("biased-mf ")


def test_promotion_does_not_replace_an_expert_of_a_running_learner(data: Path) -> None:
    said = run("serve", "--data", str(data), "--port", "0", "--rating-learner", "bias", code=78)
    assert 'was made with experts click-blend ratings "bayesian-hybrid", the settings say "bias"' in said
    assert 'use "bayesian-hybrid", add --shadow bias and promote it' in said


def test_a_learner_that_does_not_run_is_not_promoted(data: Path) -> None:
    with streamer(data, "--shadow", "bias,popularity") as process:
        said = run("promote", "learner", "stack", "--url", process.url, code=1)
        assert (
            "no learner 'stack' runs here, only bayesian-hybrid, transitions, "
            "neighbours, skip-gram, popularity-now, popularity-recent, popularity, repeats, click-blend, bias" in said
        )
        assert "start with --shadow stack" in said
        assert rated_by(process) == "bayesian-hybrid"


def test_a_champion_without_beliefs_uses_its_expert_that_has_them(tmp_path: Path) -> None:
    chosen = settings(rating_learner="stack", shadow="biased-mf")
    catalogue: list[Event | bytes] = [
        ItemUpdate(f"{genre}{n}", genre, (genre,)) for genre in ("Drama", "Comedy") for n in range(5)
    ]
    ratings = [
        Rating(f"u{n % 20}", item.item_id, 5.0 if (n % 20 < 10) == (item.title == "Drama") else 1.0)
        for n, item in enumerate(3 * 5 * [one for one in catalogue if isinstance(one, ItemUpdate)])
    ]
    said = UserUpdate("ann", preferences={"Drama": 5.0, "Comedy": 1.0})
    learn(tmp_path, records([*catalogue, *ratings, said]), rating_learner="stack", shadow="biased-mf")
    store = RocksStore(tmp_path)
    try:
        memory = Memory(learners(chosen), chosen, store)
        recommender = Recommender(memory, memory.learners.by_name[POPULARITY])
        preferred = recommender.recommend_for_preferences({"Drama": 5.0, "Comedy": 1.0}, {}, 5)
        assert {(one.title, one.source) for one in preferred} == {("Drama", "bayesian-hybrid")}
        assert {(one.title, one.source) for one in recommender.recommend("ann", 5)} == {("Drama", "stack")}
        memory.promote("biased-mf")
        assert {one.source for one in recommender.recommend("ann", 5)} == {"popular"}  # it cannot be told
    finally:
        store.close()


# The endpoint.


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with (
        serving(MemoryAnswers(), ServerSettings(port=0), SecuritySettings()) as url,
        httpx.Client(base_url=url, timeout=20) as made,
    ):
        yield made


def test_promote_answers_with_all_learners(client: httpx.Client) -> None:
    learners = client.post(PROMOTE, json={"learner": "skip-gram"}).json()["learners"]
    assert [(one["name"], one.get("promoted", False)) for one in learners] == [
        ("biased-mf", False),
        ("skip-gram", True),
    ]


@pytest.mark.parametrize(
    ("request_", "code", "sentence"),
    [
        ({}, "invalid_argument", "say what to promote"),
        ({"learner": ""}, "invalid_argument", "say what to promote"),
        ({"learner": "magic"}, "failed_precondition", "--shadow magic"),
        ({"generationId": "g1"}, "failed_precondition", "no generation 'g1'; there are: g0"),
        ({"learner": "bias", "generationId": "g1"}, "invalid_argument", "leave one out"),
    ],
)
def test_promote_says_why_a_learner_cannot_be_promoted(
    client: httpx.Client, request_: dict[str, str], code: str, sentence: str
) -> None:
    answer = client.post(PROMOTE, json=request_).json()
    assert answer["code"] == code
    assert sentence in answer["message"]


def test_beyond_loopback_promotion_requires_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    open_to_all = ServerSettings(port=0, host="0.0.0.0")
    with serving(MemoryAnswers(), open_to_all, SecuritySettings(insecure=True)) as url:
        local = url.replace("0.0.0.0", "127.0.0.1")
        refused = httpx.post(local + PROMOTE, json={"learner": "skip-gram"})
        assert refused.status_code == 403
        assert "--token-file" in refused.json()["message"]
        asked = {method: httpx.post(f"{local}/{method}", json={}) for method in METHODS if "AdminService" in method}
        reads = [method.rpartition("/")[2] for method, answer in asked.items() if answer.status_code == 200]
        assert reads == ["GetStatus", "ListGenerations"], "what the page shows; the others change something"
    with serving(MemoryAnswers(), open_to_all, SecuritySettings(token_file=str(tmp_path / "token"))) as url:
        local = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(local + PROMOTE, json={"learner": "skip-gram"}).status_code == 401
        bearer = {"authorization": "Bearer secret"}
        assert httpx.post(local + PROMOTE, json={"learner": "skip-gram"}, headers=bearer).status_code == 200


def test_a_promoted_learner_runs_in_other_generations_too_even_if_the_settings_name_another_now(tmp_path: Path) -> None:
    """A generation kept from before the promotion is opened with the promoted learner, so that it can still be rolled back to."""
    app = App(settings(data=str(tmp_path), shadow=("bias",)))
    kept = generations.generation_folder(tmp_path, "g1") / "state"
    kept.parent.mkdir(parents=True)
    app.memory.store.checkpoint(kept)
    trained = RocksStore(tmp_path, generation="g1")
    trained.commit([trained.become("g1")], {})
    trained.close()
    app.memory.promote("bias")
    app.close()
    app = App(settings(data=str(tmp_path)))
    other = app.open("g1")
    try:
        assert {"bias", "bayesian-hybrid"} <= other.memory.learners.by_name.keys()
    finally:
        other.close()
        app.close()
