"""The API key that a container's environment brings, and how a mesh with time to drain stops."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from bullpen import given_key
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusSettings
from client import Bullpen
from config.loader import ConfigError
from gateway.keys.office import KeyOffice
from tests.roles import PATIENT
from tests.support import eventually

ONE, OTHER = "x" * 40, "y" * 40


@pytest.fixture
async def bus(nats_server: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect("test", BusSettings(servers=(nats_server,)), patience=20)
    yield bus
    await bus.close()


async def test_a_given_key_is_made_once_and_another_takes_its_place(bus: Bus) -> None:
    first, again = [await given_key.keep(bus, ONE) for _ in range(2)]
    assert first == again
    office = await KeyOffice.open(bus)
    made, _ = await office.create("acme")
    await given_key.keep(bus, OTHER)
    assert [key.revoked_at is None for key in await office.keys()] == [False, True, True]  # made in this order
    assert made in await office.keys()
    assert "was revoked" in await given_key.keep(bus, ONE)


@pytest.mark.parametrize("secret", ["short", "with a space" * 5, "ü" * 40])
def test_a_secret_that_can_be_guessed_is_refused_by_its_name(secret: str) -> None:
    with pytest.raises(ConfigError, match="BULLPEN_API_KEY"):
        given_key.take({"BULLPEN_API_KEY": secret})


def test_no_process_of_the_mesh_finds_the_secret_in_its_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{ONE}\n")
    environ = {"BULLPEN_API_KEY_FILE": str(tmp_path / "key"), "PATH": "/bin"}
    assert given_key.take(environ) == ONE
    assert environ == {"PATH": "/bin"}
    assert given_key.take(environ) is None


async def test_a_whole_mesh_lets_its_given_key_in_and_finishes_answers_when_it_stops(
    tmp_path: Path, nats_server: str
) -> None:
    env = {
        **PATIENT,
        "NATS_URL": nats_server,
        "BULLPEN_SIMULATED__LATENCY_MS": "4000",  # longer than a mesh without time to drain waits
        "BULLPEN_GATEWAY__KEYS": "required",
        "BULLPEN_GATEWAY__LISTEN": "127.0.0.1:0",
    }
    mesh = Mesh(
        tmp_path / "mesh",
        workers=[("simulated", 1)],
        postgres=False,
        http=True,
        http_port=None,
        env=env,
        api_key=ONE,
        drain_within=60,
    )
    async with Bullpen.connect(nats_server) as bp, aiohttp.ClientSession() as session:
        async with mesh:
            assert not mesh.lacks_key
            body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
            url = f"{mesh.endpoints.http_url}/v1/chat/completions"
            async with session.post(url, json=body) as refused:
                assert refused.status == 401
            asked = asyncio.create_task(_ask(session, url, body))
            await eventually(lambda: _is_busy(bp))
        assert await asked == 200


async def _ask(session: aiohttp.ClientSession, url: str, body: object) -> int:
    async with session.post(url, json=body, headers={"Authorization": f"Bearer {ONE}"}) as answer:
        await answer.read()
        return answer.status


async def _is_busy(bp: Bullpen) -> bool:
    return any(beat.inflight for beat in await bp.workers())
