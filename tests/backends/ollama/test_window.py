"""The window of a model: what the server really gives."""

import pytest

from tests.backends.ollama.stand_in import Scripted, Start, job
from tests.backends.providers import Json


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
async def test_the_window_is_read_from_the_server_when_the_config_has_none(
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
