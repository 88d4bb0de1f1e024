"""The facts found out about a commit, and the comparison of two commits.

A fact is a text with a name. Facts must be equal, byte for byte. JSON fields that differ between two runs of one commit are masked
first; MASKED names them. Words (help, pages, sentences for people) may differ; their differences are only shown.
"""

import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

SHOWN_CHARACTERS, SHOWN_LINES, LINE_CHARACTERS = 24, 24, 200
# Fields that hold times, speeds or random ids, or sizes that depend on when RocksDB and the archive wrote. Answers spell them in camelCase.
MASKED = (
    "at_ms", "made_ms", "cut_ms", "changed_ms", "newest_ms", "started_ms", "uptime_s", "size_bytes", "state_bytes", "log_bytes",
    "recommendation_id", "behind", "events_per_second", "wall_seconds", "ranking_seconds", "arrays_per_second", "lines_per_second",
)  # fmt: skip


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


_NAMES = "|".join(sorted({*MASKED, *map(_camel, MASKED)}))
_VALUE = re.compile(rf'("(?:{_NAMES})"\s*:\s*)("[^"]*"|[-+.\deE]+)')
_ARCHIVE = re.compile(r'("archive"\s*:\s*\{\s*"bytes"\s*:\s*)"\d+"')  # in GetStatus
_SECONDS = re.compile(r'("seconds"\s*:\s*)(\{[^}]*\}|[-+.\deE]+)')  # an object by step, or one number


def masked(text: str) -> str:
    """JSON without what differs from run to run; everything else stays as it is, to the byte."""
    for pattern in (_VALUE, _ARCHIVE, _SECONDS):
        text = pattern.sub(r'\1"*"', text)
    return text


def unworded(text: str) -> str:
    """An answer of the endpoint without its sentences: the messages of errors, why an event was refused (the reason's name stays), and what a receipt waits for."""
    text = re.sub(r'("message"\s*:\s*)"(?:[^"\\]|\\.)*"', r'\1"*"', text)
    text = re.sub(r'("waits"\s*:\s*)\[[^\]]*\]', r'\1"*"', text)
    return re.sub(r'("reason":"\w+: )[^"]*"', r'\1*"', text)


def numbers(text: str) -> str:
    """Every word with a digit in a text for people, in order and without punctuation: numbers, ids, times."""
    return " ".join(word.strip(".,;:()[]{}\"'") for word in re.findall(r"\S*\d\S*", text))


def without_sentences(text: str) -> str:
    """JSON in which every text of several words, which is for people, is replaced by its numbers."""
    return re.sub(r'"[^"]* [^"]*"', lambda found: f'"{numbers(found[0])}"', text)


@dataclass
class Facts:
    """The facts and words of one commit, by name."""

    exact: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """One fact of two commits; None if a commit has no such fact."""

    what: str
    before: str | None
    after: str | None

    @property
    def equal(self) -> bool:
        """Whether the fact is the same in both, byte for byte."""
        return self.before == self.after

    def row(self) -> tuple[str, str, str, str]:
        """The row of the table."""
        return self.what, shown(self.before), shown(self.after), "yes" if self.equal else "NO"

    def difference(self) -> Iterator[str]:
        """The first lines that differ. Texts are split at commas and braces, too, because JSON is one long line."""
        before, after = (re.split(r"(?<=[,{}\n])", text or "") for text in (self.before, self.after))
        changed = [
            line[:LINE_CHARACTERS].rstrip()
            for line in difflib.unified_diff(before, after, n=0, lineterm="")
            if not line.startswith(("---", "+++", "@@"))
        ]
        yield from changed[:SHOWN_LINES]
        if len(changed) > SHOWN_LINES:
            yield f"... and {len(changed) - SHOWN_LINES:,} more"


def shown(text: str | None) -> str:
    """A short text itself; for a longer one, its size and the beginning of its SHA-256."""
    if text is None:
        return "(absent)"
    if len(text) <= SHOWN_CHARACTERS and "\n" not in text:
        return text
    lines = text.count("\n") + (not text.endswith("\n"))
    size = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
    return f"{hashlib.sha256(text.encode()).hexdigest()[:8]} ({size})"


def compared(before: dict[str, str], after: dict[str, str]) -> list[Compared]:
    """All facts of both commits, in the order in which they were noted."""
    return [Compared(what, before.get(what), after.get(what)) for what in {**before, **after}]
