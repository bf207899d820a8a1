"""Providers that send what no honest one would. Nothing of it may crash a worker, fill its memory or falsify a bill."""

import asyncio
import copy
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from config.loader import ConfigError
from contracts import BullpenError, ErrorCode, InferenceRequest, Price, SilenceOk
from tests.backends.providers import PROVIDERS, Elsewhere, Failure, Json, Provider, configured, given_up
from tests.support import eventually
from workers.base import Backend, Delta, Done, Job, Usage
from workers.base.interface.discovery import discover
from workers.base.provider import connection
from workers.base.provider.streaming import patiently

CANARY = "sk-planted-canary"
MIB = 1 << 20
PRICE = Price(input_per_mtok=Decimal(1), cached_input_per_mtok=Decimal("0.1"), output_per_mtok=Decimal(2))
NOTHING = {
    "openai": ": nothing\n\n",
    "gemini": "data: {}\n\n",
    "anthropic": "event: ping\ndata: {}\n\n",
    "ollama": '{"message":{"role":"assistant","content":""},"done":false}\n',
}
BAD_ADDRESSES = ("http://[", "http://host:port", "http://127.0.0.1:0", "http://127.0.0.1:9")
NUMBERS = (-1, 1 << 70, 1e400, -1e400, float("nan"), True)
HOSTILE: tuple[Any, ...] = (None, *NUMBERS, "\0", "\ud800", [], [None], {}, {"a": [1]})


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROVIDERS:
        monkeypatch.setenv(f"{name.upper()}_API_KEY", CANARY)


@pytest.fixture(params=sorted(PROVIDERS))
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    async with PROVIDERS[request.param]() as provider:
        yield provider


@pytest.fixture
async def backend(provider: Provider) -> AsyncIterator[Backend[Any]]:
    backend = made(provider.backend, provider.config())
    await backend.start(lambda _: None)
    yield backend
    await backend.close()


def made(name: str, told: Json) -> Backend[Any]:
    cls = discover()[name].load()
    backend: Backend[Any] = cls(configured(cls.config_class, told))
    return backend


def job(backend: Backend[Any], max_tokens: int | None = 50, **asked: Any) -> Job:
    return Job(InferenceRequest(**{"prompt": "Who?", **asked}), backend.models()[0], max_tokens)


def rewrite(provider: Provider, edit: Callable[[int, Json], None], patch: pytest.MonkeyPatch) -> None:
    """Has `edit` change each message of the provider's answers, given its number, before it travels."""
    patch.setattr(provider, "pieces", lambda body: rewritten(type(provider).pieces(provider, body), edit))


def rewritten(pieces: list[str], edit: Callable[[int, Json], None]) -> list[str]:
    return [rewritten_one(number, piece, edit) for number, piece in enumerate(pieces)]


def rewritten_one(number: int, piece: str, edit: Callable[[int, Json], None]) -> str:
    start, end = piece.find("{"), piece.rfind("}") + 1
    if start < 0:
        return piece
    told = json.loads(piece[start:end])
    edit(number, told)
    return piece[:start] + json.dumps(told) + piece[end:]


def begun(told: Json) -> Json:
    """What a first message tells of the answer (Anthropic's does)."""
    message = told.get("message")
    return message if isinstance(message, dict) else {}


async def test_a_provider_that_never_answers_is_silent(provider: Provider, backend: Backend[Any]) -> None:
    provider.failure = Failure(mute=True)
    error = await given_up(provider, backend, job(backend))
    assert "silent for 0.5 s before its first token" in error.message
    await eventually(provider.closed.is_set)  # the stand-in would speak again after 30 s


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_neither_prompt_nor_key_follows_a_provider_that_leads_elsewhere(provider: Provider, status: int) -> None:
    """Also when it does so only later, and to a server that would answer."""
    backend = made(provider.backend, provider.config())
    await backend.start(lambda _: None)
    asked = job(backend)
    async with Elsewhere(provider.url, status) as elsewhere:
        told = json.dumps(provider.config()).replace(provider.url, elsewhere.url)
        moved = made(provider.backend, json.loads(told))
        with pytest.raises(BullpenError, match="neither prompt nor key is sent on") as caught:
            await moved.infer(asked)
        await moved.close()
    assert (caught.value.code, caught.value.fault) == (ErrorCode.UPSTREAM_ERROR, "worker")
    assert not provider.received
    await backend.close()


async def test_a_line_without_end_is_left(provider: Provider, backend: Backend[Any]) -> None:
    provider.failure = Failure(endless="data: " + "x" * (1 << 16))
    with pytest.raises(BullpenError, match="without end"):
        await backend.infer(job(backend))
    await eventually(provider.closed.is_set)
    assert provider.sent < connection.MAX_LINE + 16 * MIB  # what was under way in the sockets


async def test_an_answer_without_end_is_left(
    provider: Provider, backend: Backend[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_BODY", 1 << 17)
    provider.failure = Failure(endless=NOTHING[provider.backend] * 1000)
    with pytest.raises(BullpenError, match="without end"):
        await backend.infer(job(backend))
    await eventually(provider.closed.is_set)


async def test_an_answer_is_no_longer_than_asked_for(provider: Provider, backend: Backend[Any]) -> None:
    provider.failure = Failure(endless=provider.word() * 100)
    with pytest.raises(BullpenError, match="far more than was asked for"):
        await backend.infer(job(backend, max_tokens=1000))
    await eventually(provider.closed.is_set)


async def test_leaving_a_provider_that_is_faster_than_we_read(provider: Provider, backend: Backend[Any]) -> None:
    provider.failure = Failure(endless=provider.word() * 100)
    async with aclosing(backend.stream(job(backend, max_tokens=None))) as pieces:
        await anext(pieces)
        await eventually(lambda: provider.sent > MIB)
    await eventually(provider.closed.is_set)


async def test_no_question_goes_where_the_other_side_may_be_leaving(provider: Provider, backend: Backend[Any]) -> None:
    """llama.cpp and uvicorn close kept connections when they like; nothing would ask again."""
    if provider.backend == "ollama":
        pytest.skip("its server keeps what it says it keeps")
    for _ in range(3):
        await backend.infer(job(backend))
    assert len(provider.callers) == 3


async def test_a_stream_that_waits_for_us_is_closed_before_we_have_left() -> None:
    """Not sometime later, when somebody collects the garbage."""
    closed = False

    async def endless() -> AsyncIterator[int]:
        nonlocal closed
        try:
            while True:
                yield 1
        finally:
            closed = True

    stream = endless()  # held, so that no collector can help

    async def ask() -> AsyncIterator[int]:
        return stream

    async with aclosing(patiently(ask, lambda _: Delta("x"), SilenceOk(first_token=1000, next_token=1000))) as pieces:
        await anext(pieces)
    assert closed


async def test_nonsense_in_the_middle_ends_the_call_at_once(
    provider: Provider, backend: Backend[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some SDKs raise and leave the connection to the garbage collector: the provider writes on, and bills."""
    first, second, *_ = type(provider).pieces(provider, {})
    nonsense = rewritten_one(1, second, lambda _, told: told.update(dict.fromkeys(told, 7)))
    monkeypatch.setattr(provider, "pieces", lambda _: [first, nonsense, second])
    provider.failure = Failure(hang_after=2 - provider.opening)
    with pytest.raises(BullpenError, match="unusable") as caught:
        await backend.infer(job(backend))
    await eventually(provider.closed.is_set)
    assert caught.value.__cause__ is not None  # whoever holds the error holds the SDK's frames


async def says_it_is_compressed(_: web.Request, status: int) -> web.StreamResponse:
    return web.Response(status=status, body=b'{"error": "no"}', headers={"Content-Encoding": "gzip"})


async def resets(request: web.Request, status: int) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    assert request.transport is not None
    request.transport.abort()
    return response


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("does", [says_it_is_compressed, resets])
@pytest.mark.parametrize("name", sorted(PROVIDERS))
async def test_a_body_that_cannot_be_read_is_an_error_of_the_provider(
    name: str, does: Callable[[web.Request, int], Awaitable[web.StreamResponse]], status: int
) -> None:
    """Some SDKs let the errors of their HTTP client through, which nobody but a backend knows."""

    async def answer(_: Provider, request: web.Request) -> web.StreamResponse:
        await request.read()
        return await does(request, status)

    async with type("Unreadable", (PROVIDERS[name],), {"answer": answer})() as provider:
        backend = made(name, provider.config())
        try:
            await backend.start(lambda _: None)
            with pytest.raises(BullpenError) as caught:
                await backend.infer(job(backend))
        finally:
            await backend.close()
    assert (caught.value.code, caught.value.fault) == (ErrorCode.UPSTREAM_ERROR, "worker")


async def test_the_key_is_in_no_error(provider: Provider, backend: Backend[Any]) -> None:
    for status in (400, 401, 429, 500):
        for body in (provider.error(status).replace("no (", f"bad key {CANARY} ("), CANARY, f'["{CANARY}"]'):
            provider.failure = Failure(status=status, body=body)
            for asked in (backend.infer(job(backend)), backend.health()):
                with pytest.raises(BullpenError) as caught:
                    await asked
                assert CANARY not in str(caught.value)


async def test_an_error_in_the_middle_is_an_error(provider: Provider, backend: Backend[Any]) -> None:
    first = type(provider).pieces(provider, {})[0]
    start, end = first.find("{"), first.rfind("}") + 1
    provider.failure = Failure(garbage=first + first[:start] + provider.error(500) + first[end:])
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR
    assert caught.value.outcome is None


async def test_unreported_counts_are_unknown(
    provider: Provider, backend: Backend[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(_: int, told: Json) -> None:
        for name in ("usage", "usageMetadata", "eval_count", "prompt_eval_count"):
            told.pop(name, None)
            begun(told).pop(name, None)

    rewrite(provider, forget, monkeypatch)
    assert (await backend.infer(job(backend))).done.usage == Usage()


async def test_zeros_for_counts_are_no_counts(
    provider: Provider, backend: Backend[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteLLM's proxy does that, and every answer would be free."""

    def nothing(_: int, told: Json) -> None:
        for counts in (told, told.get("usage", {}), begun(told).get("usage", {}), told.get("usageMetadata", {})):
            counts.update({name: 0 for name in counts if "ount" in name or "tokens" in name})

    rewrite(provider, nothing, monkeypatch)
    used = (await backend.infer(job(backend))).done.usage
    assert (used.prompt_tokens, used.completion_tokens) == (None, None)


async def test_characters_that_others_choke_on(
    provider: Provider, backend: Backend[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.backends.providers.WORDS", ["nul \0 ", "half \ud83d", " ü"])
    text = (await backend.infer(job(backend))).text
    assert "nul \0 half" in text
    assert text.endswith(" ü")
    assert text.encode()  # half a character cannot be sent on


Path = tuple[Any, ...]
"""The way to something inside a message."""


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """The way to everything inside a message."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from leaves(child, (*path, key))


def shapes(pieces: list[str]) -> dict[frozenset[Path], int]:
    """The number of the first message of each shape: those that differ in their words alone are read alike."""
    found: dict[frozenset[Path], int] = {}

    def note(number: int, told: Json) -> None:
        found.setdefault(frozenset(leaves(told)), number)

    rewritten(pieces, note)
    return found


def put(value: Any, path: Path, what: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = copy.deepcopy(what)


@pytest.mark.timeout(240)  # some hundred answers, on a busy machine
@pytest.mark.filterwarnings("ignore")  # the SDKs warn about what they do not know
@pytest.mark.parametrize("tools", [False, True])
async def test_whatever_stands_in_an_answer_it_is_sound_or_an_error(
    provider: Provider, backend: Backend[Any], monkeypatch: pytest.MonkeyPatch, tools: bool
) -> None:
    """Every field of every kind of message of an answer, replaced by what should not be there."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    asked = job(backend, tools=(tool,) if tools else None)
    without = shapes(type(provider).pieces(provider, {"tools": False})) if tools else {}
    told = shapes(type(provider).pieces(provider, {"tools": tools}))
    seen = [(number, path) for shape, number in told.items() if shape not in without for path in shape]
    for number, path in sorted(seen, key=repr):
        for what in HOSTILE:
            rewrite(provider, lambda n, told: put(told, path, what) if n == number else None, monkeypatch)  # noqa: B023 — used at once
            await sound(backend, asked, f"message {number}, {path} = {what!r}")


async def sound(backend: Backend[Any], asked: Job, where: str) -> None:
    try:
        async with aclosing(backend.stream(asked)) as stream:
            pieces = [piece async for piece in stream]
    except BullpenError as error:
        known = (ErrorCode.UPSTREAM_ERROR, ErrorCode.MALFORMED_TOOL_CALL)
        assert error.code in known, f"{where}: {error}"
        return
    except Exception as error:
        raise AssertionError(f"{where}: {error!r}") from error
    for piece in pieces:
        if isinstance(piece, Delta):
            assert piece.text.encode() or not piece.text, where
            assert all(-1e6 <= value <= 0 for value in piece.logprobs), where
        else:
            assert isinstance(piece, Done)
            for count in dataclasses.astuple(piece.usage):
                assert count is None or (type(count) is int and 0 <= count < 1 << 32), where
            cost = piece.usage.cost(PRICE)
            assert cost is None or cost > 0, where
            assert json.dumps(piece.tool_calls, ensure_ascii=False).encode(), where


@pytest.mark.parametrize("name", sorted(PROVIDERS))
@pytest.mark.parametrize("url", BAD_ADDRESSES)
async def test_an_address_that_leads_nowhere(name: str, url: str) -> None:
    cls = discover()[name].load()
    told = await cls.available(configured(cls.config_class, {"host" if name == "ollama" else "base_url": url}))
    assert not told.available
    assert told.reason
    assert told.cure


@pytest.mark.parametrize("name", sorted(PROVIDERS))
async def test_a_server_that_takes_the_call_and_says_nothing_is_not_available(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{discover()[name].module}.QUICK", connection.QUICK)
    with socket.create_server(("127.0.0.1", 0)) as server:  # its backlog takes the call, and nobody reads it
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        cls = discover()[name].load()
        async with asyncio.timeout(30):  # 2 s is the promise; this machine may be busy
            told = await cls.available(configured(cls.config_class, {"host" if name == "ollama" else "base_url": url}))
    assert not told.available


@pytest.mark.parametrize("name", ["anthropic", "gemini", "openai"])
async def test_a_key_that_was_pasted_badly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", f"{CANARY}–")
    with pytest.raises(ConfigError) as caught:
        made(name, {})
    assert CANARY not in str(caught.value)
    cls = discover()[name].load()
    assert CANARY not in (await cls.available(configured(cls.config_class, {}))).reason


async def test_blanks_around_a_key_do_no_harm(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    if provider.backend == "ollama":
        pytest.skip("needs no key")
    monkeypatch.setenv(f"{provider.backend.upper()}_API_KEY", f" {CANARY}\n")
    backend = made(provider.backend, provider.config())
    await backend.start(lambda _: None)
    assert (await backend.infer(job(backend))).text
    await backend.close()
