"""Pydantic AI, over each of the doors that it has a model class for."""

from functools import partial
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelHTTPError, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from scenarios import ADDRESS, KEY, PNG, SEES, TEXT, V1, Scenario, refused, run

QUESTION = "What is the answer?"


class City(BaseModel):
    name: str
    people: int


def chat_model(name: str, key: str = KEY) -> Any:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=V1, api_key=key))


def responses_model(name: str, key: str = KEY) -> Any:
    return OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=V1, api_key=key))


def anthropic_model(name: str, key: str = KEY) -> Any:
    return AnthropicModel(name, provider=AnthropicProvider(base_url=ADDRESS, api_key=key))


KINDS = {"chat": chat_model, "responses": responses_model, "anthropic": anthropic_model}


async def chat(kind: str) -> None:
    result = await Agent(KINDS[kind](TEXT)).run(QUESTION, model_settings={"max_tokens": 17})
    assert len(result.output.split()) == 17
    assert result.usage.output_tokens == 17


async def stream(kind: str) -> None:
    agent = Agent(KINDS[kind](TEXT))
    whole = await agent.run(QUESTION)
    async with agent.run_stream(QUESTION) as result:
        pieces = [piece async for piece in result.stream_text(delta=True)]
    assert "".join(pieces) == whole.output


async def tools(kind: str) -> None:
    cities: list[str] = []
    agent = Agent(KINDS[kind](TEXT))

    @agent.tool_plain
    def weather(city: str) -> str:
        """Of a city."""
        cities.append(city)
        return "It rains."

    assert (await agent.run(QUESTION)).output
    assert len(cities) == 1


async def schema(kind: str) -> None:
    """As a tool that must be called, and as the form of the answer."""
    assert isinstance((await Agent(KINDS[kind](TEXT), output_type=City).run(QUESTION)).output, City)
    native: Any = NativeOutput(City)
    if kind != "anthropic":  # it has a list of the models that can, and ours is not there
        assert isinstance((await Agent(KINDS[kind](TEXT), output_type=native).run(QUESTION)).output, City)


async def image(kind: str) -> None:
    shown = [QUESTION, BinaryContent(PNG, media_type="image/png")]
    assert (await Agent(KINDS[kind](SEES)).run(shown)).output
    error = await refused(Agent(KINDS[kind](TEXT)).run(shown))
    assert isinstance(error, ModelHTTPError), error
    assert error.status_code == 400


async def errors(kind: str) -> None:
    unknown = await refused(Agent(KINDS[kind]("nobody")).run(QUESTION))
    assert isinstance(unknown, ModelHTTPError), unknown
    assert unknown.status_code == 404
    wrong = await refused(Agent(KINDS[kind](TEXT, "bp-wrong")).run(QUESTION))
    assert isinstance(wrong, ModelHTTPError), wrong
    assert wrong.status_code == 401


async def read(model: str, leaves: bool) -> None:
    async with Agent(chat_model(model)).run_stream(QUESTION) as result:
        async for piece in result.stream_text(delta=True):
            if leaves and piece:
                break


DOES: dict[str, Scenario] = {
    f"{kind} {does.__name__}": partial(does, kind)
    for kind in KINDS
    for does in (chat, stream, tools, schema, image, errors)
}
run(DOES, read)
