"""Follows the accountant's config while it runs: a saved file counts from the next batch or round on.

Other settings are read once, at the start: those of the stream and the connections, and those that Managers and workers
read from the same file. A warning names a change of these.
"""

from collections.abc import Callable

import structlog

from config.loader import ConfigError
from config.watched_file import ConfigFile, differing
from telemetry.config import TelemetryConfig

log = structlog.get_logger(__name__)

LIVE = frozenset({"batch_size", "fetch_wait", "report_interval", "grades_interval", "retention", "content_retention"})
READ_BY_OTHER_ROLES = frozenset({"mode", "content", "spool_max_bytes"})
"""Settings that Managers and workers read when they start."""


async def follow(
    file: ConfigFile[TelemetryConfig], config: TelemetryConfig, take: Callable[[TelemetryConfig], None]
) -> None:
    """Calls `take` with every valid config that is saved, until cancelled."""
    known = config
    while True:
        await file.changed()
        try:
            wanted = await file.read()
        except ConfigError as error:
            log.error("config_refused", reason=str(error))
            continue
        changed = differing(known, wanted)
        live = {field: getattr(wanted, field) for field in LIVE}
        take(config.model_copy(update=live))
        log.info("config_changed", changed=changed)
        if late := [field for field in changed if field not in LIVE]:
            cure = "restart telemetry" + (", every Manager and every worker" if READ_BY_OTHER_ROLES & set(late) else "")
            log.warning("config_needs_restart", fields=late, cure=cure)
        known = wanted
