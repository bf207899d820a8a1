"""API keys at the gateway: whose requests they make, what they may, and how quickly a revoked one is refused."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import aiohttp
import pytest

from config.loader import ConfigError
from contracts import ApiKey, KeyBudget, KeyUse, utc_now
from contracts import subjects as s
from contracts.keys import digest
from gateway.config import GatewayConfig
from gateway.gateway import run as run_gateway
from gateway.keys.office import KeyOffice
from tests.cli import bullpen
from tests.fake_worker import Asked, acting
from tests.gateway import PATIENT, AbleWorker, Door, door_of
from tests.mesh import SmallMesh
from tests.support import eventually

CHAT = "/v1/chat/completions"


@pytest.fixture
async def office(mesh: SmallMesh) -> KeyOffice:
    return await KeyOffice.open(mesh.bus)


@pytest.fixture
async def worker(mesh: SmallMesh) -> AsyncIterator[AbleWorker]:
    async def script(asked: Asked) -> None:
        await asked.answer("so be it", tokens=50)

    async with AbleWorker(mesh.bus, "fake-1", acting(script)) as worker:
        await eventually(lambda: "fake-1" in mesh.beats, timeout=PATIENT)
        yield worker


async def ask(door: Door, secret: str = "", header: str = "Authorization", **fields: Any) -> tuple[int, Any]:
    """The status, and the error's code or the whole answer."""
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], **fields}
    headers = {header: f"Bearer {secret}" if header == "Authorization" else secret} if secret else {}
    async with aiohttp.ClientSession() as session, session.post(door.url + CHAT, json=body, headers=headers) as answer:
        told = await answer.json()
        return answer.status, told["error"]["code"] if "error" in told else told


async def status(door: Door, secret: str = "", **options: Any) -> int:
    return (await ask(door, secret, **options))[0]


async def test_on_loopback_no_key_is_needed_until_there_is_one(
    mesh: SmallMesh, office: KeyOffice, worker: AbleWorker
) -> None:
    async with door_of(mesh) as door:
        assert await status(door) == 200
        _, secret = await office.create("acme")
        await eventually(lambda: _is(status(door), 401), timeout=PATIENT)
        assert await ask(door, "bp-wrong") == (401, "invalid_api_key")
        for header in ("Authorization", "x-api-key", "api-key"):
            assert await status(door, secret, header=header) == 200
        async with aiohttp.ClientSession() as session, session.get(door.url + "/v1/models") as answer:
            assert answer.status == 401
        async with aiohttp.ClientSession() as session, session.get(door.url + "/readyz") as answer:
            assert answer.status == 200


async def test_the_tenant_is_the_keys_whatever_the_body_says(
    mesh: SmallMesh, office: KeyOffice, worker: AbleWorker
) -> None:
    _, secret = await office.create("acme")
    async with door_of(mesh, keys="required") as door:
        assert await status(door, secret, metadata={"tenant": "somebody", "topic": "tea"}) == 200
    assert worker.asked[-1].body["metadata"] == {"tenant": "acme", "topic": "tea"}


async def test_a_revoked_key_is_refused_by_every_gateway(
    mesh: SmallMesh, office: KeyOffice, worker: AbleWorker
) -> None:
    key, secret = await office.create("acme")
    async with door_of(mesh, keys="required") as one, door_of(mesh, "g-2", keys="required") as two:
        assert [await status(one, secret), await status(two, secret)] == [200, 200]
        await office.revoke(key.key_id)
        for door in (one, two):
            await eventually(partial(_is_refused, door, secret), timeout=PATIENT)


async def test_a_key_ends_when_it_should(mesh: SmallMesh, office: KeyOffice, worker: AbleWorker) -> None:
    _, past = await office.create("acme", expires_at=utc_now() - timedelta(seconds=1))
    _, future = await office.create("acme", expires_at=utc_now() + timedelta(days=1))
    async with door_of(mesh, keys="required") as door:
        assert [await status(door, past), await status(door, future)] == [401, 200]


async def test_a_rotated_key_is_another_that_may_do_the_same(
    mesh: SmallMesh, office: KeyOffice, worker: AbleWorker
) -> None:
    old, secret = await office.create("acme", models=("fake",), rpm=1000, role="viewer")
    async with door_of(mesh, keys="required") as door:
        new, other = await office.rotate(old.key_id)
        assert (new.tenant, new.models, new.rpm, new.role) == ("acme", ("fake",), 1000, "viewer")
        await eventually(lambda: _is(status(door, other), 200), timeout=PATIENT)
        await eventually(lambda: _is(status(door, secret), 401), timeout=PATIENT)


async def test_a_key_opens_its_models_only(mesh: SmallMesh, office: KeyOffice, worker: AbleWorker) -> None:
    _, secret = await office.create("acme", models=("fa*",))
    async with door_of(mesh, keys="required") as door:
        assert await status(door, secret) == 200
        for other in ("auto", "nobody", "simulated:latest"):
            assert await ask(door, secret, model=other) == (403, "model_not_allowed")
        assert await status(door, secret, model="fake:latest") == 200
        headers = {"Authorization": f"Bearer {secret}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.get(door.url + "/v1/models") as answer:
            assert {model["id"] for model in (await answer.json())["data"]} == {"fake", "fake-alias"}
            async with session.get(door.url + "/v1/models/fa-none") as missing:
                assert (await missing.json())["error"]["message"].endswith("served are fake, fake-alias")
        _, tagged = await office.create("acme", models=("*:latest",))
        await eventually(lambda: _is(ask(door, tagged, model="fake:latest"), (403, "model_not_allowed")))


async def test_a_key_that_asked_too_much_has_to_wait(mesh: SmallMesh, office: KeyOffice, worker: AbleWorker) -> None:
    _, few = await office.create("acme", rpm=1)
    _, little = await office.create("acme", tpm=1)
    async with door_of(mesh, keys="required") as door:
        for secret in (few, little):
            assert await status(door, secret) == 200
            body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
            headers = {"Authorization": f"Bearer {secret}"}
            async with (
                aiohttp.ClientSession() as session,
                session.post(door.url + CHAT, json=body, headers=headers) as refused,
            ):
                assert refused.status == 429
                assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize("limit", [{"rpm": 10}, {"tpm": 500}])
async def test_what_a_key_uses_at_one_gateway_counts_at_the_other(
    mesh: SmallMesh, office: KeyOffice, worker: AbleWorker, limit: dict[str, int]
) -> None:
    _, secret = await office.create("acme", rpm=limit.get("rpm"), tpm=limit.get("tpm"))

    async def asked_until_refused(door: Door) -> int:
        for number in range(100):
            if await status(door, secret) == 429:
                return number
        raise AssertionError("the key was never refused")

    async with door_of(mesh, "g-1", keys="required") as one, door_of(mesh, "g-2", keys="required") as other:
        for door in (one, other):
            await eventually(partial(_lists, door, secret), timeout=PATIENT)
        told: Counter[str] = Counter()
        await mesh.bus.subscribe_inline(
            s.GATEWAY_KEY_USE, lambda message: told.update(KeyUse.model_validate_json(message.data).requests)
        )
        await mesh.bus.flush()
        at_one = await asked_until_refused(one)
        await eventually(lambda: told.total() >= at_one, timeout=PATIENT)
        assert await asked_until_refused(other) < at_one


async def test_the_budget_of_a_key_is_its_tenants(mesh: SmallMesh, office: KeyOffice) -> None:
    await mesh.worker("w-1", price={"input_per_mtok": 0, "output_per_mtok": 1_000_000}, output_tokens=1)
    _, rich = await office.create("rich", budget=KeyBudget(limit_usd=Decimal(1000), per="day"))
    _, poor = await office.create("poor", budget=KeyBudget(limit_usd=Decimal("0.5"), per="day"))
    async with door_of(mesh, keys="required") as door:
        fields: dict[str, Any] = {"model": "simulated", "max_tokens": 1}
        await eventually(lambda: _is(status(door, rich, **fields), 200), timeout=PATIENT)
        await eventually(lambda: _refused_for_money(ask(door, poor, **fields)), timeout=PATIENT)


async def test_beyond_loopback_nobody_is_let_in_without_keys(mesh: SmallMesh) -> None:
    config = GatewayConfig(listen="0.0.0.0:0")
    with pytest.raises(ConfigError, match="bullpen keys create"):
        await run_gateway(mesh.settings, config, gateway_id="g-1", stop=asyncio.Event(), pages=pytest.fail)
    async with door_of(mesh, listen="0.0.0.0:0", keys="off") as door:
        assert door.url.startswith("http://127.0.0.1:")


async def test_a_gateway_goes_on_with_the_keys_it_knows(mesh: SmallMesh, office: KeyOffice, worker: AbleWorker) -> None:
    """What cannot be read opens nothing, and closes nothing that is open."""
    _, secret = await office.create("acme")
    async with door_of(mesh, keys="required") as door:
        await mesh.bus.publish(f"$KV.{s.KEYS_BUCKET}.{digest('bp-forged')}", b"{}")
        await eventually(lambda: _is(status(door, secret), 200), timeout=PATIENT)
        assert await status(door, "bp-forged") == 401


async def test_the_command_makes_lists_and_ends_keys(nats_server: str) -> None:
    env = {"NATS_URL": nats_server}
    options = ("--budget", "5/day", "--rpm", "60", "--models", "gpt-*,auto", "--expires", "30d")
    made = (await bullpen("keys", "create", "--tenant", "acme", "--role", "viewer", *options, "--json", env=env)).json()
    assert made["budget"] == {"limit_usd": 5.0, "per": "day"}
    assert made["models"] == ["gpt-*", "auto"]
    assert made["role"] == "viewer"
    (listed,) = (await bullpen("keys", "list", "--json", env=env)).json()
    assert "secret" not in listed
    assert listed["key_id"] == made["key_id"]
    assert made["secret"] not in json.dumps(listed)
    assert (await bullpen("keys", "revoke", made["key_id"], env=env)).code == 0
    (listed,) = (await bullpen("keys", "list", "--json", env=env)).json()
    assert ApiKey.model_validate(listed).revoked_at is not None
    assert (await bullpen("keys", "revoke", "key-none", env=env)).code == 1
    assert (await bullpen("keys", "create", "--tenant", "acme", "--budget", "five", env=env)).code == 2


async def _lists(door: Door, secret: str) -> bool:
    headers = {"Authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(door.url + "/v1/models") as answer:
        return answer.status == 200


async def _is_refused(door: Door, secret: str) -> bool:
    return await status(door, secret) == 401


async def _is(asked: Any, wanted: Any) -> bool:
    return bool(await asked == wanted)


async def _refused_for_money(asked: Any) -> bool:
    return bool(await asked == (402, "budget_exceeded"))
