"""What a server is asked."""

from pathlib import Path
from typing import Any

import pytest

from contracts import ChatMessage, InferenceRequest
from tests.backends.ollama.stand_in import Scripted, Start, job
from tests.backends.providers import Json
from workers.base import Job

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


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


async def test_no_tools_are_sent_when_the_caller_forbids_calls(provider: Scripted, start: Start) -> None:
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


async def test_only_a_caller_s_own_temperature_hides_the_model_s(provider: Scripted, start: Start) -> None:
    backend = await start()
    await backend.infer(Job(InferenceRequest(prompt="Who?"), backend.models()[0], 50))
    assert "temperature" not in provider.received[-1]["options"]
