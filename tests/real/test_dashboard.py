"""Every panel of the dashboard shows numbers: its queries run on a real Prometheus that scrapes a real replay.

Prometheus reads the configuration that is deployed, token and alert rules included; only addresses and intervals differ.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import httpx
import pytest
from process import WITHOUT_CERTIFICATES

DEPLOY = Path(__file__).parents[2] / "deploy"
TOKEN = "a-token-of-the-test"
DEADLINE_S = 60.0
START_S = 180.0  # kernels may have to be compiled first
RETRAINED_S = 240.0  # a process that starts, loads its kernels and trains, beside two others


def missing(sentence: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


def until(done: Callable[[], bool], deadline_s: float) -> bool:
    """Whether `done` became true before the deadline."""
    end = time.monotonic() + deadline_s
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


@contextmanager
def running(output: Path, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to `output`; it is stopped at the end, and its output is shown on failure."""
    with output.open("wb") as file:
        process = subprocess.Popen([str(part) for part in command], stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def said(process: subprocess.Popen[bytes], output: Path, pattern: str, deadline_s: float) -> str:
    """The process's output, as soon as it has any."""
    until(lambda: bool(re.search(pattern, output.read_text())) or process.poll() is not None, deadline_s)
    found = re.search(pattern, output.read_text())
    assert found, f"{process.args!r} never said {pattern!r}: {output.read_text()[-3000:]}"
    return found[1]


@pytest.fixture(scope="module")
def streamer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a process that replays MovieLens, slowly enough to be scraped while it learns, and retrains at least once.

    The gate lets any candidate pass that learns: what is looked at is that all of it is shown.
    """
    stream = Path(os.environ.get("STREAMER_TEST_DATA", "no STREAMER_TEST_DATA"))
    if not stream.is_dir():
        missing(f"no ml-latest-small: {stream} is not a folder; set STREAMER_TEST_DATA to one")
    folder = tmp_path_factory.mktemp("streamer")
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    command: list[str | Path] = [
        sys.executable, "-m", "streamer", "serve", "--replay", stream, "--rate", "2000", "--port", "0",
        "--data", folder / "data", "--token-file", folder / "token", "--renormalise-every-events", "8000",
        "--gate-min-events", "500", "--gate-margin", "1", "--watch-events", "3000",
        "--reranker", "bayesian-hybrid",
    ]  # fmt: skip
    with running(folder / "output", *command) as process:
        yield said(process, folder / "output", r"(http://127\.0\.0\.1:\d+)", START_S)


@pytest.fixture(scope="module")
def prometheus(streamer: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that scrapes the process every second."""
    program = shutil.which("prometheus")
    if program is None:
        missing("no prometheus: install Debian's package prometheus, which `make setup` does as root")
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(DEPLOY / "prometheus/alerts.yml", folder)
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    config = (DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8")
    for deployed, here in (
        ("/run/secrets/streamer-token", str(folder / "token")),
        ("streamer:8080", streamer.removeprefix("http://")),
        ("scrape_interval: 5s", "scrape_interval: 1s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
    ):
        assert config.count(deployed) == 1
        config = config.replace(deployed, here)
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    command = [
        program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        "--web.listen-address=127.0.0.1:0",
    ]  # fmt: skip
    with running(folder / "output", *command) as process:
        port = said(process, folder / "output", r"Listening on\"? address=127\.0\.0\.1:(\d+)", DEADLINE_S)
        yield f"http://127.0.0.1:{port}"


def ask_everything(streamer: str) -> None:
    """Send one request to each method, so that latencies have values."""
    bodies: Mapping[str, Any] = {
        "RecommendationService/Recommend": {"userId": "1"},
        "RecommendationService/RecommendForPreferences": {"preferences": {"Drama": 5}},
        "RecommendationService/Predict": {"userId": "1", "itemId": "1"},
        "RecommendationService/SimilarItems": {"itemId": "1"},
        "AdminService/GetStatus": {},
    }
    for method, body in bodies.items():
        answer = httpx.post(
            f"{streamer}/streamer.v1.{method}", json=body, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10,
            verify=WITHOUT_CERTIFICATES,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text


def prometheus_answer(prometheus: str, path: str, **query: str) -> Any:
    url = f"{prometheus}/api/v1/{path}?{urlencode(query)}"
    answer = httpx.get(url, timeout=10, verify=WITHOUT_CERTIFICATES).json()
    assert answer["status"] == "success", answer
    return answer["data"]


def shows_something(prometheus: str, query: str) -> bool:
    """Whether the query returns at least one series with a number."""
    result = prometheus_answer(prometheus, "query", query=query.replace("$__rate_interval", "5s"))["result"]
    return any(math.isfinite(float(series["value"][1])) for series in result)


def queries() -> list[tuple[str, str]]:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/streamer.json").read_text(encoding="utf-8"))
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_query_of_the_dashboard_returns_numbers(streamer: str, prometheus: str) -> None:
    silent = queries()
    assert len(silent) >= 15

    def all_shown() -> bool:
        ask_everything(streamer)
        silent[:] = [(title, query) for title, query in silent if not shows_something(prometheus, query)]
        return not silent

    until(all_shown, RETRAINED_S)
    assert silent == []


def test_every_alert_can_be_evaluated_and_none_fires(prometheus: str) -> None:
    def rules() -> list[Any]:
        return [rule for group in prometheus_answer(prometheus, "rules")["groups"] for rule in group["rules"]]

    assert until(lambda: all(rule["health"] != "unknown" for rule in rules()), DEADLINE_S)
    assert len(rules()) >= 10
    assert {rule["name"]: rule.get("lastError") for rule in rules() if rule["health"] != "ok"} == {}
    alerts = prometheus_answer(prometheus, "alerts")["alerts"]
    firing = {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
    assert firing - {"StreamerDrift"} == set(), "a drift may be there"
