"""A worker that was frozen or cut off and is back, when the only other one dies: it is asked, and it can answer."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.proxy import Proxy
from tests.roles import PROMPT, Roles, unwell
from tests.scenarios.test_worker_faults import WORDY, read, undisturbed
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[Proxy]:
    async with Proxy(nats.port) as proxy:
        yield proxy


@pytest.fixture
async def roles(tmp_path: Path, nats: NatsServer, proxy: Proxy) -> AsyncIterator[Roles]:
    """A Manager and two workers; what `w-1` says goes through the proxy."""
    async with Roles(tmp_path, nats.url) as roles:
        roles.manager(**PROMPT)
        roles.worker("w-1", **WORDY, NATS_URL=f"nats://127.0.0.1:{proxy.port}")
        roles.worker("w-2", **WORDY)
        await roles.ready()
        yield roles


@pytest.mark.parametrize("trouble", ["frozen", "cut off", "reset"])
async def test_it_takes_over_what_the_other_one_leaves(roles: Roles, proxy: Proxy, trouble: str) -> None:
    before = await roles.ask_many(6, prompt="a story", stream=True)
    await eventually(lambda: all(len(stream.heard) > 5 for stream in before), timeout=15)
    match trouble:
        case "frozen":
            roles.send("w-1", signal.SIGSTOP)
            await roles.answered(before, within=30)
            roles.send("w-1", signal.SIGCONT)
        case "cut off":
            proxy.blackhole()
            await roles.answered(before, within=30)
            await proxy.heal()
        case _:
            proxy.reset()
    told = roles.beats["w-1"].seq
    await eventually(lambda: roles.beats["w-1"].seq > told and roles.beats["w-1"].state == "ready", timeout=20)
    after = await roles.ask_many(6, prompt="a story", stream=True)
    await eventually(lambda: all(stream.heard for stream in after), timeout=15)
    roles.kill("w-2")
    streams = await roles.answered([*before, *after], within=30)
    assert unwell(streams) == []
    assert {read(stream)[0] for stream in streams} == {await undisturbed("a story")}
    assert {stream.finals[0]["worker_id"] for stream in after} == {"w-1"}
