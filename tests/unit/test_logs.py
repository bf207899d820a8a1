"""Logs: what libraries say is passed on, and not for ever."""

import logging

import pytest
from structlog.testing import capture_logs

from bullpen.logs import _PassOn


@pytest.fixture
def library() -> logging.Logger:
    logger = logging.Logger("a-library")
    logger.addHandler(_PassOn())
    return logger


def test_a_library_that_repeats_its_traceback_is_heard_once(library: logging.Logger) -> None:
    with capture_logs() as logs:
        for failure in (OSError("away"), OSError("still away"), ValueError("other")):
            try:
                raise failure
            except Exception:
                library.exception("it failed")
    assert [type(log["exc_info"][1]) for log in logs] == [OSError, ValueError]


def test_different_lines_of_a_library_are_all_heard(library: logging.Logger) -> None:
    with capture_logs() as logs:
        library.warning("one")
        library.warning("two")
    assert [log["event"] for log in logs] == ["one", "two"]
