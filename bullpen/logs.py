"""Logs on standard error: text for people at a terminal, JSON lines for all other readers.

`BULLPEN_LOG` (`text` or `json`) and `BULLPEN_LOG_LEVEL` set another form. Messages of other libraries are shown from
`warning` up.
"""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from math import inf
from typing import Any, TextIO, cast

from config.absent import absent
from config.loader import ConfigError

with absent("rich"):  # we show plain tracebacks, and its import takes as long as that of all of structlog
    import structlog
    from structlog.typing import Processor

LEVELS = ("debug", "info", "warning", "error", "critical")
SAME_AGAIN = 60.0
"""Seconds before a library's message from the same place, about the same kind of error, is shown again."""
MOST_KINDS = 1000
FORMATS = ("text", "json")


def configure(*, level: str = "info", environ: Mapping[str, str] | None = None) -> None:
    """Sets up logging; `level` counts when the environment has none. Raises `ConfigError`."""
    environ = os.environ if environ is None else environ
    chosen = _one_of(LEVELS, "BULLPEN_LOG_LEVEL", environ, level)
    terminal = sys.stderr.isatty()
    style = _one_of(FORMATS, "BULLPEN_LOG", environ, "text" if terminal else "json")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_for_people(colors=terminal) if style == "text" else _for_machines()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[chosen.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Unbreakable(sys.stderr))),
    )
    logging.basicConfig(handlers=[_PassOn()], level=logging.WARNING)


def _for_people(*, colors: bool) -> list[Processor]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=colors,
            exception_formatter=structlog.dev.plain_traceback,  # the default one shows local variables: secrets
            repr_native_str=True,  # what came from outside must not move the cursor or fake a line
        )
    ]


def _for_machines() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=True)]


def _one_of(allowed: tuple[str, ...], name: str, environ: Mapping[str, str], default: str) -> str:
    value = (environ.get(name) or default).lower()
    if value not in allowed:
        raise ConfigError(f"{name}: {value!r} is not known; it is one of {', '.join(allowed)}")
    return value


class _Unbreakable:
    """A stream whose writes never fail: a full disk must not stop a process that logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


class _PassOn(logging.Handler):
    """Passes the standard library's log records to structlog. A repeated message is shown once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._heard_at: dict[tuple[str, int, str], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        kind = (record.pathname, record.lineno, type(record.exc_info[1]).__name__ if record.exc_info else "")
        if record.created - self._heard_at.get(kind, -inf) < SAME_AGAIN:
            return
        if len(self._heard_at) == MOST_KINDS:
            self._heard_at.clear()
        self._heard_at[kind] = record.created
        structlog.get_logger().log(record.levelno, record.getMessage(), **fields)
