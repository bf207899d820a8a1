"""Providers that fail behind a worker behind a Manager: what the caller gets, and what the provider sees.

The providers are stand-ins at their HTTP boundary; everything between them and the caller is real.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from client import Bullpen
from tests.backends.providers import Failure, GeminiProvider, OllamaProvider, OpenAIProvider, Provider
from tests.mesh import Json, SmallMesh
from tests.servers import NatsServer
from tests.support import eventually

PROVIDERS = (OpenAIProvider, GeminiProvider, OllamaProvider)
MOMENTS = {
    "before the headers": Failure(mute=True),
    "before the first token": Failure(hang_after=0),
    "in the middle": Failure(hang_after=2),
}


@pytest.fixture
async def mesh(nats: NatsServer) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats.url) as mesh:
        yield mesh


async def employ(mesh: SmallMesh, provider: Provider, worker_id: str = "w-1") -> None:
    await mesh.worker(worker_id, provider.backend, **provider.config())


async def asked(provider: Provider) -> None:
    await eventually(lambda: len(provider.received) == 1)
    await asyncio.sleep(0.05)  # what it says before it hangs is said


async def hung_up_after(provider: Provider, moment: float) -> float:
    """Milliseconds from `moment` until the provider saw its caller hang up."""
    await asyncio.wait_for(provider.closed.wait(), 5)
    return (monotonic() - moment) * 1000


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", PROVIDERS)
async def test_a_cancelled_question_hangs_up_on_its_provider(
    mesh: SmallMesh, kind: type[Provider], moment: str
) -> None:
    async with kind() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = MOMENTS[moment]
        asking = asyncio.create_task(mesh.ask(task_id="t-1"))
        await asked(provider)
        cancelled = monotonic()
        await mesh.bus.publish("infer.cancel", b'{"task_id": "t-1"}')
        took = await hung_up_after(provider, cancelled)
        assert (await asking)["error"]["code"] == "cancelled"
        await eventually(lambda: mesh.beats["w-1"].inflight == 0)
    print(f"closed after {took:.1f} ms")
    assert took < 1000  # usually a few; the machine may be busy


async def test_a_reader_that_is_gone_ends_the_call_to_the_provider(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = Failure(hang_after=3)
        await mesh.bus.publish("infer.auto", b'{"prompt": "hi", "stream": true}', reply="_INBOX.nobody.here")
        await asyncio.wait_for(provider.closed.wait(), 5)


async def test_a_client_that_leaves_ends_the_call_to_the_provider(mesh: SmallMesh, nats: NatsServer) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = Failure(mute=True)
        async with Bullpen.connect(nats.url) as bullpen:
            asking = asyncio.create_task(bullpen.ask("hello"))
            await asked(provider)
            asking.cancel()
            await asyncio.wait_for(provider.closed.wait(), 5)


async def test_a_revoked_key_takes_its_worker_out_and_others_answer(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.worker("w-2", latency_ms=2000)  # slower, so that the provider would be asked first
        await mesh.manager()
        provider.failure = Failure(status=401, body=json.dumps({"error": {"message": "key sk-planted is revoked"}}))
        answers = [await mesh.ask(policy="fastest", max_tokens=1) for _ in range(3)]
        assert {answer["worker_id"] for answer in answers} == {"w-2"}
        assert len(provider.received) <= 1
        assert mesh.beats["w-1"].state == "degraded"
        assert "sk-planted" not in json.dumps(answers)


@pytest.mark.parametrize(("retry_after", "wait"), [("1", True), ("0", False), ("-1", False), ("abc", False)])
async def test_a_limited_provider_is_left_alone_as_long_as_it_asks(
    mesh: SmallMesh, retry_after: str, wait: bool
) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = Failure(status=429, headers={"Retry-After": retry_after}, body="{}")
        refused = (await mesh.ask(deadline_ms=500))["error"]
        assert refused["code"] in ("rate_limited", "deadline_exceeded")
        calls = len(provider.received)
        assert calls >= 1
        if wait:
            assert calls == 1
        provider.failure = Failure()
        assert (await mesh.ask(deadline_ms=8000))["output"]


async def test_no_provider_is_left_alone_for_longer_than_a_minute(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = Failure(status=429, headers={"Retry-After": "1e9"}, body="{}")
        refused = (await mesh.ask(deadline_ms=4000))["error"]
        assert (refused["code"], refused["retry_after_ms"]) == ("rate_limited", 60_000)


@pytest.mark.parametrize(
    "failure",
    [Failure(status=500, body="{}"), Failure(truncate=True), Failure(garbage="<html>no</html>")],
    ids=["5xx", "cut off", "rubbish"],
)
async def test_what_a_provider_cannot_do_another_worker_does(mesh: SmallMesh, failure: Failure) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = failure
        alone = await mesh.ask()
        assert alone["error"]["code"] == "upstream_error"
        assert len(provider.received) == 1  # one layer of retries only: the Manager's
        await mesh.worker("w-2")
        answers: list[Json] = [await mesh.ask() for _ in range(8)]
        assert {answer.get("worker_id") for answer in answers} == {"w-2"}
        assert len(provider.received) <= 5


async def test_what_expired_before_the_provider_was_called_is_never_sent_there(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        await mesh.worker("w-1", provider.backend, **{**provider.config(), "max_concurrency": 1})
        await mesh.manager()
        provider.failure = Failure(mute=True)
        first = asyncio.create_task(mesh.ask(task_id="t-1"))
        await asked(provider)
        expired = await mesh.ask(deadline_ms=300)
        assert expired["error"]["code"] == "deadline_exceeded"
        await mesh.bus.publish("infer.cancel", b'{"task_id": "t-1"}')
        await first
        await eventually(lambda: mesh.beats["w-1"].inflight == 0)
        assert len(provider.received) == 1
