"""Every error that streamer raises on purpose.

    StreamerError                  exit code 1
    ├── BadSettings                exit code 78: a setting, a flag, a file named by one
    │   └── MissingExtra           what was asked for comes with an extra that is not installed
    ├── BadState                   exit code 78: the state cannot be opened as asked
    ├── SourceLost                 events that were there are gone: a stop with instructions
    ├── SourceUnavailable          passing: the source cannot be reached now, try again
    │   └── NotAuthorised          reached, and refused: credentials or rights are wrong
    ├── StoreUnavailable           passing: the store cannot be written now (a full disk)
    ├── BadGeneration              a generation's files are damaged or incomplete: it is not used
    ├── UnknownCategory            a query names a category that no item is of
    └── BadEvent                   one event; counted, dead-lettered, and the stream goes on

A message says what was wanted, what was found, where, and what to do.
"""

from enum import StrEnum


class StreamerError(Exception):
    """What streamer raises on purpose; the message is for people."""

    exit_code = 1


class BadSettings(StreamerError):
    """A setting that cannot be used."""

    exit_code = 78


class MissingExtra(BadSettings):
    """What was asked for needs a library of the extra `offline`, which is not installed here."""


class BadState(StreamerError):
    """A state directory that cannot be opened as asked: another seed, another owner, damaged."""

    exit_code = 78


class SourceLost(StreamerError):
    """Events after the stored offset are no longer there (retention, a topic made anew): never skipped silently."""


class SourceUnavailable(StreamerError):
    """The source cannot be reached now; the caller tries again."""


class NotAuthorised(SourceUnavailable):
    """The source was reached and refused us: credentials, TLS or rights, not the address."""


class StoreUnavailable(StreamerError):
    """The store cannot be written now, for one because the disk is full; nothing was committed, try again."""


class BadGeneration(StreamerError):
    """What a retraining wrote is damaged or incomplete: it is refused, and what answers goes on."""


class UnknownCategory(StreamerError):
    """A query names a category that no item of the catalogue is of; the message names near ones."""


class Reason(StrEnum):
    """Why an event was not learned from: the label values of `streamer_dead_letters_total`."""

    NOT_JSON = "not_json"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    BAD_ID = "bad_id"
    TOO_LARGE = "too_large"
    UNKNOWN_KIND = "unknown_kind"
    UNKNOWN_TOPIC = "unknown_topic"


class BadEvent(StreamerError):
    """One event that cannot be learned from."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
