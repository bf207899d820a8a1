"""The columns of `responses` and `attempts` in the SQL: the fields of their records, so that a new one stands once.

`sql/<verb>_<table>.sql` has `{columns}` where all of them belong, `{figures}` for an export's, and `{known_later}` for
those that a late report about an attempt may change.
"""

from collections.abc import Iterable, Mapping

from contracts import AttemptRecord, OpenModel, ResponseRecord

RECORDS: Mapping[str, type[OpenModel]] = {"responses": ResponseRecord, "attempts": AttemptRecord}
WORDS = frozenset({"prompt", "output", "context", "metadata", "error_message", "comment"})
"""Columns that hold what callers and models wrote, or what may quote it."""
EXPORTED_FIRST = frozenset({"request_id", "attempt", "task_id", "created_at"})
"""An export names these itself, because columns that no record has stand between them and the figures."""
KNOWN_AT_ONCE: frozenset[str] = EXPORTED_FIRST | {
    *("worker_id", "backend", "model_id", "epoch", "error_code", "error_message", "duration_ms", "price")
}
"""Columns of an attempt that stay as they were booked first."""


def filled(name: str, text: str) -> str:
    """`text` of `sql/<name>.sql` with its placeholders replaced; SQL of other tables has none."""
    _, _, table = name.partition("_")
    if table not in RECORDS:
        return text
    fields = RECORDS[table].model_fields
    figures = (f"{table[0]}.{field}" for field in fields if field not in EXPORTED_FIRST | WORDS)
    later = (f"{field} = excluded.{field}" for field in fields if field not in KNOWN_AT_ONCE)
    parts: Mapping[str, Iterable[str]] = {"columns": fields, "figures": figures, "known_later": later}
    for placeholder, listed in parts.items():
        text = text.replace(f"{{{placeholder}}}", ", ".join(listed))
    return text
