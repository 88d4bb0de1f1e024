"""`streamer doctor`: every check reports what it found, a failed one also what to do, and nothing is changed."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from broker import USER, Broker, sasl_of
from commands import run
from learning import digest, events, learn, records, settings

import streamer.doctor
from streamer.core.errors import BadState
from streamer.core.events import Rating, message
from streamer.doctor import Check, examine
from streamer.producers.kafka import KafkaSink
from streamer.renormalise import manifest
from streamer.renormalise.manifest import Manifest
from streamer.renormalise.training import RefittedTables
from streamer.storage import generations
from streamer.storage.generations import GenerationRecord
from streamer.storage.rocks import Rocks
from streamer.storage.state import RocksStore

NAMES = ["python", "packages", "kernels", "data", "generations", "log", "archive", "disk", "port"]


def found(data: Path, *, deep: bool = False, **flags: object) -> dict[str, Check]:
    flags = {"port": 0, **flags}
    return {check.name: check for check in examine(settings(data=str(data), **flags), None, deep=deep)}


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    run("doctor", "--compile", "--port", "0")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    learn(tmp_path / "data", records(events(200)))
    return tmp_path / "data"


def test_a_good_installation_passes_every_check_and_no_file_is_made(tmp_path: Path) -> None:
    said = run("doctor", "--port", "0", cwd=tmp_path)
    assert [line.split()[:2] for line in said.splitlines()] == [["ok", f"{name}:"] for name in NAMES]
    answer = json.loads(run("doctor", "--port", "0", "--json", cwd=tmp_path))
    assert answer["ok"] is True
    assert [check["name"] for check in answer["checks"]] == NAMES
    assert list(tmp_path.iterdir()) == []


def contents(data: Path) -> dict[str, bytes]:
    """The contents of all files except RocksDB's own logs."""
    return {path.name: path.read_bytes() for path in (data / "state").iterdir() if not path.name.startswith("LOG")}


def test_a_state_is_recognised_and_left_as_it_is(state: Path) -> None:
    before = digest(state)
    files = contents(state)
    data = found(state)["data"]
    assert data.ok
    assert "format 2" in data.says
    assert f"{sum(before.offsets.values()):,} events" in data.says
    assert contents(state) == files
    assert digest(state) == before


def test_a_state_made_with_other_settings_fails(state: Path) -> None:
    data = found(state, seed=7)["data"]
    assert not data.ok
    assert "was made with seed 1, the settings say 7: use 1, or move " in data.says


def found_while_another_process_has_it(state: Path) -> Check:
    program = (
        "import pathlib, sys; from streamer.storage.state import RocksStore; store = RocksStore(pathlib.Path(sys.argv[1])); "
        "print('held', flush=True); sys.stdin.read(); store.close()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    try:
        return found(state)["data"]
    finally:
        holder.communicate()


def test_a_state_in_use_fails(state: Path) -> None:
    data = found_while_another_process_has_it(state)
    assert not data.ok
    assert "in use by another process: stop it, or use another --data directory" in data.says
    assert found(state)["data"].ok


def test_a_state_of_another_format_fails(tmp_path: Path) -> None:
    rocks = Rocks(tmp_path / "state")
    rocks.write([(b"meta\0meta", b'{"format":99,"generation":"g0","settings":{}}')])
    rocks.close()
    data = found(tmp_path)["data"]
    assert not data.ok
    assert "format 99, this streamer writes format 2" in data.says


@pytest.fixture
def renormalised(state: Path) -> Path:
    """A data directory where g1 is live and g2 is being made."""
    store = RocksStore(state)
    for name in ("g1", "g2"):
        generations.generation_folder(state, name).mkdir(parents=True)
        store.checkpoint(generations.state_folder(state, name))
        generations.write_record(state, GenerationRecord(id=name, parent="g0", cut_events=150).at_stage("cut"))
    store.close()
    trained = RocksStore(state, generation="g1")
    trained.commit([trained.become("g1")], {})
    trained.close()
    made = Manifest(
        generation="g1",
        parent="g0",
        cut={},
        events=150,
        settings={},
        trained={"bias": ["b"]},
        candidate="all",
        churn={},
    )
    tables = {"bias": {"b": np.ones((3, 1), np.float32)}}
    manifest.write(generations.generation_folder(state, "g1"), made, RefittedTables(["u"], ["i"], tables, {}))
    generations.write_record(state, generations.read_record(state, "g1").at_stage("live"))
    generations.set_live(state, "g1")
    return state


def test_the_first_generation_is_named(tmp_path: Path, state: Path) -> None:
    assert found(tmp_path / "new")["generations"].says == "none yet"
    assert found(state)["generations"].says == "g0 is live"


def test_the_live_generation_is_named_and_checked(renormalised: Path) -> None:
    shutil.rmtree(renormalised / "state")  # as prune does; what answers is not there
    checks = found(renormalised)
    assert checks["data"].ok, checks["data"].says
    assert "holds a state of format 2" in checks["data"].says
    assert not found_while_another_process_has_it(renormalised).ok
    assert checks["generations"].ok
    assert re.fullmatch(
        r"g1 is live, cut after 150 events, and its files are undamaged \(0\.0 MiB\); serve will continue with g2",
        checks["generations"].says,
    )


def test_to_learn_again_all_generations_must_be_moved_away(renormalised: Path) -> None:
    said = found(renormalised, seed=7)["data"].says
    there = [renormalised / name for name in ("state", "generations", "generation")]
    assert f"or move {' and '.join(map(str, there))} away to learn again from the log" in said
    for part in there:
        part.rename(renormalised.parent / part.name)
    assert found(renormalised, seed=7)["data"].says == f"{renormalised} is writable and holds no state yet"
    (renormalised.parent / "state").rename(there[0])
    assert f"or move {there[0]} away" in found(renormalised, seed=7)["data"].says


def test_a_generation_with_a_damaged_file_fails(renormalised: Path) -> None:
    file = generations.generation_folder(renormalised, "g1") / "bias.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    checks = found(renormalised)
    assert not checks["generations"].ok
    assert "bias.safetensors in " in checks["generations"].says
    assert "is damaged" in checks["generations"].says
    assert checks["data"].ok, "it answers from its state"


def test_a_live_generation_without_a_state_fails_and_no_empty_state_is_made(
    renormalised: Path,
) -> None:
    shutil.rmtree(generations.state_folder(renormalised, "g1"))
    for opened in (lambda: RocksStore(renormalised), lambda: RocksStore(renormalised, read_only=True)):
        with pytest.raises(BadState, match="there is no state of generation g1 in "):
            opened()
    assert not found(renormalised)["data"].ok
    assert not generations.state_folder(renormalised, "g1").exists()


def test_a_pointer_that_names_no_generation_fails(state: Path) -> None:
    (state / "generation").write_text("the newest")
    for name in ("data", "generations"):
        assert not found(state)[name].ok
        assert "should name a generation, like g1, in one line, and says 'the newest'" in found(state)[name].says


def test_data_that_cannot_be_a_directory_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for data in (tmp_path / "file", tmp_path / "file" / "below"):
        checks = found(data)
        assert not checks["data"].ok
        assert "is a file: give another --data directory" in checks["data"].says


@pytest.mark.skipif(not os.access("/proc/self", os.R_OK), reason="needs /proc, where nobody can write")
def test_data_that_cannot_be_written_fails() -> None:
    checks = found(Path("/proc/streamer"))
    assert not checks["data"].ok
    assert "cannot write in /proc" in checks["data"].says
    assert not checks["disk"].ok


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(streamer.doctor.shutil, "disk_usage", lambda at: usage(10 << 30, (10 << 30) - 1000, 1000))
    disk = found(tmp_path)["disk"]
    assert not disk.ok
    assert disk.says.startswith("0.0 GiB free")
    assert "free at least 1 GiB" in disk.says


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_port_in_use_fails_with_exit_code_1(tmp_path: Path, taken: int) -> None:
    said = run("doctor", "--port", str(taken), code=1, cwd=tmp_path)
    assert f"wrong port: port {taken} is in use by another process: stop it, or use --port" in said
    answer = json.loads(run("doctor", "--port", str(taken), "--json", code=1, cwd=tmp_path))
    assert answer["ok"] is False
    assert [check["name"] for check in answer["checks"] if not check["ok"]] == ["port"]


def test_a_public_address_without_a_token_fails(tmp_path: Path) -> None:
    port = found(tmp_path, host="0.0.0.0")["port"]
    assert not port.ok
    assert "token" in port.says


def test_an_unreachable_kafka_fails(tmp_path: Path) -> None:
    with socket.socket() as silent:  # bound, and nobody listens
        silent.bind(("127.0.0.1", 0))
        kafka = found(tmp_path, kafka=f"127.0.0.1:{silent.getsockname()[1]}")["kafka"]
    assert not kafka.ok
    assert "no Kafka at 127.0.0.1" in kafka.says
    assert "kafka" not in found(tmp_path)


@pytest.mark.kafka
def test_kafka_is_checked_as_serve_would_and_no_topic_is_made(fresh_broker: Broker, tmp_path: Path) -> None:
    for _ in range(2):
        kafka = found(tmp_path, kafka=fresh_broker.bootstrap)["kafka"]
        assert kafka.ok
        assert kafka.says.endswith("missing topics are created at the first start")
    kafka = found(tmp_path, kafka=fresh_broker.bootstrap, kafka_create_topics=False)["kafka"]
    assert not kafka.ok
    assert "create them, or allow kafka_create_topics" in kafka.says
    sink = KafkaSink(settings(kafka=fresh_broker.bootstrap).kafka)
    sink.publish([message(Rating("u1", "i1", 3.0))])
    sink.close()
    assert found(tmp_path, kafka=fresh_broker.bootstrap)["kafka"].says.endswith("its topics hold 1 events")


@pytest.mark.kafka
def test_a_wrong_password_and_a_wrong_address_are_distinguished(fresh_broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong")
    kafka = found(
        tmp_path / "data", kafka=sasl_of(fresh_broker), kafka_security="SASL_PLAINTEXT", kafka_username=USER,
        kafka_password_file=str(tmp_path / "password"),
    )["kafka"]  # fmt: skip
    assert not kafka.ok
    assert f"refused '{USER}'" in kafka.says


def test_kernels_that_are_not_compiled_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamer.doctor, "is_compiled", lambda name: name != "skip-gram")
    kernels = found(tmp_path)["kernels"]
    assert not kernels.ok
    assert kernels.says.startswith("those of skip-gram are not compiled: run `streamer doctor --compile`")


def test_a_missing_package_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        streamer.doctor, "requires", lambda name: ["numpy>=2.3", "not-there[x]==1", 'torch; extra == "offline"']
    )
    packages = found(tmp_path)["packages"]
    assert not packages.ok
    assert packages.says == "missing: not-there; run `make setup`"


def test_an_archive_that_lacks_a_file_fails(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\nu,i,3\n")
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", path, "--until-drained")
    assert found(tmp_path / "d")["archive"].says.endswith("holds 1 records in 0.0 MiB")
    (file,) = (tmp_path / "d").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-1])
    assert "00000000.parquet is damaged: " in found(tmp_path / "d")["archive"].says
    file.unlink()
    assert "1 of 1 files are missing or damaged: the archive's file" in found(tmp_path / "d")["archive"].says
    assert "00000000.parquet is missing: run `streamer archive repair`" in found(tmp_path / "d")["archive"].says
    assert not found(tmp_path / "d")["archive"].ok
    assert "archive" not in found(tmp_path / "d", archive=False)


@pytest.mark.parametrize(
    ("damaged", "check"),
    [
        ("generations/g1/bias.safetensors", "all files of g1"),
        ("generations/g1/state/*.sst", "all of the state of g1"),
        ("state/*.sst", "all of the state of g0"),
    ],
)
def test_deep_checks_read_everything(renormalised: Path, damaged: str, check: str) -> None:
    names = {"all of the archive", "all files of g1", *(f"all of the state of {name}" for name in ("g0", "g1", "g2"))}
    deep = {name: one for name, one in found(renormalised, deep=True).items() if name.startswith("all")}
    assert {name for name, one in deep.items() if one.ok} == deep.keys() == names
    file = max(renormalised.glob(damaged), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.unlink()  # states share their tables by hard links
    file.write_bytes(content)
    deep = {name: one for name, one in found(renormalised, deep=True).items() if name.startswith("all")}
    assert [name for name, one in deep.items() if not one.ok] == [check]
    assert "damaged" in deep[check].says
