"""LangChain's `ChatOpenAI`: what its own suite (langchain_suite.py) does not try."""

import base64
from typing import Any

import openai
from langchain_openai import ChatOpenAI
from scenarios import KEY, PNG, SEES, TEXT, V1, Scenario, refused, run

QUESTION = "What is the answer?"


def model(name: str = TEXT, key: str = KEY, **more: Any) -> Any:
    return ChatOpenAI(model=name, base_url=V1, api_key=key, max_retries=0, **more)


async def image() -> None:
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    shown = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    assert (await model(SEES).ainvoke(shown)).content
    assert isinstance(await refused(model().ainvoke(shown)), openai.BadRequestError)


async def errors() -> None:
    assert isinstance(await refused(model("nobody").ainvoke(QUESTION)), openai.NotFoundError)
    assert isinstance(await refused(model(key="bp-wrong").ainvoke(QUESTION)), openai.AuthenticationError)


async def read(name: str, leaves: bool) -> None:
    stream = model(name).astream(QUESTION)
    async for piece in stream:
        if leaves and piece.content:
            break
    await stream.aclose()


DOES: dict[str, Scenario] = {"image": image, "errors": errors}
run(DOES, read)
