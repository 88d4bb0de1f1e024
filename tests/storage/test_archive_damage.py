"""A damaged archive: never read as something else, named, and repaired from the log as far as the log still has it."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from archiving import AT_MS, DAY_MS, LEARNING, archived, logged, table
from commands import run
from learning import settings

from streamer.core.errors import BadState, DamagedFile
from streamer.core.events import LOG, Click, Event, ItemUpdate, Message, Rating, Record, UserRemoval, UserUpdate
from streamer.storage.archive import parquet
from streamer.storage.archive.archive import QUARANTINE, Archive
from streamer.storage.archive.manifest import COPY, MANIFEST, File, Manifest, read_manifest, write_manifest
from streamer.storage.archive.repair import repair
from streamer.storage.files import read_sealed, sealed
from streamer.storage.kept import KeptLog
from streamer.storage.log import EmbeddedLog
from streamer.stream.removals import Removal

FLIPS = 40


def clicks(count: int) -> list[Event]:
    return [Click(f"u{n % 37}", f"i{n % 53}", "view" if n % 3 else "purchase", AT_MS - n) for n in range(count)]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "archive").glob("topic=*/day=*/*.parquet"))


def flip(path: Path, chance: random.Random) -> Callable[[], object]:
    """Flip one bit of a file; what is returned puts it back."""
    was = path.read_bytes()
    at = chance.randrange(len(was))
    path.write_bytes(was[:at] + bytes([was[at] ^ 1 << chance.randrange(8)]) + was[at + 1 :])
    return lambda: path.write_bytes(was)


def test_no_flipped_bit_is_read_as_other_events(tmp_path: Path) -> None:
    """Without checksums, 22 of 25 such files of clicks were read without an error, as different events."""
    archived(tmp_path, logged(clicks(400)))
    (path,), chance = files(tmp_path), random.Random(1)
    for _ in range(FLIPS):
        back = flip(path, chance)
        with pytest.raises(DamagedFile, match=rf"{path.name} is damaged: .*; run `streamer archive repair`"):
            Archive(tmp_path).events(LEARNING, None)
        back()


def test_pages_have_checksums_for_other_tools(tmp_path: Path) -> None:
    """A bit flipped in a page is found by whoever verifies them. It is not enough for us: headers of pages have none."""
    archived(tmp_path, logged(clicks(400)))
    (path,) = files(tmp_path)
    column = pq.ParquetFile(path).metadata.row_group(0).column(4)
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1  # the last byte of its last page
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.read_table(path, page_checksum_verification=True)


def without_digests(archive: Archive) -> Manifest:
    """The list of files as it was written before there were digests."""
    old = [msgspec.structs.replace(file, sha256="", spans={}) for file in archive.manifest.files]
    return msgspec.structs.replace(archive.manifest, files=tuple(old))


def test_files_from_before_there_were_digests_get_one_when_they_are_first_verified(tmp_path: Path) -> None:
    archive = archived(tmp_path, logged(clicks(40)), cut=10)
    wanted = archive.manifest
    write_manifest(archive.folder, without_digests(archive))
    plain = archive.folder / MANIFEST
    plain.write_bytes(msgspec.json.encode(read_manifest(archive.folder)))  # and no seal
    again = Archive(tmp_path)
    assert len(again.events(LEARNING, None)) == 40
    again.open()
    while not all(file.sha256 for file in again.manifest.files):
        again.verify(1)  # one file at a time
    assert again.manifest == read_manifest(archive.folder) == wanted


@pytest.mark.parametrize("name", [MANIFEST, COPY])
def test_a_damaged_or_lost_list_is_replaced_by_its_copy(tmp_path: Path, name: str) -> None:
    archive = archived(tmp_path, logged(clicks(40)), cut=10)
    place, chance = archive.folder / name, random.Random(2)
    whole = place.read_bytes()
    for _ in range(FLIPS):
        flip(place, chance)
        assert Archive(tmp_path).manifest == archive.manifest
        place.write_bytes(whole[: chance.randrange(len(whole))])
        assert Archive(tmp_path).manifest == archive.manifest
    place.unlink()
    Archive(tmp_path).open()
    assert place.read_bytes() == whole


def test_a_damaged_seal_is_not_taken_for_none(tmp_path: Path) -> None:
    whole = sealed(b'{"format":1,"next_number":7}')
    (tmp_path / "sealed").write_bytes(whole)
    assert read_sealed(tmp_path / "sealed", Manifest).next_number == 7
    for harm in (b'"sha257"', b'"', b" "):
        (tmp_path / "sealed").write_bytes(whole.replace(b'"sha256"', harm).replace(b":7", b":9"))
        with pytest.raises(msgspec.DecodeError):
            read_sealed(tmp_path / "sealed", Manifest)
    (tmp_path / "sealed").write_bytes(b'{ "format": 1, "next_number": 8}')  # from before there were seals
    assert read_sealed(tmp_path / "sealed", Manifest).next_number == 8


def test_without_a_list_nothing_is_read_and_nothing_deleted(tmp_path: Path) -> None:
    """A start used to take the files for what a crash had left, and deleted them all."""
    archive = archived(tmp_path, logged(clicks(40)), cut=10)
    before = files(tmp_path)
    for name in (MANIFEST, COPY):
        (archive.folder / name).unlink()
    with pytest.raises(BadState, match=r"_archive\.json.*nor its copy: restore a backup, or move .*archive away"):
        Archive(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_damaged_file_is_neither_merged_nor_dropped_and_the_others_are_merged(tmp_path: Path, harm: str) -> None:
    archive = archived(tmp_path, logged(clicks(40)), cut=10)
    path = files(tmp_path)[1]
    path.unlink() if harm == "missing" else flip(path, random.Random(3))
    while archive.compact("2099-01-01"):
        pass
    assert [file.rows for file in archive.manifest.files] == [10, 30]
    assert list(archive.damaged) == [archive.manifest.files[0].path]
    assert path.exists() == (harm == "damaged")
    with pytest.raises(DamagedFile, match=rf"00000001\.parquet is {harm}"):
        archive.events(LEARNING, None)


def test_a_damaged_file_stays_named_while_it_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise whoever watches would hear for a moment that all is well."""
    archive, verify, named = archived(tmp_path, logged(clicks(40))), parquet.verify, list[int]()
    flip(files(tmp_path)[0], random.Random(3))
    archive.verify()

    def look_too(folder: Path, file: File) -> None:
        named.append(len(archive.damaged))
        verify(folder, file)

    monkeypatch.setattr(parquet, "verify", look_too)
    archive.verify()
    assert (named, len(archive.damaged)) == ([1], 1)


def test_a_damaged_archive_is_not_backed_up(tmp_path: Path) -> None:
    archive = archived(tmp_path, logged(clicks(40)), cut=10)
    flip(files(tmp_path)[1], random.Random(3))
    with pytest.raises(DamagedFile, match=r"not backed up: the archive's file .*00000001\.parquet is damaged"):
        archive.snapshot(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_forgetting_says_which_damaged_file_may_still_have_rows(tmp_path: Path) -> None:
    archive = archived(tmp_path, logged(clicks(80)), cut=20)
    flip(files(tmp_path)[1], random.Random(4))
    archive.commit({}, {}, {"u1"})
    for _ in range(2):
        with pytest.raises(DamagedFile, match=r"forgotten users may be in a damaged file: .*00000001\.parquet"):
            archive.purge()
    assert len([file for file in archive.manifest.files if file.path not in archive.damaged]) == 3
    repaired = Archive(tmp_path)
    (archive.folder / QUARANTINE).mkdir()
    (archive.folder / QUARANTINE / "00000001.parquet").touch()  # an earlier repair was interrupted
    assert repair(repaired, settings(), None, [])[0].lost
    assert (archive.folder / QUARANTINE / "00000001.parquet").read_bytes()
    repaired.purge()
    assert not (archive.folder / QUARANTINE).exists(), "nobody can tell whose rows are in it"
    assert "u1" not in {row["user_id"] for row in table(tmp_path)}


# What a log may hold: bad events, duplicates, the catalogue, a removal.
MIXED: list[Event | bytes] = [
    *(ItemUpdate("i1", "One"), UserUpdate("friend", {"age": 3.0}, same_as="gone")),
    *(Rating(f"u{n % 7}", f"i{n % 5}", 1.0 + n % 5, AT_MS - n, f"e{n if n % 2 else n // 2}") for n in range(60)),
    *(Click("gone", f"i{n}") for n in range(5)),
    b"{",
    *(Click(f"u{n % 7}", f"i{n}", "cart") for n in range(40)),
    UserRemoval("gone"),
    *(Click("gone", "i9"), Rating("u1", "i2", 2.0)),
]


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    made = EmbeddedLog(tmp_path)
    for record in logged(MIXED):
        made.publish([Message(record.topic, record.key, record.value, record.timestamp_ms)])
    return made


def records_of(log: EmbeddedLog) -> list[Record]:
    return [record for run in log.read(0) for record in run]


@pytest.mark.parametrize("digests", ["with digests", "from before there were digests"])
@pytest.mark.parametrize("cut", [13, 1000])
@pytest.mark.parametrize("harm", ["flip", "unlink"])
def test_rows_of_damaged_files_are_fetched_again_from_the_log(
    tmp_path: Path, log: EmbeddedLog, digests: str, cut: int, harm: str
) -> None:
    archive = archived(tmp_path, records_of(log), cut=cut)
    archive.purge()
    if digests != "with digests":
        write_manifest(archive.folder, without_digests(archive))
    before = table(tmp_path)
    for path in files(tmp_path)[::2]:
        if harm == "unlink":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-9])
    mended = Archive(tmp_path)
    done = repair(mended, settings(), KeptLog(log), [])
    assert done
    assert [one for one in done if one.lost] == []
    assert table(tmp_path) == before
    assert repair(mended, settings(), KeptLog(log), []) == []
    assert Archive(tmp_path).damaged == {}
    assert not (archive.folder / QUARANTINE).exists()
    log.close()


def test_a_repair_knows_the_event_ids_of_before_the_damage(tmp_path: Path, log: EmbeddedLog) -> None:
    archived(tmp_path, records_of(log), cut=13)
    before = table(tmp_path)
    for path in sorted((tmp_path / "archive/topic=ratings").rglob("*.parquet"))[1:]:
        path.unlink()
    (done,) = repair(Archive(tmp_path), settings(), KeptLog(log), [])
    assert (done.lost, done.restored) == (None, done.rows)
    assert table(tmp_path) == before
    log.close()


def test_what_the_log_no_longer_has_is_named_by_offset_and_set_aside(tmp_path: Path, log: EmbeddedLog) -> None:
    archive = archived(tmp_path, records_of(log), cut=13)
    before = table(tmp_path)
    log.trim(30, None, AT_MS * 2)
    begin, harmed = log.begin(), [file for file in archive.manifest.files if file.topic == "ratings"]
    for file in harmed:
        flip(archive.folder / file.path, random.Random(file.number))
    (done,) = repair(Archive(tmp_path), settings(), KeptLog(log), [])
    gone = [row["offset"] for row in before if row["topic"] == "ratings" and row["offset"] < begin]
    assert done.lost
    again = [row for row in table(tmp_path) if row not in before]  # published once more behind what is gone
    assert {row["event_id"] for row in again} <= {row["event_id"] for row in before if row["offset"] in gone}
    assert done.lost.rows == len(gone) - len(again) > 10
    assert done.lost.offsets == {-1: ((gone[0], begin - 1),)}, "duplicates are among them"
    assert f"{done.lost.rows} rows of {harmed[0].path}" in done.sentence()
    assert f"among: {gone[0]} to {begin - 1}" in done.sentence()
    assert [row for row in table(tmp_path) if row not in again] == [row for row in before if row["offset"] not in gone]
    assert len(list((archive.folder / QUARANTINE).iterdir())) == len(harmed)
    assert Archive(tmp_path).manifest.lost == (done.lost,)
    assert len(Archive(tmp_path).events(LEARNING, None)), "the rest can be trained on"
    log.close()


def test_a_repair_brings_back_no_row_of_a_user_whose_erasure_is_under_way(tmp_path: Path, log: EmbeddedLog) -> None:
    archive = archived(tmp_path, records_of(log))
    before = [row for row in table(tmp_path) if row["user_id"] != "u1" or row["offset"] > 50]
    for path in files(tmp_path):
        path.unlink()
    repair(Archive(tmp_path), settings(), KeptLog(log), [Removal(1, "log", 0, 50, user_id="u1")])
    assert table(tmp_path) == before
    assert archive.manifest.forgetting
    log.close()


def test_records_of_the_log_come_back_from_undamaged_files(tmp_path: Path) -> None:
    """For `streamer recover`: in order, over files and topics, with keys and times."""
    events: list[Event] = [
        *(ItemUpdate("i1", "One"), Rating("u1", "i1", 4.5, AT_MS - 5, "e1"), UserUpdate("u1", {"age": 3.0})),
        *(Click(f"u{n}", "i1", "cart", AT_MS - n, None, "s", "r") for n in range(20)),
    ]
    records = logged(events)
    archive = archived(tmp_path, records, cut=5)
    late = logged([events[0], *events[2:4]], 23, AT_MS + DAY_MS)
    archived(tmp_path, late)
    assert list(Archive(tmp_path).records(0, 23)) == records
    assert list(Archive(tmp_path).records(4, 9)) == records[4:9]
    assert list(Archive(tmp_path).records(23, 10**9)) == late
    harmed = next(file for file in archive.manifest.files if file.spans[-1] == (5, 9))
    flip(archive.folder / harmed.path, random.Random(6))
    left = Archive(tmp_path)
    assert list(left.records(0, 23)) == records[:5] + records[10:]
    assert list(left.damaged) == [harmed.path]
    assert LOG in left.offsets


def test_the_commands_verify_and_repair(tmp_path: Path) -> None:
    rated = tmp_path / "events.csv"
    rated.write_text("user,item,rating,timestamp\n" + "".join(f"{n % 5},{n % 7},{1 + n % 5},{n}\n" for n in range(90)))
    data = tmp_path / "d"
    learners = ("--rating-learner", "bias", "--click-learner", "popularity")
    run("serve", "--data", data, "--port", "0", "--replay", rated, "--until-drained", *learners)
    before, (path,) = table(data), files(data)
    assert "1 of 1 files are whole: 90 rows" in run("archive", "verify", "--data", data)
    assert "nothing to repair: all 1 files are whole" in run("archive", "repair", "--data", data)
    flip(path, random.Random(7))
    said = run("archive", "verify", "--data", data, code=1)
    assert f"{path} is damaged: it does not have the SHA-256" in said
    assert "0 of 1 files are whole" in said
    assert "all 90 rows are back, from the log" in run("archive", "repair", "--data", data)
    assert table(data) == before
    assert msgspec.json.decode(run("archive", "verify", "--data", data, "--json"))["damaged"] == {}
    shutil.rmtree(data / "state")  # as `streamer recover` may leave it
    assert "run `streamer serve` first, which makes one" in run("archive", "repair", "--data", data, code=78)
