"""Settings: flags override variables, these override the file, and an error names the wrong setting."""

from pathlib import Path

import msgspec
import pytest

from streamer.cli.options import settings_options
from streamer.core.errors import BadSettings
from streamer.core.settings import KINDS, PARTS, Settings, load, read_secret


def file(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_override_variables_and_these_the_file(tmp_path: Path) -> None:
    toml = file(tmp_path, "[learning]\ndim = 9\nseed = 5\n[server]\nport = 1\n")
    assert load({}, {}, toml).learning.dim == 9
    assert load({}, {"STREAMER_DIM": "8"}, toml).learning.dim == 8
    assert load({"dim": "7"}, {"STREAMER_DIM": "8"}, toml).learning.dim == 7
    assert load({"dim": None}, {"STREAMER_DIM": "8"}, toml).learning == load({"dim": 8, "seed": 5}, {}).learning


def test_defaults_apply_without_flags_variables_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({}, {}) == Settings()
    file(tmp_path, "[server]\nport = 1\n").rename(tmp_path / "streamer.toml")
    assert load({}, {}).server.port == 1


@pytest.mark.parametrize("text", ["view=0.5, dislike=-2,", "view=0.5,dislike=-2"])
def test_kinds_are_parsed_as_weights_by_name(text: str, tmp_path: Path) -> None:
    assert load({"kinds": text}, {}).learning.kinds == {"view": 0.5, "dislike": -2.0}
    toml = file(tmp_path, "[learning.kinds]\nview = 0.5\ndislike = -2")
    assert load({}, {}, toml).learning.kinds == {"view": 0.5, "dislike": -2.0}
    assert Settings().learning.kinds == KINDS


@pytest.mark.parametrize(
    ("flags", "environ", "sentence"),
    [
        ({"port": "80x"}, {}, "port = '80x' from --port"),
        ({"port": "65536"}, {}, "port = '65536' from --port cannot be used: Expected `int` <= 65535"),
        ({}, {"STREAMER_INSECURE": "maybe"}, "insecure = 'maybe' from STREAMER_INSECURE"),
        ({"max_records": 2001}, {}, "max_records = 2001 from --max-records"),
        ({"commit_interval_s": "nan"}, {}, "commit_interval_s = 'nan'"),
        ({"commit_interval_s": "inf"}, {}, "commit_interval_s = 'inf'"),
        ({"log_retention_days": "inf"}, {}, "log_retention_days = 'inf'"),
        ({"seed": 2**63}, {}, "seed = 9223372036854775808"),
        ({"data": ""}, {}, "data = ''"),
        ({"kinds": "view"}, {}, "kinds = {'view': ''} from --kinds"),
        ({"kinds": "view=nan"}, {}, "kinds gives 'view' the weight nan"),
        ({"kinds": "view=1e39"}, {}, "kinds gives 'view' the weight 1e+39"),
        ({"rating_min": "nan"}, {}, "rating_min = nan and rating_max = 1000000.0 allow no ratings"),
        ({"rating_min": 5, "rating_max": 1}, {}, "rating_min = 5.0 and rating_max = 1.0"),
        ({"rating_max": "inf"}, {}, "rating_max = inf"),
    ],
)
def test_an_invalid_setting_is_reported_with_its_origin(
    flags: dict[str, object], environ: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BadSettings) as raised:
        load(flags, environ)
    assert sentence in str(raised.value)
    assert raised.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[server]\nport = 8.5", "port = 8.5 from [server] in {file}"),
        ("[server]\nprot = 1", "no setting 'prot' for [server] in {file}; choose one of: host, port, "),
        ("[sever]\nport = 1", "{file} has a table [sever]; settings belong in: [server], "),
        ("port = 1", "{file} has 'port' outside of the tables; settings belong in: [server], "),
        ("server = 3", "{file} has 'server' outside of the tables"),
        ("[[server]]\nport = 1", "{file} has 'server' outside of the tables"),
        ("[server", "cannot read settings from {file}: "),
    ],
)
def test_an_invalid_file_is_reported_with_the_place(text: str, sentence: str, tmp_path: Path) -> None:
    toml = file(tmp_path, text)
    with pytest.raises(BadSettings) as raised:
        load({}, {}, toml)
    assert sentence.format(file=toml) in str(raised.value)


def test_a_named_file_must_exist_and_be_readable(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"no settings file .*none\.toml"):
        load({}, {}, tmp_path / "none.toml")
    with pytest.raises(BadSettings, match="cannot read settings"):
        load({}, {}, tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(BadSettings, match="cannot read settings"):
        load({}, {}, tmp_path / "latin.toml")


def test_secrets_are_read_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(" hush \n", encoding="utf-8")
    assert read_secret(str(path), "token") == "hush"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(BadSettings, match=r"the token in .* is empty"):
        read_secret(str(path), "token")
    path.write_bytes(b"hush\xff")
    with pytest.raises(BadSettings, match="cannot read the token") as raised:
        read_secret(str(path), "token")
    assert "hush" not in str(raised.value)
    with pytest.raises(BadSettings, match="cannot read the token"):
        read_secret(str(tmp_path / "none"), "token")


def test_every_setting_is_documented_once_and_no_part_is_large() -> None:
    names = [field.name for part in PARTS.values() for field in msgspec.structs.fields(part)]
    assert len(names) == len(set(names))
    for part in PARTS.values():
        assert len(msgspec.structs.fields(part)) <= 20
        for about in msgspec.json.schema(part)["$defs"][part.__name__]["properties"].values():
            assert "description" in str(about)


def test_every_setting_is_a_flag() -> None:
    command = settings_options(*PARTS)(lambda: None)
    flags = {option.name for option in command.__click_params__}
    assert flags == {field.name for part in PARTS.values() for field in msgspec.structs.fields(part)} | {"config"}


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("STREAMER_RATING_LEANER", "RATING_LEARNER"),
        ("STREAMER_USER_CACHE_BYTE", "USER_CACHE_BYTES"),
        ("STREAMER_SEEDS", "SEED"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(variable: str, meant: str) -> None:
    with pytest.raises(BadSettings, match=f"no setting for the variable {variable}: did you mean STREAMER_{meant}"):
        load({}, {variable: "1"})


def test_other_programs_variables_are_ignored() -> None:
    theirs = ("TEST_DATA", "TEST_KAFKA", "CACHE", "CHROMIUM", "SERVICE_HOST", "SERVICE_PORT", "PORT_8080_TCP_ADDR")
    assert load({}, {f"STREAMER_{name}": "x" for name in theirs} | {"SEEDS": "1"}) == load({}, {})
