"""LiteLLM as a library, over chat completions and Anthropic's messages."""

import base64
import json
from functools import partial
from typing import Any

import litellm
from scenarios import ADDRESS, KEY, PNG, SEES, TEXT, V1, Scenario, refused, run

litellm.suppress_debug_info = True
MESSAGES = [{"role": "user", "content": "What is the answer?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": PARAMETERS}}]
ROUTES = {"openai": V1, "anthropic": ADDRESS}
"""By what LiteLLM calls the provider: where the gateway speaks its dialect."""


async def ask(route: str, model: str = TEXT, **more: Any) -> Any:
    told = {
        "messages": MESSAGES,
        "api_base": ROUTES[route],
        "api_key": KEY,
        "num_retries": 0,
        "max_tokens": 200,
        **more,
    }
    return await litellm.acompletion(f"{route}/{model}", **told)


async def chat(route: str) -> None:
    answer = await ask(route, max_tokens=7)
    assert len(answer.choices[0].message.content.split()) == 7
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7


async def stream(route: str) -> None:
    whole = await ask(route)
    pieces = [piece async for piece in await ask(route, stream=True, stream_options={"include_usage": True})]
    told = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
    assert "".join(told) == whole.choices[0].message.content
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


async def tools(route: str) -> None:
    first = (await ask(route, tools=TOOLS)).choices[0].message
    call = first.tool_calls[0]
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    result = {"role": "tool", "tool_call_id": call.id, "content": "It rains."}
    last = await ask(route, messages=[*MESSAGES, first.model_dump(exclude_none=True), result], tools=TOOLS)
    assert last.choices[0].message.content


async def schema(route: str) -> None:
    wanted = {"name": "city", "schema": {**PARAMETERS, "additionalProperties": False}, "strict": True}
    answer = await ask(route, response_format={"type": "json_schema", "json_schema": wanted})
    assert isinstance(json.loads(answer.choices[0].message.content)["city"], str)


async def image(route: str) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    shown = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    assert (await ask(route, SEES, messages=shown)).choices[0].message.content
    error = await refused(ask(route, messages=shown))
    assert isinstance(error, litellm.BadRequestError), error
    assert "vision" in str(error)


async def errors(route: str) -> None:
    assert isinstance(await refused(ask(route, "nobody")), litellm.NotFoundError)
    assert isinstance(await refused(ask(route, api_key="bp-wrong")), litellm.AuthenticationError)


async def read(model: str, leaves: bool) -> None:
    pieces = await ask("openai", model, stream=True, max_tokens=None)
    async for piece in pieces:
        if leaves and piece.choices[0].delta.content:
            break
    await pieces.aclose()


DOES: dict[str, Scenario] = {
    f"{route} {does.__name__}": partial(does, route)
    for route in ROUTES
    for does in (chat, stream, tools, schema, image, errors)
}
run(DOES, read)
