"""OpenAI's Agents SDK, over responses and over chat completions."""

import base64
from functools import partial
from typing import Any

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel
from scenarios import KEY, PNG, SEES, TEXT, V1, Scenario, refused, run

set_tracing_disabled(True)
CLIENT = openai.AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0)
KINDS: dict[str, Any] = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}
QUESTION = "What is the answer?"


class City(BaseModel):
    name: str
    people: int


def agent(kind: str, model: str = TEXT, client: Any = CLIENT, **more: Any) -> Any:
    return Agent(name="bullpen", model=KINDS[kind](model, openai_client=client), **more)


async def chat(kind: str) -> None:
    settings = ModelSettings(temperature=0.5, max_tokens=100)
    result = await Runner.run(agent(kind, model_settings=settings, instructions="Be short."), QUESTION)
    assert len(result.final_output.split()) == result.context_wrapper.usage.output_tokens


async def stream(kind: str) -> None:
    whole = await Runner.run(agent(kind), QUESTION)
    result = Runner.run_streamed(agent(kind), QUESTION)
    deltas = [event.data.delta async for event in result.stream_events() if _is_text(event)]
    assert "".join(deltas) == result.final_output == whole.final_output


async def tools(kind: str) -> None:
    cities: list[str] = []

    @function_tool
    def weather(city: str) -> str:
        """Of a city."""
        cities.append(city)
        return "It rains."

    assert (await Runner.run(agent(kind, tools=[weather]), QUESTION)).final_output
    result = Runner.run_streamed(agent(kind, tools=[weather]), QUESTION)
    async for _ in result.stream_events():
        pass
    assert result.final_output
    assert len(cities) == 2


async def handoff(kind: str) -> None:
    other = agent(kind, handoff_description="Knows everything")
    other.name = "other"
    result = await Runner.run(agent(kind, handoffs=[other]), "Please transfer_to_other")
    assert result.last_agent.name == "other"


async def schema(kind: str) -> None:
    result = await Runner.run(agent(kind, output_type=City), QUESTION)
    assert isinstance(result.final_output, City)


async def image(kind: str) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    parts = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": url, "detail": "auto"}]
    asked: Any = [{"role": "user", "content": parts}]
    assert (await Runner.run(agent(kind, SEES), asked)).final_output
    assert isinstance(await refused(Runner.run(agent(kind), asked)), openai.BadRequestError)


async def errors(kind: str) -> None:
    assert isinstance(await refused(Runner.run(agent(kind, "nobody"), QUESTION)), openai.NotFoundError)
    wrong = CLIENT.with_options(api_key="bp-wrong")
    assert isinstance(await refused(Runner.run(agent(kind, client=wrong), QUESTION)), openai.AuthenticationError)


async def read(model: str, leaves: bool) -> None:
    result = Runner.run_streamed(agent("responses", model), QUESTION)
    async for event in result.stream_events():
        if leaves and _is_text(event):
            break
    result.cancel()


def _is_text(event: Any) -> bool:
    return event.type == "raw_response_event" and event.data.type == "response.output_text.delta"


DOES: dict[str, Scenario] = {
    f"{kind} {does.__name__}": partial(does, kind)
    for kind in KINDS
    for does in (chat, stream, tools, handoff, schema, image, errors)
}
run(DOES, read)
