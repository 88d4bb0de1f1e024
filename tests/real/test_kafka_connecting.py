"""Kafka as a source: an address, a password or a protocol that is wrong gets a sentence of its own."""

import contextlib
import logging
import socket
import threading
import time
from pathlib import Path

import pytest
from broker import PASSWORD, USER, Broker, Given, free_ports, sasl_of
from kafka_reading import DEADLINE_S, opened, refused

from streamer.consumers.kafka import KafkaSource
from streamer.core.errors import BadSettings, NotAuthorised, SourceUnavailable
from streamer.core.settings import KafkaSettings

# The library leaves sockets that could not connect to the garbage collector.
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_wrong_password_and_a_wrong_address_get_different_messages(
    broker: Broker | Given, tmp_path: Path, mechanism: str
) -> None:
    at, secret = sasl_of(broker), tmp_path / "password"
    sasl = {
        "kafka_security": "SASL_PLAINTEXT", "kafka_sasl_mechanism": mechanism,
        "kafka_username": USER, "kafka_password_file": str(secret),
    }  # fmt: skip
    secret.write_text(PASSWORD)
    with opened(at, **sasl) as source:
        assert list(source.poll(1, 0.1)) == []
    secret.write_text("wrong")
    with pytest.raises(
        NotAuthorised, match=rf"refused 'alice' by SASL_PLAINTEXT, {mechanism}: .*kafka_password_file"
    ) as no:
        refused(at, **sasl)
    assert "wrong" not in str(no.value)
    with pytest.raises(NotAuthorised, match="refused 'bob, the =unknown'"):
        refused(at, **{**sasl, "kafka_username": "bob, the =unknown"})
    (port,) = free_ports(1)
    with pytest.raises(SourceUnavailable, match=f"no Kafka at 127.0.0.1:{port}: Connection refused") as away:
        refused(f"127.0.0.1:{port}", **sasl)
    assert not isinstance(away.value, NotAuthorised)


def test_the_wrong_security_protocol_is_reported(broker: Broker | Given, tmp_path: Path) -> None:
    at, secret = sasl_of(broker), tmp_path / "password"
    secret.write_text(PASSWORD)
    sasl = {"kafka_security": "SASL_PLAINTEXT", "kafka_username": USER, "kafka_password_file": str(secret)}
    with pytest.raises(NotAuthorised, match="its listener does not use SASL: check kafka_security"):
        refused(broker.bootstrap, **sasl)
    with pytest.raises(NotAuthorised, match="was reached, but TLS failed"):
        refused(broker.bootstrap, kafka_security="SSL")
    source = KafkaSource(KafkaSettings(kafka=at))  # without credentials where some are needed
    try:
        assert "does not answer as PLAINTEXT" in str(answered(source))
    finally:
        source.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize(
    "answers",
    [
        b"",
        b"HTTP/1.1 400 Bad Request",
        b"\0\0\0\6\0\0\0\0\0\0" + b"\0\0\0\6\0\0\0\0\0\0",
        b"\0\0\0\6\0\0\0\0\0\0" + b"\0\0\0\x0d\0\0\0\0" + b"\0\0\xff\xff\0\0\0\1r",
    ],
    ids=["nothing", "HTTP", "too short", "half"],
)
def test_a_server_that_is_not_kafka_is_reported(answers: bytes, mechanism: str, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(answers)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            settings = KafkaSettings(
                kafka=f"127.0.0.1:{server.getsockname()[1]}", kafka_security="SASL_PLAINTEXT",
                kafka_sasl_mechanism=mechanism, kafka_username=USER, kafka_password_file=str(secret),
            )  # fmt: skip
            source = KafkaSource(settings)
            assert "accepts connections but does not answer as SASL_PLAINTEXT" in str(answered(source))
            source.close()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def answered(source: KafkaSource) -> SourceUnavailable:
    """Why it cannot seek; the first messages may only say that there is no answer yet."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with pytest.raises(SourceUnavailable) as caught:
            source.seek({})
        if "has not answered" not in str(caught.value):
            return caught.value
    raise AssertionError(f"no answer in {DEADLINE_S} s")


def test_the_library_never_logs_at_debug_because_it_would_log_the_password(fresh: str) -> None:
    logging.getLogger("kafka").setLevel(logging.DEBUG)
    logging.getLogger("kafka.net.connection").setLevel(logging.DEBUG)
    with opened(fresh):
        assert logging.getLogger("kafka").level == logging.INFO
        assert logging.getLogger("kafka.net.connection").getEffectiveLevel() >= logging.INFO
    logging.getLogger("kafka").setLevel(logging.WARNING)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kafka": "localhost"}, "kafka = 'localhost' is not HOST:PORT"),
        ({"kafka": "a:1,b:x"}, "kafka = 'b:x' is not HOST:PORT"),
        ({"kafka": "a:1", "kafka_security": "TLS"}, "kafka_security = 'TLS': choose one of PLAINTEXT, SSL"),
        ({"kafka": "a:1", "kafka_security": "SASL_SSL"}, "needs kafka_username and kafka_password_file"),
        (
            {"kafka": "a:1", "kafka_security": "SSL", "kafka_ca_file": "/none.pem"},
            "certificates for Kafka in /none.pem",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_asked(
    settings: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BadSettings, match=sentence):
        KafkaSource(KafkaSettings(**settings))  # type: ignore[arg-type]  # any setting
