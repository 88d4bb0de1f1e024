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
        while not self._stop.is_set():
            status = self._status(request.service)
            if status is not sent:
                sent = status
                yield HealthCheckResponse(status=status)
            try:
                async with asyncio.timeout(_INTERVAL_S):
                    await self._stop.wait()
            except TimeoutError:
                continue

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service not in SERVICES:
            return _ServingStatus.SERVICE_UNKNOWN
        if service == INGESTION and not self._answers.ready()[0]:
            return _ServingStatus.NOT_SERVING
        return _ServingStatus.SERVING
