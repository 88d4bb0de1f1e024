"""An interceptor around every RPC: it times the call and turns errors into the form that clients see."""

from time import perf_counter
from typing import cast

from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from protobuf import Message

from streamer.api import METHODS
from streamer.api.errors import to_connect_error
from streamer.core.answers import Answers, Code


class Observed:
    """The outermost interceptor, so that unreadable requests are timed too."""

    def __init__(self, answers: Answers, request_max_bytes: int) -> None:
        self._answers = answers
        self._request_max_bytes = request_max_bytes

    async def on_start(self, ctx: RequestContext[Message, Message]) -> float:
        """The time at which the request began, in seconds."""
        return perf_counter()

    async def on_end(self, token: float, ctx: RequestContext[Message, Message], error: Exception | None, /) -> None:
        """Record the request; `token` is from `on_start`. Raises the error as clients see it."""
        sent: ConnectError | None = None if error is None else to_connect_error(error, self._request_max_bytes)
        method = f"{ctx.method.service_name}/{ctx.method.name}"
        if method in METHODS:
            code = "ok" if sent is None else sent.code.value
            self._answers.observe_request(method, cast(Code, code), perf_counter() - token)
        if sent is not None:
            raise sent
