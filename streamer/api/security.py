"""Authentication: checks of a request's headers, before its body is read.

On loopback the Host header must be a loopback name; otherwise a page of any web site could reach the server by DNS rebinding.
Bodies must have a content type that browsers do not send across origins without asking. The methods of AdminService
that change something are for operators: they answer only on loopback, or if the server has a token. When the server has a token, everything but
health requires it, as a bearer token or as the password in a browser, so that the status page can be opened.
"""

import asyncio
import hmac
import re
import ssl
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping
from ipaddress import ip_address

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from streamer.api.errors import deadline_exceeded, refuse
from streamer.api.http.asgi import App, Message, Receive, Scope, Send
from streamer.core.errors import BadSettings
from streamer.core.settings import SecuritySettings, ServerSettings, read_secret

DRAIN_BYTES = 1 << 24
_STREAMS = "/grpc.reflection."  # the client goes on sending while the server answers
_OPEN = ("/grpc.health.v1.Health/", "/healthz")
_ADMIN = "/streamer.v1.AdminService/"
_READS = (f"{_ADMIN}GetStatus", f"{_ADMIN}ListGenerations")
_CHALLENGES = ((b"www-authenticate", b"Bearer"), (b"www-authenticate", b'Basic realm="the token is the password"'))
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+))(?::[0-9]*)?")
_ENCODINGS = ("", "identity", "gzip")
_TYPES = ("application/json", "application/proto")
_PREFIXES = ("application/grpc", "application/connect")


def required_token(server: ServerSettings, security: SecuritySettings) -> str:
    """The token that requests must carry, "" for none; raises BadSettings when anybody on the network could send requests."""
    if security.token_file:
        token = read_secret(security.token_file, "token")
        if not token.isascii() or not token.isprintable():
            raise BadSettings(
                f"the token in {security.token_file} must be printable ASCII and has other characters: make another"
            )
        return token
    if not is_loopback(server.host) and not security.insecure:
        raise BadSettings(
            f"host {server.host} is reachable from other machines and there is no token: "
            "name a file with one (--token-file), listen on 127.0.0.1, or allow it with --insecure"
        )
    return ""


def tls(security: SecuritySettings) -> ssl.SSLContext | None:
    """How the endpoint speaks TLS, None if it does not; raises BadSettings for files that cannot be used."""
    if not (security.tls_cert_file or security.tls_key_file):
        return None
    if not (security.tls_cert_file and security.tls_key_file):
        raise BadSettings("TLS needs a certificate and its key: give both --tls-cert-file and --tls-key-file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 at least, without compression
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(security.tls_cert_file, security.tls_key_file, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise BadSettings(
            f"cannot use the certificate {security.tls_cert_file} with the key {security.tls_key_file}: {error}; "
            "both must be readable PEM files that belong together, the key without a password"
        ) from None
    return context


def is_loopback(name: str) -> bool:
    """Whether a host name or address, without a port, means this machine only."""
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """A Host header, as `127.0.0.1:8080` or `[::1]:8080`, without the port; "" for a header that is not well-formed."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]) if found else ""


class Guard:
    """An ASGI application that refuses requests, or passes them on to `app`."""

    def __init__(self, app: App, server: ServerSettings, token: str, body_s: float) -> None:
        self._app = app
        self._local = is_loopback(server.host)
        self._token = token.encode()
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if not scope["path"].startswith(_STREAMS):
            exchange = _Exchange(receive, send, self._body_s)
            receive, send = exchange.receive, exchange.send
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        # No RPC needs a header that is not ASCII, and connectrpc fails on headers that are not UTF-8.
        scope["headers"] = [header for header in scope["headers"] if header[1].isascii()]
        if self._local and not is_loopback(_host_name(headers.get(b"host", ""))):
            await refuse(
                scope, send, 403, Code.PERMISSION_DENIED,
                f"Host {headers.get(b'host', '')!r} is not this machine's own name: ask for localhost or 127.0.0.1",
            )  # fmt: skip
        elif not self._authorised(scope["path"], headers):
            await refuse(
                scope, send, 401, Code.UNAUTHENTICATED,
                "this server requires its token, as in: Authorization: Bearer TOKEN (its --token-file holds it)",
                _CHALLENGES,
            )  # fmt: skip
        elif not (self._local or self._token) and scope["path"].startswith(_ADMIN) and scope["path"] not in _READS:
            await refuse(
                scope, send, 403, Code.PERMISSION_DENIED,
                "anybody on the network could ask for this: it requires a token (start the server with --token-file), "
                "or a server that listens on 127.0.0.1",
            )  # fmt: skip
        elif scope["method"] == "POST" and not _is_known(headers.get(b"content-type", "")):
            await refuse(
                scope, send, 415, Code.INVALID_ARGUMENT,
                f"Content-Type {headers.get(b'content-type', '')[:100]!r} is not read here: "
                "send application/json, application/proto, or gRPC",
            )  # fmt: skip
        elif (encoding := headers.get(b"content-encoding", "").strip().lower()) not in _ENCODINGS:
            await refuse(
                scope, send, 415, Code.UNIMPLEMENTED,
                f"Content-Encoding {encoding[:100]!r} is not read here: send the body as it is, or with gzip",
                [(b"accept-encoding", b"gzip, identity")],
            )  # fmt: skip
        else:
            await self._app(scope, receive, send)

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


class _Exchange:
    """One request and its answer: the body must arrive in time, and is read to its end before the answer begins.

    Many clients send their whole body before they read anything: an answer that came first would find nobody.
    """

    def __init__(self, receive: Receive, send: Send, body_s: float) -> None:
        self._receive, self._send = receive, send
        self._body_s = body_s
        self._deadline = asyncio.get_running_loop().time() + body_s
        self._done = self._late = False

    async def receive(self) -> Message:
        """The next message; raises deadline_exceeded for a body that does not arrive in time."""
        if self._done:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self._done = self._late = True
            raise deadline_exceeded(f"the body of the request did not arrive within {self._body_s:g} s") from None
        self._done = message["type"] != "http.request" or not message["more_body"]
        return message

    async def send(self, message: Message) -> None:
        """Read the rest of the body (at most DRAIN_BYTES), then send."""
        left = DRAIN_BYTES
        while not self._done and left > 0:
            try:
                received = await self.receive()
            except ConnectError:
                break
            left -= len(received["body"]) if received["type"] == "http.request" else 0
        self._done = True
        if self._late and message["type"] == "http.response.start" and message["status"] == 504:
            message["status"] = 408  # Connect's own status for a deadline puts the blame on the server
        await self._send(message)


def _is_known(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _TYPES or kind.startswith(_PREFIXES)
