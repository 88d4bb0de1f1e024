"""Logs in to a Kafka broker by hand, only to get its reason for a refusal, which the client library often loses.

Kafka's protocol: SaslHandshake (17) version 1 names the mechanism, SaslAuthenticate (36) version 0 carries its messages.
PLAIN: RFC 4616. SCRAM: RFC 5802, with SHA-256 or SHA-512.
"""

import base64
import hashlib
import hmac
import secrets
import socket
import struct

_HANDSHAKE, _AUTHENTICATE = (17, 1), (36, 0)
_ANSWER_MAX_BYTES = 2**20
_NONSENSE = "the server does not speak Kafka's protocol"


class Refused(Exception):
    """The broker refused the login; the message is its reason."""


def login(to: socket.socket, mechanism: str, user: str, password: str) -> None:
    """Log in over an open connection; raises Refused, OSError, and EOFError for no response or an invalid one."""
    try:
        _login(to, mechanism, user, password)
    except (KeyError, ValueError, struct.error):
        raise EOFError(_NONSENSE) from None


def _login(to: socket.socket, mechanism: str, user: str, password: str) -> None:
    answer = _ask(to, _HANDSHAKE, struct.pack(">h", len(mechanism)) + mechanism.encode())
    (code,) = struct.unpack_from(">h", answer)
    if code == 34:  # ILLEGAL_SASL_STATE
        raise Refused("its listener does not use SASL")
    if code:
        raise Refused(f"it does not accept the mechanism {mechanism}")
    if mechanism == "PLAIN":
        _send(to, b"\0" + user.encode() + b"\0" + password.encode())
    else:
        _scram(to, mechanism.removeprefix("SCRAM-").replace("-", "").lower(), user, password)


def _scram(to: socket.socket, algorithm: str, user: str, password: str) -> None:
    nonce = secrets.token_hex(16)
    first = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    answer = _send(to, f"n,,{first}".encode()).decode()
    given = dict(part.split("=", 1) for part in answer.split(",") if "=" in part)
    salted = hashlib.pbkdf2_hmac(algorithm, password.encode(), base64.b64decode(given["s"]), int(given["i"]))
    key = hmac.digest(salted, b"Client Key", algorithm)
    final = f"c=biws,r={given['r']}"
    signed = hmac.digest(hashlib.new(algorithm, key).digest(), f"{first},{answer},{final}".encode(), algorithm)
    proof = bytes(a ^ b for a, b in zip(key, signed, strict=True))
    _send(to, f"{final},p={base64.b64encode(proof).decode()}".encode())


def _send(to: socket.socket, message: bytes) -> bytes:
    """Send one message of the mechanism, and return the broker's reply."""
    answer = _ask(to, _AUTHENTICATE, struct.pack(">i", len(message)) + message)
    code, length = struct.unpack_from(">hh", answer)
    reason = answer[4 : 4 + max(0, length)]
    if code:
        raise Refused(reason.decode(errors="replace") or f"authentication failed, error {code}")
    return answer[4 + max(0, length) + 4 :]


def _ask(to: socket.socket, request: tuple[int, int], body: bytes) -> bytes:
    client = b"streamer"
    frame = struct.pack(">hhih", *request, 0, len(client)) + client + body
    to.sendall(struct.pack(">i", len(frame)) + frame)
    (size,) = struct.unpack(">i", _receive(to, 4))
    if not 6 <= size <= _ANSWER_MAX_BYTES:
        raise EOFError(_NONSENSE)
    return _receive(to, size)[4:]  # without the request's number


def _receive(to: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = to.recv(size - len(received))
        if not part:
            raise EOFError("the connection was closed without an answer")
        received += part
    return received
