"""grpc.health.v1: services are SERVING whenever the endpoint answers; "ingestion" is SERVING while events arrive."""

import asyncio
from collections.abc import AsyncIterator

from connectrpc.request import RequestContext

from streamer._gen.grpc.health.v1.health_connect import Health as HealthService
from streamer._gen.grpc.health.v1.health_pb import HealthCheckRequest, HealthCheckResponse
from streamer.api.errors import not_found
from streamer.core.answers import Answers

INGESTION = "ingestion"
SERVICES = (
    "",
    "streamer.v1.RecommendationService",
    "streamer.v1.EventService",
    "streamer.v1.AdminService",
    INGESTION,
)
_INTERVAL_S = 0.25
_ServingStatus = HealthCheckResponse.ServingStatus


class Health(HealthService):
    """The service; its Watch calls end when `stop` is set."""

    def __init__(self, answers: Answers, stop: asyncio.Event) -> None:
        self._answers = answers
        self._stop = stop
        self._watchers = 0
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # replaced at each change of the ingestion's status

    async def check(
        self, request: HealthCheckRequest, ctx: RequestContext[HealthCheckRequest, HealthCheckResponse]
    ) -> HealthCheckResponse:
        """The status now."""
        status = self._status(request.service)
        if status is _ServingStatus.SERVICE_UNKNOWN:
            names = ", ".join(repr(name) for name in SERVICES)
            raise not_found(f"no service {request.service[:100]!r} here; there are: {names}")
        return HealthCheckResponse(status=status)

    async def watch(
        self, request: HealthCheckRequest, ctx: RequestContext[HealthCheckRequest, HealthCheckResponse]
    ) -> AsyncIterator[HealthCheckResponse]:
        """The status now, then each change of it."""
        sent = None
        self._watchers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            while not self._stop.is_set():
                changed, status = self._changed, self._status(request.service)
                if status is not sent:
                    sent = status
                    yield HealthCheckResponse(status=status)
                await changed.wait()
        finally:
            self._watchers -= 1

    async def _look(self) -> None:
        """Look at the status for all watchers, and wake them when it changes and at the end."""
        seen = self._status(INGESTION)
        while self._watchers and not self._stop.is_set():
            try:
                async with asyncio.timeout(_INTERVAL_S):
                    await self._stop.wait()
            except TimeoutError:
                pass
            if self._stop.is_set() or self._status(INGESTION) is not seen:
                seen = self._status(INGESTION)
                self._changed.set()
                self._changed = asyncio.Event()
        self._looking = None

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service not in SERVICES:
            return _ServingStatus.SERVICE_UNKNOWN
        if service == INGESTION and not self._answers.ready()[0]:
            return _ServingStatus.NOT_SERVING
        return _ServingStatus.SERVING
