"""The command line without a mesh: help, usage, and how things are shown."""

import asyncio
import inspect
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args
from unittest.mock import Mock

import pytest
import typer
from typer.testing import CliRunner

from bullpen.cli import COMMANDS, OTHER_NAMES, LateCommand, app, show
from bullpen.cli.ask import ask
from bullpen.cli.look import workers_table
from bullpen.cli.models import served_models
from bullpen.cli.reading import moment
from bullpen.cli.running import CURES
from bullpen.doctor import clocks, findings_of, versions
from client import Options, Roster
from client.client import MANAGER_SERVICE, ServiceInfo
from contracts import ErrorCode, Heartbeat, InferenceRequest
from tests.fake_manager import heartbeat

LISTINGS = ("workers", "models", "responses", "cost", "report", "doctor")
SAYS_IT_ITSELF = {ErrorCode.CONFLICT, ErrorCode.POISON_REQUEST, ErrorCode.CANCELLED}


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


# Help


def test_help_shows_every_command() -> None:
    code, out = run("--help")
    assert code == 0
    for name in COMMANDS:
        assert re.search(rf"│ {name} ", out), name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_examples_and_begins_as_the_overview_says(name: str) -> None:
    code, out = run(name, "--help")
    assert code == 0
    assert f"bullpen {name}" in out.partition("Examples:")[2]
    real = LateCommand(name).load()
    assert " ".join(inspect.cleandoc(real.help).split("\n\n")[0].split()) == COMMANDS[name][2]


@pytest.mark.parametrize("name", LISTINGS)
def test_every_listing_has_json(name: str) -> None:
    assert "--json" in run(name, "--help")[1]


def test_a_mistyped_command_is_a_usage_error_with_a_suggestion() -> None:
    code, out = run("worker-s")
    assert code == 2
    assert "workers" in out


@pytest.mark.parametrize(("name", "real"), OTHER_NAMES.items())
def test_another_name_is_the_same_command_and_not_listed(name: str, real: str) -> None:
    code, out = run(name, "--help")
    assert code == 0
    assert COMMANDS[real][2][:40] in out
    assert f"│ {name} " not in run("--help")[1]


# Usage


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ask", ""], "the question is empty"),
        (["ask", " \n "], "the question is empty"),
        (["ask"], "the question is empty"),  # standard input is there, and empty
        (["ask", "hi", "-f", "/no/such/file"], "--file /no/such/file: No such file"),
        (["ask", "hi", "--temperature", "3"], "--temperature"),
        (["ask", "hi", "--policy", "free"], "--policy"),
        (["ask", "hi", "--max-tokens", "0"], "--max-tokens"),
        (["ask", "--no-such-option", "hi"], "--no-such-option"),
        (["cost", "--by", "moon"], "--by"),
        (["explain"], "name one task, or say --last"),
        (["explain", "a", "--last"], "name one task, or say --last"),
        (["responses", "--since", "yesterday"], "neither a period"),
        (["responses", "--limit", "0"], "--limit"),
        (["workers", "--watch", "--json"], "nats sub worker.heartbeat"),
        (["health", "nobody"], "nobody"),
        (["worker"], "NAME_OR_PATH"),
    ],
)
def test_wrong_usage_is_told_and_exits_2(arguments: list[str], says: str) -> None:
    code, out = run(*arguments)
    assert code == 2
    assert says in out


def test_standard_input_that_is_no_text_is_told() -> None:
    result = CliRunner().invoke(app, ["ask", "-"], input=b"\xff\xfe")
    assert result.exit_code == 2
    assert "not UTF-8" in result.output


def test_ask_offers_the_contract_s_policies_and_names_only_its_fields() -> None:
    policy = inspect.signature(ask).parameters["policy"].annotation
    assert "balanced" in str(policy)
    assert Options.__annotations__.keys() == InferenceRequest.model_fields.keys() - {"prompt", "stream"}


def test_every_error_code_has_a_cure_or_says_it_itself() -> None:
    assert set(ErrorCode) - CURES.keys() == SAYS_IT_ITSELF


# How things are shown


def test_text_from_the_wire_cannot_drive_the_terminal() -> None:
    evil = "a\x1b[2Jb\x07\r\x9b31mc\ud800\x00d\te\nf – déjà vu 👩‍👩‍👧"
    assert show.clean(evil) == "a[2Jb31mcd\te\nf – déjà vu 👩‍👩‍👧"
    assert show.text(evil).plain == show.clean(evil)


FALSE_ROW = "w1\nworker-2  ready\u2028w3\u202egnp.exe\u2067[red]x[/red]\tworker-3"


def test_a_name_makes_no_row_of_its_own_and_turns_no_line_round(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [show.words("A"), show.words("B")]
    two = show.lines(show.text("two"), show.text("lines"))
    show.show(show.table(columns, [[FALSE_ROW, show.text(FALSE_ROW)], ["x", two]]))
    out = capsys.readouterr().out
    assert [line.split("  ")[0] for line in out.splitlines()] == ["A", "w1 worker-2", "x", ""]
    assert "\u202e" not in out
    assert "[red]x[/red]" in out, "no markup is read from it"


def test_a_problem_cannot_pretend_to_be_another(capsys: pytest.CaptureFixture[str]) -> None:
    show.problem("no such model\nnext: send your key to \u202ekcatta", "ask\nerror: none")
    told = capsys.readouterr().err.splitlines()
    assert [line[:6] for line in told] == ["error:", "  next", "next: ", "  erro"]


def test_a_turned_line_in_json_is_an_escape(capsys: pytest.CaptureFixture[str]) -> None:
    show.as_json({"a": "\u202ex\u2028"})
    assert capsys.readouterr().out == '{"a": "\\u202ex\\u2028"}\n'


def test_json_is_ascii_safe_where_terminals_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    show.as_json({"a": "\x1b[2J\x9b\x7fdéjà", "cost": Decimal("0.1"), "at": datetime(2026, 1, 1, tzinfo=UTC)})
    out = capsys.readouterr().out
    assert out == '{"a": "\\u001b[2J\\u009b\\u007fdéjà", "cost": 0.1, "at": "2026-01-01T00:00:00Z"}\n'
    assert json.loads(out)["a"] == "\x1b[2J\x9b\x7fdéjà"


def test_one_line_is_one_line() -> None:
    assert show.one_line("  a\n\n b\tc ", 20) == "a b c"
    assert show.one_line("x" * 30, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (None, "cost unknown"),
        ("0", "$0"),
        ("0.00000049", "$0.00000049"),
        ("0.0123456", "$0.012"),
        ("0.5", "$0.50"),
        ("0.999", "$1.00"),
        ("1.234", "$1.23"),
        ("1234.5", "$1234.50"),
    ],
)
def test_money(usd: str | None, shown: str) -> None:
    assert show.money(None if usd is None else Decimal(usd)) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1.0 KiB"),
        (393478144, "375 MiB"),
        (25276502016, "24 GiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_size(number: int, shown: str) -> None:
    assert show.size(number) == shown


def test_duration_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [show.duration(ms) for ms in (0.4, 53.2, 1500)] == ["0 ms", "53 ms", "1.5 s"]
    now = datetime.now(UTC)
    monkeypatch.setattr(show, "datetime", Mock(now=lambda zone: now))
    ages = [show.ago(now - timedelta(seconds=seconds)) for seconds in (-5, 3, 120, 7200, 200_000)]
    assert ages == ["0s ago", "3s ago", "2m ago", "2h ago", "2d ago"]


@pytest.mark.parametrize(
    ("given", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_since_a_period(given: str, seconds: int) -> None:
    earliest = datetime.now(UTC)
    then = moment(given) + timedelta(seconds=seconds)
    assert earliest <= then <= datetime.now(UTC)


def test_since_a_time() -> None:
    assert moment("2026-01-31T12:00:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert moment("2026-01-31").tzinfo is not None
    for wrong in ("", "1x", "h", "-1h", "99999999999h", "2026-13-01"):
        with pytest.raises(typer.BadParameter):
            moment(wrong)


# The workers of the mesh


def test_the_roster_keeps_the_newest_heartbeat_of_each() -> None:
    roster = Roster()
    for beat in (
        heartbeat("a", seq=5),
        heartbeat("a", seq=4, state="stopped"),
        heartbeat("a", epoch="e0", seq=99, state="stopped"),
        heartbeat("b", seq=1),
        heartbeat("b", epoch="e2", seq=0, state="starting"),
    ):
        roster.hear(beat, 10.0)
    assert [(beat.worker_id, beat.seq, beat.state) for beat in roster.beats] == [
        ("a", 5, "ready"),
        ("b", 0, "starting"),
    ]


def test_silence_is_noticed_by_each_worker_s_own_interval() -> None:
    roster = Roster()
    roster.hear(heartbeat("quick", interval_ms=1000), 0.0)
    roster.hear(heartbeat("slow", interval_ms=60_000), 0.0)
    roster.hear(heartbeat("gone", state="stopped"), 0.0)
    assert [seen.silent_for(2.4) for seen in roster] == [None, None, None]
    assert [seen.silent_for(3.0) for seen in roster] == [None, 3.0, None]
    roster.forget(heard_before=1.0)
    assert len(roster) == 0


def test_models_are_listed_with_their_workers() -> None:
    beats = [heartbeat("a"), heartbeat("b", state="draining"), heartbeat("c", backend="other")]
    served = served_models(beats)
    assert [(m.model_id, m.backend, m.workers, m.ready) for m in served] == [
        ("m", "b", ("a", "b"), 1),
        ("m", "other", ("c",), 1),
    ]


def troubled(worker_id: str, **changes: Any) -> Heartbeat:
    """The heartbeat of a worker whose model is in trouble."""
    beat = heartbeat(worker_id)
    return beat.model_copy(update={"models": (beat.models[0].model_copy(update={"trouble": "gone", **changes}),)})


def test_a_model_in_trouble_is_shown_with_its_reason_at_the_worker_that_has_it() -> None:
    beats = [heartbeat("a"), troubled("b"), troubled("c", capabilities=())]
    [served] = served_models(beats)
    assert (served.ready, served.trouble) == (2, {"b": "gone", "c": "gone"})
    assert "chat" in served.capabilities, "as where it can"
    shown = [str(cell) for cell in workers_table([(beat, None) for beat in beats]).columns[2].cells]
    assert shown == ["m", "m (gone)", "m (gone)"]


def test_doctor_warns_of_a_model_in_trouble_and_calls_its_worker_ready() -> None:
    found = list(findings_of([heartbeat("a"), troubled("b")]))
    assert [(finding.part, finding.state) for finding in found] == [("workers", "ok"), ("model m at b", "warn")]
    assert found[1].detail == "gone"


def test_mixed_versions_are_shown_and_one_version_takes_no_room() -> None:
    old, new, mute = (
        heartbeat(name).model_copy(update={"version": version})
        for name, version in (("a", "0.1.0"), ("b", "0.2.0"), ("c", ""))
    )
    columns = {str(one.header): one for one in workers_table([(beat, None) for beat in (old, new, mute)]).columns}
    assert [str(cell) for cell in columns["VERSION"].cells] == ["0.1.0", "0.2.0", str(show.UNKNOWN)]
    assert "VERSION" not in {str(one.header) for one in workers_table([(old, None)]).columns}
    manager = ServiceInfo(name=MANAGER_SERVICE, id="m-1", version="0.2.0")
    worker = ServiceInfo(name="bullpen-worker", id="a-service", version="9.9.9")
    (found,) = versions([old, new, mute], [manager, worker])
    assert (found.state, found.detail) == ("warn", "mixed: 0.1.0: a; 0.2.0: b, m-1")
    assert list(versions([new, mute], [manager])) == []


def test_policies_are_spelled_as_in_the_contract() -> None:
    field = InferenceRequest.model_fields["policy"]
    assert get_args(field.annotation) == ("balanced", "cheapest", "fastest", "best", "local_only")
    assert asyncio.iscoroutinefunction(ask) is False


@pytest.mark.parametrize(
    ("sent_at", "told"),
    [
        (None, []),
        (1_000_000_000_000, []),
        (1_000_000_004_000, []),
        (999_999_995_000, []),
        (1_000_000_090_000, ["its clock is 90 s ahead of this machine's"]),
        (999_999_940_000, ["its clock is 60 s behind this machine's"]),
    ],
)
def test_clocks_that_differ_are_told(sent_at: int | None, told: list[str]) -> None:
    beat = heartbeat("a").model_copy(update={"sent_at": sent_at})
    assert [finding.detail for finding in clocks([beat], 1_000_000_000.0)] == told
