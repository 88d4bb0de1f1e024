"""The endpoint on one port: what is needed to answer, put together, until it is stopped."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from streamer.api.http.front import Front
from streamer.api.router import Router
from streamer.api.security import Guard, required_token, tls
from streamer.api.sockets import listen, url
from streamer.core.answers import Answers
from streamer.core.settings import LimitSettings, SecuritySettings, ServerSettings

_PUBLISHERS = 32  # requests that can wait for the same fsync


async def serve(
    answers: Answers,
    server: ServerSettings,
    security: SecuritySettings,
    limits: LimitSettings,
    stop: asyncio.Event,
    started: Callable[[str], None],
    sock: socket.socket | None = None,
) -> None:
    """Answer until `stop` is set, then let running requests end within `shutdown_timeout_s`; those that wait are refused.

    `started` gets the address once clients can connect. `sock` comes from `listen` and is closed at the end.
    Raises BadSettings as `required_token`, `tls` and `listen` do.
    """
    token, context = required_token(server, security), tls(security)
    sock = sock or listen(server)
    threads = ThreadPoolExecutor(_PUBLISHERS, "publish")
    router = Router(answers, server, stop, threads, limits.metrics_max_age_s)
    app = Guard(router, server, token, limits.body_timeout_s)
    try:
        started(url(sock, context is not None))
        await Front(app, limits, context, answers.observe_refused).run(sock, stop, server.shutdown_timeout_s)
    finally:
        sock.close()
        router.close()
        threads.shutdown(wait=False, cancel_futures=True)
