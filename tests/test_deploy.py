"""The files for deployment, checked by the tools that will read them. No Docker engine is needed, and nothing is started."""

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from learning import settings
from ruamel.yaml import YAML

from streamer.app import App
from streamer.core.events import Rating, message
from streamer.renormalise import manifest
from streamer.renormalise.training_process import ONE_THREAD
from streamer.storage.files import write_atomically
from streamer.storage.generations import PROGRESS, GenerationRecord, Progress, generation_folder, write_record

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
OURS = ("kafka", "streamer", "renormaliser", "prometheus", "grafana")


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def until(done: Callable[[], bool], deadline_s: float = 120.0) -> bool:
    """Whether `done` became true before the deadline."""
    end = time.monotonic() + deadline_s
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def check(*command: str | Path, cwd: Path = ROOT) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_compose_file_follows_the_specification() -> None:
    check(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_dockerfile_satisfies_hadolint() -> None:
    assert check(BIN / "hadolint", "deploy/Dockerfile") == ""


def test_every_service_has_a_version_a_user_a_health_check_and_loopback_ports() -> None:
    services = yaml(ROOT / "docker-compose.yml")["services"]
    assert set(services) == set(OURS)
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        if name == "renormaliser":
            continue  # below
        assert service["ports"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        if name == "streamer":
            assert re.search(r"^USER 1\d+$", dockerfile, re.MULTILINE)
            assert "\nHEALTHCHECK" in dockerfile
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
            assert service["user"] not in ("root", "0"), name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_the_renormaliser_shares_only_the_data_and_runs_with_low_priority() -> None:
    services = yaml(ROOT / "docker-compose.yml")["services"]
    trains, serves = services["renormaliser"], services["streamer"]
    assert trains["volumes"] == serves["volumes"]
    assert trains["build"] == serves["build"] | {"args": {"LOCK": "offline"}}, "who serves has no torch"
    assert trains["image"] != serves["image"]
    assert (ROOT / "requirements" / f"{trains['build']['args']['LOCK']}.lock").exists()
    assert serves["environment"]["STREAMER_RENORMALISER"] == "external"
    assert trains["network_mode"] == "none"
    assert {"ports", "secrets"} & set(trains) == set()
    assert trains["healthcheck"] == {"disable": True}, "the image's asks a port that nobody listens on here"
    assert trains["cpu_shares"] < 1024
    assert trains["mem_limit"]
    assert set(trains["environment"]) == set(ONE_THREAD), "as the process that serve starts has it"
    assert set(trains["environment"].values()) == {1}


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The container's process, with another data directory."""
    container = yaml(ROOT / "docker-compose.yml")["services"]["renormaliser"]
    command = [part.replace("/data", str(tmp_path)) for part in container["command"]]
    one_thread = {name: str(value) for name, value in container["environment"].items()}
    process = subprocess.Popen([sys.executable, "-m", "streamer", *command], env={**os.environ, **one_thread})
    yield process
    process.terminate()
    process.wait(timeout=30)


def test_the_renormaliser_trains_a_cut_that_somebody_else_made(
    follower: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    learners = {"rating_learner": "biased-mf", "click_learner": "popularity"}
    app = App(settings(data=str(tmp_path), renormaliser="external", archive_interval_s=0.1, **learners))
    app.start()
    try:
        app.publish([message(Rating(f"u{n % 7}", f"i{n % 11}", 1.0 + n % 5)) for n in range(500)])
        assert until(lambda: app.drained)
        app.renormaliser.renormalise("by hand", held=True)
        assert until(lambda: app.renormaliser.idle or follower.poll() is not None)
        assert follower.poll() is None
        assert manifest.read(generation_folder(tmp_path, "g1"))[0].events == 500
    finally:
        app.close()


def test_a_second_renormaliser_does_not_repeat_a_training(follower: subprocess.Popen[bytes], tmp_path: Path) -> None:
    where = generation_folder(tmp_path, "g1")
    where.mkdir(parents=True)
    done = msgspec.json.encode(Progress("done", 1.0, done=True))
    with (where / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the test is the first
        write_record(tmp_path, GenerationRecord(id="g1", parent="g0").at_stage("cut"))
        device = f":{os.fstat(lock.fileno()).st_ino} "
        assert until(lambda: any("->" in one and device in one for one in Path("/proc/locks").read_text().splitlines()))
        write_atomically(where / PROGRESS, done)
    generation_folder(
        tmp_path, "g2"
    ).mkdir()  # and the second comes to the next one, which fails: there is nothing in it
    write_record(tmp_path, GenerationRecord(id="g2", parent="g0").at_stage("cut"))
    assert until((generation_folder(tmp_path, "g2") / PROGRESS).exists)
    assert (where / PROGRESS).read_bytes() == done


def test_no_secret_stands_in_the_compose_file_and_each_is_a_file_that_make_secrets_makes(tmp_path: Path) -> None:
    compose = yaml(ROOT / "docker-compose.yml")
    named = {Path(secret["file"]).name for secret in compose["secrets"].values()}
    folder = tmp_path / "secrets"
    check(DEPLOY / "make-secrets.sh", folder)
    made = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert set(made) == named == set(compose["secrets"])
    assert all(len(secret) >= 40 and secret.isalnum() for secret in made.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for service in compose["services"].values():
        for variable, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|TOKEN|SECRET", variable) or str(value).startswith("/run/secrets/"), variable
    check(DEPLOY / "make-secrets.sh", folder)
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == made, "what is there stays"
    assert check("git", "check-ignore", "deploy/secrets/streamer-token").strip() == "deploy/secrets/streamer-token"


def test_streamer_listens_on_all_interfaces_inside_and_asks_for_its_token() -> None:
    environment = yaml(ROOT / "docker-compose.yml")["services"]["streamer"]["environment"]
    assert environment["STREAMER_HOST"] == "0.0.0.0"
    assert environment["STREAMER_TOKEN_FILE"] == "/run/secrets/streamer-token"
    scrape = yaml(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"][0]
    assert scrape["authorization"]["credentials_file"] == "/run/secrets/streamer-token"


def test_every_path_that_is_mounted_or_copied_exists() -> None:
    services = yaml(ROOT / "docker-compose.yml")["services"]
    mounted = [volume.split(":")[0] for service in services.values() for volume in service["volumes"]]
    assert {path for path in mounted if path.startswith("./") and not (ROOT / path).is_dir()} == set()
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(copies) >= 5
    assert [path for line in copies for path in line.split() if not (ROOT / path).exists()] == []


def test_prometheus_accepts_its_configuration_and_rules(promtool: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret", encoding="utf-8")
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "prometheus")
    config = tmp_path / "prometheus/prometheus.yml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("/run/secrets/streamer-token", str(token)), encoding="utf-8"
    )
    assert "SUCCESS" in check(promtool, "check", "config", config)


def test_the_oracle_is_shown_with_the_learners_in_a_simulated_world(promtool: str, tmp_path: Path) -> None:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/streamer.json").read_text(encoding="utf-8"))
    (panel,) = (panel for panel in dashboard["panels"] if panel["title"] == "Rolling RMSE")
    series = {
        "streamer_rolling_rmse": ('learner="bias",window="1000"', 0.9),
        "streamer_oracle_rmse": ('window="1000"', 0.8),
    }
    shown = [
        ('streamer_rolling_rmse{learner="bias",window="1000"}', 0.9),
        ('streamer_oracle_rmse{learner="oracle",window="1000"}', 0.8),
    ]
    for names in (list(series), ["streamer_rolling_rmse"]):
        test = {
            "interval": "15s",
            "input_series": [
                {"series": f"{name}{{{series[name][0]}}}", "values": f"{series[name][1]}x4"} for name in names
            ],
            "promql_expr_test": [
                {
                    "expr": panel["targets"][0]["expr"],
                    "eval_time": "30s",
                    "exp_samples": [{"labels": labels, "value": value} for labels, value in shown[: len(names)]],
                }
            ],
        }
        (tmp_path / "test.json").write_text(json.dumps({"tests": [test]}), encoding="utf-8")  # which is YAML too
        assert "SUCCESS" in check(promtool, "test", "rules", tmp_path / "test.json")


def test_every_alert_fires_when_it_should_and_none_in_a_healthy_hour(promtool: str) -> None:
    assert "SUCCESS" in check(promtool, "test", "rules", "alerts.test.yml", cwd=DEPLOY / "prometheus")
    tested = (DEPLOY / "prometheus/alerts.test.yml").read_text(encoding="utf-8")
    for rule in yaml(DEPLOY / "prometheus/alerts.yml")["groups"][0]["rules"]:
        assert f'alertname="{rule["alert"]}", severity="{rule["labels"]["severity"]}"' in tested
        assert set(rule["annotations"]) == {"summary", "action"}


def test_the_dashboard_reads_from_the_provisioned_data_source_and_lies_where_grafana_looks() -> None:
    source = yaml(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    folder = yaml(DEPLOY / "grafana/provisioning/dashboards/streamer.yml")["providers"][0]["options"]["path"]
    grafana = yaml(ROOT / "docker-compose.yml")["services"]["grafana"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    dashboards = list((DEPLOY / "grafana/dashboards").glob("*.json"))
    assert len(dashboards) == 1
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/{dashboards[0].name}"
    panels = json.loads(dashboards[0].read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 8
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == source["uid"]


def pins(lock: str) -> dict[str, set[str]]:
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    found: dict[str, set[str]] = {}
    for line in re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE):
        found.setdefault(line[0], set()).add(line[1])
    return found


def test_locks_have_hashes_and_no_addresses_and_the_base_has_no_torch() -> None:
    for lock in ("base.lock", "offline.lock", "dev.lock", "bench.lock", "uv.lock"):
        text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
        assert "://" not in text
        assert "--index" not in text
        assert all("--hash=sha256:" in part for part in re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:])
    heavy = {"torch", "gensim", "triton"}
    assert heavy & set(pins("base.lock")) == set()
    assert not any(name.startswith(("nvidia", "cuda")) for name in pins("base.lock"))
    assert heavy <= set(pins("offline.lock"))
    assert "torch" not in pins("bench.lock")


def test_locks_agree_and_cover_pyproject() -> None:
    base, offline, dev = pins("base.lock"), pins("offline.lock"), pins("dev.lock")
    assert base.items() <= offline.items() <= dev.items()
    written = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, peers = written["project"], pins("bench.lock")
    extras, groups = project["optional-dependencies"], written["dependency-groups"]
    assert all(peers[name] <= dev[name] for name in peers.keys() & dev.keys()), "make bench changes what is installed"
    for lock, wanted in (
        (base, project["dependencies"]), (offline, extras["offline"]), (dev, extras["dev"]), (peers, groups["bench"]),
    ):  # fmt: skip
        names = {re.sub("[._]", "-", re.split(r"[\[<>=!~; ]", one, maxsplit=1)[0].lower()) for one in wanted}
        assert names - set(lock) == set(), "run make lock"


def test_make_help_names_every_target() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    printed = check("make", "help")
    assert len(targets) >= 10
    for target in targets:
        assert re.search(rf"^make {target} +\S+", printed, re.MULTILINE), target
