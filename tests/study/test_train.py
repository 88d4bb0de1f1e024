"""`streamer train` as people use it: one model, several models, and bad options; it leaves no state."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import invoke, run
from learning import settings

from streamer.consumers.files import FileSource
from streamer.core.batch import CLICK, RATING
from streamer.study.training_data import read

SMALL = ("--users", "60", "--items", "30", "--events", "3000", "--days", "10")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    run("simulate", "world.jsonl", *SMALL, cwd=folder)
    return folder / "world.jsonl"


def test_one_model_is_shown_with_errors_and_diagnosis(world: Path, tmp_path: Path) -> None:
    found = json.loads(run("train", str(world), "--model", "als", "--seed", "3", "--json", cwd=tmp_path))
    assert (found["model"], found["split"], found["seed"]) == ("als", "random", 3)
    assert found["test_rmse"] ** 2 == pytest.approx(found["test_mse"])
    assert found["epochs"] == len(found["curve"])
    assert found["seconds"] > 0
    assert found["validation_mse"] == pytest.approx(min(loss for *_, loss in found["curve"]), rel=1e-5)
    total = found["train_events"] + found["validation_events"] + found["test_events"]
    assert found["test_events"] == round(0.2 * total)
    assert found["diagnosis"]["verdict"] in ("high bias", "high variance", "fine")
    assert found["diagnosis"]["test_mse"]["mean"] == pytest.approx(found["test_mse"])
    assert list(tmp_path.iterdir()) == []  # nothing is kept


def test_models_are_compared_with_bias_only(world: Path, tmp_path: Path) -> None:
    bias, als = (
        json.loads(run("train", str(world), "--model", name, "--json", cwd=tmp_path)) for name in ("bias", "als")
    )
    assert bias["test_mse"] == bias["bias_only_test_mse"] == als["bias_only_test_mse"]


def test_the_split_and_its_shares_are_options(world: Path, tmp_path: Path) -> None:
    flags = ("--split", "unseen-users", "--test-share", "0.3", "--validation-share", "0.2")
    found = json.loads(run("train", str(world), "--model", "bias", *flags, "--json", cwd=tmp_path))
    assert found["split"] == "unseen-users"
    assert found["diagnosis"]["users_never_seen"]["examples"] == found["test_events"]


def test_several_models_are_shown_in_one_table_and_one_picture(world: Path, tmp_path: Path) -> None:
    said = run("train", str(world), "--compare", "bias,als,stochastic-mf,transitions,popularity", cwd=tmp_path)
    assert [line.split()[0] for line in said.splitlines()[2:5]] != ["bias", "bias", "bias"]
    for name in ("bias", "als", "stochastic-mf", "transitions", "popularity"):
        assert name in said
    assert "well-known course" in said
    picture = (tmp_path / "comparison.svg").read_text()
    assert "stochastic-mf" in picture
    assert "popularity" in (tmp_path / "comparison-next-items.svg").read_text()


def test_an_unknown_model_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    failed = invoke("train", "nowhere.csv", "--compare", "als,nothing", code=78, cwd=tmp_path)
    assert "no model 'nothing'; choose one of: als, " in failed.stderr


@pytest.mark.parametrize("flags", [(), ("--model", "als", "--compare", "als,bias")])
def test_one_or_several_and_not_both(flags: tuple[str, ...], tmp_path: Path) -> None:
    failed = invoke("train", "x.csv", *flags, code=2, cwd=tmp_path)
    assert "--compare NAME,NAME,..., and not both" in failed.stderr


def test_if_torch_is_missing_the_error_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from streamer.models.offline import model\n"
        "from streamer.core.errors import BadSettings\n"
        "model('als', seed=1)\n"
        "try: model('stochastic-mf', seed=1)\n"
        "except BadSettings as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.startswith(
        "the model stochastic-mf needs torch, which is not installed: pip install 'streamer-recs[offline]'"
    )


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--compare", " , "), 2, "--compare names no model"),
        (("--model", "als,bias"), 78, "no model 'als,bias'"),
        (("--model", "bias", "--test-share", "nan"), 78, "wanted shares of test and validation part between 0 and 1"),
        (("--compare", "bias", "--picture", "nowhere/x.svg"), 78, "give another --picture"),
    ],
)
def test_bad_options_are_refused_with_a_sentence_before_anything_is_fitted(
    world: Path, tmp_path: Path, flags: tuple[str, ...], code: int, said: str
) -> None:
    failed = invoke("train", str(world), *flags, code=code, cwd=tmp_path)
    assert failed.stdout == ""
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr


def test_odd_files_are_compared_like_others(tmp_path: Path) -> None:
    (tmp_path / "alike.csv").write_text("userId,itemId,rating\n" + "".join(f"{n % 7},{n // 7},4\n" for n in range(70)))
    said = run("train", "alike.csv", "--compare", "bias,als", cwd=tmp_path)
    assert "fine" in said
    (tmp_path / "one.csv").write_text("userId,itemId,rating\n" + "".join(f"1,{n},{1 + n % 5}\n" for n in range(70)))
    said = run("train", "one.csv", "--compare", "bias,als", cwd=tmp_path)
    assert "nan" not in said


def test_events_left_out_of_a_file_are_counted_and_reported(tmp_path: Path) -> None:
    rows = [f"u{n % 7},i{n // 7},{1 + n % 5},{n}" for n in range(70)]
    rows[3:3] = ["u1,i1,abc,3", ",i2,3,3", "u1,i2,99e999,3"]
    (tmp_path / "odd.csv").write_text("user_id,item_id,rating,timestamp\n" + "\n".join(rows) + "\n")
    for asked in (("train", "odd.csv", "--model", "bias"), ("report", "odd.csv", "--models", "bias")):
        done = invoke(*asked, cwd=tmp_path)
        assert (
            "2 of 73 events cannot be used (not_json), such as line 5, 'u1,i1,abc,3': the rating 'abc' is no number"
            in done.stderr
        )
        assert "1 of 73 events cannot be used (bad_id), such as event 5, " in done.stderr
    (tmp_path / "one.csv").write_text("user_id,item_id,rating,timestamp\n,i1,3,3\n" + "\n".join(rows[8:]) + "\n")
    done = invoke("train", "one.csv", "--model", "bias", cwd=tmp_path)
    assert "1 of 66 events cannot be used (bad_id)" in done.stderr


def test_the_last_rating_of_a_pair_counts_once(tmp_path: Path) -> None:
    """u1 rates i1 three times, twice alike; u2 withdraws; u3 clicks twice within a second."""
    lines = [
        {"user_id": "u1", "item_id": "i1", "rating": rating, "timestamp_ms": 1000 * n}
        for n, rating in enumerate([5, 1, 1])
    ] + [{"user_id": "u2", "item_id": "i1", "rating": rating, "timestamp_ms": 5000} for rating in (4, None)]
    lines += [{"user_id": "u3", "item_id": "i1", "kind": "view", "timestamp_ms": 6000 + n} for n in (0, 900)]
    path = tmp_path / "anew.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = read(FileSource(path), settings(), lambda done, left: None)
    assert (found.data.values.tolist(), found.data.clicks.tolist()) == (
        [1.0, pytest.approx(0.2)],
        [0.0, pytest.approx(0.2)],
    )
    assert found.data.kinds.tolist() == [RATING, CLICK]
    assert found.left_out() == [
        "3 ratings left out: the same user rated the same item later, or withdrew the rating",
        "2 events left out: the same rating again, or a click again within seconds",
    ]


def test_models_without_enough_events_are_left_out_of_a_comparison(tmp_path: Path) -> None:
    clicks = [
        {"user_id": f"u{n % 9}", "item_id": f"i{7 * n % 23}", "kind": "click", "timestamp_ms": n} for n in range(90)
    ]
    (tmp_path / "clicks.jsonl").write_text("".join(json.dumps(one) + "\n" for one in clicks))
    chosen = ("train", "clicks.jsonl", "--compare", "als,transitions")
    done = invoke(*chosen, cwd=tmp_path)
    assert "als was left out: wanted at least 10 ratings" in done.stderr
    assert "transitions" in done.stdout
    chosen = ("train", "clicks.jsonl", "--compare", "als,bias")
    assert invoke(*chosen, code=78, cwd=tmp_path).stdout == ""


def test_a_category_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    item = {"topic": "items", "item_id": "0", "title": "T", "categories": ["[/red]", "[red]x[/red]"]}
    events = [
        {"topic": "ratings", "user_id": str(n % 9), "item_id": str(n // 9), "rating": 1 + n * n % 5} for n in range(200)
    ]
    for event in events:
        event["item_id"] = str(int(str(event["item_id"])) % 3)
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [item, *events]))
    said = run("train", "odd.jsonl", "--model", "bias", cwd=tmp_path)
    assert "[/red]" in said
    assert "[red]x[/red]" in said
