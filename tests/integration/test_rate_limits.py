"""Limits in a mesh: the rest goes to others, before anybody is refused; replicas share an account."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from pydantic_core import from_json

from bus import kv
from contracts import RouteDecision
from contracts import subjects as s
from tests.mesh import SERVER_BACK_WITHIN, Json, SmallMesh
from tests.servers import NatsServer
from tests.support import eventually
from workers.base.rate_limits import account

CHEAP: Json = {"models": [{"name": "m", "price": {"input_per_mtok": 0, "output_per_mtok": 0}}], "output_tokens": 10}
DEAR: Json = {"models": [{"name": "m", "price": {"input_per_mtok": 50, "output_per_mtok": 50}}], "output_tokens": 10}


@pytest.fixture(autouse=True)
def patient_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker waits for JetStream, however long that stands still, before it goes on with its part of an account."""
    monkeypatch.setattr(account, "WITHIN", SERVER_BACK_WITHIN)
    monkeypatch.setattr(kv, "API_TIMEOUT", SERVER_BACK_WITHIN)


async def many(mesh: SmallMesh, count: int, **request: Any) -> list[Json]:
    asking = (mesh.ask(prompt=f"question {number}", timeout=30, **request) for number in range(count))
    return list(await asyncio.gather(*asking))


async def test_a_limited_worker_gets_as_much_as_it_may_and_the_rest_flows_to_others(mesh: SmallMesh) -> None:
    """Preferred by its price, it would get everything."""
    decisions: list[RouteDecision] = []
    await mesh.bus.subscribe_inline(
        s.METRICS_ROUTE, lambda message: decisions.append(RouteDecision.model_validate_json(message.data))
    )
    await mesh.worker("w-limited", requests_per_minute=20, tokens_per_minute=100_000, **CHEAP)
    await mesh.worker("w-free", **DEAR)
    await mesh.manager()
    answers = await many(mesh, 100, policy="cheapest")
    assert all("output" in answer for answer in answers)
    assert Counter(answer["worker_id"] for answer in answers) == {"w-limited": 20, "w-free": 80}
    assert all(len(answer["attempts"]) == 1 for answer in answers), "nobody was sent there in vain"
    beat = await eventually(lambda: (b := mesh.beats["w-limited"]).rate and b.rate.rpm_left == 0 and b)
    assert (beat.rate.rpm_limit, beat.rate.tpm_limit) == (20, 100_000)

    def passed_over() -> set[str]:
        """Why it was: the Manager tells of its decisions beside the answers."""
        told = (one for decision in decisions for one in decision.candidates if one.worker_id == "w-limited")
        return {one.passed_over for one in told if one.passed_over}

    await eventually(lambda: passed_over() == {"its requests per minute are used up"})


async def test_a_limit_of_tokens_is_never_passed(mesh: SmallMesh) -> None:
    """Ten tokens are the answer, so that 10 000 would be 500 requests: with 100 reserved each, far fewer at once."""
    await mesh.worker("w-limited", tokens_per_minute=1000, **CHEAP)
    await mesh.worker("w-free", **DEAR)
    await mesh.manager()
    answers = await many(mesh, 200, policy="cheapest", max_tokens=100)
    assert all("output" in answer for answer in answers)
    used = sum(answer["tokens_used"] for answer in answers if answer["worker_id"] == "w-limited")
    assert 0 < used <= 1000


async def test_whoever_asks_a_limited_worker_directly_is_told_when_to_come_again(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", requests_per_minute=2)
    told = [await mesh.ask("infer.simulated") for _ in range(3)]
    assert ["error" in one for one in told] == [False, False, True]
    error = told[-1]["error"]
    assert (error["code"], error["status"], error["retryable"]) == ("rate_limited", 429, True)
    assert 30_000 < error["retry_after_ms"] <= 60_500
    assert "2 requests a minute" in error["message"]


async def test_a_manager_does_not_let_a_caller_wait_longer_than_it_wants(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", requests_per_minute=1)
    await mesh.manager()
    assert "output" in await mesh.ask()
    told = await mesh.ask(deadline_ms=1500)
    assert told["error"]["code"] in ("rate_limited", "deadline_exceeded")


async def test_a_request_that_never_fits_the_limit_goes_elsewhere_or_is_told_why(mesh: SmallMesh) -> None:
    await mesh.worker("w-small", tokens_per_minute=500, **CHEAP)
    await mesh.manager()
    told = await mesh.ask(max_tokens=5000, deadline_ms=20_000, timeout=30)
    assert "of 500 a minute" in told["error"]["message"]
    await mesh.worker("w-free", **DEAR)
    answer = await mesh.ask(max_tokens=5000)
    assert answer["worker_id"] == "w-free"


async def test_a_saved_limit_is_in_force_at_once(mesh: SmallMesh, tmp_path: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("requests_per_minute: 1\nheartbeat_interval: 0.2\n")
    await mesh.worker("w-1", file=file)
    assert "output" in await mesh.ask("infer.simulated")
    assert "error" in await mesh.ask("infer.simulated")
    file.write_text("requests_per_minute: 5\nheartbeat_interval: 0.2\n")
    await eventually(lambda: (rate := mesh.beats["w-1"].rate) and rate.rpm_limit == 5)
    told = [await mesh.ask("infer.simulated") for _ in range(5)]
    assert ["error" in one for one in told] == [False] * 4 + [True]


@pytest.mark.parametrize("replicas", [3])
async def test_replicas_share_an_account(mesh: SmallMesh, replicas: int) -> None:
    for number in range(replicas):
        await mesh.worker(f"w-{number}", requests_per_minute=30, account="main", **CHEAP)
    asking = (mesh.ask(s.infer_worker("simulated", f"w-{number % replicas}"), timeout=30) for number in range(90))
    answers = await asyncio.gather(*asking)
    assert sum("output" in answer for answer in answers) == 30
    assert {answer["error"]["code"] for answer in answers if "error" in answer} == {"rate_limited"}


async def test_a_dead_replica_s_use_is_not_forgotten(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", requests_per_minute=10, account="main")
    for _ in range(8):
        assert "output" in await mesh.ask(s.infer_worker("simulated", "w-1"))
    await mesh.stop("w-1")
    await mesh.worker("w-2", requests_per_minute=10, account="main")
    told = [await mesh.ask(s.infer_worker("simulated", "w-2")) for _ in range(3)]
    assert ["error" in one for one in told] == [False, False, True]


async def test_without_jetstream_each_goes_on_with_its_part(nats: NatsServer) -> None:
    """What it last knew: there are two."""
    async with SmallMesh(nats.url) as mesh:
        for name in ("w-1", "w-2"):
            await mesh.worker(name, requests_per_minute=20, account="main")
            await mesh.ask(s.infer_worker("simulated", name))
        await eventually(lambda: (rate := mesh.beats["w-1"].rate) and rate.rpm_left == 18)
        reply = await mesh.bus.request("$JS.API.STREAM.DELETE.KV_bullpen_limits", b"", timeout=SERVER_BACK_WITHIN)
        assert from_json(reply.data)["success"]
        told = [await mesh.ask(s.infer_worker("simulated", "w-1")) for _ in range(20)]
        answered = sum("output" in one for one in told)
        assert 0 < answered < 20
