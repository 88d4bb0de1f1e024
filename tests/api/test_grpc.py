"""The endpoint as gRPC clients see it: grpcio, its health and reflection packages, and gRPC-Web frames."""

import struct
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from protobuf import Oneof

from streamer._gen.streamer.v1.event_pb import Click, Event, PublishRequest, PublishResponse, Rating
from streamer._gen.streamer.v1.recommendation_pb import RecommendRequest, RecommendResponse
from streamer.api.memory import MemoryAnswers
from streamer.api.thread import serving
from streamer.core.events import Click as ClickEvent
from streamer.core.events import message
from streamer.core.settings import SecuritySettings, ServerSettings

RECOMMEND = "/streamer.v1.RecommendationService/Recommend"
PUBLISH = "/streamer.v1.EventService/Publish"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


@pytest.fixture
def answers() -> MemoryAnswers:
    memory = MemoryAnswers()
    memory.publish([message(ClickEvent("u1", "heat")), message(ClickEvent("u2", "alien"))])
    return memory


@pytest.fixture
def url(answers: MemoryAnswers) -> Iterator[str]:
    with serving(answers, ServerSettings(port=0), SecuritySettings()) as made:
        yield made


@pytest.fixture
def channel(url: str) -> Iterator[grpc.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(url.removeprefix("http://"), options=options) as made:
        yield made


def recommending(channel: grpc.Channel) -> Callable[..., RecommendResponse]:
    call: Callable[..., RecommendResponse] = channel.unary_unary(
        RECOMMEND, request_serializer=RecommendRequest.to_binary, response_deserializer=RecommendResponse.from_binary
    )
    return call


def publishing(channel: grpc.Channel) -> Callable[..., PublishResponse]:
    call: Callable[..., PublishResponse] = channel.unary_unary(
        PUBLISH, request_serializer=PublishRequest.to_binary, response_deserializer=PublishResponse.from_binary
    )
    return call


def click(user_id: str, item_id: str) -> Event:
    return Event(kind=Oneof("click", Click(user_id=user_id, item_id=item_id)))


def test_a_client_that_knows_only_reflection_can_send_queries(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"streamer.v1.RecommendationService", "streamer.v1.EventService", "streamer.v1.AdminService"} <= set(
        database.get_services()
    )
    assert "grpc.health.v1.Health" in database.get_services()
    pool = descriptor_pool.DescriptorPool(database)
    for service in ("RecommendationService", "EventService", "AdminService"):
        for method in pool.FindServiceByName(f"streamer.v1.{service}").methods:
            request = message_factory.GetMessageClass(method.input_type)
            response = message_factory.GetMessageClass(method.output_type)
            made = request()
            given = {"user_id": "u1", "item_id": "alien", "learner": "skip-gram", "directory": "/nowhere"}
            for field, value in given.items():
                if field in method.input_type.fields_by_name:
                    setattr(made, field, value)
            call: Any = channel.unary_unary(
                f"/streamer.v1.{service}/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            answer = call(made, timeout=20)
            if method.name == "Recommend":
                assert [(item.item_id, item.source) for item in answer.items] == [("alien", "popularity")]
            if method.name == "GetStatus":
                assert answer.learners[0].rmse[0].HasField("rmse") is False


@pytest.mark.slow
def test_2000_calls_over_one_connection_without_an_error(answers: MemoryAnswers, channel: grpc.Channel) -> None:
    recommend = recommending(channel)
    request = RecommendRequest(user_id="u1", limit=5)
    for _ in range(2000):
        assert len(recommend(request, timeout=20).items) == 1
    assert answers.requests == {(RECOMMEND[1:], "ok"): 2000}


def test_many_calls_at_once_over_one_connection(channel: grpc.Channel) -> None:
    recommend: Any = recommending(channel)
    futures = [recommend.future(RecommendRequest(user_id=f"u{n}"), timeout=20) for n in range(200)]
    assert all(future.result().generation == "g0" for future in futures)


def test_an_event_published_is_in_the_answer_to_its_token(channel: grpc.Channel) -> None:
    done = publishing(channel)(PublishRequest(events=[click("u9", "heat"), Event()]), timeout=20)
    assert (done.accepted, [rejected.index for rejected in done.rejected]) == (1, [1])
    query = RecommendRequest(user_id="u9", freshness_token=done.freshness_token)
    assert [item.item_id for item in recommending(channel)(query, timeout=20).items] == ["alien"]


def test_a_rating_without_a_value_is_not_a_rating_of_0(channel: grpc.Channel) -> None:
    event = Event(kind=Oneof("rating", Rating(user_id="u", item_id="i")))
    done = publishing(channel)(PublishRequest(events=[event]), timeout=20)
    assert done.rejected[0].reason.startswith("wrong_type: ")


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        (RecommendRequest(), grpc.StatusCode.INVALID_ARGUMENT, "userId is empty"),
        (RecommendRequest(user_id="u", limit=-1), grpc.StatusCode.INVALID_ARGUMENT, "limit is -1"),
        (RecommendRequest(user_id="u", freshness_token="x y"), grpc.StatusCode.INVALID_ARGUMENT, "freshness token"),
        (RecommendRequest(user_id="u" * 300_000), grpc.StatusCode.RESOURCE_EXHAUSTED, "262,144"),
    ],
)
def test_errors_carry_a_code_and_a_sentence(
    channel: grpc.Channel, query: RecommendRequest, code: grpc.StatusCode, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        recommending(channel)(query, timeout=20)
    assert caught.value.code() is code
    assert words in caught.value.details()
    assert recommending(channel)(RecommendRequest(user_id="u1"), timeout=20).items


def test_a_query_fails_when_its_deadline_passes_before_its_events_are_learned(
    answers: MemoryAnswers, channel: grpc.Channel
) -> None:
    query = RecommendRequest(user_id="u", freshness_token="log/0:99")
    with pytest.raises(grpc.RpcError) as caught:
        recommending(channel)(query, timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_fault_of_the_server_is_internal_and_an_unknown_method_unimplemented(
    answers: MemoryAnswers, channel: grpc.Channel
) -> None:
    answers.failure = ZeroDivisionError("secret detail")
    with pytest.raises(grpc.RpcError) as caught:
        recommending(channel)(RecommendRequest(user_id="u"), timeout=20)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/streamer.v1.RecommendationService/Explain")(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "nothing at" in caught.value.details()


def test_a_request_refused_halfway_does_not_affect_other_calls_of_its_connection(
    answers: MemoryAnswers, channel: grpc.Channel
) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="ingestion"), timeout=60)
    assert next(watch).status == SERVING
    for path in (RECOMMEND, "/streamer.v1.RecommendationService/Explain"):
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"\x0a" + _varint(3_000_000) + b"u" * 3_000_000, timeout=20)
            assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED)
    answers.ingestion = "Kafka is away"
    assert next(watch).status == NOT_SERVING
    watch.cancel()


def test_unreadable_bytes_and_endless_nesting_are_refused(channel: grpc.Channel) -> None:
    raw: Any = channel.unary_unary(PUBLISH)
    nested = b""
    for _ in range(20_000):
        nested = b"\x0a" + _varint(len(nested)) + nested
        nested = b"\x32" + _varint(len(nested)) + nested
    for tag in (b"\x0a\x01a\x12", b"\x0a", b"\x0a\x01i\x22", b"\x1a", b"\x0a"):
        nested = tag + _varint(len(nested)) + nested
    for body in (b"\xff\xff\xff", nested):
        with pytest.raises(grpc.RpcError) as caught:
            raw(body, timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def test_health_distinguishes_the_endpoint_from_ingestion(answers: MemoryAnswers, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    def check(service: str) -> int:
        status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status
        return status

    names = ("", "streamer.v1.RecommendationService", "ingestion")
    assert [check(name) for name in names] == [SERVING] * 3
    answers.ingestion = "Kafka is away"
    assert [check(name) for name in names] == [SERVING, SERVING, NOT_SERVING]
    with pytest.raises(grpc.RpcError) as caught:
        check("nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


class Asked(MemoryAnswers):
    """Counts the calls of `ready`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def ready(self) -> tuple[bool, str]:
        self.asked += 1
        return super().ready()


def test_a_watch_sends_each_change_once() -> None:
    answers = Asked()
    with (
        serving(answers, ServerSettings(port=0), SecuritySettings()) as url,
        grpc.insecure_channel(url.removeprefix("http://"), options=[("grpc.enable_http_proxy", 0)]) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="ingestion"), timeout=30)
        assert next(watch).status == SERVING
        before, deadline = answers.asked, monotonic() + 20
        while answers.asked < before + 3:
            assert monotonic() < deadline
            stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=30)
        answers.ingestion = "Kafka is away"
        assert next(watch).status == NOT_SERVING
        answers.ingestion = "ok"
        assert next(watch).status == SERVING
        watch.cancel()
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nothing"), timeout=30)
        assert next(unknown).status == SERVICE_UNKNOWN
        unknown.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_all_services_and_names_unknown_ones(channel: grpc.Channel, version: str) -> None:
    call: Any = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="streamer.v1.Nothing"),
    ]
    listed, unknown = call(iter(requests), timeout=20)
    assert [service.name for service in listed.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "streamer.v1.AdminService",
        "streamer.v1.EventService",
        "streamer.v1.RecommendationService",
    ]
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_grpc_web_frames_over_http_1(url: str) -> None:
    body = RecommendRequest(user_id="u1").to_binary()
    frame = struct.pack(">BI", 0, len(body)) + body
    answer = httpx.post(url + RECOMMEND, content=frame, headers={"content-type": "application/grpc-web+proto"})
    assert answer.headers["content-type"] == "application/grpc-web+proto"
    flag, length = struct.unpack(">BI", answer.content[:5])
    assert flag == 0
    found = RecommendResponse.from_binary(answer.content[5 : 5 + length])
    assert [item.item_id for item in found.items] == ["alien"]
    trailers = answer.content[5 + length :]
    assert trailers[0] == 0x80
    assert b"grpc-status: 0" in trailers


def test_protocol_buffers_over_plain_http(url: str) -> None:
    body = RecommendRequest(user_id="u1").to_binary()
    answer = httpx.post(url + RECOMMEND, content=body, headers={"content-type": "application/proto"})
    assert [item.item_id for item in RecommendResponse.from_binary(answer.content).items] == ["alien"]
