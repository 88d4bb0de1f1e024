"""An honest client beside the attackers: it asks for recommendations at a steady rate and keeps how long each answer took."""

import http.client
import json
import ssl
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.abuse.attacks import RECOMMEND

QUERIES_S = 50
PATIENCE_S = 180.0  # how long it waits for an answer
NEW_EVERY = 10  # every so many queries it opens a connection of its own


@dataclass
class Observed:
    """What it observed in one period of time."""

    kept_s: list[float] = field(default_factory=list)  # response times on the connection that it keeps
    new_s: list[float] = field(default_factory=list)  # of queries that connect first
    failed: list[str] = field(default_factory=list)

    def p99_ms(self) -> float:
        """The 99th percentile of all response times."""
        return 1000 * statistics.quantiles(self.kept_s + self.new_s, n=100)[98]

    def row(self) -> list[str]:
        """The cells of its row in the table: queries, failures, p50, p99 and the longest."""
        times = sorted(self.kept_s + self.new_s)
        if len(times) < 2:
            return [str(len(times)), str(len(self.failed)), "-", "-", "-"]
        return [
            f"{len(times):,}", str(len(self.failed)), f"{1000 * statistics.median(times):.1f}", f"{self.p99_ms():.1f}",
            f"{1000 * times[-1]:.0f}",
        ]  # fmt: skip


class Honest:
    """Asks from a thread of its own; what it sees goes to `observed`, which may be replaced at any time."""

    def __init__(self, port: int, source: str, tls: bool, users: list[str]) -> None:
        self.observed, self.stop = Observed(), threading.Event()
        self._connect = connector(port, source, tls)
        self._users = users
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop asking; an answer under way is not waited for."""
        self.stop.set()
        self._thread.join(1.0)

    def _ask(self) -> None:
        kept, n, began = self._connect(), 0, time.perf_counter()
        while not self.stop.is_set():
            new, observed, at = n % NEW_EVERY == 0, self.observed, time.perf_counter()
            connection = self._connect() if new else kept
            try:
                recommend(connection, self._users[n % len(self._users)])
            except (OSError, http.client.HTTPException) as error:
                observed.failed.append(repr(error))
                connection.close()
            else:
                (observed.new_s if new else observed.kept_s).append(time.perf_counter() - at)
            if new:
                connection.close()
            n += 1
            self.stop.wait(max(0.0, began + n / QUERIES_S - time.perf_counter()))
            began = max(began, time.perf_counter() - n / QUERIES_S)  # what was missed is not asked in a burst


def connector(port: int, source: str, tls: bool) -> Callable[[], http.client.HTTPConnection]:
    """Makes connections that open when they are used."""
    where: tuple[str, int] = (source, 0)
    if not tls:
        return lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S, source_address=where)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return lambda: http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=PATIENCE_S, source_address=where, context=context
    )


def recommend(connection: http.client.HTTPConnection, user: str) -> None:
    """One query; raises HTTPException unless it is answered well."""
    body = json.dumps({"userId": user, "limit": 10})
    connection.request("POST", RECOMMEND, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200 or b"items" not in answer.read():
        raise http.client.HTTPException(f"status {answer.status}")
