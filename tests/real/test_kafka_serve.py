"""The real process on a real broker: any producer's events are learned exactly once and change answers."""

import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from broker import Broker, sasl_of
from commands import run
from learning import digest, settings
from process import DEADLINE_S, Streamer, streamer

from streamer.consumers.kafka import KafkaSource
from streamer.core.events import Click, ItemUpdate, Message, Rating, message
from streamer.producers.kafka import KafkaSink
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.ledger import JournalSource, journal
from streamer.stream.memory import Memory

pytestmark = pytest.mark.kafka
RATED, CLICKED = (f'streamer_events_total{{outcome="learned",topic="{topic}"}}' for topic in ("ratings", "clicks"))


def ratings(count: int, start: int = 0) -> list[Message]:
    found = []
    for n in range(start, start + count):
        found.append(
            message(Rating(f"u{n * 7 % 101}", f"i{n * n * 13 % 211}", 0.5 * (1 + n % 10), 1_700_000_000_000 + n))
        )
    return found


def publish(broker: Broker, messages: list[Message]) -> None:
    sink = KafkaSink(settings(kafka=broker.bootstrap).kafka)
    try:
        for start in range(0, len(messages), 500):
            sink.publish(messages[start : start + 500])
    finally:
        sink.close()


def kcat(broker: Broker, topic: str, key: str, value: str, codec: str = "none") -> None:
    assert shutil.which("kcat"), "kcat is missing: apt-get install kcat"
    subprocess.run(
        ["kcat", "-P", "-b", broker.bootstrap, "-t", topic, "-K", "\t", "-z", codec],
        input=f"{key}\t{value}\n".encode(), check=True, timeout=60,
    )  # fmt: skip


def test_an_event_from_kcat_changes_an_answer(fresh_broker: Broker, tmp_path: Path) -> None:
    with streamer(tmp_path / "d", "--kafka", fresh_broker.bootstrap) as process:
        process.wait_for("streamer_ingestion_up", 1)
        kcat(fresh_broker, "items", "i1", json.dumps({"item_id": "i1", "title": "The Quiet Harbour (1987)"}))
        process.wait_for('streamer_events_total{outcome="learned",topic="items"}', 1)
        kcat(fresh_broker, "clicks", "u1", json.dumps({"user_id": "u1", "item_id": "i1", "kind": "purchase"}))
        process.wait_for(CLICKED, 1)
        for codec in ("gzip", "lz4", "zstd"):  # as Java's producers send them
            kcat(fresh_broker, "clicks", "u1", json.dumps({"user_id": "u1", "item_id": "i1", "kind": "click"}), codec)
        process.wait_for(CLICKED, 4)
        answer = process.call("RecommendationService/Recommend", userId="somebody else")
        assert [item["title"] for item in answer["items"]] == ["The Quiet Harbour (1987)"]  # type: ignore[attr-defined]
        event = {"rating": {"userId": "u2", "itemId": "i2", "rating": 5}}
        published = process.call("EventService/Publish", events=[event])  # the RPC writes to Kafka too
        token = published["freshnessToken"]
        assert str(token).startswith("ratings/")
        answer = process.call("RecommendationService/Recommend", userId="u2", freshnessToken=token)
        assert [item["itemId"] for item in answer["items"]] == ["i1"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_kills_lose_and_repeat_no_event(fresh_broker: Broker, tmp_path: Path, kills: int) -> None:
    count, chance = 4000 * kills, random.Random(kills)
    arguments = ("--kafka", fresh_broker.bootstrap, "--commit-interval-s", "0.05", "--max-records", "20")
    with streamer(tmp_path / "d", *arguments) as process:  # creates the topics
        process.wait_for("streamer_ingestion_up", 1)
    publish(fresh_broker, ratings(count))
    landed = 0
    for _ in range(kills):
        with streamer(tmp_path / "d", *arguments) as process:
            learned = process.metrics()[RATED]
            process.wait_for(RATED, learned + chance.randrange(1, count // kills // 2))
            process.kill()
        store = RocksStore(tmp_path / "d")
        landed += 0 < sum(store.offsets().values()) < count
        store.close()
    assert landed >= 0.8 * kills, f"only {landed} of {kills} kills landed in mid-progress"
    with streamer(tmp_path / "d", *arguments) as process:
        process.wait_for(RATED, count)
        assert process.stop() == 0
    found = digest(tmp_path / "d")
    assert sum(found.offsets.values()) == count
    stats = json.loads(run("inspect", "stats", "--data", tmp_path / "d", "--json"))
    assert stats["tables"]["users/head"]["rows"] == 101
    assert exact_count(tmp_path / "d") == count
    assert replayed(fresh_broker, tmp_path / "d", tmp_path / "replayed") == found.digest


def exact_count(folder: Path) -> int:
    """The number of learned events, as the state counts them."""
    chosen = settings(kafka="x")
    store = RocksStore(folder, read_only=True)
    try:
        return Memory(learners(chosen), chosen, store).monitor.events["ratings"]["learned"]
    finally:
        store.close()


def replayed(broker: Broker, folder: Path, fresh: Path) -> str:
    """The digest of a state rebuilt from the topics in the order of `folder`'s journal."""
    chosen = settings(kafka=broker.bootstrap)
    live, store = RocksStore(folder, read_only=True), RocksStore(fresh)
    try:
        runs = journal(live)
        assert len({run.partition for run in runs}) > 1
        memory = Memory(learners(chosen), chosen, store)
        source = JournalSource(KafkaSource(chosen.kafka), runs)
        source.seek({})
        engine = Engine(source, memory, NullObserver(), max_records=333, commit_interval_s=3600)
        deadline = time.monotonic() + DEADLINE_S
        while not source.finished:
            engine.step(0.5)
            assert time.monotonic() < deadline
        engine.commit()
        source.close()
        return store.digest().digest
    finally:
        live.close()
        store.close()


def test_a_generation_catches_up_from_kafka_in_the_order_of_the_journal(fresh_broker: Broker, tmp_path: Path) -> None:
    """It has learned the same events as the live one, including those published during the training."""
    gate = ("--gate-min-events", "500", "--gate-margin", "1", "--archive-interval-s", "0.2")
    with streamer(tmp_path / "d", "--kafka", fresh_broker.bootstrap, *gate) as process:
        process.wait_for("streamer_ingestion_up", 1)
        publish(fresh_broker, ratings(4000))
        process.wait_for(RATED, 4000)
        process.call("AdminService/Renormalise")
        deadline = time.monotonic() + DEADLINE_S
        published = 4000
        while process.call("RecommendationService/Recommend", userId="u1")["generation"] != "g1":
            assert time.monotonic() < deadline, process.call("AdminService/ListGenerations")
            publish(fresh_broker, ratings(200, published))
            published += 200
        process.wait_for(RATED, published)
        assert process.stop() == 0
    assert exact_count(tmp_path / "d") == published
    assert sum(digest(tmp_path / "d").offsets.values()) == published
    stats = json.loads(run("inspect", "stats", "--data", tmp_path / "d", "--json"))
    assert (stats["generation"], stats["tables"]["users/head"]["rows"]) == ("g1", 101)


def test_bad_events_of_every_kind_become_dead_letters_and_learning_goes_on(
    fresh_broker: Broker, tmp_path: Path
) -> None:
    with streamer(tmp_path / "d", "--kafka", fresh_broker.bootstrap, "--unknown-kinds", "reject") as process:
        process.wait_for("streamer_ingestion_up", 1)
        good = {"user_id": "u1", "item_id": "i1", "rating": 4}
        poison = {
            "not_json": ["{nonsense", '{"user_id": "u", "item_id": "i", "rating": NaN}', "\x00\x01"],
            "wrong_type": ['{"user_id": "u", "item_id": "i", "rating": "five"}', "[]", '{"rating": 3}'],
            "out_of_range": [json.dumps({**good, "rating": 1e30})],
            "bad_id": [json.dumps({**good, "user_id": ""}), json.dumps({**good, "item_id": "a\tb"})],
            "too_large": [json.dumps({**good, "padding": "x" * 20_000})],
        }
        for values in poison.values():
            for value in values:
                kcat(fresh_broker, "ratings", "u1", value)
        kcat(fresh_broker, "clicks", "u1", json.dumps({"user_id": "u1", "item_id": "i1", "kind": "sniff"}))
        kcat(fresh_broker, "ratings", "u1", json.dumps(good))
        process.wait_for(RATED, 1)
        counts = {**{reason: len(values) for reason, values in poison.items()}, "unknown_kind": 1}
        for reason, count in counts.items():
            process.wait_for(f'streamer_dead_letters_total{{reason="{reason}"}}', count)
        assert process.metrics()[RATED] == 1
        process.stop()
    letters = [
        json.loads(line) for line in run("inspect", "dead-letters", "--data", tmp_path / "d", "--json").splitlines()
    ]
    assert len(letters) == sum(counts.values())
    assert {letter["topic"] for letter in letters} == {"ratings", "clicks"}
    mirrored = subprocess.run(
        ["kcat", "-C", "-e", "-q", "-b", fresh_broker.bootstrap, "-t", "dead-letters", "-f", "%k\\n"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    assert set(mirrored) == {f"{letter['topic']}/{letter['partition']}/{letter['offset']}" for letter in letters}


def ingestion(process: Streamer) -> str:
    found = process.get("/healthz").json()
    return str(found["ingestion"])


def until_said(process: Streamer, words: str) -> str:
    """Wait until the status of ingestion contains `words`."""
    deadline = time.monotonic() + DEADLINE_S
    while words not in (said := ingestion(process)) or said.startswith("connecting"):
        assert time.monotonic() < deadline, said
        assert not process.pause(0.05)
    return said


def until_ingestion(process: Streamer, serving: bool) -> str:
    """Wait until it serves, or reports an error."""
    deadline = time.monotonic() + DEADLINE_S
    while ((said := ingestion(process)) == "serving") != serving or said.startswith("connecting"):
        assert time.monotonic() < deadline, said
        assert not process.pause(0.05)
    return said


def test_the_process_waits_for_a_broker_that_goes_away(own_broker: Broker, tmp_path: Path) -> None:
    with streamer(tmp_path / "d", "--kafka", own_broker.bootstrap) as process:
        process.wait_for("streamer_ingestion_up", 1)
        publish(own_broker, [*ratings(500), message(Click("u1", "i1")), message(ItemUpdate("i1", "One"))])
        process.wait_for(RATED, 500)
        own_broker.kill()
        said = until_ingestion(process, serving=False)
        assert own_broker.bootstrap in said
        assert process.call("RecommendationService/Recommend", userId="u7")["items"]  # answers go on
        refused = httpx.post(
            f"{process.url}/streamer.v1.EventService/Publish",
            json={"events": [{"click": {"userId": "u", "itemId": "i"}}]},
            timeout=60,
        )
        assert refused.json()["code"] == "unavailable"
        own_broker.start()
        until_ingestion(process, serving=True)
        publish(own_broker, ratings(500, 500))
        process.wait_for(RATED, 1000)
        assert process.metrics()[RATED] == 1000


def test_the_process_waits_for_a_broker_that_is_missing_at_the_start(own_broker: Broker, tmp_path: Path) -> None:
    own_broker.kill()
    with streamer(tmp_path / "d", "--kafka", own_broker.bootstrap) as process:
        until_ingestion(process, serving=False)
        assert process.call("RecommendationService/Recommend", userId="u7")["items"] == []
        own_broker.start()
        until_ingestion(process, serving=True)
        publish(own_broker, ratings(100))
        process.wait_for(RATED, 100)


def test_retention_past_the_stored_offset_stops_with_instructions(fresh_broker: Broker, tmp_path: Path) -> None:
    from kafka.admin import KafkaAdminClient
    from kafka.structs import TopicPartition

    arguments = ("--kafka", fresh_broker.bootstrap)
    with streamer(tmp_path / "d", *arguments) as process:
        process.wait_for("streamer_ingestion_up", 1)
        publish(fresh_broker, ratings(200))
        process.wait_for(RATED, 200)
        assert process.stop() == 0
    publish(fresh_broker, ratings(200, 200))
    admin = KafkaAdminClient(bootstrap_servers=fresh_broker.bootstrap)
    admin.delete_records({TopicPartition("ratings", partition): -1 for partition in range(12)})
    admin.close()
    said = run("serve", "--data", tmp_path / "d", "--port", "0", *arguments, code=1)
    assert "ratings" in said
    assert "Traceback" not in said
    assert "--data" in said


def test_wrong_credentials_and_a_wrong_address_get_different_messages(fresh_broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong\n")
    sasl = (
        "--kafka-security",
        "SASL_PLAINTEXT",
        "--kafka-username",
        "alice",
        "--kafka-password-file",
        tmp_path / "password",
    )
    with streamer(tmp_path / "a", "--kafka", sasl_of(fresh_broker), *sasl) as process:
        wrong_password = until_said(process, "kafka_password_file")
    with streamer(tmp_path / "b", "--kafka", "127.0.0.1:1") as process:
        wrong_address = until_said(process, "127.0.0.1:1")
    assert "refused 'alice'" in wrong_password
    assert "Connection refused" in wrong_address
    assert "alice" not in wrong_address
    (tmp_path / "password").write_text("alice-secret\n")
    with streamer(tmp_path / "a", "--kafka", sasl_of(fresh_broker), *sasl) as process:
        until_ingestion(process, serving=True)


def test_a_state_of_the_embedded_log_is_not_mixed_with_kafka(fresh_broker: Broker, tmp_path: Path) -> None:
    with streamer(tmp_path / "d"):
        pass
    said = run("serve", "--data", tmp_path / "d", "--port", "0", "--kafka", fresh_broker.bootstrap, code=78)
    assert 'made with source "embedded log"' in said
