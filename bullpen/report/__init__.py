"""The books as one HTML page for the accountant: a single file without scripts or links to other files."""

from telemetry.reading.figures import Figures


class ReportUnavailable(Exception):
    """The libraries that draw the report are not installed: `pip install 'bullpen-mesh[report]'`."""


def render(figures: Figures) -> str:
    """The page. Raises `ReportUnavailable`."""
    try:
        from bullpen.report.page import page  # noqa: PLC0415 — its libraries are an extra
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise ReportUnavailable(f"{error.name} is not installed") from error
    return page(figures)
