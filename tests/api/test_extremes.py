"""Every RPC with the extremes of each of its fields: the answer is a result, or a code below 500 and a sentence."""

from collections.abc import Iterator

import httpx
import msgspec
import pytest
from process import Streamer, streamer
from protobuf import (
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    ScalarType,
)

from streamer._gen.streamer.v1.admin_pb import GetStatusRequest
from streamer._gen.streamer.v1.event_pb import PublishRequest
from streamer._gen.streamer.v1.recommendation_pb import RecommendRequest
from streamer.api import METHODS

TEXTS = ["", "\0", "\n", " ", "u1", "é", "e\u0301", "\U0001f600" * 100, "a" * 10_000, "-1", "../x", "/proc/x", "NaN"]
WHOLE = [0, -1, 1, 2**31 - 1, -(2**31), 2**32, 2**63 - 1, -(2**63), 2**64, 10**40, 0.5, "1", True]
FRACTIONS = [0, -1, "NaN", "Infinity", "-Infinity", 1e308, -1e308, 5e-324, 2**70, "x"]
OTHERS: list[object] = [None, True, [], {}, [[]], {"x": 1}, "x", 1]  # of the wrong type, wherever they stand
DEPTH = 3


def requests() -> dict[str, DescMessage]:
    """The request of each RPC of ours, by its path."""
    found = {}
    for kind in (RecommendRequest, PublishRequest, GetStatusRequest):
        for service in kind.desc().file.services:
            for method in service.methods:
                found[f"{service.type_name}/{method.name}"] = method.input
    return found


def scalars(kind: object) -> list[object]:
    if kind in (ScalarType.DOUBLE, ScalarType.FLOAT):
        return FRACTIONS
    return [*TEXTS] if kind in (ScalarType.STRING, ScalarType.BYTES) else [*WHOLE]


def values(kind: object, depth: int) -> Iterator[object]:
    if isinstance(kind, DescMessage):
        yield from bodies(kind, depth - 1)
    else:
        yield from scalars(kind)
    yield from OTHERS


def bodies(message: DescMessage, depth: int = DEPTH) -> Iterator[object]:
    """The message with one field set, for each field and each extreme of it."""
    yield {}
    for field in message.fields if depth else ():
        name = field.json_name
        match field.value:
            case DescFieldValueList(element=element):
                yield from ({name: [value]} for value in values(element, depth))
                yield {name: [None] * 3}
            case DescFieldValueMap(value=element):
                yield from ({name: {"x": value}} for value in values(element, depth))
                yield from ({name: {text: 1}} for text in TEXTS)
            case DescFieldValueMessage(message=inner):
                yield from ({name: value} for value in values(inner, depth))
            case DescFieldValueScalar(scalar=scalar):
                yield from ({name: value} for value in values(scalar, depth))
        yield from ({name: other} for other in OTHERS)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streamer]:
    with streamer(tmp_path_factory.mktemp("extremes") / "d") as running:
        yield running


def test_every_rpc_of_ours_is_asked() -> None:
    assert {name for name in METHODS if name.startswith("streamer.")} == requests().keys()


@pytest.mark.parametrize("path", requests())
def test_extremes_get_a_result_or_a_code_below_500_and_a_sentence(process: Streamer, path: str) -> None:
    tried = 0
    with httpx.Client(base_url=process.url, timeout=30, headers={"content-type": "application/json"}) as client:
        for body in bodies(requests()[path]):
            answer = client.post(path, content=msgspec.json.encode(body))
            tried += 1
            shown = f"{path} {str(body)[:200]}: {answer.status_code} {answer.text[:500]}"
            assert answer.status_code < 500, shown
            if answer.status_code != 200:
                said = answer.json()
                assert said["code"] not in ("internal", "unknown"), shown
                assert said["message"].strip(), shown
                assert not any(bad in said["message"] for bad in ("\n", "<class", "Traceback")), shown
    assert tried >= 1
    assert "Traceback" not in process.output.read_text(), process.output.read_text()[-3000:]
