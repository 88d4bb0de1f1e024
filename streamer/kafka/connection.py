"""Connection options, topics and error messages for Kafka. The client library is passed in, not imported.

The library only says "unable to bootstrap", whatever is wrong. So a connection is first tried by hand, in the order address,
TLS and credentials (`login`), to report which of them fails.
"""

import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from streamer.core.errors import BadSettings, NotAuthorised, SourceUnavailable, StreamerError
from streamer.core.events import CATALOGUE_TOPICS, TOPICS
from streamer.core.settings import KafkaSettings, read_secret
from streamer.kafka.login import Refused, login

DEAD_LETTERS = "dead-letters"
MESSAGE_MAX_BYTES = 65_536  # max.message.bytes of the topics: one record, or one batch, as it is stored
RECEIVE_MAX_BYTES = (
    32 * 2**20
)  # largest response accepted from a broker; a larger batch would silently stall its partition
TRY_S = 2.0  # how long connecting by hand may take

# With a fixed version no constructor waits for a broker. The protocol of Kafka 2.8 has everything used here.
API_VERSION = (2, 8)

_SECURITY = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_REFUSALS = {"SaslAuthenticationFailedError", "UnsupportedSaslMechanismError", "IllegalSaslStateError", "AuthorizationError"}  # fmt: skip


def partitions_of(topic: str) -> int:
    """The number of partitions with which a topic is created."""
    return 12 if topic in TOPICS and topic not in CATALOGUE_TOPICS else 3


def topic_specification(topic: str, replication: int) -> dict[str, Any]:
    """How a topic is created, as the library's options."""
    policy = "compact" if topic in CATALOGUE_TOPICS else "delete"
    configs = {"cleanup.policy": policy, "max.message.bytes": str(MESSAGE_MAX_BYTES)}
    return {"num_partitions": partitions_of(topic), "replication_factor": replication, "configs": configs}


@dataclass(frozen=True, slots=True)
class Connection:
    """Validated connection settings; created at the start, so that bad settings are found then."""

    settings: KafkaSettings
    servers: tuple[tuple[str, int], ...]
    context: ssl.SSLContext | None
    password: str

    def __repr__(self) -> str:
        return f"Connection({self.settings.kafka})"

    def client(self) -> dict[str, Any]:
        """The options of every client of the library."""
        settings = self.settings
        config: dict[str, Any] = {
            "bootstrap_servers": [f"{host}:{port}" for host, port in self.servers],
            "client_id": "streamer",
            "api_version": API_VERSION,
            "security_protocol": settings.kafka_security,
            "ssl_context": self.context,
            "request_timeout_ms": 5_000,
            "reconnect_backoff_ms": 50,
            "reconnect_backoff_max_ms": 1_000,
            "receive_message_max_bytes": RECEIVE_MAX_BYTES,
        }
        if settings.kafka_security.startswith("SASL"):
            config |= {
                "sasl_mechanism": settings.kafka_sasl_mechanism,
                "sasl_plain_username": settings.kafka_username,
                "sasl_plain_password": self.password,
            }
        return config


def connection(settings: KafkaSettings) -> Connection:
    """Validate the settings without connecting; raises BadSettings."""
    _one_of("kafka_security", settings.kafka_security, _SECURITY)
    password = ""
    if settings.kafka_security.startswith("SASL"):
        _one_of("kafka_sasl_mechanism", settings.kafka_sasl_mechanism, _MECHANISMS)
        if not settings.kafka_username or not settings.kafka_password_file:
            raise BadSettings(
                f"kafka_security {settings.kafka_security} needs kafka_username and kafka_password_file, found "
                f"{settings.kafka_username!r} and {settings.kafka_password_file!r}: give both"
            )
        password = read_secret(settings.kafka_password_file, "Kafka password")
    servers = tuple(_server(text.strip()) for text in settings.kafka.split(",") if text.strip())
    if not servers:
        raise BadSettings("kafka names no server: give HOST:PORT[,HOST:PORT]")
    return Connection(settings, servers, _context(settings), password)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadSettings(f"setting {name} = {value!r}: choose one of {', '.join(choices)}")


def _server(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadSettings(f"kafka = {text!r} is not HOST:PORT: give, for example, 127.0.0.1:9092")
    return host.strip("[]"), int(port)


def _context(settings: KafkaSettings) -> ssl.SSLContext | None:
    if not settings.kafka_security.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file or None)
        if settings.kafka_cert_file:
            context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file or None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (settings.kafka_ca_file, settings.kafka_cert_file, settings.kafka_key_file)))
        raise BadSettings(f"cannot use the certificates for Kafka in {files}: {error}") from None
    return context


def is_refusal(error: BaseException) -> bool:
    """Whether this error of the library means that the broker was reached, but refused access."""
    return any(kind.__name__ in _REFUSALS for kind in type(error).__mro__)


def _guard_log() -> None:
    """Keep all loggers of the library at INFO or above, as DEBUG logs the password, and off stderr, as we report its errors."""
    root = logging.getLogger("kafka")
    if not root.handlers:
        root.addHandler(logging.NullHandler())
    if root.level == logging.NOTSET:
        root.setLevel(logging.WARNING)
    names = [name for name in logging.root.manager.loggerDict if name == "kafka" or name.startswith("kafka.")]
    for logger in map(logging.getLogger, names):
        if logging.NOTSET < logger.level < logging.INFO:
            logger.setLevel(logging.INFO)


class Closable(Protocol):
    """The library's network client."""

    def close(self) -> None:
        """Stop its thread and close its sockets."""


Client = TypeVar("Client")


def build(make: Callable[..., Client], network: Callable[..., Closable], config: Mapping[str, Any]) -> Client:
    """Make a client of the library. When its constructor fails, close the thread and the sockets that it leaves behind."""
    _guard_log()
    clients: list[Closable] = []

    def record(**configs: Any) -> Closable:
        clients.append(network(**configs))
        return clients[-1]

    try:
        return make(**config, kafka_client=record)
    except BaseException:
        for client in clients:
            client.close()
        raise


def preflight(at: Connection) -> None:
    """Raise SourceUnavailable when no server responds, NotAuthorised when one refuses TLS or the credentials.

    Takes up to TRY_S for each server.
    """
    failures = []
    for server in at.servers:
        failure = _try_server(at, server)
        if failure is None:
            return
        failures.append(failure)
    raise next((failure for failure in failures if isinstance(failure, NotAuthorised)), failures[0])


def explain(at: Connection, error: BaseException) -> StreamerError:
    """An error with a helpful message for `error`: NotAuthorised if access was refused, otherwise SourceUnavailable.

    Tries to connect by hand, see `preflight`.
    """
    if isinstance(error, StreamerError):
        return error
    if is_refusal(error):
        return NotAuthorised(
            f"Kafka at {at.settings.kafka} refused access: {_text(error)}: check the user's permissions"
        )
    try:
        preflight(at)
    except SourceUnavailable as reason:
        return reason
    return _no_answer(at, error)


def _try_server(at: Connection, server: tuple[str, int]) -> SourceUnavailable | None:
    host, port = server
    settings, where = at.settings, f"Kafka at {host}:{port}"
    try:
        with socket.create_connection(server, TRY_S) as plain:
            if at.context is None:
                _login(at, plain)
            else:
                with at.context.wrap_socket(plain, server_hostname=host) as secured:
                    _login(at, secured)
    except ssl.SSLError as error:
        return NotAuthorised(
            f"{where} was reached, but TLS failed: {_text(error)}: check kafka_security, kafka_ca_file, kafka_cert_file "
            "and kafka_key_file"
        )
    except Refused as error:
        return NotAuthorised(
            f"{where} refused {settings.kafka_username!r} by {settings.kafka_security}, {settings.kafka_sasl_mechanism}: "
            f"{error}: check kafka_security, kafka_sasl_mechanism, kafka_username and kafka_password_file"
        )
    except EOFError as error:
        return _no_answer(at, error)
    except OSError as error:
        return SourceUnavailable(f"no {where}: {error.strerror or _text(error)}: start it, or give the right address")
    return None


def _login(at: Connection, to: socket.socket) -> None:
    if at.settings.kafka_security.startswith("SASL"):
        login(to, at.settings.kafka_sasl_mechanism, at.settings.kafka_username, at.password)


def _no_answer(at: Connection, error: BaseException) -> SourceUnavailable:
    return SourceUnavailable(
        f"Kafka at {at.settings.kafka} accepts connections but does not answer as {at.settings.kafka_security}: {_text(error)}: "
        "wait if it is starting, otherwise check that kafka_security is that of its listener"
    )


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def missing_topics(at: Connection, topics: Iterable[str]) -> SourceUnavailable:
    """An error that says how to create missing topics."""
    wanted = ", ".join(
        f"{topic!r} ({partitions_of(topic)} partitions, "
        + ", ".join(f"{key}={value}" for key, value in topic_specification(topic, 1)["configs"].items())
        + ")"
        for topic in topics
    )
    return SourceUnavailable(
        f"Kafka at {at.settings.kafka} lacks the topics {wanted}: create them, or allow kafka_create_topics"
    )
