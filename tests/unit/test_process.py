"""A role's process: its logs, its signals, its exit code."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Iterator

import pytest
import structlog

from bullpen import logs
from bullpen.supervision.process import BUS_LOST, CANNOT_RUN, DIED, STOPPED, Role, run_role
from bus import BusError, BusUnreachable
from config.loader import ConfigError


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("BULLPEN_LOG", "BULLPEN_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers = [h for h in logging.getLogger().handlers if type(h).__module__ != logs.__name__]


def raising(error: Exception) -> Role:
    async def role(stop: asyncio.Event) -> None:
        raise error

    return role


# Logs


def test_logs_are_json_lines_in_ascii_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    structlog.get_logger().info("worker_ready", worker_id="déjà\n\x1b[2J")
    structlog.get_logger().debug("too_much")
    [line] = capsys.readouterr().err.splitlines()
    assert line.isascii()
    told = json.loads(line)
    assert (told["event"], told["level"], told["worker_id"]) == ("worker_ready", "info", "déjà\n\x1b[2J")
    assert told["timestamp"].endswith("Z")


def test_text_is_for_people_and_fakes_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULLPEN_LOG", "text")
    logs.configure()
    structlog.get_logger().info("worker_ready", worker_id="a\nfaked", reason="\x1b[2J")
    [line] = capsys.readouterr().err.splitlines()
    assert "worker_ready" in line
    assert "\x1b" not in line


def test_a_traceback_shows_no_local_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for style in ("text", "json"):
        monkeypatch.setenv("BULLPEN_LOG", style)
        logs.configure()
        password = "".join(["hun", "ter2"])
        try:
            raise ValueError("wrong")
        except ValueError:
            structlog.get_logger().exception("failed")
        told = capsys.readouterr().err
        assert "ValueError: wrong" in told
        assert password not in told


@pytest.mark.parametrize(("level", "shown"), [("debug", 2), ("INFO", 1), ("error", 0)])
def test_the_level_is_set_by_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, level: str, shown: int
) -> None:
    monkeypatch.setenv("BULLPEN_LOG_LEVEL", level)
    logs.configure()
    structlog.get_logger().info("one")
    structlog.get_logger().debug("two")
    assert len(capsys.readouterr().err.splitlines()) == shown


@pytest.mark.parametrize("name", ["BULLPEN_LOG", "BULLPEN_LOG_LEVEL"])
def test_a_setting_that_is_not_known_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "loud")
    with pytest.raises(ConfigError, match=f"{name}: 'loud'"):
        logs.configure()


def test_libraries_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger().addHandler(logs._PassOn())  # pytest's own handlers keep basicConfig from doing it
    logging.getLogger("asyncio").warning("task %s was slow", "x")
    told = json.loads(capsys.readouterr().err.splitlines()[0])
    assert (told["event"], told["logger"], told["level"]) == ("task x was slow", "asyncio", "warning")


# Exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("config.yaml:3: wrong"), CANNOT_RUN),
        (BusUnreachable("no NATS server answers"), CANNOT_RUN),
        (BusError("the connection is lost for good"), BUS_LOST),
    ],
)
def test_what_is_explained_is_one_line(capsys: pytest.CaptureFixture[str], error: Exception, code: int) -> None:
    assert run_role("worker", raising(error)) == code
    assert capsys.readouterr().err == f"bullpen worker: {error}\n"


def test_a_bug_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_role("worker", raising(ZeroDivisionError("a bug"))) == DIED
    told = json.loads(capsys.readouterr().err)
    assert told["event"] == "role_died"
    assert "ZeroDivisionError: a bug" in told["exception"]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_it_to_stop(sign: signal.Signals) -> None:
    finished = False

    async def role(stop: asyncio.Event) -> None:
        nonlocal finished
        os.kill(os.getpid(), sign)
        await stop.wait()
        await asyncio.sleep(0)
        finished = True

    assert run_role("worker", role) == STOPPED
    assert finished


def test_the_second_signal_makes_it_leave_at_once() -> None:
    cleaned_up = False

    async def role(stop: asyncio.Event) -> None:
        nonlocal cleaned_up
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up = True

    assert run_role("worker", role) == STOPPED
    assert cleaned_up


def test_roles_run_on_uvloop() -> None:
    async def role(stop: asyncio.Event) -> None:
        assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")

    assert run_role("worker", role) == STOPPED
