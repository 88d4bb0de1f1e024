"""What a re-ranker costs and what it is worth: `python -m benchmarks.rerank path/to/ml-latest-small` writes benchmarks/results/rerank.{json,md}.

**Cost.** A streamer replays the stream with the re-ranker as a shadow and retrains everything after each fifth of it, in another
process. The stream waits for each swap, so that the re-ranker is a trained network. Meanwhile a client calls `Recommend` at a steady
rate. The page shows percentiles of the response times of re-ranked answers as the client saw them, and the outcomes of re-rankings.

**Worth.** The same stream is learned again in this process; re-rankers that are networks are retrained after each fifth. Just before each click is
learned, the champion ranks all items with an earlier click that the user has not clicked (as in `streamer evaluate`), and the
re-ranker reorders the first candidates of that list. The figure is how often the clicked item is among the first ten of each
list; the interval is a bootstrap over users.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import click
import httpx
import msgspec
import numpy as np

from benchmarks.report import RESULTS
from benchmarks.tables import table
from benchmarks.undisturbed import ready, serve_command
from streamer.consumers.files import FileSource
from streamer.core.arrays import F32, I32, Array
from streamer.core.batch import Batch, Events, UserView
from streamer.core.settings import EVALUATED_RECORDS, Settings, load
from streamer.models import REFITTED_BY
from streamer.producers.client import Client
from streamer.renormalise.training import refit, replace_tables
from streamer.serving.opening import learners
from streamer.serving.recommend import top
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory
from streamer.study.ranking import Ranking, rank

PARTS = 5  # number of parts between retrainings
QUERIES_S, EVENTS_S = 50, 2_000
TOP, DRAWN = 10, 2_000
EVENTS = ("ratings", "clicks")
OUTCOME = "streamer_rerank_seconds_count"


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The figures that the client saw."""

    queries: int  # answers that were re-ranked, or would have been
    p50_ms: float
    p99_ms: float
    longest_ms: float
    outcomes: dict[str, int]  # number of re-rankings by outcome
    rerank_ms: float  # mean time that an answer waited for the re-ranker
    generations: int  # number of swaps meanwhile
    load: float  # load average of the machine before the streamer started


class Worth(msgspec.Struct, frozen=True, kw_only=True):
    """Hit rates of the champion's list and of the re-ranked one."""

    reranker: str
    champion: str
    queries: int
    hit_rate: float
    reranked_hit_rate: float
    difference: float
    low: float  # of the 95% interval of the difference
    high: float
    since_trained: float  # the difference after the first retraining


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """benchmarks/results/rerank.json."""

    stream: str
    candidates: int
    deadline_ms: float
    served: Served
    worth: list[Worth]
    wall_seconds: float


def served(path: str, settings: Settings, events: int, port: int) -> Served:
    """Replay the stream and query meanwhile."""
    server, url, load = settings.server, f"http://127.0.0.1:{port}", os.getloadavg()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *serve_command(folder, port, "--replay", path, "--rate", str(EVENTS_S), "--hold"),
            *("--renormalise-every-events", str(events // PARTS + 1)),
            *("--shadow", server.reranker, "--reranker", server.reranker),
            *("--rerank-candidates", str(server.rerank_candidates)),
            *("--rerank-deadline-ms", str(server.rerank_deadline_ms)),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        times_s: list[float] = []
        stop = threading.Event()

        def ask() -> None:
            began, n = time.perf_counter(), 0
            with Client(url) as client:
                while not stop.is_set():
                    asked = time.perf_counter()
                    answer = client.recommend(str(1 + n * 7 % 610))
                    if any(server.reranker in item.source for item in answer.items):
                        times_s.append(time.perf_counter() - asked)
                    n += 1
                    stop.wait(max(0.0, began + n / QUERIES_S - time.perf_counter()))

        asking = threading.Thread(target=ask)
        try:
            ready(url, process, lambda client: bool(client.status().state))
            asking.start()
            ready(
                url, process,
                lambda client: sum(e.count for e in client.status().events if e.outcome == "learned" and e.topic in EVENTS) >= events
                and client.status().state == "up to date",
            )  # fmt: skip
            stop.set()
            asking.join()
            with Client(url) as client:
                generations = len(client.generations().generations) - 1
            lines = [
                line for line in httpx.get(f"{url}/metrics").text.splitlines() if "streamer_rerank_seconds" in line
            ]
        finally:
            stop.set()
            process.terminate()
            process.wait()
    values = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
    counts = {name.split('outcome="')[1][:-2]: int(n) for name, n in values.items() if name.startswith(OUTCOME)}
    waited_s = sum(n for name, n in values.items() if name.startswith("streamer_rerank_seconds_sum"))
    cuts = statistics.quantiles(times_s, n=100)
    return Served(
        queries=len(times_s), p50_ms=1000 * cuts[49], p99_ms=1000 * cuts[98], longest_ms=1000 * max(times_s), outcomes=counts,
        rerank_ms=1000 * waited_s / max(1, sum(counts.values())), generations=generations, load=load,
    )  # fmt: skip


class _Hits:
    """The ranks of the clicked items by the champion and by each re-ranker."""

    def __init__(self, memory: Memory, rerankers: list[str], candidates: int) -> None:
        self._memory, self.rerankers, self._candidates = memory, rerankers, candidates
        self.users: list[str] = []
        self.ranks: list[float] = []
        self.reranked: dict[str, list[float]] = {name: [] for name in rerankers}

    def on_query(self, user: UserView, items: I32, scores: F32, position: int, own: I32) -> None:
        """See ranking.OnQuery."""
        shown = np.ones(len(items), dtype=np.bool_)
        shown[own] = False
        first = np.array(top(scores, shown, self._candidates), dtype=np.int32)
        given = rank(scores, position, own)
        self.users.append(user.user_id)
        self.ranks.append(given)
        place = np.flatnonzero(first == position)
        for name in self.rerankers:
            if len(place):
                rescored = self._memory.learners.by_name[name].score(user, items[first])
                self.reranked[name].append(rank(rescored, int(place[0]), first[:0]))
            else:
                self.reranked[name].append(given)


def worth(path: str, settings: Settings, rerankers: list[str]) -> tuple[list[Worth], int]:
    """Learn the stream with rankings and retrainings; return the figures of each re-ranker and the number of events."""
    source, batches, users = FileSource(path, settings.learning.seed), list[Batch](), dict[str, int]()
    numbers: list[int] = []
    total = sum(count for partitions in source.lag().values() for count in partitions.values())
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(learners(settings), settings, RocksStore(Path(folder)))
        hits = _Hits(memory, rerankers, settings.server.rerank_candidates)
        ranking = Ranking(memory.learners, memory.users, on_query=hits.on_query)
        networks, trained_at = [name for name in rerankers if REFITTED_BY.get(name) == "network"], 0
        due, done = total / PARTS, 0
        while records := source.poll(EVALUATED_RECORDS, 0.0):
            for part, batch in memory.encoder.encode(records, memory.commit):
                memory.monitor.observe(batch, ranking.learn(batch))
                memory.ledger.advance(part)
                if len(batch):
                    batches.append(batch)
                    numbers += [users.setdefault(memory.users.ids[row], len(users)) for row in batch.users.tolist()]
            done += len(records)
            if done >= due and done < total:
                due += total / PARTS
                _retrain(memory, networks, batches, users, numbers)
                trained_at = trained_at or len(hits.ranks)
                print(f"{done:,} of {total:,}", file=sys.stderr)
        source.close()
        queries = len(ranking.ranks)
        champion = memory.learners.champion("clicks").name
        memory.store.close()
    return [_compared(name, champion, hits, queries, trained_at) for name in rerankers], len(numbers)


def _retrain(memory: Memory, names: list[str], batches: list[Batch], users: dict[str, int], numbers: list[int]) -> None:
    if names:
        memory.commit()
        columns = [_joined(batches, name) for name in ("items", "kinds", "values", "times_ms", "keys")]
        events = Events(list(users), list(memory.items.ids), np.array(numbers, dtype=np.int32), *columns)
        replace_tables(memory, refit(memory, events, names))


def _joined(batches: list[Batch], name: str) -> Array:
    return np.concatenate([getattr(batch, name) for batch in batches])


def _compared(name: str, champion: str, hits: _Hits, queries: int, trained_at: int) -> Worth:
    """The figures of a re-ranker, with a bootstrap over users; an item's first click is a miss of both lists."""
    before, after = (np.array(ranks) <= TOP for ranks in (hits.ranks, hits.reranked[name]))
    change = after.astype(float) - before
    of_user: dict[str, float] = defaultdict(float)
    asked: dict[str, int] = defaultdict(int)
    for user, one in zip(hits.users, change.tolist(), strict=True):
        of_user[user] += one
        asked[user] += 1
    changes, counts = np.array(list(of_user.values())), np.array([asked[user] for user in of_user])
    drawn = np.random.default_rng(1).integers(0, len(changes), (DRAWN, len(changes)))
    share = len(change) / queries  # the rates include the misses of both
    differences = share * changes[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(differences, [0.025, 0.975])
    return Worth(
        reranker=name, champion=champion, queries=queries, hit_rate=float(before.sum()) / queries,
        reranked_hit_rate=float(after.sum()) / queries, difference=float(change.sum()) / queries,
        low=float(low), high=float(high), since_trained=float(change[trained_at:].mean()),
    )  # fmt: skip


def page(measured: Measured) -> str:
    """The tables, in Markdown."""
    s = measured.served
    counts = ", ".join(f"{name} {count:,}" for name, count in s.outcomes.items() if count)
    worths = [
        (
            f"`{w.reranker}`", f"{w.queries:,}", f"{w.hit_rate:.4f}", f"{w.reranked_hit_rate:.4f}",
            f"{w.difference:+.4f} [{w.low:+.4f}, {w.high:+.4f}]", f"{w.since_trained:+.4f}",
        )
        for w in measured.worth
    ]  # fmt: skip
    lines = [
        "# What re-ranking costs and brings",
        "",
        f"Written by `python -m benchmarks.rerank path/to/{measured.stream}`: the first {measured.candidates} candidates of `Recommend`, a deadline of {measured.deadline_ms:g} ms.",
        "",
        f"**Cost.** The streamer gets {EVENTS_S:,} events and {QUERIES_S} queries a second. After each fifth of the stream another process on the same machine retrains everything;",
        "the stream waits meanwhile. So most answers were given during a training, and the others while events were learned. The table is about re-ranked answers, as the client saw them.",
        "",
        *table(
            ("queries", "p50 ms", "p99 ms", "longest ms", "mean wait for the re-ranker ms", "swaps", "re-rankings"),
            [(f"{s.queries:,}", f"{s.p50_ms:.1f}", f"{s.p99_ms:.1f}", f"{s.longest_ms:.0f}", f"{s.rerank_ms:.2f}", str(s.generations), counts)],
        ),
        "",
        f"**Worth.** HR@{TOP} for each click just before it is learned: of the champion's list (`{measured.worth[0].champion}`) and of the same list re-ranked. The difference has a 95% interval by bootstrap",
        "over users; the last column is the difference after the first retraining.",
        "",
        *table(("re-ranker", "clicks", "champion", "re-ranked", "difference", "since trained"), worths),
        "",
        f"All of it took {measured.wall_seconds / 60:.0f} minutes; the machine's load over the five minutes before the streamer started was {s.load:.1f}, part of it from measuring the worth.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


@click.command()
@click.argument("path", required=False)
@click.option("--reranker", default="deep-fm", show_default=True, help="the re-ranker that is served")
@click.option(
    "--also", default="bayesian-hybrid", show_default=True, help="NAME,...: further re-rankers whose worth is measured"
)
@click.option("--port", default=8198, show_default=True, help="port of the streamer")
def main(path: str | None, reranker: str, also: str, port: int) -> None:
    """Measure if a PATH is given, then write the page."""
    file, began = RESULTS / "rerank.json", time.perf_counter()
    if path:
        others = [name for name in also.split(",") if name]
        settings = load({"reranker": reranker, "shadow": [reranker, *others]}, environ={})
        found, events = worth(path, settings, [reranker, *others])
        measured = Measured(
            stream=Path(path).resolve().name, candidates=settings.server.rerank_candidates,
            deadline_ms=settings.server.rerank_deadline_ms, worth=found,
            served=served(path, settings, events, port), wall_seconds=time.perf_counter() - began,
        )  # fmt: skip
        file.write_bytes(msgspec.json.format(msgspec.json.encode(measured)) + b"\n")
    measured = msgspec.json.decode(file.read_bytes(), type=Measured)
    (RESULTS / "rerank.md").write_text(page(measured), encoding="utf-8")
    print(page(measured))


if __name__ == "__main__":
    main()
