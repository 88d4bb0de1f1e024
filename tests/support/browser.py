"""A real Chromium, to test our pages in."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = os.environ.get("STREAMER_CHROMIUM") or shutil.which("chromium") or ""
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        assert os.environ.get("CI") != "true", "chromium is missing under CI"
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield made
        made.close()


class Seen:
    """Collects what a page should not do: console messages, errors, and requests to other addresses."""

    def __init__(self, page: Page, url: str) -> None:
        self.complaints: list[str] = []
        page.on("console", lambda said: self.complaints.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", lambda made: made.url.startswith((url, "data:")) or self.complaints.append(made.url))
