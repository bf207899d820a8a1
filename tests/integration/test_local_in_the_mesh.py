"""A real model behind a Manager: long prompts are waited for, and it goes on where another worker stopped."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.mesh import SmallMesh
from tests.servers import NatsServer

pytest.importorskip("xllamacpp", reason="the wheel with llama.cpp is not installed")
pytestmark = pytest.mark.timeout(90)  # a real model on a busy machine

READ_SLOWLY = {"threads": 1, "max_concurrency": 2}


@pytest.fixture
async def mesh(nats: NatsServer) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats.url) as mesh:
        yield mesh


async def test_prompts_that_take_long_to_read_are_waited_for(mesh: SmallMesh) -> None:
    """Two at once, which are read one after the other: the second takes longer than the Manager waits in silence."""
    await mesh.worker("w-1", "local", **READ_SLOWLY)
    await mesh.manager(first_token_timeout=3.0)
    prompts = [f"{letter} " + "The dog went home. " * 90 for letter in "ab"]
    asking = (mesh.ask(prompt=prompt, max_tokens=2, timeout=60) for prompt in prompts)
    for answer in await asyncio.gather(*asking):
        assert [attempt["outcome"] for attempt in answer["attempts"]] == ["ok"]


async def test_it_goes_on_where_a_simulated_worker_stopped(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", tokens_per_second=100.0, output_tokens=40, hang_after_tokens=8)
    await mesh.manager(next_token_timeout=1.5)
    asking = asyncio.create_task(mesh.stream(prompt="Say something.", max_tokens=24))
    await mesh.worker("w-2", "local", **READ_SLOWLY)
    heard = [piece for piece in await asking if piece]
    [at] = [number for number, piece in enumerate(heard) if piece["type"] == "resumed"]
    begun, rest = ["".join(p.get("delta", "") for p in part) for part in (heard[:at], heard[at + 1 :])]
    assert (heard[at]["mode"], heard[at]["to"]) == ("continued", "w-2")
    assert 0 < len(begun.split()) <= 8  # fewer when loading the model kept the Manager, in this process, from hearing
    assert rest
    assert not rest.startswith(begun)
    assert heard[-1]["output"] == begun + rest
    assert heard[-1]["completion_tokens"] <= 24
