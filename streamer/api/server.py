"""Runs hypercorn in this process, on one port for everything."""

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from hypercorn.asyncio import serve as run
from hypercorn.config import Config

from streamer.api.router import Router
from streamer.api.security import Guard, required_token
from streamer.api.sockets import BACKLOG, listen, url
from streamer.core.answers import Answers
from streamer.core.settings import SecuritySettings, ServerSettings

_PUBLISHERS = 32  # requests that can wait for the same fsync
BODY_S = 15.0  # how long a request's body may take to arrive
IDLE_S = 10.0  # common clients close an idle connection after 5 s: this is longer, so that the client closes it first


async def serve(
    answers: Answers,
    server: ServerSettings,
    security: SecuritySettings,
    stop: asyncio.Event,
    started: Callable[[str], None],
    sock: socket.socket | None = None,
) -> None:
    """Answer until `stop` is set, then let running requests end within `shutdown_timeout_s`.

    `started` gets the address once clients can connect. `sock` comes from `listen` and is closed at the end.
    Raises BadSettings as `required_token` and `listen` do.
    """
    token = required_token(server, security)
    sock = sock or listen(server)
    threads = ThreadPoolExecutor(_PUBLISHERS, "publish")
    address, config = url(sock), _config(server)
    config.bind = [f"fd://{sock.detach()}"]
    app = Guard(Router(answers, server, stop, threads), server, token, BODY_S)
    serving = asyncio.create_task(run(app, config, shutdown_trigger=stop.wait, mode="asgi"))
    try:
        started(address)
        await asyncio.wait({serving, stopped := asyncio.create_task(stop.wait())}, return_when="FIRST_COMPLETED")
        stopped.cancel()
        # hypercorn waits for requests for its graceful_timeout, then cancels them and itself. From Python 3.12 on,
        # closing the listener waits for every connection first, hence the limit around it.
        await asyncio.wait({serving}, timeout=server.shutdown_timeout_s + 1)
    finally:
        serving.cancel()
        await asyncio.wait({serving})
        threads.shutdown(wait=False, cancel_futures=True)
    if not serving.cancelled() and (error := serving.exception()) is not None:
        raise error


def _config(server: ServerSettings) -> Config:
    config = Config()
    config.errorlog = logging.getLogger("streamer.api.hypercorn")
    config.accesslog = None
    config.graceful_timeout = server.shutdown_timeout_s
    config.keep_alive_timeout = IDLE_S
    config.keep_alive_max_requests = 1 << 62  # the default of 1,000 drops long-lived gRPC connections
    config.include_server_header = False
    config.backlog = BACKLOG
    return config
