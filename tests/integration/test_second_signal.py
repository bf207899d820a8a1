"""A second signal, while a role still makes ready to leave: it gives back what it has, and leaves."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bus import Bus, BusSettings, Subscription
from tests.mesh import SmallMesh
from tests.servers import NatsServer
from tests.support import eventually


@pytest.fixture
async def mesh(nats: NatsServer) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats.url) as mesh:
        await mesh.manager()
        await mesh.worker("w-1", latency_ms=600_000)
        yield mesh


@pytest.mark.parametrize(("role", "subject"), [("w-1", "infer.simulated"), ("m-1", "infer.auto")])
async def test_a_second_signal_that_comes_early_is_heeded(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch, role: str, subject: str
) -> None:
    """Whoever leaves says so to its own callers: a Manager might hear sooner that a worker has stopped."""
    stop = Subscription.stop

    async def cancelled_meanwhile(subscription: Subscription) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await stop(subscription)

    asked: asyncio.Task[Any] = asyncio.create_task(mesh.ask(subject))
    await eventually(lambda: mesh.beats["w-1"].inflight)
    monkeypatch.setattr(Subscription, "stop", cancelled_meanwhile)
    await mesh.stop(role)
    assert f"{role} is leaving" in str(await asked)


async def test_a_task_that_is_cancelled_when_its_flush_is_over_ends(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)), watchdog=False)
    process_pong = bus.nats._process_pong

    async def cancel_in_that_instant() -> None:
        await process_pong()
        flushing.cancel()

    monkeypatch.setattr(bus.nats, "_process_pong", cancel_in_that_instant)
    flushing = asyncio.create_task(bus.flush(20))
    with pytest.raises(asyncio.CancelledError):
        await flushing
    monkeypatch.undo()
    await bus.close()
