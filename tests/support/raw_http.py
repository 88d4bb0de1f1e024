"""A client of HTTP/2 that says exactly what a test wants said, and a certificate for servers under test."""

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event
from h2.settings import SettingCodes

PATIENCE_S = 30


def connect(url: str) -> socket.socket:
    """A plain connection to the server."""
    return socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=PATIENCE_S)


def secured(url: str, protocol: str = "h2") -> ssl.SSLSocket:
    """The same over TLS, with the protocol agreed on by ALPN."""
    context = ssl._create_unverified_context()
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(connect(url))


class RawClient:
    """One connection. `window`: how many bytes of each answer the server may send; 0 for none."""

    def __init__(self, url: str, window: int = 65_535) -> None:
        self.sock, self.events, self.closed = connect(url), list[Event](), False
        self.h2 = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()

    def flush(self) -> None:
        """Send what h2 has to send."""
        self.sock.sendall(self.h2.data_to_send())

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json") -> int:
        """GET a page, or POST a body to a call; returns the number of the stream."""
        stream = self.h2.get_next_available_stream_id()
        head = {
            ":method": "GET" if body is None else "POST",
            ":scheme": "http",
            ":authority": "localhost",
            ":path": path,
        }
        more = {} if body is None else {"content-type": kind, "te": "trailers"}
        self.h2.send_headers(stream, list({**head, **more}.items()), end_stream=body is None)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    def until(self, found: Callable[[Event], bool]) -> Event:
        """Read until an event is what the test waits for; fails at the connection's end, or after PATIENCE_S."""
        at = 0
        while True:
            for event in self.events[at:]:
                if found(event):
                    return event
            at = len(self.events)
            assert self.read(), f"the connection ended after {self.events}"

    def read(self) -> bool:
        """Read once; returns False at the end of the connection."""
        try:
            data = self.sock.recv(65_536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return False
        self.events += self.h2.receive_data(data)
        with contextlib.suppress(OSError):
            self.flush()
        return True

    def read_all(self) -> int | None:
        """Read to the end of the connection; returns the error code that the server ended it with, None if it said nothing."""
        while self.read():
            pass
        codes = [event.error_code for event in self.events if isinstance(event, ConnectionTerminated)]
        return None if not codes or codes[-1] is None else int(codes[-1])

    def close(self) -> None:
        """End the connection."""
        self.sock.close()


def certificate(folder: Path) -> tuple[str, str]:
    """Files with a certificate for localhost and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)
