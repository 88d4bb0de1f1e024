"""Errors as clients see them: a code and a sentence, never a traceback."""

import json
import logging
from collections.abc import Sequence
from urllib.parse import quote

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from streamer.api.http.asgi import Scope, Send
from streamer.core.errors import BadEvent, SourceUnavailable, StoreUnavailable, StreamerError, UnknownCategory

LOG = logging.getLogger("streamer.api")

INTERNAL = "something went wrong in the server: see its log"
_GRPC_STATUS = {
    Code.UNAUTHENTICATED: 16,
    Code.PERMISSION_DENIED: 7,
    Code.UNIMPLEMENTED: 12,
    Code.INVALID_ARGUMENT: 3,
    Code.INTERNAL: 13,
}


def invalid(sentence: str) -> ConnectError:
    """For a request that cannot be answered as it is."""
    return ConnectError(Code.INVALID_ARGUMENT, sentence)


def deadline_exceeded(sentence: str) -> ConnectError:
    """For a request whose deadline passed before its answer was ready."""
    return ConnectError(Code.DEADLINE_EXCEEDED, sentence)


def not_found(sentence: str) -> ConnectError:
    """For a request about something that does not exist here."""
    return ConnectError(Code.NOT_FOUND, sentence)


def internal() -> ConnectError:
    """For a fault of the server: the log has the details, the client gets none."""
    return ConnectError(Code.INTERNAL, INTERNAL)


def to_connect_error(error: Exception, request_max_bytes: int) -> ConnectError:
    """The error as clients see it; an unexpected one goes to the log with its traceback."""
    match error:
        case ConnectError() if error.code is Code.RESOURCE_EXHAUSTED and "larger than configured" in error.message:
            return ConnectError(
                error.code,
                f"the request is larger than {request_max_bytes:,} bytes (request_max_bytes, before and after "
                "decompression): send fewer events at a time, or raise the setting",
            )
        case ConnectError():
            return error
        case SourceUnavailable() | StoreUnavailable():
            return ConnectError(Code.UNAVAILABLE, str(error))
        case BadEvent() | UnknownCategory():
            return invalid(str(error))
        case StreamerError():
            return ConnectError(Code.FAILED_PRECONDITION, str(error))
    LOG.error("a request failed", exc_info=error)
    return internal()


async def refuse(
    scope: Scope,
    send: Send,
    http_status: int,
    code: Code,
    sentence: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Answer a request before it reaches an RPC, in the client's protocol: trailers for gRPC, JSON for all others."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    if kind.startswith(b"application/grpc"):
        status = [(b"grpc-status", b"%d" % _GRPC_STATUS[code]), (b"grpc-message", quote(sentence).encode())]
        await _refuse_grpc(send, kind, [*status, *headers])
        return
    body = json.dumps({"code": code.value, "message": sentence}, ensure_ascii=False).encode()
    answer = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": http_status, "headers": answer, "trailers": False})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _refuse_grpc(send: Send, kind: bytes, status: list[tuple[bytes, bytes]]) -> None:
    """Send the status: for gRPC-Web in the headers, for gRPC in trailers, as headers count only when they end the stream."""
    web = kind.startswith(b"application/grpc-web")
    head = [(b"content-type", b"application/grpc-web" if web else b"application/grpc"), *(status if web else [])]
    await send({"type": "http.response.start", "status": 200, "headers": head, "trailers": not web})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    if not web:
        await send({"type": "http.response.trailers", "headers": status, "more_trailers": False})
