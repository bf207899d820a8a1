"""`calibration` and `compare`: whether confident answers are right, and whether another model does better."""

from collections.abc import Callable
from typing import TypeVar

import typer
from rich.console import RenderableType

from bullpen.cli.reading import Json, Model, Since, from_books
from bullpen.cli.show import UNKNOWN, as_json, duration, figures, money, note, show, table, text, words
from telemetry.reading.queries import Calibrated, Compared
from telemetry.reading.queries import calibration as calibrated
from telemetry.reading.queries import compare as compared

T = TypeVar("T")


def register(app: typer.Typer) -> None:
    app.command()(calibration)
    app.command()(compare)


def calibration(*, model: Model = None, since: Since = None, json: Json = False) -> None:
    """How often answers are right, by the confidence that they told.

    Judged is what callers said (`infer.feedback`) and what the verifier said, if there is one.

    Examples:

      bullpen calibration --model smollm2-135m --since 7d
    """
    found = from_books(lambda store: calibrated(store, since=since, model=model))
    if json:
        as_json(found)
    elif found:
        columns = [words("MODEL"), *map(figures, ("SURE", "ANSWERS", "SAID", "JUDGED")), words("")]
        show(table(columns, [_calibrated(row) for row in found]))
    else:
        note("no answer was judged yet: send infer.feedback, or name a verifier in manager/config.yaml")


def _calibrated(row: Calibrated) -> list[RenderableType]:
    gap = row.confidence - row.judged
    verdict = "too sure" if gap > 0.1 else "not sure enough" if gap < -0.1 else ""
    return [
        text(row.model_id),
        f"{row.tenth / 10:.1f} to {(row.tenth + 1) / 10:.1f}",
        f"{row.answers:,}",
        f"{row.confidence:.2f}",
        f"{row.judged:.2f}",
        verdict,
    ]


def compare(*, since: Since = None, json: Json = False) -> None:
    """A mirrored candidate compared with the model that answers.

    Over the same questions: `mirrors` in manager/config.yaml gives a candidate a share of them.

    Examples:

      bullpen compare --since 7d
    """
    found = from_books(lambda store: compared(store, since=since))
    if json:
        as_json(found)
    elif found:
        columns = [words("MODEL"), *map(figures, ("QUESTIONS", "FAILED", "P50", "SURE", "JUDGED", "COST"))]
        rows = [row for pair in found for row in _pair(pair)]
        show(table(columns, rows))
    else:
        note("nothing was mirrored yet: name mirrors in manager/config.yaml")


def _pair(pair: Compared) -> list[list[RenderableType]]:
    more = f" + {pair.unpriced} unknown" if pair.unpriced else ""
    return [
        [
            text(pair.live_model or UNKNOWN),
            f"{pair.questions:,}",
            "0",
            _told(pair.live_p50_ms, duration),
            _told(pair.live_confidence, _hundredths),
            _told(pair.live_judged, _hundredths),
            money(pair.live_cost_usd) + more,
        ],
        [
            text(f"→ {pair.candidate or UNKNOWN}"),
            "",
            f"{pair.failed:,}",
            _told(pair.candidate_p50_ms, duration),
            _told(pair.candidate_confidence, _hundredths),
            _told(pair.candidate_judged, _hundredths),
            money(pair.candidate_cost_usd) + more,
        ],
    ]


def _told(value: T | None, how: Callable[[T], str]) -> str:
    return UNKNOWN if value is None else how(value)


def _hundredths(value: float) -> str:
    return f"{value:.2f}"
