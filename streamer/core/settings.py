"""Settings: one frozen class a part. Flags override `STREAMER_*` variables, and these override `streamer.toml`.

Every field is a flag (`user_cache_bytes` is `--user-cache-bytes`), a variable (`STREAMER_USER_CACHE_BYTES`) and a key of
its part's table in `streamer.toml` (`[state]`). Secrets are read from files or variables and never shown.
"""

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from streamer.core.errors import BadSettings

Part = TypeVar("Part", bound=msgspec.Struct)


NUMBER_MAX = 1e30  # largest rating or weight: it must fit float32, and its square float64
CATEGORY_ATTRIBUTES = {"year": 10.0}
GROUP_STEPS = {"age": 10.0}
SERVED_RECORDS, EVALUATED_RECORDS = 1_000, 2_000  # largest micro-batch when `max_records` is not set
KINDS = {"view": 0.2, "click": 1.0, "cart": 2.0, "purchase": 4.0, "dislike": -1.0}


def _doc(text: str, **limits: Any) -> Meta:
    return Meta(description=text, **limits)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The endpoint."""

    host: Annotated[str, _doc("address to listen on; any but loopback needs a token file or --insecure")] = "127.0.0.1"
    port: Annotated[int, _doc("port to listen on; 0 takes a free one", ge=0, le=65535)] = 8080
    request_max_bytes: Annotated[int, _doc("largest request read, before and after decompression", ge=1024)] = 262144
    deadline_s: Annotated[float, _doc("how long a request may wait for freshness when it names no deadline", gt=0)] = (
        5.0
    )
    shutdown_timeout_s: Annotated[float, _doc("how long requests under way may take at shutdown", gt=0)] = 2.0
    reranker: Annotated[
        str, _doc("running learner, champion or shadow, that re-ranks the first items of Recommend; empty: none")
    ] = ""
    rerank_candidates: Annotated[int, _doc("how many of the first items are re-ranked", ge=1, le=10_000)] = 200
    rerank_deadline_ms: Annotated[
        float, _doc("how long an answer waits for the re-ranker before it keeps its own order", gt=0, le=10_000)
    ] = 20.0


class SecuritySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Access to the endpoint."""

    token_file: Annotated[str, _doc("file with the token that requests must carry (Authorization: Bearer ...)")] = ""
    insecure: Annotated[bool, _doc("listen beyond loopback without a token")] = False
    tls_cert_file: Annotated[
        str, _doc("PEM file of the server's certificate, with its chain; the endpoint then speaks TLS only")
    ] = ""
    tls_key_file: Annotated[str, _doc("PEM file of the certificate's private key")] = ""


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients of the endpoint may hold, and how long they may take. A peer is an address, or an IPv6 network of 64 bits."""

    max_connections: Annotated[int, _doc("connections at a time, in all", ge=1)] = 1000
    max_peer_connections: Annotated[int, _doc("connections at a time of one peer; raise it behind a proxy", ge=1)] = 250
    max_streams: Annotated[int, _doc("requests at a time on one HTTP/2 connection", ge=1, le=1000)] = 100
    max_requests: Annotated[int, _doc("requests at a time, in all", ge=1)] = 1000
    max_peer_requests: Annotated[int, _doc("requests at a time of one peer; raise it behind a proxy", ge=1)] = 500
    max_connection_bytes: Annotated[
        int, _doc("bytes held for one connection: received and not worked on, or answered and not taken", ge=131072)
    ] = 1 << 20
    max_peer_bytes: Annotated[int, _doc("bytes held for one peer; raise it behind a proxy", ge=131072)] = 8 << 20
    max_bytes: Annotated[int, _doc("bytes held for all clients", ge=131072)] = 32 << 20
    head_timeout_s: Annotated[float, _doc("how long the head of a request may take to arrive", gt=0)] = 10.0
    body_timeout_s: Annotated[float, _doc("how long the body of a request may take to arrive", gt=0)] = 15.0
    answer_timeout_s: Annotated[
        float, _doc("how long a client may leave its answers untaken before its connection is closed", gt=0)
    ] = 30.0
    metrics_max_age_s: Annotated[
        float, _doc("how long the same page of /metrics answers all who ask; making one takes some 10 ms", ge=0)
    ] = 1.0
    idle_timeout_s: Annotated[
        float, _doc("how long a connection stays open without a request or a ping; HTTP/2 clients are warned", gt=0)
    ] = 120.0


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Apache Kafka as the source."""

    kafka: Annotated[str, _doc("bootstrap servers HOST:PORT[,HOST:PORT]; empty: the embedded log")] = ""
    kafka_create_topics: Annotated[bool, _doc("create missing topics")] = True
    kafka_replication: Annotated[int, _doc("replication factor of created topics", ge=1)] = 1
    kafka_group: Annotated[str, _doc("group under which offsets are committed as a hint for tools")] = "streamer"
    kafka_security: Annotated[str, _doc("PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")] = "PLAINTEXT"
    kafka_sasl_mechanism: Annotated[str, _doc("PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")] = "PLAIN"
    kafka_username: Annotated[str, _doc("SASL user")] = ""
    kafka_password_file: Annotated[str, _doc("file with the SASL password")] = ""
    kafka_ca_file: Annotated[str, _doc("PEM file of the authority that signed the broker's certificate")] = ""
    kafka_cert_file: Annotated[str, _doc("PEM file of the client's certificate")] = ""
    kafka_key_file: Annotated[str, _doc("PEM file of the client's private key")] = ""


class LearningSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is learned, and how. The state depends on most of these settings."""

    rating_learner: Annotated[str, _doc("champion for ratings")] = "bayesian-hybrid"
    click_learner: Annotated[str, _doc("champion for clicks")] = "click-blend"
    shadow: Annotated[tuple[str, ...], _doc("learners that learn beside the champions, NAME,...")] = ()
    seed: Annotated[int, _doc("seed of all initial values and negative samples", ge=0, le=2**63 - 1)] = 1
    dim: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        _doc(
            "factors of learners fitted by gradient descent (biased-mf, skip-gram, deep-fm, gru4rec, ...); default: the learner's own, 32 or 64"
        ),
    ] = None
    latent_dim: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | None,
        _doc(
            "latent factors of bayesian-hybrid; default: 8; 16 may pay from some 300,000 events, memory grows with its square"
        ),
    ] = None
    like_share: Annotated[
        float, _doc("a rating of at least this share of the scale's upper end counts as a click too", gt=0, le=1)
    ] = 0.8
    kinds: Annotated[dict[str, float], _doc("weight of each kind of click, name=weight,...; dislikes below 0")] = (
        msgspec.field(default_factory=lambda: dict(KINDS))
    )
    unknown_kinds: Annotated[
        Literal["learn", "reject"],
        _doc("kinds of clicks without a weight: learn, with weight 1, named once in the log; reject, as bad events"),
    ] = "learn"
    click_window_s: Annotated[
        float,
        _doc(
            "a click of the same user, item and kind within this time says nothing new; 0: each one counts",
            ge=0,
            le=3600,
        ),
    ] = 2.0
    session_gap_s: Annotated[
        float,
        _doc(
            "a pause of a user after which a session begins, where events have no session_id; 0: learned from the stream",
            ge=0,
            le=366 * 86400,
        ),
    ] = 0.0
    category_attributes: Annotated[
        dict[str, Annotated[float, Meta(ge=0)]],
        _doc("item attributes used as categories too, name=step,...; a step of 0 takes the value as it is"),
    ] = msgspec.field(default_factory=lambda: dict(CATEGORY_ATTRIBUTES))
    group_steps: Annotated[
        dict[str, Annotated[float, Meta(gt=0)]],
        _doc("bin width of numeric user attributes, name=step,...; each value of any other attribute is a group"),
    ] = msgspec.field(default_factory=lambda: dict(GROUP_STEPS))
    rating_min: Annotated[float, _doc("lowest rating accepted from now on")] = -1e6
    rating_max: Annotated[float, _doc("highest rating accepted from now on")] = 1e6
    event_max_bytes: Annotated[int, _doc("largest event accepted", ge=256, le=60000)] = 16384
    max_records: Annotated[
        Annotated[int, Meta(ge=1, le=2000)] | None,
        _doc("largest micro-batch; default: 1,000 while the endpoint answers, 2,000 in evaluate"),
    ] = None


class StateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data directory: what is kept, and where."""

    data: Annotated[str, _doc("directory of the state and the embedded log", min_length=1)] = "./streamer-data"
    commit_interval_s: Annotated[float, _doc("time between commits of the state", gt=0, le=3600)] = 1.0
    user_cache_bytes: Annotated[
        int, _doc("memory for cached users; all others are read from RocksDB when needed", ge=0)
    ] = 1 << 30
    user_ttl_days: Annotated[
        Annotated[float, Meta(ge=1, le=36500)] | None,
        _doc("users without an event for so long, by the times of events, are forgotten; none: never"),
    ] = None
    log_retention_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None, _doc("largest size of the embedded log; none: keep all")
    ] = None
    log_retention_days: Annotated[
        Annotated[float, Meta(gt=0, le=36500)] | None, _doc("how long the log keeps events; none: keep all")
    ] = None
    dedupe_events: Annotated[
        int, _doc("how many of the newest event_ids are remembered for each partition", ge=0, le=10**9)
    ] = 1_000_000


class ArchiveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The archive of every accepted event, Parquet files in the data directory."""

    archive: Annotated[bool, _doc("keep the archive, which retraining reads")] = True
    archive_interval_s: Annotated[float, _doc("time between writes of the archive", gt=0, le=3600)] = 5.0
    archive_days: Annotated[
        Annotated[float, Meta(gt=0, le=36500)] | None,
        _doc("how long ratings and clicks stay in the archive after they were appended; none: keep all"),
    ] = None


class RenormalisationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the learners are retrained, and what a retrained generation must show before it goes live."""

    renormalise_every_s: Annotated[
        Annotated[float, Meta(gt=0, le=366 * 86400)] | None, _doc("time between retrainings; none: only on request")
    ] = 86400.0
    renormalise_on_drift: Annotated[bool, _doc("retrain when the champion's errors drift upwards")] = True
    renormalise_min_interval_s: Annotated[
        float, _doc("least time between the end of a retraining and the next one caused by drift", ge=0)
    ] = 3600.0
    renormalise_min_events: Annotated[
        int, _doc("events that must have been learned before a retraining on schedule or drift", ge=0)
    ] = 10_000
    candidates: Annotated[
        tuple[str, ...],
        _doc(
            "kinds of retraining to try at the gate in turn, all,window:DAYS,half-life:DAYS,warm,model:NAME,vectors:FILE,fixed-vectors:FILE"
        ),
    ] = ("all",)
    renormaliser: Annotated[
        Literal["child", "external"],
        _doc(
            "where retraining runs: child, in a process that serve starts; external, in `streamer renormalise --follow` elsewhere"
        ),
    ] = "child"
    gate_min_events: Annotated[
        int,
        _doc("ratings after the cut that both generations must have predicted before the gate decides", ge=0, le=8_000),
    ] = 2_000
    gate_max_wait_s: Annotated[
        float, _doc("how long a candidate may wait for these ratings before it is rejected", gt=0)
    ] = 21_600.0
    gate_margin: Annotated[
        float, _doc("share by which a candidate's squared error may exceed the live generation's", ge=0, le=1)
    ] = 0.005
    watch_events: Annotated[
        int,
        _doc("for how many ratings the previous generation keeps learning, ready for a rollback", ge=0, le=10_000),
    ] = 10_000
    generations_kept: Annotated[
        int, _doc("generations whose states are kept, the live one among them", ge=1, le=100)
    ] = 2


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, by part."""

    server: ServerSettings = ServerSettings()
    security: SecuritySettings = SecuritySettings()
    limits: LimitSettings = LimitSettings()
    kafka: KafkaSettings = KafkaSettings()
    learning: LearningSettings = LearningSettings()
    state: StateSettings = StateSettings()
    archive: ArchiveSettings = ArchiveSettings()
    renormalisation: RenormalisationSettings = RenormalisationSettings()


PARTS: dict[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "security": SecuritySettings,
    "limits": LimitSettings,
    "kafka": KafkaSettings,
    "learning": LearningSettings,
    "state": StateSettings,
    "archive": ArchiveSettings,
    "renormalisation": RenormalisationSettings,
}


def load(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, file: Path | None = None) -> Settings:
    """Settings from the flags that were given, variables and a file; raises BadSettings, which names the wrong setting.

    `file` defaults to `streamer.toml` in the working directory, which may be missing; a file given by name must exist.
    """
    where = file or Path("streamer.toml")
    tables = _read(where, must_exist=file is not None)
    for name, table in tables.items():
        if name not in PARTS or not isinstance(table, dict):
            found = f"a table [{name}]" if isinstance(table, dict) else f"{name!r} outside of the tables"
            raise BadSettings(f"{where} has {found}; settings belong in: {', '.join(f'[{part}]' for part in PARTS)}")
    _refuse_misspelt(environ)
    parts = {name: _part(name, kind, tables.get(name, {}), flags, environ, str(where)) for name, kind in PARTS.items()}
    settings = msgspec.convert(parts, Settings, from_attributes=True)
    _check(settings.learning)
    return settings


def _refuse_misspelt(environ: Mapping[str, str]) -> None:
    """Raise BadSettings for a variable that nearly names a setting.

    Other STREAMER_ variables are ignored: an orchestrator may name its own after the service.
    """
    names = [field.name for kind in PARTS.values() for field in msgspec.structs.fields(kind)]
    for variable in sorted(environ):
        name = variable.removeprefix("STREAMER_").lower()
        if variable.startswith("STREAMER_") and name not in names:
            near = get_close_matches(name, names, 1, 0.8)
            if near:
                raise BadSettings(f"no setting for the variable {variable}: did you mean STREAMER_{near[0].upper()}?")


def _check(learning: LearningSettings) -> None:
    """Check what a single field's limits cannot express; numbers are learned as float32 and must fit it."""
    for kind, weight in learning.kinds.items():
        if not abs(weight) <= NUMBER_MAX:  # true for NaN too
            raise BadSettings(
                f"setting kinds gives {kind!r} the weight {weight}: give a number of at most {NUMBER_MAX:g}"
            )
    if not -NUMBER_MAX <= learning.rating_min < learning.rating_max <= NUMBER_MAX:
        raise BadSettings(
            f"settings rating_min = {learning.rating_min} and rating_max = {learning.rating_max} allow no ratings: "
            f"give a minimum below the maximum, both between {-NUMBER_MAX:g} and {NUMBER_MAX:g}"
        )


def _read(file: Path, must_exist: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise BadSettings(f"no settings file {file}: give another --config, or leave the option out") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"cannot read settings from {file}: {error}") from None


def _part(
    name: str,
    kind: type[Part],
    table: dict[str, Any],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: str,
) -> Part:
    values, origin = dict(table), dict.fromkeys(table, f"[{name}] in {file}")
    fields = [field.name for field in msgspec.structs.fields(kind)]
    unknown = next((key for key in table if key not in fields), None)
    if unknown is not None:
        raise BadSettings(f"no setting {unknown!r} for [{name}] in {file}; choose one of: {', '.join(fields)}")
    for field in msgspec.structs.fields(kind):
        variable = f"STREAMER_{field.name.upper()}"
        if variable in environ:
            values[field.name], origin[field.name] = environ[variable], variable
        if flags.get(field.name) is not None:
            values[field.name], origin[field.name] = flags[field.name], f"--{field.name.replace('_', '-')}"
        if field.name in ("kinds", "category_attributes", "group_steps") and isinstance(values.get(field.name), str):
            values[field.name] = _weights(values[field.name])
        if field.name in ("shadow", "candidates") and isinstance(values.get(field.name), str):
            values[field.name] = [name.strip() for name in values[field.name].split(",") if name.strip()]
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        culprit = str(error).rpartition("$.")[2].strip("`").partition("[")[0] if "$." in str(error) else ""
        found = f" = {values[culprit]!r} from {origin[culprit]}" if culprit in values else f" in [{name}]"
        raise BadSettings(f"setting {culprit}{found} cannot be used: {str(error).partition(' - at')[0]}") from None


def _weights(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    return {key.strip(): value.strip() for key, _, value in pairs}


def read_secret(file: str, what: str) -> str:
    """The secret in `file`, without its trailing newline; raises BadSettings, which never shows the secret."""
    try:
        secret = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"cannot read the {what} from {file}: {error}") from None
    if not secret:
        raise BadSettings(f"the {what} in {file} is empty: put it on the first line")
    return secret
