"""Every error that streamer raises on purpose.

    StreamerError                  exit code 1
    ├── BadSettings                exit code 78: a setting, an option, or a file that one of them names
    │   └── MissingExtra           an optional dependency is not installed
    ├── BadState                   exit code 78: the state cannot be opened as asked
    │   └── DamagedFile            a file of the archive is missing, or is not what was written
    ├── SourceLost                 events that were not yet read are gone: learning stops, the message says what to do
    ├── SourceUnavailable          temporary: the source cannot be reached now
    │   └── NotAuthorised          the source was reached and refused the credentials or lacks a permission
    ├── StoreUnavailable           temporary: the store cannot be written now (a full disk)
    ├── BadGeneration              a generation's files are damaged or incomplete: it is not used
    ├── UnknownCategory            a query names a category that no item has
    └── BadEvent                   one event: it is counted and dead-lettered, and the stream goes on

A message says what was wanted, what was found, where, and what to do.
"""

from enum import StrEnum


class StreamerError(Exception):
    """The base of all errors that streamer raises on purpose; its message is written for users."""

    exit_code = 1


class BadSettings(StreamerError):
    """A setting that cannot be used."""

    exit_code = 78


class MissingExtra(BadSettings):
    """A library of the extra `offline` is needed and not installed."""


class BadState(StreamerError):
    """A state directory that cannot be opened as asked: it is damaged, in use, or was made with other settings."""

    exit_code = 78


class DamagedFile(BadState):
    """A file of the archive that is missing, or is not what was written. It is never read as something else."""


class SourceLost(StreamerError):
    """Events after the stored offset are gone (retention, a recreated topic). They are never skipped silently."""


class SourceUnavailable(StreamerError):
    """The source cannot be reached now; the caller tries again."""


class NotAuthorised(SourceUnavailable):
    """The source was reached and refused the connection: credentials, TLS or permissions, not the address."""


class StoreUnavailable(StreamerError):
    """The store cannot be written now, for instance because the disk is full; nothing was committed, try again."""


class BadGeneration(StreamerError):
    """A generation's files are damaged or incomplete: it is refused, and the live generation stays."""


class UnknownCategory(StreamerError):
    """A query names a category that no item of the catalogue has; the message names similar ones."""


class Reason(StrEnum):
    """Why an event was not learned from: the label values of `streamer_dead_letters_total`."""

    NOT_JSON = "not_json"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    BAD_ID = "bad_id"
    TOO_LARGE = "too_large"
    UNKNOWN_KIND = "unknown_kind"
    UNKNOWN_TOPIC = "unknown_topic"
    NO_SCHEMA = "no_schema"


class BadEvent(StreamerError):
    """One event that cannot be learned from."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
