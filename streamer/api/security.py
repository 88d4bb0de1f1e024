"""Who may ask, and how: checked before anything of a request is read but its headers.

On loopback the Host must be a loopback name, or a page of any web site could reach us by rebinding its own name. Bodies
are only of types that a browser does not send across origins unasked. With a token, all but health asks for it: as a
bearer token, or as the password of a browser, so that the status page can be opened.
"""

import asyncio
import hmac
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from connectrpc.code import Code

from streamer.api.errors import late, refuse
from streamer.config import SecuritySettings, ServerSettings, read_secret
from streamer.errors import BadSettings

if TYPE_CHECKING:
    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGIReceiveEvent,
        ASGISendCallable,
        Scope,
    )

BODY_S = 15.0  # how long a request's body may take to arrive
_OPEN = ("/grpc.health.v1.Health/", "/healthz")
_TYPES = ("application/json", "application/proto")
_PREFIXES = ("application/grpc", "application/connect")


def admit(server: ServerSettings, security: SecuritySettings) -> str:
    """The token that requests must bear, "" for none; raises BadSettings when anybody on the network could ask."""
    if security.token_file:
        token = read_secret(security.token_file, "token")
        if not token.isascii() or not token.isprintable():
            raise BadSettings(f"the token in {security.token_file} holds more than printable ASCII: make another")
        return token
    if not is_loopback(server.host) and not security.insecure:
        raise BadSettings(
            f"host {server.host} is reachable from other machines and there is no token: "
            "name a file with one (--token-file), listen on 127.0.0.1, or say --insecure"
        )
    return ""


def is_loopback(name: str) -> bool:
    """Whether a host name or address, without a port, means this machine only."""
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """`127.0.0.1:8080` and `[::1]:8080` without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.partition(":")
    return name if port.isdigit() or not port else host


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: "ASGIFramework", server: ServerSettings, token: str, body_s: float = BODY_S) -> None:
        self._app = app
        self._local = is_loopback(server.host)
        self._token = token.encode()
        self._body_s = body_s

    async def __call__(self, scope: "Scope", receive: "ASGIReceiveCallable", send: "ASGISendCallable") -> None:
        """Refuse, or pass on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": None})
            return
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self._local and not is_loopback(_host_name(headers.get(b"host", ""))):
            await refuse(
                scope, send, 403, Code.PERMISSION_DENIED,
                f"Host {headers.get(b'host', '')!r} is not this machine's own name: ask for localhost or 127.0.0.1",
            )  # fmt: skip
        elif not self._authorised(scope["path"], headers):
            await refuse(
                scope, send, 401, Code.UNAUTHENTICATED,
                "this server wants its token, as in: Authorization: Bearer TOKEN (its --token-file holds it)",
                [(b"www-authenticate", b'Bearer, Basic realm="the token is the password"')],
            )  # fmt: skip
        elif scope["method"] == "POST" and not _is_known(headers.get(b"content-type", "")):
            await refuse(
                scope, send, 415, Code.INVALID_ARGUMENT,
                f"Content-Type {headers.get(b'content-type', '')[:100]!r} is not read here: "
                "send application/json, application/proto, or gRPC",
            )  # fmt: skip
        else:
            await self._app(scope, self._patient(receive), send)

    def _authorised(self, path: str, headers: Mapping[bytes, str]) -> bool:
        if not self._token or path.startswith(_OPEN):
            return True
        scheme, _, given = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = b64decode(given, validate=True).decode("latin-1").partition(":")[2]
            except Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token)

    def _patient(self, receive: "ASGIReceiveCallable") -> "ASGIReceiveCallable":
        """`receive`, but for a body that does not come to its end."""
        deadline = asyncio.get_running_loop().time() + self._body_s
        done = False

        async def patient() -> "ASGIReceiveEvent":
            nonlocal done
            if done:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise late(f"the body of the request did not arrive within {self._body_s:g} s") from None
            done = message["type"] != "http.request" or not message["more_body"]
            return message

        return patient


def _is_known(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _TYPES or kind.startswith(_PREFIXES)
