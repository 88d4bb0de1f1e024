"""The client and the sink that the command line uses, against a running endpoint."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from streamer.api.memory import MemoryAnswers
from streamer.api.thread import serving
from streamer.core.answers import EventCount, Prediction, Recommendation
from streamer.core.errors import BadEvent, NotAuthorised, SourceUnavailable, StoreUnavailable, StreamerError
from streamer.core.events import (
    LOG,
    Click,
    ItemRemoval,
    ItemUpdate,
    Message,
    Offsets,
    Rating,
    UserRemoval,
    UserUpdate,
    message,
)
from streamer.core.protocols import Sink
from streamer.core.settings import SecuritySettings, ServerSettings
from streamer.producers.client import Client
from streamer.producers.http import REQUEST_BYTES, HttpSink, event_json

EVENTS = [
    message(Rating("u1", "heat", 4.5, 1700000000000, "e1")),
    message(Click("u1", "alien", "view", None, None, "s", "r")),
    message(ItemUpdate("heat", "Heat (1995)", ("Crime",), {"year": 1995.0, "colour": True, "x": None}, False)),
    message(UserUpdate("u 1/é", {"age": 30.0}, {"Crime": 5.0}, "anonymous-7")),
    message(ItemRemoval("heat")),
    message(UserRemoval("u 1/é")),
]


@pytest.fixture
def answers() -> MemoryAnswers:
    return MemoryAnswers()


@pytest.fixture
def url(answers: MemoryAnswers) -> Iterator[str]:
    with serving(answers, ServerSettings(port=0), SecuritySettings()) as made:
        yield made


def test_messages_arrive_unchanged_through_the_sink(answers: MemoryAnswers, url: str) -> None:
    with closing(HttpSink(url)) as sink:
        assert isinstance(sink, Sink)
        assert sink.publish(EVENTS) == {LOG: len(EVENTS)}
        assert sink.publish([]) == {}
    assert answers.messages == EVENTS


def test_an_event_without_a_time_gets_that_of_its_record(answers: MemoryAnswers, url: str) -> None:
    timed = [Message(m.topic, m.key, m.value, 42) for m in EVENTS[:2]]
    with closing(HttpSink(url)) as sink:
        sink.publish(timed)
    times = [msgspec.json.decode(m.value or b"")["timestamp_ms"] for m in answers.messages]
    assert times == [1700000000000, 42]


def test_many_events_are_sent_in_several_requests_in_order(answers: MemoryAnswers, url: str) -> None:
    many = [message(Click(f"u{n}", "x" * 200)) for n in range(2000)]
    with closing(HttpSink(url)) as sink:
        assert sink.publish(many) == {LOG: 2000}
    assert answers.messages == many
    requests = answers.requests["streamer.v1.EventService/Publish", "ok"]
    assert requests == -(-sum(len(event_json(m)) + 1 for m in many) // REQUEST_BYTES)


def test_a_server_with_a_smaller_request_limit_gets_smaller_requests(answers: MemoryAnswers) -> None:
    many = [message(Click(f"u{n}", "x" * 100)) for n in range(100)]
    large = message(ItemUpdate("large", "t" * 5000))
    refused: list[str] = []
    with (
        serving(answers, ServerSettings(port=0, request_max_bytes=2048), SecuritySettings()) as url,
        closing(HttpSink(url, on_rejected=lambda m, reason: refused.append(f"{m.key!r} {reason}"))) as sink,
    ):
        assert sink.publish([*many, large]) == {LOG: 100}
    assert answers.messages == many
    assert len(refused) == 1
    assert refused[0].startswith("b'large' too_large: ")


def test_rejected_events_are_reported_and_the_others_are_stored(answers: MemoryAnswers, url: str) -> None:
    bad = [
        Message("ratings", b"u", b"{"),
        Message("ratings", b"u", b'{"user_id":"u","item_id":"i","rating":"high"}'),
        Message("ratings", b"u", b'{"user_id":"u","item_id":"i","rating":1e9}'),
        Message("clicks", b"u", b'{"user_id":"","item_id":"i"}'),
        Message("clicks", b"u", b'{"user_id":"u","item_id":"i","kind":5}'),
        Message("clicks", b"u", None),
        Message("items", b"\xff", None),
        Message("weather", b"u", b"{}"),
        Message("ratings", b"u", b'{"user_id":"u\xff","item_id":"i","rating":1}'),
    ]
    told: list[tuple[Message, str]] = []
    with closing(HttpSink(url, on_rejected=lambda m, reason: told.append((m, reason.partition(":")[0])))) as sink:
        sink.publish([EVENTS[0], *bad, EVENTS[1]])
    assert answers.messages == EVENTS[:2]
    reasons = ["not_json", "wrong_type", "out_of_range", "bad_id", "wrong_type", "not_json", "bad_id"]
    assert {bad.index(m): reason for m, reason in told} == dict(enumerate([*reasons, "unknown_topic", "not_json"]))


def test_an_unknown_field_of_an_event_is_ignored_as_on_the_topics() -> None:
    event = event_json(Message("ratings", b"u", b'{"user_id":"u","item_id":"i","rating":1,"mood":"good"}'))
    assert msgspec.json.decode(event) == {"rating": {"user_id": "u", "item_id": "i", "rating": 1.0}}
    with pytest.raises(BadEvent):
        event_json(Message("weather", b"", b"{}"))


class Recovering(MemoryAnswers):
    """Unavailable for the first publishes."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def publish(self, messages: Sequence[Message]) -> Offsets:
        self.failures -= 1
        if self.failures >= 0:
            raise StoreUnavailable("the disk is full")
        return super().publish(messages)


def test_the_client_retries_while_the_server_cannot_store() -> None:
    answers = Recovering(failures=2)
    with serving(answers, ServerSettings(port=0), SecuritySettings()) as url, closing(HttpSink(url)) as sink:
        assert sink.publish(EVENTS) == {LOG: len(EVENTS)}
    assert answers.messages == EVENTS


def test_retries_end_with_the_servers_message() -> None:
    with (
        serving(Recovering(failures=1000), ServerSettings(port=0), SecuritySettings()) as url,
        closing(HttpSink(url, patience_s=0.2)) as sink,
        pytest.raises(SourceUnavailable, match="the disk is full"),
    ):
        sink.publish(EVENTS)


def test_the_client_reads_every_answer(answers: MemoryAnswers, url: str) -> None:
    answers.publish([message(ItemUpdate("heat", "Heat (1995)")), message(Rating("u1", "heat", 4.0))])
    with Client(url + "/") as client:
        found = client.recommend("u2", limit=1, freshness_token="log/0:2")
        assert found.items == (Recommendation("heat", "Heat (1995)", 1.0, "popularity"),)
        assert (found.generation, found.freshness_token) == ("g0", "log/0:2")
        assert found.recommendation_id
        told = client.recommend_for_preferences({}, {"alien": 5.0}, limit=1, freshness_token="log/0:2")
        assert told.items == found.items
        with pytest.raises(StreamerError, match="no category 'Comedy'"):
            client.recommend_for_preferences({"Comedy": 5.0}, {})
        assert client.predict("u", "i") == Prediction(4.0, "mean")
        assert client.similar_items("heat").items == ()
        status = client.status()
        assert status == msgspec.structs.replace(answers.status(), uptime_s=status.uptime_s)
        assert EventCount("ratings", "learned", 1) in status.events


def test_the_servers_message_is_passed_on(answers: MemoryAnswers, url: str) -> None:
    with Client(url) as client:
        with pytest.raises(StreamerError, match="userId is empty"):
            client.recommend("")
        with pytest.raises(StreamerError, match="not part of a freshness token"):
            client.predict("u", "i", freshness_token="soon")
        answers.failure = KeyError("secret detail")
        with pytest.raises(StreamerError, match="see its log"):
            client.status()


def test_a_missing_server_is_reported_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}") as client,
        pytest.raises(SourceUnavailable, match=f"{port}.*streamer serve"),
    ):
        client.status()
    with closing(HttpSink(f"http://127.0.0.1:{port}", patience_s=600)) as sink, pytest.raises(SourceUnavailable):
        sink.publish(EVENTS)
    for address in ("nonsense", "ftp://x", "http://[::1"):
        with pytest.raises(StreamerError, match="is not a valid address"):
            Client(address).status()


def test_the_token_is_sent_and_a_wrong_one_is_not_retried(answers: MemoryAnswers, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("correct-horse")
    security = SecuritySettings(token_file=str(tmp_path / "token"))
    with serving(answers, ServerSettings(port=0), security) as url:
        with closing(HttpSink(url, token="correct-horse")) as sink:
            assert sink.publish(EVENTS) == {LOG: len(EVENTS)}
        with closing(HttpSink(url, token="wrong", patience_s=600)) as sink, pytest.raises(NotAuthorised, match="token"):
            sink.publish(EVENTS)


def test_a_server_that_is_not_a_streamer_is_reported() -> None:
    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = Thread(target=other.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{other.server_port}"
            with Client(address) as client, pytest.raises(StreamerError, match="without the JSON of a streamer"):
                client.status()
        finally:
            other.shutdown()
            thread.join()
