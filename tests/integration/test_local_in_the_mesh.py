"""A real model behind a Manager: long prompts are waited for, and it goes on where another worker stopped."""

import asyncio

import pytest

from tests.mesh import Json, SmallMesh

pytest.importorskip("xllamacpp", reason="the wheel with llama.cpp is not installed")
pytestmark = pytest.mark.timeout(280)  # a real model on a busy machine

READ_SLOWLY: Json = {"threads": 1, "max_concurrency": 2, "first_token_timeout": 240}
FREE, DEAR = ({"input_per_mtok": usd, "output_per_mtok": usd} for usd in (0, 90))
PATIENT: Json = {"claim_timeout": 60, "silent_after_beats": 300}
"""Of a Manager in the process that loads the model, and hears nothing meanwhile."""
LONG: Json = {"timeout": 240, "deadline_ms": 240_000}


async def test_prompts_that_take_long_to_read_are_waited_for(mesh: SmallMesh) -> None:
    """Two at once, which are read one after the other: the second takes longer than the Manager waits in silence."""
    await mesh.worker("w-1", "local", **READ_SLOWLY)
    await mesh.manager(first_token_timeout=0.5, **PATIENT)
    prompts = [f"{letter} " + "The dog went home. " * 40 for letter in "ab"]
    asking = (mesh.ask(prompt=prompt, max_tokens=2, **LONG) for prompt in prompts)
    for answer in await asyncio.gather(*asking):
        assert [attempt["outcome"] for attempt in answer["attempts"]] == ["ok"]


async def test_it_goes_on_where_a_simulated_worker_stopped(mesh: SmallMesh) -> None:
    stops: Json = {"output_tokens": 40, "hang_after_tokens": 8, "next_token_timeout": 6.0}
    await mesh.worker("w-1", tokens_per_second=100.0, price=FREE, **stops)
    model = {"name": "smollm2-135m", "context_window": 2048, "price": DEAR}
    await mesh.worker("w-2", "local", models=[model], **READ_SLOWLY)
    await mesh.manager(**PATIENT)
    asked: Json = {"prompt": "Say something.", "max_tokens": 24, "policy": "cheapest"}
    heard = [piece for piece in await mesh.stream(**asked, **LONG) if piece]
    [at] = [number for number, piece in enumerate(heard) if piece["type"] == "resumed"]
    begun, rest = ["".join(p.get("delta", "") for p in part) for part in (heard[:at], heard[at + 1 :])]
    assert (heard[at]["mode"], heard[at]["to"]) == ("continued", "w-2")
    assert 0 < len(begun.split()) <= 8
    assert rest
    assert not rest.startswith(begun)
    assert heard[-1]["output"] == begun + rest
    assert heard[-1]["completion_tokens"] <= 24


DIGITS = "7" * 6000
"""By its length 1,500 tokens; this model's tokenizer counts each digit, and its context window takes 2,048."""


async def test_a_prompt_that_turns_out_too_long_for_one_model_goes_to_a_larger_one(mesh: SmallMesh) -> None:
    large = {"name": "large", "context_window": 100_000, "price": DEAR}
    medium = {"name": "medium", "context_window": 4096, "price": {"input_per_mtok": 9, "output_per_mtok": 9}}
    small = {"name": "smollm2-135m", "context_window": 2048, "price": FREE}
    await mesh.worker("w-small", "local", models=[small], **READ_SLOWLY)
    await mesh.worker("w-large", models=[large])
    await mesh.worker("w-medium", models=[medium])
    await mesh.manager(**PATIENT)
    answer = await mesh.ask(prompt=DIGITS, policy="cheapest", backend="local", **LONG)
    assert (answer["error"]["code"], answer["error"]["field"]) == ("context_length_exceeded", "prompt")
    assert answer["error"]["prompt_tokens"] > 6000
    assert not answer["error"]["retryable"]
    answer = await mesh.ask(prompt=DIGITS, policy="cheapest", **LONG)
    tried = [(attempt["worker_id"], attempt["outcome"]) for attempt in answer["attempts"]]
    assert tried == [("w-small", "refused"), ("w-large", "ok")]
