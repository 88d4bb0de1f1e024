"""A real Apache Kafka: one node in KRaft mode on loopback, from the jars that `make setup` puts into .test-libs/kafka.

    def test_something(broker):                       # one broker for the whole session: use topics of your own
        KafkaSettings(kafka=broker.bootstrap)

    def test_of_our_topics(fresh_broker):             # the same broker; our topics are deleted before and after
        KafkaSettings(kafka=fresh_broker.bootstrap)

    def test_that_breaks_it(own_broker):              # a broker for this test, which may kill() and start() it
        own_broker.kill()

With STREAMER_TEST_KAFKA=HOST:PORT the session uses the broker at that address; `own_broker` always starts a new one.
"""

import gc
import os
import shutil
import signal
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from streamer.core.events import TOPICS

JARS = Path(__file__).parents[2] / ".test-libs" / "kafka"
GIVEN = "STREAMER_TEST_KAFKA"
CLUSTER = "c3RyZWFtZXItdGVzdHMtMQ"  # a cluster's id is a UUID in base 64
UP_S = 60.0
DEAD_LETTERS = "dead-letters"
USER, PASSWORD = "alice", "alice-secret"

_FORMATTED: dict[str, bytes] = {}  # the files of a formatted folder
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
username="{user}" password="{password}" user_{user}="{password}";
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
log.dirs={folder}/log
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=400
group.initial.rebalance.delay.ms=0
metadata.max.idle.interval.ms=0
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
file.delete.delay.ms=100
num.network.threads=1
num.io.threads=2
log.cleaner.dedupe.buffer.size=2097152
log.cleaner.threads=1
background.threads=1
"""


class Broker:
    """One node, with a plain listener and one with SASL (PLAIN and SCRAM, `USER` and `PASSWORD`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port, sasl_port, controller = free_ports(3)
        self.bootstrap, self.sasl_bootstrap = f"127.0.0.1:{port}", f"127.0.0.1:{sasl_port}"
        self._properties = folder / "server.properties"
        self._properties.write_text(
            _PROPERTIES.format(
                port=port, sasl_port=sasl_port, controller=controller, folder=folder, user=USER, password=PASSWORD
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._format()

    def _format(self) -> None:
        """The first broker formats its folder; later ones copy the result, because formatting starts a Java process of its own."""
        log = self.folder / "log"
        if not _FORMATTED:
            scram = [f"--add-scram=SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
            formatting = self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", self._properties, *scram)
            assert formatting.wait(UP_S) == 0, self._said()
            _FORMATTED.update({file.name: file.read_bytes() for file in log.iterdir()})
        log.mkdir(exist_ok=True)
        for name, content in _FORMATTED.items():
            (log / name).write_bytes(content)

    def _java(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        options = ("-Xmx256m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
        with (self.folder / "broker.out").open("wb") as out:
            return subprocess.Popen(
                ["java", *options, "-cp", f"{JARS}/*", *map(str, arguments)],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder,
            )  # fmt: skip

    def start(self) -> "Broker":
        """Start it, always on the same ports with the same data; returns when it answers."""
        assert self._process is None, "the broker is already running"
        self._process = self._java("kafka.Kafka", self._properties)
        deadline = time.monotonic() + UP_S
        while "Kafka Server started" not in self._said():
            assert self._process.poll() is None, f"the broker ended: {self._said()[-3000:]}"
            assert time.monotonic() < deadline, f"the broker is not up after {UP_S} s: {self._said()[-3000:]}"
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        return self

    def _said(self) -> str:
        return (self.folder / "broker.out").read_text(errors="replace")

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None


class Given:
    """A broker that somebody else runs."""

    sasl_bootstrap = ""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap


def free_ports(n: int) -> list[int]:
    held = [socket.socket() for _ in range(n)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _new(folder: Path) -> Iterator[Broker]:
    if not shutil.which("java") or not list(JARS.glob("kafka_*.jar")):
        said = f"no broker: install Java and the jars in {JARS.name} (`make setup` does both), or set {GIVEN}=HOST:PORT"
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said)
    broker = Broker(folder)
    try:
        yield broker.start()
    finally:
        broker.kill()
        with warnings.catch_warnings():  # the library leaves sockets that could not connect for garbage collection
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker | Given]:
    """One broker for all tests; each test uses topics of its own."""
    if GIVEN in os.environ:
        yield Given(os.environ[GIVEN])
    else:
        yield from _new(tmp_path_factory.mktemp("kafka"))


@pytest.fixture
def fresh_broker(broker: Broker | Given) -> Iterator[Broker | Given]:
    """The session's broker, without this project's topics."""
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap, bootstrap_timeout_ms=10_000)
    try:
        _delete_topics(client)
        yield broker
        _delete_topics(client)
    finally:
        client.close()


def _delete_topics(client: KafkaAdminClient) -> None:
    ours = set(client.list_topics()) & {*TOPICS, DEAD_LETTERS}
    if ours:
        client.delete_topics(sorted(ours))
    deadline = time.monotonic() + UP_S
    while set(client.list_topics()) & ours:
        assert time.monotonic() < deadline, f"topics {ours} were not deleted"


def sasl_of(broker: Broker | Given) -> str:
    """The address of the broker's SASL listener; skips the test where there is none."""
    if isinstance(broker, Given):
        pytest.skip("a given broker has no listener with SASL that we know of")
    return broker.sasl_bootstrap


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker for one test, to be killed and started again."""
    folder = tmp_path / "kafka"
    folder.mkdir()
    yield from _new(folder)
