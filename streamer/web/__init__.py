"""The status page: one HTML file that uses the endpoint's own JSON and no other server."""

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

PAGE = files(__name__).joinpath("page.html").read_bytes()


def _policy(page: str) -> str:
    """A content security policy: only the page's own script and style, by their hashes, and requests to this server only."""
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
