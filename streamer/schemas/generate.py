"""Writes the JSON Schema of each topic beside this file: `python -m streamer.schemas.generate`."""

import json
from pathlib import Path

from streamer.core.events import TOPICS, json_schema

FOLDER = Path(__file__).parent


def text(topic: str) -> str:
    """The schema as it is committed."""
    return json.dumps(json_schema(topic), indent=2) + "\n"


if __name__ == "__main__":
    for topic in TOPICS:
        (FOLDER / f"{topic}.json").write_text(text(topic), encoding="utf-8")
