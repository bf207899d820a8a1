"""The columns of `responses` and `attempts` in the SQL. They are the fields of the records, so a new field is written
in one place only.

`sql/<verb>_<table>.sql` has `{columns}` for all columns, `{figures}` for those of an export, and `{known_later}` for
those that a late report about an attempt may change.
"""

from collections.abc import Iterable, Mapping

from contracts import AttemptRecord, OpenModel, ResponseRecord

RECORDS: Mapping[str, type[OpenModel]] = {"responses": ResponseRecord, "attempts": AttemptRecord}
WORDS = frozenset({"prompt", "output", "context", "metadata", "error_message", "comment"})
"""Columns that hold text of callers and models, or that may quote it."""
EXPORTED_FIRST = frozenset({"request_id", "attempt", "task_id", "created_at"})
"""Columns that the export's SQL lists itself, because columns without a field in the record stand between them and
`{figures}`.
"""
KNOWN_AT_ONCE: frozenset[str] = EXPORTED_FIRST | {
    *("worker_id", "backend", "model_id", "epoch", "error_code", "error_message", "duration_ms", "price")
}
"""Columns of an attempt that keep the value that was booked first."""


def filled(name: str, text: str) -> str:
    """The `text` of `sql/<name>.sql` with its placeholders replaced; only `responses` and `attempts` have any."""
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
