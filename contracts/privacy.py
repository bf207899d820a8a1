"""What the books keep of prompts and answers: everything, the redacted text, digests, or nothing.

Pure. Figures, names (`task_id`, `tenant`, models, workers) and error codes are kept in every mode; words are the
prompt, the answer, the context, the error's text (a provider may quote the prompt in it), a judge's comment, and the
metadata other than the tenant, where a caller may write anything.
"""

import hmac
import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import TypeVar, get_args

from contracts.base import JsonObject
from contracts.envelope import ContentMode, Envelope
from contracts.headers import NO_STORE
from contracts.telemetry import AttemptRecord, FeedbackRecord, ResponseRecord

Recorded = TypeVar("Recorded", ResponseRecord, AttemptRecord, FeedbackRecord)
Asked = TypeVar("Asked", bound=Envelope)
Rewrite = Callable[[str], str]

STRICTNESS: tuple[ContentMode, ...] = get_args(ContentMode)
"""The modes, from the one that keeps most to the one that keeps least."""
SCHEME = "hmac-sha256"
NAMES = frozenset({"tenant"})
"""Metadata that bills and budgets go by: names, never words."""

_NO = ("0", "false", "no", "off")

_TEXTS: dict[type, tuple[str, ...]] = {
    ResponseRecord: ("prompt", "output", "error_message"),
    AttemptRecord: ("error_message",),
    FeedbackRecord: ("comment",),
}


def stricter(one: ContentMode, other: ContentMode | None) -> ContentMode:
    """The mode of the two that keeps less; `other` may be None."""
    return one if other is None else max(one, other, key=STRICTNESS.index)


def heeding(request: Asked, headers: Mapping[str, str]) -> Asked:
    """The request with the mode of its headers: `Bullpen-No-Store: 1` keeps none of its words.

    Any other value but a plain no (`0`, `false`, `no`, `off`) also keeps none of them.
    """
    told = [value for name, value in headers.items() if name.lower() == NO_STORE.lower()]
    may_be_kept = all(value.strip().lower() in _NO for value in told)
    return request if may_be_kept else request.model_copy(update={"content": "none"})


def digest(text: str | bytes, key: bytes) -> str:
    """The digest of a text: equal for equal texts. Unlike a bare SHA-256, short texts cannot be guessed without the
    key.
    """
    written = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return f"{SCHEME}:{hmac.new(key, written, sha256).hexdigest()}"


def as_digests(record: Recorded, key: bytes) -> Recorded:
    """The record with a digest in place of each text, by which equal questions can be recognised."""

    def rewrite(text: str) -> str:
        return digest(text, key)

    changes: JsonObject = _texts(record, rewrite)
    if isinstance(record, ResponseRecord):
        whole = json.dumps(record.context, sort_keys=True)
        changes |= {"context": {SCHEME: rewrite(whole)} if record.context else {}, "content": "hash"}
        changes["metadata"] = {k: v if k in NAMES else rewrite(v) for k, v in record.metadata.items()}
    return record.model_copy(update=changes)


def rewritten(record: Recorded, rewrite: Rewrite) -> Recorded:
    """The record with every text rewritten by `rewrite`, also those deep in the context."""
    changes: JsonObject = _texts(record, rewrite)
    if isinstance(record, ResponseRecord):
        metadata = dict((k, v) if k in NAMES else (rewrite(k), rewrite(v)) for k, v in record.metadata.items())
        changes |= {"context": _tree(record.context, rewrite), "metadata": metadata, "content": "redacted"}
    return record.model_copy(update=changes)


def without_words(record: Recorded) -> Recorded:
    """The record with its figures and names alone."""
    changes: JsonObject = dict.fromkeys(_TEXTS[type(record)])
    if isinstance(record, ResponseRecord):
        names = {k: v for k, v in record.metadata.items() if k in NAMES}
        changes |= {"context": {}, "metadata": names, "content": "none"}
    return record.model_copy(update=changes)


def characters(record: Recorded) -> int:
    """Characters of words in the record, about."""
    texts = sum(len(getattr(record, name) or "") for name in _TEXTS[type(record)])
    return texts + len(str((record.context, record.metadata))) if isinstance(record, ResponseRecord) else texts


def _texts(record: Recorded, rewrite: Rewrite) -> JsonObject:
    texts = {name: getattr(record, name) for name in _TEXTS[type(record)]}
    return {name: rewrite(text) for name, text in texts.items() if text}


def _tree(value: object, rewrite: Rewrite) -> object:
    match value:
        case str():
            return rewrite(value)
        case dict():
            return {rewrite(key): _tree(child, rewrite) for key, child in value.items()}
        case list() | tuple():
            return [_tree(child, rewrite) for child in value]
        case int() | float():
            written = rewrite(str(value))  # a card's number need not stand in quotes
            return value if written == str(value) else written
    return value


def veiled(task_id: str) -> str:
    """A digest of a task's name for subscribers: the same for the same name, which it does not reveal."""
    return sha256(task_id.encode()).hexdigest()[:32]
