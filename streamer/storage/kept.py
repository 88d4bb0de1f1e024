"""The embedded log as protocols.KeptRecords."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from streamer.core.events import LOG, Record, TopicPartition
from streamer.core.protocols import Extent
from streamer.storage.log import EmbeddedLog


class KeptLog:
    """What the embedded log still has, to be read again."""

    place = "the log"

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log

    def extents(self, wanted: Collection[TopicPartition]) -> Mapping[TopicPartition, Extent]:
        """See protocols.KeptRecords."""
        return {LOG: Extent(self._log.begin(), self._log.end)} if LOG in wanted else {}

    def between(self, at: TopicPartition, first: int, stop: int) -> Iterator[Sequence[Record]]:
        """See protocols.KeptRecords; `at` is LOG."""
        for run in self._log.read(first):
            yield [record for record in run if record.offset < stop]
            if run[-1].offset >= stop - 1:
                return
