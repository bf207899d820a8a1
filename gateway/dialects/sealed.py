"""What only one kind of backend understands (`extra`), as the one opaque word that a client hands back unread.

Dialects have a place for it: the signature of a thought, the encrypted content of a reasoning item.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode

from pydantic_core import from_json

from contracts import JsonObject
from gateway.dialects.events import dumped

MARK = "bullpen1."
NOTHING = MARK + urlsafe_b64encode(b"{}").decode()
"""Of a thought with nothing beside its words: some clients hand back no thought that has no such word."""


def sealed(extra: JsonObject | None) -> str:
    """Empty when there is nothing to hand back."""
    return MARK + urlsafe_b64encode(dumped(extra)).decode() if extra else ""


def unsealed(text: str | None) -> JsonObject | None:
    """None for what another service has sealed."""
    if not text or not text.startswith(MARK):
        return None
    try:
        found = from_json(urlsafe_b64decode(text[len(MARK) :].encode(errors="replace")), allow_inf_nan=False)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
