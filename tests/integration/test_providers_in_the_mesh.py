"""Providers that fail behind a worker behind a Manager: what the caller gets, and what the provider sees.

The providers are stand-ins at their HTTP boundary; everything between them and the caller is real.
"""

import asyncio
import json
from time import monotonic

import pytest
from aiohttp import web

from client import Bullpen
from tests.backends.providers import Failure, GeminiProvider, OllamaProvider, OpenAIProvider, Provider
from tests.mesh import Json, SmallMesh
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("patient_backends")
RARE = 3600.0
"""Seconds between health checks, which fail as a question does: here a question meets it first."""
PROVIDERS = (OpenAIProvider, GeminiProvider, OllamaProvider)
MOMENTS = {
    "before the headers": Failure(mute=True),
    "before the first token": Failure(hang_after=0),
    "in the middle": Failure(hang_after=2),
}


async def employ(mesh: SmallMesh, provider: Provider, worker_id: str = "w-1") -> None:
    await mesh.worker(worker_id, provider.backend, **{**provider.config(), "health_interval": RARE})


async def asked(provider: Provider) -> None:
    """It was asked, and hangs, which it would do for half a minute."""
    await eventually(provider.hangs.is_set)


async def hung_up(provider: Provider) -> None:
    """It has seen its caller hang up."""
    await eventually(provider.closed.is_set)


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
        await mesh.bus.publish("infer.cancel", b'{"task_id": "t-1"}')
        await hung_up(provider)
        assert (await asking)["error"]["code"] == "cancelled"
        await eventually(lambda: mesh.beats["w-1"].inflight == 0)


async def test_a_reader_that_is_gone_ends_the_call_to_the_provider(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = Failure(hang_after=3)
        await mesh.bus.publish("infer.auto", b'{"prompt": "hi", "stream": true}', reply="_INBOX.nobody.here")
        await hung_up(provider)


async def test_a_client_that_leaves_ends_the_call_to_the_provider(mesh: SmallMesh, nats: NatsServer) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = Failure(mute=True)
        async with Bullpen.connect(nats.url) as bullpen:
            asking = asyncio.create_task(bullpen.ask("hello"))
            await asked(provider)
            asking.cancel()
            await hung_up(provider)


async def test_a_revoked_key_takes_its_worker_out_and_others_answer(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        model = {"name": "m", "price": {"input_per_mtok": 0, "output_per_mtok": 0}}
        await mesh.worker("w-1", provider.backend, **{**provider.config(), "models": [model], "health_interval": RARE})
        await mesh.worker("w-2", price={"input_per_mtok": 90, "output_per_mtok": 90})
        await mesh.manager()
        provider.failure = Failure(status=401, body=json.dumps({"error": {"message": "key sk-planted is revoked"}}))
        first = await mesh.ask(policy="cheapest", max_tokens=1)
        await mesh.state("w-1", "degraded")
        answers = [first, *[await mesh.ask(policy="cheapest", max_tokens=1) for _ in range(2)]]
        assert {answer["worker_id"] for answer in answers} == {"w-2"}
        assert len(provider.received) == 1
        assert "sk-planted" not in json.dumps(answers)


class Timed(OpenAIProvider):
    """Remembers when it was asked, in seconds of any clock."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_at: list[float] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked_at.append(monotonic())
        return await super().answer(request)


@pytest.mark.parametrize(("retry_after", "wait"), [("1", True), ("0", False), ("-1", False), ("abc", False)])
async def test_a_limited_provider_is_left_alone_as_long_as_it_asks(
    mesh: SmallMesh, retry_after: str, wait: bool
) -> None:
    async with Timed() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = Failure(status=429, headers={"Retry-After": retry_after}, body="{}")
        assert (await mesh.ask())["error"]["code"] == "rate_limited"
        assert len(provider.received) == 1
        provider.failure = Failure()
        assert (await mesh.ask())["output"]
        paused = provider.asked_at[-1] - provider.asked_at[0]
        assert paused > 0.9 or not wait


async def test_no_provider_is_left_alone_for_longer_than_a_minute(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = Failure(status=429, headers={"Retry-After": "1e9"}, body="{}")
        refused = (await mesh.ask(deadline_ms=20_000))["error"]
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
