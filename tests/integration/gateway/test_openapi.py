"""What the gateway says, against what `/openapi.json` says about it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from pydantic_core import from_json

from benchmarks.openapi import SETTINGS, run_words
from gateway.api.api import PREFIX as API
from gateway.api.api import ROUTES
from gateway.ollama_pages import ABOUT_ONE, READING
from gateway.openapi import document
from gateway.routes import MODELS, PAGES, QUESTIONS
from tests.gateway import Door, door_of
from tests.mesh import SmallMesh

DOCUMENT: Any = from_json(document())
HELLO = [{"role": "user", "content": "hello there"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO, "logprobs": True, "top_logprobs": 2},
    "/v1/completions": {"prompt": "hello there", "logprobs": 1},
    "/v1/responses": {"input": "hello there"},
    "/v1/messages": {"messages": HELLO, "model": "auto", "max_tokens": 10},
    "/v1/messages/count_tokens": {"messages": HELLO, "model": "auto"},
    "/api/chat": {"messages": HELLO, "model": "auto", "stream": False},
    "/api/generate": {"prompt": "hello there", "model": "auto", "stream": False},
    "/v1/embeddings": {"input": ["hello there", "hi"], "encoding_format": "base64"},
    "/api/embed": {"model": "auto", "input": "hello there"},
    "/api/embeddings": {"model": "auto", "prompt": "hello there"},
    "/api/show": {"model": "auto"},
    "/api/pull": {"name": "simulated:latest"},
}
"""What is asked at each path with POST."""
READ = [path for path, told in DOCUMENT["paths"].items() if "get" in told and not path.startswith(API)]
"""Without the live page's API, which has tests of its own."""


@pytest.fixture
async def door(mesh: SmallMesh) -> AsyncIterator[Door]:
    await mesh.worker("w-1", latency_ms={"fixed": 0}, output_tokens=4)
    async with door_of(mesh, unknown_model="auto") as door:
        yield door


def test_the_document_has_every_path_that_is_served() -> None:
    served = {*QUESTIONS, *ABOUT_ONE, *READING, *PAGES, MODELS, f"{MODELS}/{{id}}"}
    page = {f"{API}{route.path}" for route in ROUTES} | {f"{API}session"}
    assert set(DOCUMENT["paths"]) == served | page
    assert (
        {path for path, told in DOCUMENT["paths"].items() if "post" in told} - page
        == {*QUESTIONS, *ABOUT_ONE}
        == {*ASKED}
    )


def test_the_document_has_only_schemas() -> None:
    for place in _schemas(DOCUMENT):
        Draft202012Validator.check_schema(place)


async def test_every_address_may_be_too_long(door: Door) -> None:
    operations = [(path, at[way]) for path, at in DOCUMENT["paths"].items() for way in at.keys() - {"parameters"}]
    assert [path for path, operation in operations if not operation["responses"].keys() >= {"414", "431"}] == []
    for path, operation in operations[:1]:
        assert await _status(door, f"{path}?q={'y' * 5000}", operation) == 414


async def test_questions_answers_and_errors_are_as_documented(door: Door) -> None:
    for path, asked in ASKED.items():
        operation = DOCUMENT["paths"][path]["post"]
        _check(operation["requestBody"]["content"]["application/json"]["schema"], asked)
        assert await _status(door, path, operation, json=asked) == 200
        assert await _status(door, path, operation, json=dict.fromkeys(asked, 5)) == 400
        assert await _status(door, path, operation, data=b"no JSON") == 400
        assert await _status(door, path, operation, json=asked, headers={"Origin": "https://evil.example"}) == 403
        if "stream" in operation["requestBody"]["content"]["application/json"]["schema"]["properties"]:
            assert await _status(door, path, operation, json={**asked, "stream": True}) == 200


async def test_pages_are_as_documented(door: Door, mesh: SmallMesh) -> None:
    for path in READ:
        operation = DOCUMENT["paths"][path]["get"]
        assert await _status(door, path.replace("{id}", "simulated"), operation, "GET") == 200
        if "{id}" in path:
            async with door_of(mesh, "g-2") as strict:  # the other one takes every name for `auto`
                assert await _status(strict, path.replace("{id}", "nobody"), operation, "GET") == 404


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="is not installed: see `python -m benchmarks openapi`")
@pytest.mark.timeout(300)
async def test_a_suite_of_others_finds_nothing(door: Door, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS, encoding="utf-8")
    command = [sys.executable, "-m", "schemathesis.cli", *run_words(door.url, cases=5, seed=1)]
    done = await asyncio.to_thread(subprocess.run, command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]


async def _status(door: Door, path: str, operation: Any, method: str = "POST", **asked: Any) -> int:
    """Of an answer that is as the operation says."""
    async with aiohttp.ClientSession() as session, session.request(method, door.url + path, **asked) as answer:
        told = await answer.text()
        content = operation["responses"][str(answer.status)]["content"]
        assert answer.content_type in content
        if answer.content_type == "application/json":
            _check(content[answer.content_type]["schema"], from_json(told))
        return answer.status


def _check(schema: Any, told: Any) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(told)


def _schemas(told: Any) -> list[Any]:
    if isinstance(told, list):
        return [found for one in told for found in _schemas(one)]
    if not isinstance(told, dict):
        return []
    own = [value for name, value in told.items() if name == "schema" and isinstance(value, dict)]
    return own + [found for value in told.values() for found in _schemas(value)]
