"""What happens around every RPC: it is timed, and its errors are made fit to be seen."""

from time import perf_counter
from typing import cast

from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from protobuf import Message

from streamer.api import METHODS
from streamer.api.errors import shown
from streamer.core.answers import Answers, Code


class Observed:
    """Sits outside everything else, so that unreadable requests are seen too."""

    def __init__(self, answers: Answers, request_max_bytes: int) -> None:
        self._answers = answers
        self._request_max_bytes = request_max_bytes

    async def on_start(self, ctx: RequestContext[Message, Message]) -> float:
        """The clock."""
        return perf_counter()

    async def on_end(self, token: float, ctx: RequestContext[Message, Message], error: Exception | None, /) -> None:
        """Observe the request; raises the error as clients see it."""
        seen: ConnectError | None = None if error is None else shown(error, self._request_max_bytes)
        method = f"{ctx.method.service_name}/{ctx.method.name}"
        if method in METHODS:
            code = "ok" if seen is None else seen.code.value
            self._answers.observe_request(method, cast(Code, code), perf_counter() - token)
        if seen is not None:
            raise seen
