"""A slow provider behind a worker: how long it may be silent, what the Manager hears meanwhile, and one call only.

The test stands in for the Manager, on an inbox of its own, where it has to see every message; times are scaled down.
"""

import asyncio
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from contracts import headers as h
from tests.backends.providers import PROVIDERS, Failure, OllamaProvider, OpenAIProvider, Provider
from tests.integration.test_jobs import results, streams_are_there, submit
from tests.mesh import Json, SmallMesh
from tests.support import eventually
from workers.base.interface import silence
from workers.base.provider import streaming

ANSWER = "The capital is Paris."


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROVIDERS:
        monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-test")


class Attempt:
    """One attempt as a Manager sees it: the events of its inbox, in order."""

    def __init__(self, mesh: SmallMesh, worker_id: str = "w-1", **request: Any) -> None:
        self._mesh = mesh
        self._worker_id = worker_id
        self._request = request
        self.events: list[Json] = []

    def of(self, kind: str) -> list[Json]:
        return [event for event in self.events if event.get("type") == kind]

    @property
    def final(self) -> Json:
        return self.events[-1]

    async def ask(self) -> "Attempt":
        """Sends it, says `go` when asked, and waits for the final message."""
        bus, backend = self._mesh.bus, self._mesh.beats[self._worker_id].backend
        headers = {h.EVENTS: "1", h.REQUEST: "r-1", h.ATTEMPT: "1", h.TASK: "t-1"}
        going: list[asyncio.Task[None]] = []

        def hear(message: Any) -> None:
            self.events.append(from_json(message.data))
            if message.reply:
                going.append(asyncio.create_task(bus.publish(message.reply, b'{"type": "go", "budget_ms": 20000}')))

        with bus.listen(hear) as inbox:
            body = b'{"prompt": "hello"}'
            await bus.publish(f"infer.{backend}.w.{self._worker_id}", body, reply=inbox.subject, headers=headers)
            await eventually(lambda: self.of("response") or "error" in (self.events or [{}])[-1])
        return self


def paced(provider: Provider, *first: tuple[float, str], between: float = 0.0) -> None:
    pieces = provider.pieces({})
    opening, (one, *rest) = pieces[: provider.opening], pieces[provider.opening :]
    started = [(0.0, piece) for piece in opening]
    provider.paced = [*started, *first, (0.0, one), (between, ""), *((0.0, piece) for piece in rest)]


async def test_a_claim_says_how_long_silence_is_normal(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        config = {**provider.config(), "first_token_timeout": 3, "next_token_timeout": 2}
        reasoning = [{"name": "m", "reasons": True}]
        own = [{"name": "m", "first_token_timeout": 1.5}]
        await mesh.worker("w-1", "openai", **config)
        await mesh.worker("w-2", "openai", **{**config, "models": reasoning})
        await mesh.worker("w-3", "openai", **{**config, "models": own})
        attempts = [await Attempt(mesh, name).ask() for name in ("w-1", "w-2", "w-3")]
    claimed = [attempt.of("claim")[0]["silence_ok_ms"] for attempt in attempts]
    assert claimed == [
        {"first_token": 3000, "next_token": 2000},
        {"first_token": 15000, "next_token": 10000},
        {"first_token": 1500, "next_token": 2000},
    ]


async def test_a_model_that_ollama_has_to_load_gets_time_for_it(mesh: SmallMesh) -> None:
    async with OllamaProvider() as provider:
        provider.loaded = []
        config = {**provider.config(), "local": False, "first_token_timeout": 60, "health_interval": 0.05}
        await mesh.worker("w-1", "ollama", **config)
        assert (await Attempt(mesh).ask()).of("claim")[0]["silence_ok_ms"]["first_token"] == 300_000
        provider.loaded = ["m:latest"]

        async def loaded() -> bool:
            claim: Json = (await Attempt(mesh).ask()).of("claim")[0]
            return bool(claim["silence_ok_ms"]["first_token"] == 60_000)

        await eventually(loaded)


async def test_what_a_model_was_slow_at_is_allowed_longer(mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "LEARNED", 100.0)
    async with OpenAIProvider() as provider:
        await mesh.worker("w-1", "openai", **{**provider.config(), "first_token_timeout": 10, "next_token_timeout": 10})
        paced(provider, (0.2, ""), between=0.2)
        first, second = [(await Attempt(mesh).ask()).of("claim")[0]["silence_ok_ms"] for _ in range(2)]
    assert first == {"first_token": 10_000, "next_token": 10_000}
    assert 10_000 < second["first_token"] <= 100_000  # some 20,000; a piece may be read late, and the next one in time
    assert 10_000 < second["next_token"] <= 100_000


async def test_keep_alives_are_progress_that_the_manager_hears_of(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TELL_EVERY", 0.05)
    async with OpenAIProvider() as provider:
        await mesh.worker("w-1", "openai", **{**provider.config(), "first_token_timeout": 4, "next_token_timeout": 60})
        paced(provider, (0.0, provider.role()), *([(0.5, provider.keep_alive)] * 9))
        attempt = await Attempt(mesh).ask()
    waited = [event for event in attempt.of("progress") if event["phase"] == "prefill"]
    moves = [event["moved"] for event in waited]
    assert len(set(moves)) >= 3, moves
    assert attempt.final["output"] == ANSWER
    assert attempt.final["ttft_ms"] > 4000  # the role was no token
    assert len(provider.received) == 1


@pytest.mark.parametrize("kind", sorted(PROVIDERS))
async def test_a_direct_question_waits_for_a_slow_provider_and_asks_it_once(mesh: SmallMesh, kind: str) -> None:
    async with PROVIDERS[kind]() as provider:
        told = {**provider.config(), "first_token_timeout": 30, "next_token_timeout": 20}
        await mesh.worker("w-1", kind, **told)
        paced(provider, (0.0, provider.role()), (0.5, ""), between=0.4)
        provider.failure = Failure(slow_headers=0.3)
        answer = await mesh.ask(f"infer.{kind}")
        assert (answer.get("output"), len(provider.received)) == (ANSWER, 1)


async def test_a_manager_that_asks_how_an_attempt_stands_is_told_the_claim_again(mesh: SmallMesh) -> None:
    """It may have been away when the claim came."""
    await mesh.worker("w-1", hang_after_tokens=0, first_token_timeout=30, next_token_timeout=20)
    asking = asyncio.create_task(Attempt(mesh).ask())
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    told: list[Json] = []
    with mesh.bus.listen(lambda message: told.append(from_json(message.data))) as inbox:
        body = {"op": "report", "request_id": "r-1", "attempt": 1, "inbox": inbox.subject}
        await mesh.bus.publish("worker.control.w-1", to_json(body))
        await eventually(lambda: len(told) == 2)
    await mesh.bus.publish("infer.cancel", b'{"task_id": "t-1"}')
    await asking
    assert [event["type"] for event in told] == ["claim", "progress"]
    assert told[0]["silence_ok_ms"] == {"first_token": 30_000, "next_token": 20_000}


async def test_a_worker_gives_up_after_exactly_what_it_claimed(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        await mesh.worker("w-1", "openai", **{**provider.config(), "first_token_timeout": 0.3})
        provider.failure = Failure(hang_after=0)
        attempt = await Attempt(mesh).ask()
        while not provider.received:  # on a busy machine it has not always heard of it by then
            attempt = await Attempt(mesh).ask()
        assert attempt.of("claim")[0]["silence_ok_ms"]["first_token"] == 300
        assert attempt.final["error"]["message"] == "the provider was silent for 0.3 s before its first token"
        await eventually(provider.closed.is_set)


async def test_half_an_answer_is_told_as_truncated(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        await mesh.worker("w-1", "openai", **provider.config())
        provider.failure = Failure(truncate=True)
        attempt = await Attempt(mesh).ask()
    assert attempt.final["outcome"] == "truncated"
    assert "truncated" not in attempt.final["error"]["message"]


async def test_a_draining_worker_says_so(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.bus.request("worker.control.w-1", b'{"op": "drain"}', timeout=20)
    assert (await Attempt(mesh).ask()).final["error"]["code"] == "draining"


# Through a Manager


IMPATIENT: dict[str, Any] = {"first_token_timeout": 0.3, "next_token_timeout": 0.3}
"""Seconds that the Manager would wait, if the workers did not say how long their silence is normal."""
SILENCE = 1.0


@pytest.mark.parametrize("kind", [OpenAIProvider, OllamaProvider])
async def test_a_slow_model_is_asked_once_and_answers(mesh: SmallMesh, kind: type[Provider]) -> None:
    """Silent before its first token and between tokens, while another worker could be asked instead."""
    async with kind() as slow, kind() as other:
        paced(slow, (SILENCE, ""), between=SILENCE)
        await mesh.worker("w-slow", slow.backend, **slow.config())
        await mesh.manager(**IMPATIENT, hedging={"share": 0.0})
        asking = asyncio.create_task(mesh.ask(timeout=20))
        await eventually(lambda: slow.received)
        await mesh.worker("w-other", other.backend, **other.config())
        answer = await asking
        assert (answer["output"], answer["worker_id"]) == (ANSWER, "w-slow")
        assert (len(slow.received), len(other.received)) == (1, 0)
        assert [attempt["outcome"] for attempt in answer["attempts"]] == ["ok"]


async def test_a_job_of_a_slow_model_is_done_once(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as slow:
        paced(slow, (SILENCE, ""), between=SILENCE)
        await mesh.worker("w-slow", slow.backend, **slow.config())
        await mesh.manager(**IMPATIENT)
        await streams_are_there(mesh)
        await submit(mesh, {"prompt": "hello", "task_id": "t-1"})
        kept = await results(mesh, "t-1")
        assert from_json(kept[0].data)["output"] == ANSWER
        assert len(slow.received) == 1
