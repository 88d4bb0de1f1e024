"""Measures the speed of the Kafka source and sink alone, with a real broker, in events per CPU second of this process.

    .venv/bin/python benchmarks/kafka_speed.py [EVENTS]

Starts its own broker from .test-libs/kafka, as the tests do. The broker's CPU is not counted.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from broker import Broker  # the fixture's class

from streamer.consumers.kafka import KafkaSource
from streamer.core.events import Rating, message
from streamer.core.settings import KafkaSettings
from streamer.producers.kafka import KafkaSink


def measured(what: str, events: int, run: Callable[[], None]) -> None:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{what}: {events / cpu:,.0f} events a CPU second, {events / wall:,.0f} a second")


def main(events: int = 300_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder)).start()
        settings = KafkaSettings(kafka=broker.bootstrap)
        sink, source = KafkaSink(settings), KafkaSource(settings)
        sent = [message(Rating(f"u{k % 5000}", f"i{k % 997}", 3.5, 1_700_000_000_000 + k)) for k in range(events)]

        def publish() -> None:
            for start in range(0, events, 1000):
                sink.publish(sent[start : start + 1000])

        def consume() -> None:
            source.seek({})
            got = 0
            while got < events:
                got += len(source.poll(2000, 0.1))

        try:
            measured("published", events, publish)
            measured("consumed", events, consume)
        finally:
            source.close()
            sink.close()
            broker.kill()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
