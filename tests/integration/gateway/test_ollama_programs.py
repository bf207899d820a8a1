"""Requests that Open WebUI, Home Assistant and Continue send to an Ollama server, and what they read of the answers.

Those programs are not installed here: each test asks as one of them does, and looks at what it looks at.
"""

import json
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import aiohttp
import pytest

from contracts import FinalResponse
from tests.fake_worker import Asked
from tests.gateway import PATIENT, AbleWorker, Door, final, played
from tests.mesh import SmallMesh

CALL = {"id": "call_1", "type": "function", "function": {"name": "light_on", "arguments": '{"room":"kitchen"}'}}
LIGHT_ON = {
    "type": "function",
    "function": {"name": "light_on", "parameters": {"type": "object", "properties": {"room": {"type": "string"}}}},
}

Json = dict[str, Any]


async def turns_the_light_on(asked: Asked) -> None:
    """A worker that calls the tool first, and then says that it is done."""
    await asked.claim()
    await asked.say(_done(asked) if asked.body["messages"][-1]["role"] == "tool" else _call(asked))


def _call(asked: Asked) -> FinalResponse:
    return final(asked, tool_calls=(CALL,), finish_reason="tool_calls")


def _done(asked: Asked) -> FinalResponse:
    return final(asked, output="The light is on.")


@pytest.fixture
async def door(mesh: SmallMesh) -> AsyncIterator[tuple[Door, AbleWorker]]:
    async with played(mesh, turns_the_light_on) as found:
        yield found


async def told(door: Door, path: str, body: Json | None = None) -> list[Json]:
    """Every line of a 200."""
    async with aiohttp.ClientSession() as session:
        method = "GET" if body is None else "POST"
        async with session.request(method, door.url + path, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return [json.loads(line) for line in (await answer.text()).splitlines()]


async def test_open_webui_asks_for_a_model_that_it_has_found(door: tuple[Door, AbleWorker]) -> None:
    gateway, worker = door
    (tags,), (ps,), (version,) = [await told(gateway, f"/api/{page}") for page in ("tags", "ps", "version")]
    assert all(part.isdecimal() for part in version["version"].split("."))
    found = {model["model"]: model for model in tags["models"]}
    ends = {model["name"]: datetime.fromisoformat(model["expires_at"]).timestamp() for model in ps["models"]}
    assert ends.keys() == {model["name"] for model in tags["models"]}

    for name in ("fake", "auto", "policy:cheapest"):
        asked = name if ":" in name else f"{name}:latest"  # as it does itself, and then looks the name up
        assert asked in found
        options = {"num_ctx": 8192, "temperature": 0.5, "num_predict": 100}
        messages: list[Json] = [
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": "Light!", "images": ["iVBORw0KGgo="]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"index": 0, "id": "call_7", "function": {"name": "light_on", "arguments": {"room": "kitchen"}}}
                ],
            },
            {"role": "tool", "content": "done", "tool_call_id": "call_7"},
        ]
        body = {"model": asked, "messages": messages, "options": options, "stream": True, "keep_alive": "5m"}
        pieces = await told(gateway, "/api/chat", {**body, "tools": [LIGHT_ON]})
        assert "".join(piece["message"]["content"] for piece in pieces) == "The light is on."
        usage = pieces[-1]
        assert usage["done"] is True
        assert (usage["prompt_eval_count"], usage["eval_count"], usage["load_duration"]) == (10, 2, 0)
        assert all(isinstance(usage[f"{part}_duration"], int) for part in ("total", "prompt_eval", "eval"))
        assert worker.asked[-1].body["messages"][-1]["tool_call_id"] == "call_7"

    (unloaded,) = await told(gateway, "/api/generate", {"model": "fake:latest", "keep_alive": 0, "prompt": ""})
    assert unloaded["done_reason"] == "unload"
    pulled = await told(gateway, "/api/pull", {"model": "fake:latest", "insecure": True})
    assert pulled == [{"status": "success"}]


async def test_home_assistant_has_a_light_switched_on(door: tuple[Door, AbleWorker]) -> None:
    """Its messages name neither the call nor the function that a result is of."""
    ollama = pytest.importorskip("ollama", reason="the ollama client is not installed")
    gateway, worker = door
    client = ollama.AsyncClient(host=gateway.url, timeout=PATIENT)
    try:
        names = {model["model"] for model in (await client.list()).get("models", [])}
        assert {"auto:latest", "fake:latest"} <= names
        history = [ollama.Message(role="system", content="Be brief."), ollama.Message(role="user", content="Light!")]
        said = ""
        while history[-1].role != "assistant":
            calls: list[Any] = []
            async for piece in await client.chat(
                model="fake:latest",
                messages=list(history),
                tools=[LIGHT_ON],
                stream=True,
                keep_alive=-1,
                options={"num_ctx": 8192},
                think=False,
                format=None,
            ):
                said += piece["message"].get("content") or ""
                calls += piece["message"].get("tool_calls") or ()
            made = [ollama.Message.ToolCall(function=call["function"]) for call in calls]
            history.append(ollama.Message(role="assistant", content=said, tool_calls=made or None))
            if calls:
                assert calls[0]["function"]["arguments"] == {"room": "kitchen"}
                history.append(ollama.Message(role="tool", content='{"data": "done"}'))
    finally:
        await client.close()
    assert said == "The light is on."
    _, call, result = worker.asked[-1].body["messages"][-3:]
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]


async def test_continue_reads_how_long_a_models_context_is_and_calls_tools_unstreamed(
    door: tuple[Door, AbleWorker],
) -> None:
    gateway, _ = door
    (tags,) = await told(gateway, "/api/tags")
    assert "fake:latest" in {model["name"] for model in tags["models"]}
    (shown,) = await told(gateway, "/api/show", {"name": "fake:latest"})
    parameters = [re.fullmatch(r"(\S+)\s+((?:\".*\")|\S+)", line) for line in shown["parameters"].split("\n")]
    assert {found[1]: found[2] for found in parameters if found} == {"num_ctx": "8192"}
    assert ".Suffix" not in shown["template"]
    body = {
        "model": "fake:latest",
        "messages": [{"role": "user", "content": "Light!"}],
        "options": {"num_ctx": 8192, "num_predict": 100, "stop": ["\n\n"], "num_thread": 4, "min_p": 0.1},
        "keep_alive": 1800,
        "stream": False,
        "tools": [LIGHT_ON],
    }
    (answer,) = await told(gateway, "/api/chat", body)
    assert answer["message"]["tool_calls"][0]["function"]["arguments"] == {"room": "kitchen"}
    pieces = await told(gateway, "/api/generate", {"model": "fake", "prompt": "Light!", "raw": False, "stream": True})
    assert pieces[-1]["done"] is True
