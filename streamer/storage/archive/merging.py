"""Which small files of the archive are merged into one."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from streamer.storage.archive.manifest import File

MERGED_FILES = 8  # how many files of similar size are merged into one
MERGED_ROWS = 1 << 22  # most rows in a merged file


def mergeable_groups(files: Sequence[File], today: str) -> Iterator[list[File]]:
    """Groups of files to merge; files in a group are in the order in which they were written."""
    ordered = sorted(files, key=lambda file: (file.topic, file.day, file.number))
    for (_, day), group in groupby(ordered, key=lambda file: (file.topic, file.day)):
        small = [file for file in group if file.rows < MERGED_ROWS]
        if day < today:
            yield from _groups_of_small_files(small)
            continue
        classes: dict[int, list[File]] = {}
        for file in small:
            classes.setdefault((file.rows.bit_length() - 1) // 3, []).append(file)
        yield from (group_of_size for group_of_size in classes.values() if len(group_of_size) >= MERGED_FILES)


def _groups_of_small_files(small: Sequence[File]) -> Iterator[list[File]]:
    taken: list[File] = []
    for file in small:
        if taken and sum(one.rows for one in taken) + file.rows > MERGED_ROWS:
            if len(taken) > 1:
                yield taken
            taken = []
        taken.append(file)
    if len(taken) > 1:
        yield taken
