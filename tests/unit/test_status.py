"""What a role shows of itself: addresses, the lag of the loop, the form of the figures."""

import re
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from bullpen.supervision import status_server
from bullpen.supervision.status_server import LoopWatch, StatusServer, address, metrics_text, nth_address
from bus.role_status import Figure, RoleStatus
from config.loader import ConfigError

SAMPLE = re.compile(r'[a-z_]+\{role="[^"]*"\} -?[0-9.e+-]+')


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("127.0.0.1:8223", ("127.0.0.1", 8223)),
        (" localhost:0 ", ("localhost", 0)),
        ("[::1]:9", ("::1", 9)),
        ("", None),
        ("  ", None),
    ],
)
def test_the_address_of_the_status_is_host_and_port(text: str, read: tuple[str, int] | None) -> None:
    assert address({"BULLPEN_STATUS": text}) == read
    assert address({}) is None


@pytest.mark.parametrize("text", ["8223", ":8223", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "h:99999", "h:-1", "h:١"])
def test_an_address_that_is_none_names_the_variable_and_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"BULLPEN_STATUS: .*HOST:PORT, such as 127\.0\.0\.1:8223"):
        address({"BULLPEN_STATUS": text})


def test_the_roles_of_one_machine_have_ports_that_follow_each_other() -> None:
    shown = {"BULLPEN_STATUS": "127.0.0.1:9100"}
    assert [nth_address(shown, number)["BULLPEN_STATUS"] for number in range(3)] == [
        "127.0.0.1:9100",
        "127.0.0.1:9101",
        "127.0.0.1:9102",
    ]
    assert nth_address({"BULLPEN_STATUS": "[::1]:9100"}, 1) == {"BULLPEN_STATUS": "[::1]:9101"}
    assert nth_address({"BULLPEN_STATUS": "127.0.0.1:0"}, 1) == {"BULLPEN_STATUS": "127.0.0.1:0"}
    assert nth_address({}, 1) == {}


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the loop, which stands still unless the test sets it."""
    now = [100.0]
    loop = Mock(time=lambda: now[0])
    monkeypatch.setattr(status_server, "asyncio", Mock(get_running_loop=lambda: loop))
    return now


async def test_the_lag_of_the_loop_is_the_worst_of_half_a_minute(clock: list[float]) -> None:
    watch, at = LoopWatch(), clock[0]
    with capture_logs() as logs:
        for second in (0.5, 1.0, 4.0, 4.5):
            watch.ticked(at + second)
    assert watch.worst == 2.5
    assert watch.stalls == 1
    assert [entry["event"] for entry in logs] == ["loop_stood_still"]
    for tick in range(status_server.REMEMBERED):
        watch.ticked(at + 5 + tick / 2)
    assert watch.worst == 0


async def test_a_loop_that_has_not_ticked_for_seconds_is_not_alive(clock: list[float]) -> None:
    """The page is answered, but what is due at a time is not done: a flood of other work holds it up."""
    server = StatusServer("manager", RoleStatus(why_not=str), LoopWatch())
    assert server.page("/healthz").code == 200
    clock[0] += 2 * status_server.STANDS_STILL
    assert server.page("/healthz").code == 503
    assert server.page("/readyz").code == 200


async def test_alive_is_not_the_same_as_serving(clock: list[float]) -> None:
    server = StatusServer("worker", RoleStatus(why_not=lambda: "degraded: its provider is away"), LoopWatch())
    assert server.page("/healthz").code == 200
    assert (server.page("/readyz").code, server.page("/readyz").body) == (
        503,
        "worker: degraded: its provider is away\n",
    )
    assert server.page("/").code == 404


async def test_the_figures_have_the_form_that_prometheus_reads() -> None:
    status = RoleStatus(
        str, lambda: [Figure("requests_total", "Requests", 12345678, "counter"), Figure("rate", "R", 0.1)]
    )
    page = StatusServer("manager", status, LoopWatch()).page("/metrics")
    assert page.content_type.startswith("text/plain; version=0.0.4")
    lines = page.body.splitlines()
    assert page.body.endswith("\n")
    assert "# TYPE bullpen_requests_total counter" in lines
    assert 'bullpen_requests_total{role="manager"} 12345678' in lines
    assert 'bullpen_rate{role="manager"} 0.1' in lines
    assert [line for line in lines if not line.startswith(("# HELP ", "# TYPE ")) and not SAMPLE.fullmatch(line)] == []
    names = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(names) == len(set(names)), "a name stands once"


def test_a_label_cannot_end_its_quotes() -> None:
    text = metrics_text([Figure("up", "Up", 1)], {"role": 'a"b\\c\nd'})
    assert text.splitlines()[-1] == r'bullpen_up{role="a\"b\\c\nd"} 1'
