"""Forgetting: answers stop using the user at once, and a complete receipt means that no file has the user, even after kills."""

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import pytest
from commands import run
from learning import digest, learn, records
from process import DEADLINE_S, Streamer, streamer

from streamer.api.memory import MemoryAnswers
from streamer.api.thread import serving
from streamer.core.events import LOG, Click, Event, Rating, Record, UserUpdate
from streamer.core.settings import SecuritySettings, ServerSettings
from streamer.privacy.erasure import Erasure
from streamer.storage.log import EmbeddedLog
from streamer.storage.state import RocksStore
from streamer.stream.dedupe import Dedupe
from streamer.stream.removals import read_removal

FORGET = "/streamer.v1.AdminService/ForgetUser"
ZOE, SHE, HE = "zoe-who-is-to-be-forgotten", "anonymous-of-zoe-4711", "he-who-names-zoe-0815"  # distinctive
COMMITS = ("--commit-interval-s", "0.1")
LEARNED = 'streamer_events_total{outcome="learned",topic="ratings"}'


def crowd(count: int) -> list[Event]:
    """Ratings by many users, with Zoe's among them."""
    found: list[Event] = []
    for n in range(count):
        user = ZOE if n % 10 == 0 else f"u{n % 37}"
        found.append(Rating(user, f"i{n % 51}", 1.0 + n % 5, 1_700_000_000_000 + n * 1000, f"{user}-{n}"))
    return found


def about_zoe() -> list[Event | bytes]:
    """Messages about her of every kind."""
    return [
        UserUpdate(ZOE, {"age": 30.0}, same_as=SHE),
        UserUpdate(HE, {"age": 40.0}, same_as=ZOE),
        Click(SHE, "i1", session_id="1", event_id="click-of-hers"),
        b'{"user_id": "%s", "item_id": "i1", "rating": NaN}' % ZOE.encode(),
        b'{"user_id": "\\u007aoe-who-is-to-be-forgotten", "item_id": "i1", "rating": "much"}',
        b'{"item_id": "%s", "pad": "%s", "user_id": "%s", "rating": 1' % (b"i" * 100, b"x" * 872, ZOE.encode()),
    ]


def file(folder: Path, events: list[Event | bytes]) -> Path:
    path = folder / "events.jsonl"
    lines = [event if isinstance(event, bytes) else msgspec.json.encode(event) for event in events]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """3,000 ratings, and messages of every kind about Zoe."""
    ratings = crowd(3000)
    return file(tmp_path, [*ratings[:1500], *about_zoe(), *ratings[1500:]])


def found_in(data: Path, user_id: str) -> list[str]:
    """The files that contain the id; one that is removed meanwhile contains nothing."""
    found = []
    for place in sorted(data.rglob("*")):
        with suppress(FileNotFoundError):
            if place.is_file() and user_id.encode() in place.read_bytes():
                found.append(str(place.relative_to(data)))
    return found


def drained(process: Streamer, path: Path) -> None:
    """Learn everything."""
    total = path.read_bytes().count(b"\n")
    for _ in range(int(DEADLINE_S / 0.05)):
        offsets = process.call("AdminService/GetStatus").get("offsets")
        if isinstance(offsets, list) and offsets and int(offsets[0]["next"]) >= total:
            return
        assert not process.pause(0.05), process.output.read_text()
    raise AssertionError(f"not all is learned: {process.output.read_text()}")


def complete(process: Streamer, number: int) -> dict[str, object]:
    """Wait until the receipt is complete."""
    until = DEADLINE_S / 0.05
    for _ in range(int(until)):
        (found,) = process.call("AdminService/ForgetUser", receipt=number)["receipts"]  # type: ignore[misc]
        if found["stage"] == "complete":
            return dict(found)
        assert not process.pause(0.05), process.output.read_text()
    raise AssertionError(f"receipt {number} stays {found}: {process.output.read_text()}")


def test_a_user_who_was_named_a_moment_ago_is_forgotten_too(tmp_path: Path) -> None:
    with streamer(tmp_path / "d", "--commit-interval-s", "5") as process:
        events = [{"rating": {"userId": ZOE, "itemId": "i", "rating": 3}}, {"user": {"userId": HE, "sameAs": ZOE}}]
        token = process.call("EventService/Publish", events=events)["freshnessToken"]
        process.call("RecommendationService/Recommend", userId=ZOE, freshnessToken=token)  # learned, and not committed
        receipts = process.call("AdminService/ForgetUser", userId=ZOE)["receipts"]
        assert len(receipts) == 2  # type: ignore[arg-type]  # a list


def test_a_forgotten_user_is_in_no_file(tmp_path: Path, path: Path) -> None:
    data = tmp_path / "d"
    with streamer(data, *COMMITS, "--replay", path) as process:
        drained(process, path)
        assert {ZOE, SHE} <= {user for user in (ZOE, SHE, HE) if found_in(data, user)}
        answer = json.loads(run("forget", ZOE, "--url", process.url, "--json"))
        for user in (ZOE, SHE, HE):  # who named her is the same person
            assert found_in(data, user) == []
        zoe, she, _ = answer["receipts"]
        assert [one["stage"] for one in answer["receipts"]] == ["complete"] * 3
        assert (zoe["records"], zoe["dead_letters"], zoe["event_ids"]) == (300 + 1 + 3 + 1, 3, 300)
        assert she["event_ids"] == 1
        assert "the next renormalisation" in zoe["waits"][0]
        assert f"receipt {zoe['number']}: complete" in run(
            "forget", "--receipt", str(zoe["number"]), "--url", process.url
        )
        assert f"user {ZOE!r} was never seen" in run("inspect", "user", ZOE, "--data", data)
        process.stop()
    for user in (ZOE, SHE, HE):
        assert found_in(data, user) == []
    assert "3 dead letters" not in run("inspect", "dead-letters", "--data", data)


def test_answers_stop_before_the_call_returns(tmp_path: Path, path: Path) -> None:
    with streamer(tmp_path / "d", *COMMITS, "--replay", path) as process:
        drained(process, path)
        query = {"userId": ZOE, "limit": 5}
        assert {item["source"] for item in process.call("RecommendationService/Recommend", **query)["items"]} != {
            "popular"
        }  # type: ignore[attr-defined]
        process.call("AdminService/ForgetUser", userId=ZOE)
        nobody = process.call("RecommendationService/Recommend", userId="nobody", limit=5)
        assert process.call("RecommendationService/Recommend", **query)["items"] == nobody["items"]


def test_a_user_who_comes_back_counts_as_new_and_stays(tmp_path: Path, path: Path) -> None:
    data = tmp_path / "d"
    new, known = (
        {"rating": {"userId": ZOE, "itemId": item, "rating": 5, "eventId": one}}
        for item, one in (("i1", ""), ("i2", f"{ZOE}-0"))
    )
    with streamer(data, *COMMITS, "--replay", path) as process:
        drained(process, path)
        number = process.call("AdminService/ForgetUser", userId=ZOE)["receipts"][0]["number"]  # type: ignore[index]
        process.call("EventService/Publish", events=[new])
        complete(process, number)
        process.call("EventService/Publish", events=[known])
        process.stop()
    assert f"user {ZOE!r}: 2 events" in run("inspect", "user", ZOE, "--data", data)
    with streamer(data, *COMMITS) as process:
        assert f"user {ZOE!r}: 2 events" in run("inspect", "user", ZOE, "--data", data)


def test_replaying_the_log_after_erasure_gives_the_same_users(tmp_path: Path, path: Path) -> None:
    data = tmp_path / "d"
    with streamer(data, *COMMITS, "--replay", path) as process:
        drained(process, path)
        run("forget", ZOE, "--url", process.url)
        process.stop()
    log = EmbeddedLog(data)
    try:
        left = [record for run_ in log.read(0) for record in run_]
    finally:
        log.close()
    total = path.read_bytes().count(b"\n") + 3  # removals
    assert [record.offset for record in left] == list(range(total))
    assert sum(record.topic == "" for record in left) == total - sum(e.user_id != ZOE for e in crowd(3000))  # type: ignore[union-attr]
    for name, cut in (("once", "1000"), ("again", "7")):
        (tmp_path / name / "log").mkdir(parents=True)
        for part in (data / "log").iterdir():
            (tmp_path / name / "log" / part.name).write_bytes(part.read_bytes())
        with streamer(tmp_path / name, *COMMITS, "--max-records", cut) as process:
            process.wait_for(LEARNED, 2700)
            process.stop()
    assert digest(tmp_path / "once") == digest(tmp_path / "again")  # whatever the batches
    assert digest(tmp_path / "once").offsets == digest(data).offsets == {"log/0": total}
    for name in ("once", "d"):
        found = run("inspect", "user", "u1", "--data", tmp_path / name)
        assert f"user 'u1': {sum(event.user_id == 'u1' for event in crowd(3000))} events" in found  # type: ignore[union-attr]


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.soak)])
def test_erasure_continues_after_a_kill_at_any_moment(tmp_path: Path, kills: int) -> None:
    data, chance, landed, number = tmp_path / "d", random.Random(kills), 0, 0
    events = [e for n in range(kills) for e in crowd_of(n, 8000)]
    run("serve", "--data", data, "--port", "0", "--replay", file(tmp_path, list(events)), "--until-drained")
    for n in range(kills):
        with streamer(data, *COMMITS) as process:
            if number:
                complete(process, number)
                assert found_in(data, f"{ZOE}-{n - 1:03}") == []
            answer = process.call("AdminService/ForgetUser", userId=f"{ZOE}-{n:03}")
            number = answer["receipts"][0]["number"]  # type: ignore[index]
            process.pause(chance.uniform(0.0, 0.15))
            process.kill()
        store = RocksStore(data, read_only=True)
        try:
            left = read_removal(store, int(number))
            landed += left is not None and left.stage != "complete"
        finally:
            store.close()
    assert landed >= kills / 2, f"only {landed} of {kills} kills came before the end"
    with streamer(data, *COMMITS) as process:
        complete(process, number)
        process.stop()
    assert found_in(data, ZOE) == []


def crowd_of(number: int, count: int) -> Iterator[Event]:
    for event in crowd(count):
        assert isinstance(event, Rating)
        user = f"{ZOE}-{number:03}" if event.user_id == ZOE else event.user_id
        yield msgspec.structs.replace(event, user_id=user, event_id=f"{number}-{event.event_id}")


def test_a_removal_published_as_an_event_is_processed_too(tmp_path: Path, path: Path) -> None:
    data = tmp_path / "d"
    with streamer(data, *COMMITS, "--replay", path) as process:
        drained(process, path)
        process.call("EventService/Publish", events=[{"forgetUser": {"userId": ZOE}}])
        for _ in range(int(DEADLINE_S / 0.05)):
            answer = httpx.post(process.url + FORGET, json={"receipt": "1"}, timeout=30)
            if answer.status_code == 200 and answer.json()["receipts"][0]["stage"] == "complete":
                break
            assert not process.pause(0.05)
        assert found_in(data, ZOE) == []
        assert found_in(data, HE) != []  # who named her stays, and names nobody any more
        profile = run("inspect", "user", HE, "--data", data)
        assert '"age":40.0' in profile
        assert "same_as" not in profile
        process.stop()


def test_all_generations_forget_and_a_backup_includes_them(tmp_path: Path, path: Path) -> None:
    data, learners = tmp_path / "d", ("--rating-learner", "bias", "--click-learner", "popularity")
    retrained = ("--renormalise-every-events", "1200", "--hold", "--gate-min-events", "100", "--gate-margin", "1")
    with streamer(data, *COMMITS, *learners, "--replay", path, *retrained) as process:
        drained(process, path)  # two swaps: one generation is live, one in its shadow, one at rest
        kept = {one["id"]: one["stage"] for one in process.call("AdminService/ListGenerations")["generations"]}  # type: ignore[attr-defined]
        assert kept == {"g0": "kept", "g1": "kept", "g2": "live"}
        assert {"generations/g1/ids.safetensors", "generations/g2/ids.safetensors"} <= set(found_in(data, ZOE))
        assert {name.partition("/")[0] for name in found_in(data, ZOE)} == {"archive", "generations", "log", "state"}
        made = process.call("AdminService/Backup", directory=str(tmp_path / "b"))
        run("forget", ZOE, "--url", process.url)
        for user in (ZOE, SHE, HE):
            assert found_in(data, user) == []
        process.stop()
    assert found_in(data, ZOE) == []
    run("restore", tmp_path / "b", "--data", tmp_path / "r")  # of before: nothing in it was rewritten
    assert digest(tmp_path / "r").digest == made["digest"]
    with streamer(tmp_path / "r", *learners) as process:
        assert process.call("AdminService/GetStatus")["generation"] == "g2"
    with streamer(data, *learners) as process:
        assert process.call("AdminService/GetStatus")["generation"] == "g2"


# Parts.


def test_blank_records_are_skipped(tmp_path: Path) -> None:
    events = [Rating(f"u{n % 7}", f"i{n % 11}", 1.0 + n % 5, 1000 * n) for n in range(300)]
    left = [event for event in events if event.user_id != "u3"]
    erasure = Erasure({"u3": 10**6})
    whole = [erasure(record) for record in records(list(events))]
    assert sum(record.topic == "" for record in whole) == erasure.records["u3"] == 300 - len(left)
    kept = [record for record in whole if record.topic]
    learn(tmp_path / "whole", whole, max_records=50)
    learn(tmp_path / "kept", kept, max_records=50)
    assert digest(tmp_path / "whole").learners == digest(tmp_path / "kept").learners


def record(key: str | None, value: str | None, topic: str = "ratings", offset: int = 5) -> Record:
    return Record(
        topic, -1, offset, 1, None if key is None else key.encode(), None if value is None else value.encode()
    )


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (record("x", '{"user_id": "x", "item_id": "i", "rating": 1}'), None),
        (record("x", None, "users"), None),
        (record(None, '{"user_id": "\\u0078", "item_id": "i"}', "clicks"), None),
        (record("x", "no JSON"), None),
        (record(None, "5,x,3.0"), None),
        (record("y", '{"user_id": "y", "item_id": "x", "rating": 1}'), "same"),
        (record("x", '{"title": "x"}', "items"), "same"),
        (record("y", "fix it"), "same"),
        (record("x", '{"user_id": "x"}', offset=10), "same"),  # after the removal
        (record("x", '{"user_id":"y"}'), record(None, '{"user_id":"y"}')),  # under a foreign key
        (record("y", '{"user_id":"y","same_as":"x"}', "users"), record("y", '{"user_id":"y"}', "users")),
    ],
)
def test_a_record_belongs_to_the_user_it_names(given: Record, left: Record | str | None) -> None:
    found = Erasure({"x": 9})(given)
    blank = Record("", -1, given.offset, given.timestamp_ms, None, None)
    assert found == (blank if left is None else given if left == "same" else left)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (record(None, '{"user_id": 7, "item_id": 9, "event_id": 5}', "clicks"), None),
        (record(None, '{"user_id": 7.0, "item_id": 9, "event_id": 5.0}', "clicks"), None),
        (record(None, '\0\0\0\0\x09{"user_id": 7, "item_id": 9, "event_id": 5}', "clicks"), None),
        (record("8", '\0\0\0\0\x07{"user_id": 8, "item_id": 9, "rating": 7}'), "same"),
        (record("8", '{"user_id": 8, "item_id": 7, "rating": 1}'), "same"),
        (record("8", '{"user_id":8,"same_as":7}', "users"), record("8", '{"user_id":8}', "users")),
        (record("8", '{"user_id":8,"same_as":7.0}', "users"), record("8", '{"user_id":8}', "users")),
    ],
)
def test_an_id_that_is_a_number_names_the_user_too(given: Record, left: Record | str | None) -> None:
    erasure = Erasure({"7": 9})
    found = erasure(given)
    blank = Record("", -1, given.offset, given.timestamp_ms, None, None)
    assert found == (blank if left is None else given if left == "same" else left)
    assert erasure.event_ids["7"] == (["5"] if left is None else [])


def test_only_a_forgotten_event_id_counts_as_new(tmp_path: Path) -> None:
    window = 100
    dedupe = Dedupe(window)
    ids = [f"e{n}" for n in range(150)]
    dedupe.admit(LOG, ids)
    assert dedupe.forget(LOG, ["e120", "e121", "e7", "never"]) == 2  # e7 was out of the window
    assert dedupe.forget(LOG, ["e120", "e121"]) == 0
    known = [n for n in range(50, 150) if n not in (120, 121)]
    assert not dedupe.admit(LOG, [ids[n] for n in known]).any()
    store = RocksStore(tmp_path)
    try:
        store.commit(dedupe.changed(), {})
        again = Dedupe(window)
        again.restore(store)
    finally:
        store.close()
    for one in (dedupe, again):
        assert one.admit(LOG, ["e120", "e121"]).all()
        assert one.admit(LOG, [f"f{n}" for n in range(2 * window)]).all()  # all places are taken anew
        assert not one.admit(LOG, [f"f{n}" for n in range(window, 2 * window)]).any()


# The endpoint.


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with (
        serving(MemoryAnswers(), ServerSettings(port=0), SecuritySettings()) as url,
        httpx.Client(base_url=url, timeout=20) as made,
    ):
        yield made


@pytest.mark.parametrize(
    ("request_", "code", "sentence"),
    [
        ({}, "invalid_argument", "say whom to forget"),
        ({"userId": ""}, "invalid_argument", "say whom to forget"),
        ({"userId": "a\nb"}, "invalid_argument", "control character"),
        ({"receipt": "9"}, "failed_precondition", "no receipt 9"),
        ({"userId": "u1", "receipt": "1"}, "invalid_argument", "leave one out"),
    ],
)
def test_an_invalid_forget_request_is_refused_with_a_sentence(
    client: httpx.Client, request_: dict[str, str], code: str, sentence: str
) -> None:
    answer = client.post(FORGET, json=request_).json()
    assert answer["code"] == code
    assert sentence in answer["message"]


def test_forget_returns_the_receipt_of_the_removal(client: httpx.Client) -> None:
    (answer,) = client.post(FORGET, json={"userId": "u1"}).json()["receipts"]
    assert (answer["number"], answer["stage"]) == ("1", "complete")


def test_a_backup_goes_to_an_absolute_path(client: httpx.Client) -> None:
    answer = client.post("/streamer.v1.AdminService/Backup", json={"directory": "here"}).json()
    assert answer["code"] == "invalid_argument"
    assert "absolute" in answer["message"]
