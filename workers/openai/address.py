"""Other addresses on a server at which this API may be, when it is not where the config says. Pure."""

import re
from urllib.parse import urlsplit

ENDPOINTS = ("/chat/completions", "/completions", "/models", "/responses", "/embeddings", "/chat")
"""Endings of addresses that people copy from a provider's page; the base address is the part before them."""
VERSION = re.compile(r"/v\d+(?:beta)?$")
USUAL = ("/v1", "/api/v1", "/openai/v1", "/compatible-mode/v1")
"""Usual paths of this API: most servers; OpenRouter; Groq; DashScope."""


def other_addresses(base: str) -> tuple[str, ...]:
    """The other addresses, the likeliest first: only below the path in `base`, or beside its last step, and on the same
    server.
    """
    base = base.rstrip("/")
    bare = next((base.removesuffix(end) for end in ENDPOINTS if base.endswith(end)), base)
    above = VERSION.sub("", bare)
    found = [bare, *(above + usual for usual in USUAL), above]
    if urlsplit(above).path in ("/api", "/openai"):
        found.append(above.rpartition("/")[0] + "/v1")
    return tuple(other for other in dict.fromkeys(found) if other != base)
