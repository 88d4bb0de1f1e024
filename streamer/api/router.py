"""Passes each request to the application for its path: an RPC service, or a page."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from typing import TypedDict

from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.interceptor import MetadataInterceptor
from connectrpc_grpcreflect import (  # type: ignore[import-untyped]  # ships no py.typed
    ServerReflectionAlphaASGIApplication,
    ServerReflectionAlphaService,
    ServerReflectionASGIApplication,
    ServerReflectionService,
)
from protobuf import Message

from streamer import web
from streamer._gen.grpc.health.v1.health_connect import HealthASGIApplication
from streamer._gen.grpc.health.v1.health_pb import HealthCheckRequest
from streamer._gen.streamer.v1.admin_connect import AdminServiceASGIApplication
from streamer._gen.streamer.v1.admin_pb import GetStatusRequest
from streamer._gen.streamer.v1.event_connect import EventServiceASGIApplication
from streamer._gen.streamer.v1.event_pb import PublishRequest
from streamer._gen.streamer.v1.recommendation_connect import RecommendationServiceASGIApplication
from streamer._gen.streamer.v1.recommendation_pb import RecommendRequest
from streamer.api import METHODS
from streamer.api.admin import Admin
from streamer.api.codec import Binary, StrictJSON
from streamer.api.errors import LOG, refuse
from streamer.api.events import Events
from streamer.api.health import Health
from streamer.api.http.asgi import App, Receive, Scope, Send
from streamer.api.observe import Observed
from streamer.api.recommendations import Recommendations
from streamer.core.answers import Answers
from streamer.core.settings import ServerSettings


class _Common(TypedDict):
    interceptors: "Sequence[MetadataInterceptor[float]]"
    codecs: "Sequence[Codec[Message, Message]]"
    read_max_bytes: int


PAGES = ("/", "/metrics", "/healthz")


class Router:
    """An ASGI application for all services and pages."""

    def __init__(
        self,
        answers: Answers,
        server: ServerSettings,
        stop: asyncio.Event,
        threads: ThreadPoolExecutor,
        metrics_max_age_s: float,
    ) -> None:
        self._answers = answers
        self._metrics = _Metrics(answers, metrics_max_age_s)
        self._services = _services(answers, server, stop, threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to its service or page; for an unknown path, say which paths there are."""
        path = scope["path"]
        service, _, method = path.rpartition("/")
        app = self._services.get(service)
        if path in PAGES:
            await self._page(scope, send)
        elif app is None or (service.startswith("/streamer") and path[1:] not in METHODS):
            await refuse(scope, send, 404, Code.UNIMPLEMENTED, _unknown_path(path))
        elif scope["method"] != "POST":
            await refuse(
                scope, send, 405, Code.UNIMPLEMENTED,
                f"{method} takes POST, not {scope['method']}: with curl, -d '{{...}}' -H 'Content-Type: application/json'",
                [(b"allow", b"POST")],
            )  # fmt: skip
        else:
            await app(scope, receive, send)

    def close(self) -> None:
        """End the thread that makes /metrics."""
        self._metrics.thread.shutdown(wait=False, cancel_futures=True)

    async def _page(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await refuse(scope, send, 405, Code.UNIMPLEMENTED, f"{scope['path']} takes GET", [(b"allow", b"GET, HEAD")])
            return
        headers: Mapping[str, str] = {}
        try:
            match scope["path"]:
                case "/metrics":
                    body, kind = await self._metrics.read()
                case "/healthz":
                    ingesting, sentence = self._answers.ready()
                    health = {"endpoint": "serving", "ingestion": "serving" if ingesting else sentence}
                    health["data"] = self._answers.damage() or "whole"
                    body, kind = json.dumps(health).encode(), "application/json"
                case _:
                    body, kind, headers = web.PAGE, "text/html; charset=utf-8", web.HEADERS
        except Exception:
            LOG.exception("%s failed", scope["path"])
            await refuse(scope, send, 500, Code.INTERNAL, "something went wrong in the server: see its log")
            return
        answer = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store"}
        answer |= {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin", **headers}
        encoded = [(name.encode(), value.encode()) for name, value in answer.items()]
        await send({"type": "http.response.start", "status": 200, "headers": encoded, "trailers": False})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class _Metrics:
    """The page /metrics. Making it takes some 10 ms: a thread makes it, and for `max_age_s` it is for all who ask."""

    def __init__(self, answers: Answers, max_age_s: float) -> None:
        self._answers, self._max_age_s = answers, max_age_s
        self.thread = ThreadPoolExecutor(1, "metrics")
        self._made: asyncio.Future[tuple[bytes, str]] | None = None
        self._began = 0.0

    async def read(self) -> tuple[bytes, str]:
        """The page and its content type; raises what making it raises."""
        loop, made = asyncio.get_running_loop(), self._made
        stale = made is None or (
            made.done() and (loop.time() - self._began > self._max_age_s or made.exception() is not None)
        )
        if made is None or stale:
            self._began = loop.time()
            self._made = made = loop.run_in_executor(self.thread, self._answers.metrics)
            made.add_done_callback(lambda made: made.cancelled() or made.exception())  # if nobody waits for it any more
        return await asyncio.shield(made)


def _services(
    answers: Answers, server: ServerSettings, stop: asyncio.Event, threads: ThreadPoolExecutor
) -> dict[str, App]:
    """The services by path, as in /streamer.v1.EventService."""
    most = server.request_max_bytes
    around: Sequence[MetadataInterceptor[float]] = [Observed(answers, most)]
    codecs: Sequence[Codec[Message, Message]] = [Binary(), StrictJSON()]
    common = _Common(interceptors=around, codecs=codecs, read_max_bytes=most)
    files = [kind.desc().file for kind in (RecommendRequest, PublishRequest, GetStatusRequest, HealthCheckRequest)]
    recommendations = Recommendations(answers, server.deadline_s)
    made = (
        RecommendationServiceASGIApplication(recommendations, **common),
        EventServiceASGIApplication(Events(answers, threads), **common),
        AdminServiceASGIApplication(Admin(answers, threads), **common),
        HealthASGIApplication(Health(answers, stop), **common),
        ServerReflectionASGIApplication(ServerReflectionService(*files), **common),
        ServerReflectionAlphaASGIApplication(ServerReflectionAlphaService(*files), **common),
    )
    return {app.path: app for app in made}


def _unknown_path(path: str) -> str:
    near = get_close_matches(path[:200].lower(), {f"/{name}".lower(): name for name in METHODS}, n=1, cutoff=0.6)
    hint = next((f"; did you mean /{name}?" for name in METHODS if near == [f"/{name}".lower()]), ".")
    return f"nothing at {path[:200]!r}{hint} The RPCs are listed by gRPC reflection; pages: {', '.join(PAGES)}"
