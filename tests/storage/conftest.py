"""Fixtures of the tests of storage."""

import os

import pytest


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of files and folders that were synced, in order."""
    found, sync = list[int](), os.fsync

    def record_sync(descriptor: int) -> None:
        found.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record_sync)
    return found
