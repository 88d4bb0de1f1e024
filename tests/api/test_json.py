"""The endpoint as curl and programs without gRPC see it."""

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from streamer.api.memory import MemoryAnswers
from streamer.api.thread import serving
from streamer.core.events import CLICKS, ITEMS, RATINGS, USERS, Click, ItemUpdate, Rating, message
from streamer.core.settings import SecuritySettings, ServerSettings

SERVER = ServerSettings(port=0)
RECOMMEND = "/streamer.v1.RecommendationService/Recommend"
PREDICT = "/streamer.v1.RecommendationService/Predict"
SIMILAR = "/streamer.v1.RecommendationService/SimilarItems"
PUBLISH = "/streamer.v1.EventService/Publish"
STATUS = "/streamer.v1.AdminService/GetStatus"


@pytest.fixture
def answers() -> MemoryAnswers:
    """Two users, three items: u1 has seen heat and alien, u2 has seen heat."""
    memory = MemoryAnswers()
    memory.publish([message(ItemUpdate("heat", "Heat (1995)")), message(ItemUpdate("alien", "Alien (1979)"))])
    memory.publish([message(Rating("u1", "heat", 5.0)), message(Rating("u2", "heat", 4.0))])
    memory.publish([message(Click("u1", "alien")), message(Click("u3", "brazil"))])
    return memory


@pytest.fixture
def client(answers: MemoryAnswers) -> Iterator[httpx.Client]:
    with serving(answers, SERVER, SecuritySettings()) as url, httpx.Client(base_url=url, timeout=20) as made:
        yield made


def ask(client: httpx.Client, path: str, body: object) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(client: httpx.Client, path: str, body: object, status: int, code: str) -> str:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    sentence: str = answer.json()["message"]
    return sentence


def test_curl_gets_recommendations_with_titles_and_without_seen_items(client: httpx.Client) -> None:
    if shutil.which("curl") is None:
        assert os.environ.get("CI") != "true", "curl is missing: apt-get install curl"
        pytest.skip("no curl on this machine")
    command = ["curl", "-sS", "-d", '{"userId":"u2","limit":10}', "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, f"{client.base_url}{RECOMMEND}"], capture_output=True, check=True, timeout=30)
    answer = json.loads(done.stdout)
    assert [(item["itemId"], item["title"]) for item in answer["items"]] == [
        ("alien", "Alien (1979)"),
        ("brazil", ""),
    ]
    assert {item["source"] for item in answer["items"]} == {"popularity"}
    assert answer["generation"] == "g0"
    assert answer["freshnessToken"] == "log/0:6"
    assert answer["nextPageToken"] == ""
    assert answer["recommendationId"] != ask(client, RECOMMEND, {"userId": "u2"})["recommendationId"]


def test_an_unknown_user_and_an_unknown_item_get_answers(client: httpx.Client) -> None:
    assert ask(client, RECOMMEND, {"userId": "nobody"})["items"][0]["itemId"] == "heat"
    assert ask(client, PREDICT, {"userId": "nobody", "itemId": "nothing"})["value"] == 4.5
    assert len(ask(client, SIMILAR, {"itemId": "nothing"})["items"]) == 3


def test_similar_items_leave_out_the_item_itself(client: httpx.Client) -> None:
    items = ask(client, SIMILAR, {"itemId": "heat", "limit": 1})["items"]
    assert [item["itemId"] for item in items] == ["alien"]


def test_snake_case_and_numbers_as_strings_are_read(client: httpx.Client) -> None:
    assert len(ask(client, RECOMMEND, {"user_id": "nobody", "limit": "2"})["items"]) == 2


def test_limit_0_means_10_and_the_highest_is_1000(answers: MemoryAnswers, client: httpx.Client) -> None:
    answers.publish([message(Click("u", f"i{n}")) for n in range(1100)])
    assert len(ask(client, RECOMMEND, {"userId": "nobody"})["items"]) == 10
    assert len(ask(client, RECOMMEND, {"userId": "nobody", "limit": 1000})["items"]) == 1000
    for limit in (-1, 1001):
        assert str(limit) in refused(client, RECOMMEND, {"userId": "u", "limit": limit}, 400, "invalid_argument")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (RECOMMEND, {"userid": "u1"}, ["'userid'", "did you mean 'userId'?"]),
        (RECOMMEND, {"user": "u1"}, ["'user'", "did you mean 'userId'?"]),
        (RECOMMEND, {"userId": "u1", "zzz": 1}, ["'zzz'", "userId, limit, freshnessToken"]),
        (PUBLISH, {"event": []}, ["'event'", "did you mean 'events'?"]),
        (STATUS, {"verbose": True}, ["'verbose'"]),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_known_name(
    client: httpx.Client, path: str, body: object, words: list[str]
) -> None:
    sentence = refused(client, path, body, 400, "invalid_argument")
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "must be an object"),
        (b'{"userId": 7}', "user_id"),
        (b'{"userId": ["u"]}', "userId must be a single value and is a list"),
        (b'{"userId": "\\ud800"}', "not JSON"),
        (b'{"userId": ""}', "userId is empty"),
        (b"{}", "userId is empty"),
        (b'{"userId": "a\\u0000b"}', "control character"),
        (b'{"userId": "u", "limit": 3000000000}', "limit"),
        (b'{"userId": "u", "freshnessToken": "soon"}', "freshness token"),
        (b"[" * 200_000, "nested too deeply"),  # once ended the process: the reader overflowed its stack
        (b"[" * 900 + b"]" * 900, "must be an object"),
        (b'{"userId":' + b"[" * 900 + b"]" * 900 + b"}", "must be a single value"),
    ],
)
def test_a_bad_body_gets_a_sentence(client: httpx.Client, body: bytes, words: str) -> None:
    answer = client.post(RECOMMEND, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert words in answer.json()["message"]
    assert "Traceback" not in answer.text


def test_an_id_has_at_most_256_bytes(client: httpx.Client) -> None:
    ask(client, RECOMMEND, {"userId": "é" * 128})
    assert "258 bytes" in refused(client, RECOMMEND, {"userId": "é" * 129}, 400, "invalid_argument")


def test_every_kind_of_event_goes_to_its_topic_with_all_its_fields(
    answers: MemoryAnswers, client: httpx.Client
) -> None:
    before = len(answers.messages)
    rating = {"userId": "u9", "itemId": "i9", "rating": 0, "timestampMs": "1700000000000", "eventId": "e1"}
    click = {"user_id": "u9", "item_id": "i9", "kind": "view", "timestamp_ms": 17, "event_id": "e2"}
    click |= {"session_id": "s", "recommendation_id": "r"}
    item = {"itemId": "i9", "title": "T", "categories": ["Drama"], "available": False}
    item |= {"attributes": {"year": 1995, "colour": True, "by": "Mann", "none": None}}
    user = {"userId": "u9", "attributes": {"age": 30}, "preferences": {"Drama": 5}, "sameAs": "anonymous-7"}
    events = [{"rating": rating}, {"click": click}, {"item": item}, {"user": user}]
    events += [{"removeItem": {"itemId": "i9"}}, {"forget_user": {"userId": "u9"}}]
    events += [{"retract": {"userId": "u9", "itemId": "i9", "timestampMs": 18}}]
    answer = ask(client, PUBLISH, {"events": events})
    assert (answer["accepted"], answer["rejected"]) == (7, [])
    assert answer["freshnessToken"] == f"log/0:{before + 7}"
    kept = answers.messages[before:]
    assert [(m.topic, m.key) for m in kept] == [
        (RATINGS, b"u9"), (CLICKS, b"u9"), (ITEMS, b"i9"), (USERS, b"u9"), (ITEMS, b"i9"), (USERS, b"u9"),
        (RATINGS, b"u9"),
    ]  # fmt: skip
    values = [None if m.value is None else json.loads(m.value) for m in kept]
    assert values == [
        {"user_id": "u9", "item_id": "i9", "rating": 0.0, "timestamp_ms": 1700000000000, "event_id": "e1"},
        {"user_id": "u9", "item_id": "i9", "kind": "view", "timestamp_ms": 17, "event_id": "e2", "session_id": "s",
         "recommendation_id": "r"},
        {"item_id": "i9", "title": "T", "categories": ["Drama"], "available": False,
         "attributes": {"year": 1995.0, "colour": True, "by": "Mann", "none": None}},
        {"user_id": "u9", "attributes": {"age": 30.0}, "preferences": {"Drama": 5.0}, "same_as": "anonymous-7"},
        None,
        None,
        {"user_id": "u9", "item_id": "i9", "rating": None, "timestamp_ms": 18},
    ]  # fmt: skip


def test_valid_events_are_stored_even_if_others_are_rejected(answers: MemoryAnswers, client: httpx.Client) -> None:
    before = len(answers.messages)
    good = {"rating": {"userId": "u1", "itemId": "new", "rating": 3}}
    events = [
        good,
        {"rating": {"userId": "u1", "itemId": "new", "rating": "NaN"}},
        {"rating": {"userId": "u1", "itemId": "new", "rating": 1e9}},
        {"rating": {"userId": "u1", "itemId": "new"}},
        {"rating": {"userId": "", "itemId": "new", "rating": 3}},
        {"click": {"userId": "u1", "itemId": "new", "kind": 5}},
        {},
        {"item": {"itemId": "x", "title": "long" * 5000}},
        {"item": {"itemId": "x", "attributes": {"tags": ["a"]}}},
        {"user": {"userId": "x", "preferences": {"Drama": "Infinity"}}},
        good,
    ]
    answer = ask(client, PUBLISH, {"events": events})
    assert answer["accepted"] == 2
    found = {rejected["index"]: rejected["reason"].partition(":")[0] for rejected in answer["rejected"]}
    assert found == {
        1: "out_of_range", 2: "out_of_range", 3: "wrong_type", 4: "bad_id", 5: "wrong_type", 6: "wrong_type",
        7: "too_large", 8: "wrong_type", 9: "out_of_range",
    }  # fmt: skip
    assert len(answers.messages) == before + 2


def test_an_event_of_a_wrong_type_is_rejected_by_its_index_and_field(
    answers: MemoryAnswers, client: httpx.Client
) -> None:
    before = len(answers.messages)
    good = {"rating": {"userId": "u1", "itemId": "new", "rating": 3}}
    wrong: list[object] = [
        {"rating": {"userId": True, "itemId": "new", "rating": 3}},
        {"rating": {"userId": "u1", "itemId": "new", "rating": "x"}},
        {"rating": {"userId": "u1", "itemId": "new", "rating": 3, "timestampMs": 2**70}},
        {"rating": {"userId": "u1", "itemId": "new", "rating": 3, "stars": 3}},
        {"rating": [1]},
        {"rating": {"userId": "u1"}, "click": {"userId": "u1"}},
        None,
        7,
    ]
    answer = ask(client, PUBLISH, {"events": [good, *wrong, good]})
    assert answer["accepted"] == 2
    assert len(answers.messages) == before + 2
    reasons = {rejected["index"]: rejected["reason"] for rejected in answer["rejected"]}
    assert list(reasons) == list(range(1, 9))
    assert all(reason.startswith("wrong_type: ") and "class" not in reason for reason in reasons.values())
    assert "user_id" in reasons[1]
    assert "a boolean" in reasons[1]
    assert "events[4].rating" in reasons[4]
    assert "events[8] must be an object" in reasons[8]
    named = ask(client, PUBLISH, {"events": [{"ratings": {}}, {"rating": {"item": "i"}}]})["rejected"]
    assert "events[0]); did you mean 'rating'?" in named[0]["reason"]
    assert "events[1].rating); did you mean 'itemId'?" in named[1]["reason"]
    assert "events must be a list" in refused(client, PUBLISH, {"events": 7}, 400, "invalid_argument")
    assert "no field 'event'" in refused(client, PUBLISH, {"event": [good]}, 400, "invalid_argument")


def test_what_is_read_on_a_topic_is_read_by_publish(answers: MemoryAnswers, client: httpx.Client) -> None:
    before = len(answers.messages)
    events = [
        {"rating": {"userId": 7, "itemId": 9.0, "rating": "4.5", "timestamp": "2022-06-24 21:20:11"}},
        {"click": {"user_id": 7, "item_id": "9", "timestamp": 1656105611, "event_id": 3}},
        {"rating": {"userId": 7, "itemId": 9.5, "rating": 4}},
        {"rating": {"userId": 7, "itemId": 9, "rating": "four"}},
        {"item": {"itemId": 9, "title": "T"}},
        {"user": {"userId": 7, "sameAs": 8.0}},
        {"forgetUser": {"userId": 8}},
    ]
    answer = ask(client, PUBLISH, {"events": events})
    assert {one["index"]: one["reason"] for one in answer["rejected"]} == {
        2: "wrong_type: events[2].rating: the id 9.5 is no whole number that is exact: send ids as texts",
        3: "wrong_type: events[3].rating: the rating 'four' is no number",
    }
    assert [None if m.value is None else json.loads(m.value) for m in answers.messages[before:]] == [
        {"user_id": "7", "item_id": "9", "rating": 4.5, "timestamp_ms": 1656105611000},
        {"user_id": "7", "item_id": "9", "timestamp_ms": 1656105611000, "event_id": "3"},
        {"item_id": "9", "title": "T"},
        {"user_id": "7", "same_as": "8"},
        None,
    ]
    seconds = {"rating": {"userId": "u", "itemId": "i", "rating": 4, "timestampMs": "1656105611"}}  # in a readable body
    ask(client, PUBLISH, {"events": [seconds]})
    assert json.loads(answers.messages[-1].value or b"")["timestamp_ms"] == 1656105611000


def test_without_an_accepted_event_there_is_no_token(client: httpx.Client) -> None:
    assert ask(client, PUBLISH, {"events": [{}]})["freshnessToken"] == ""
    assert ask(client, PUBLISH, {}) == {"accepted": 0, "rejected": [], "freshnessToken": ""}


def test_two_kinds_in_one_event_are_refused(client: httpx.Client) -> None:
    both = {"rating": {"userId": "u", "itemId": "i", "rating": 1}, "click": {"userId": "u", "itemId": "i"}}
    assert "only one of" in ask(client, PUBLISH, {"events": [both]})["rejected"][0]["reason"]


def test_publishing_without_a_reachable_source_is_unavailable(answers: MemoryAnswers, client: httpx.Client) -> None:
    answers.ingestion = "Kafka at localhost:9092 does not answer."
    event = {"rating": {"userId": "u", "itemId": "i", "rating": 1}}
    assert refused(client, PUBLISH, {"events": [event]}, 503, "unavailable") == answers.ingestion
    ask(client, RECOMMEND, {"userId": "u1"})


def test_a_token_makes_the_answer_wait_for_its_events(answers: MemoryAnswers, client: httpx.Client) -> None:
    answers.learning = False
    event = {"click": {"userId": "u7", "itemId": "heat"}}
    token = ask(client, PUBLISH, {"events": [event]})["freshnessToken"]
    query = {"userId": "u7", "freshnessToken": token}
    late = client.post(RECOMMEND, json=query, headers={"connect-timeout-ms": "1000"})
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert token in late.json()["message"]
    assert ask(client, RECOMMEND, {"userId": "u7"})["items"][0]["itemId"] == "heat"
    answers.learn()
    fresh = ask(client, RECOMMEND, query)
    assert "heat" not in [item["itemId"] for item in fresh["items"]]
    assert fresh["freshnessToken"] == token


def test_a_query_without_a_deadline_waits_as_long_as_the_settings_say() -> None:
    answers = MemoryAnswers()
    with serving(answers, ServerSettings(port=0, deadline_s=0.1), SecuritySettings()) as url:
        answer = httpx.post(url + PREDICT, json={"userId": "u", "itemId": "i", "freshnessToken": "log/0:9"})
    assert answer.status_code == 504
    assert "within 0.1 s; so far: none" in answer.json()["message"]


def test_the_status_says_what_is_learned(client: httpx.Client) -> None:
    status = ask(client, STATUS, {})
    assert [learner["name"] for learner in status["learners"]] == ["biased-mf", "skip-gram"]
    assert status["learners"][0]["rmse"] == [{"window": 1000, "rmse": 0.9}, {"window": 10000, "rmse": 0.9}]
    assert status["learners"][1]["rmse"] == []
    assert {(c["topic"], c["outcome"], c["count"]) for c in status["events"]} == {
        ("ratings", "learned", "2"), ("clicks", "learned", "2"), ("items", "learned", "2"),
    }  # fmt: skip
    assert status["offsets"] == [{"topic": "log", "partition": 0, "next": "6"}]
    assert (status["ingestion"], status["users"], status["startedMs"]) == ("ok", "3", "1700000000000")


def test_a_fault_of_the_server_is_internal_and_only_the_log_has_details(
    answers: MemoryAnswers, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    answers.failure = KeyError("secret detail")
    for path, body in ((RECOMMEND, {"userId": "u"}), (STATUS, {})):
        assert "log" in refused(client, path, body, 500, "internal")
    answer = client.get("/metrics")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text
    answers.failure = None
    ask(client, RECOMMEND, {"userId": "u"})


def test_an_answer_that_cannot_be_written_is_internal(answers: MemoryAnswers, client: httpx.Client) -> None:
    answers.titles["heat"] = "\ud800"
    assert "log" in refused(client, RECOMMEND, {"userId": "nobody"}, 500, "internal")


def test_requests_are_counted_by_method_and_code(answers: MemoryAnswers, client: httpx.Client) -> None:
    ask(client, RECOMMEND, {"userId": "u"})
    refused(client, RECOMMEND, {"user": "u"}, 400, "invalid_argument")
    client.post(RECOMMEND, json={"userId": "u", "freshnessToken": "log/0:99"}, headers={"connect-timeout-ms": "50"})
    assert answers.requests == {
        (RECOMMEND[1:], "ok"): 1,
        (RECOMMEND[1:], "invalid_argument"): 1,
        (RECOMMEND[1:], "deadline_exceeded"): 1,
    }


def test_a_body_that_is_too_large_is_refused_compressed_or_not(client: httpx.Client) -> None:
    body = json.dumps({"userId": "u" * 300_000}).encode()
    headers = {"content-type": "application/json"}
    plain = client.post(RECOMMEND, content=body, headers=headers)
    assert (plain.status_code, plain.json()["code"]) == (429, "resource_exhausted")
    assert "262,144" in plain.json()["message"]
    bomb = gzip.compress(b" " * 20_000_000 + body)
    assert len(bomb) < 262_144
    packed = client.post(RECOMMEND, content=bomb, headers={**headers, "content-encoding": "gzip"})
    assert (packed.status_code, packed.json()["code"]) == (429, "resource_exhausted")
    ask(client, RECOMMEND, {"userId": "u"})


def test_an_unknown_path_gets_a_sentence(client: httpx.Client) -> None:
    near = client.post("/streamer.v1.RecommendationService/Recomend", json={})
    assert near.status_code == 404
    assert "did you mean /streamer.v1.RecommendationService/Recommend?" in near.json()["message"]
    assert client.get("/favicon.ico").status_code == 404
    wrong = client.get(RECOMMEND)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "takes POST, not GET" in wrong.json()["message"]
    assert client.post("/metrics", json={}).status_code == 405


def test_metrics_and_health_are_pages(answers: MemoryAnswers, client: httpx.Client) -> None:
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "streamer_up 1" in metrics.text
    assert client.get("/healthz").json() == {"endpoint": "serving", "ingestion": "serving", "data": "whole"}
    answers.damaged = "a file of the archive is missing"
    assert client.get("/healthz").json()["data"] == "a file of the archive is missing"
    answers.ingestion = "the disk is full"
    health = client.get("/healthz")
    assert (health.status_code, health.json()["ingestion"]) == (200, "the disk is full")
