"""The socket that the server listens on. Imports nothing heavy, so that a port in use is reported at once."""

import socket
from errno import EACCES, EADDRINUSE

from streamer.core.errors import BadSettings
from streamer.core.settings import ServerSettings

BACKLOG = 1024


def listen(server: ServerSettings) -> socket.socket:
    """A socket that clients can connect to from now on; raises BadSettings with the reason when it cannot be opened.

    Call this first, so that a port in use is reported before anything is opened or learned.
    """
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BadSettings(f"cannot listen on host {server.host!r}: {error}; 127.0.0.1 is this machine") from None
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == EADDRINUSE:
            raise BadSettings(f"port {server.port} is in use by another process: stop it, or use --port") from None
        if error.errno == EACCES:
            raise BadSettings(f"port {server.port} needs more rights: use --port with one above 1023") from None
        raise BadSettings(f"cannot listen on {server.host} port {server.port}: {error.strerror}") from None
    return sock


def url(sock: socket.socket, tls: bool = False) -> str:
    """The URL of the socket, with its actual port."""
    host, port = sock.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
