"""A stream whose texts are in Unicode form NFC, so that `é` is one letter however it was typed (`--id-form nfc`)."""

import unicodedata
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from streamer.core.events import Message, MessageParts, parts
from streamer.core.protocols import Located, Noted, Stream, Understood


class ComposedStream:
    """protocols.Stream, Located and Noted over `stream`. Cost: .1 us a message of ASCII, some us for any other."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.sha256 = stream.sha256
        noted = stream if isinstance(stream, Noted) else None
        self.notes: Sequence[str] = noted.notes if noted else ()
        self.understood = noted.understood if noted else Understood()

    def __len__(self) -> int:
        return len(self._stream)

    def messages(self, start: int, stop: int) -> list[Message]:
        """See protocols.Stream."""
        return [_composed(one) for one in self._stream.messages(start, stop)]

    def parts(self, start: int, stop: int) -> MessageParts:
        """See protocols.Stream."""
        return parts(self.messages(start, stop))

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream."""
        return self._stream.times_ms(start, stop)

    def locate(self, row: int) -> tuple[int, str]:
        """See protocols.Located."""
        return self._stream.locate(row) if isinstance(self._stream, Located) else (0, "")


def _composed(message: Message) -> Message:
    key, value = message.key or b"", message.value or b""
    if key.isascii() and value.isascii() and b"\\u" not in value:
        return message
    if b"\\u" in value:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # a bad event is for the decoder to refuse
            value = msgspec.json.encode(msgspec.json.decode(value))
    return Message(
        message.topic,
        None if message.key is None else _normal(key),
        None if message.value is None else _normal(value),
        message.timestamp_ms,
    )


def _normal(text: bytes) -> bytes:
    return unicodedata.normalize("NFC", text.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
