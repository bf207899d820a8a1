"""Encodes the part of an answer that only one kind of backend understands (`extra`) as one opaque text, which a client
returns unchanged.

Dialects have a place for it: the signature of a thinking block, the encrypted content of a reasoning item.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode

from pydantic_core import from_json

from contracts import JsonObject
from gateway.dialects.events import dumped

MARK = "bullpen1."
NOTHING = MARK + urlsafe_b64encode(b"{}").decode()
"""The sealed text of reasoning without an `extra`: some clients return no reasoning that has no such text."""


def sealed(extra: JsonObject | None) -> str:
    """The `extra` as a sealed text; empty: there is none."""
    return MARK + urlsafe_b64encode(dumped(extra)).decode() if extra else ""


def unsealed(text: str | None) -> JsonObject | None:
    """The `extra` in a sealed text; None for the text of another service."""
    if not text or not text.startswith(MARK):
        return None
    try:
        found = from_json(urlsafe_b64decode(text[len(MARK) :].encode(errors="replace")), allow_inf_nan=False)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
