"""The status page: one HTML file that asks the endpoint's own JSON, and nobody else."""

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

PAGE = files(__name__).joinpath("page.html").read_bytes()


def _policy(page: str) -> str:
    """Only the page's own script and style may run, by their hashes, and only this server may be asked."""
    sources = {"script": "", "style": ""}
    for tag in sources:
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL):
            sources[tag] += f" 'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
    return (
        f"default-src 'none'; script-src{sources['script']}; style-src{sources['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HEADERS: Mapping[str, str] = {
    "content-security-policy": _policy(PAGE.decode()),
    "referrer-policy": "no-referrer",
}
