"""What llama.cpp itself says of the worker around it: places are freed, windows are true, nobody else gets in."""

import asyncio
import json
import struct
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import pytest_asyncio
from pydantic import ValidationError

from contracts import BullpenError, EmbeddingRequest, ErrorCode, InferenceRequest, Resources
from tests.support import eventually
from workers.base import Backend, Delta, Done, EmbeddingJob, Job, ModelConfig
from workers.base.interface.discovery import discover
from workers.local.inspection import Inspection

xllamacpp = pytest.importorskip("xllamacpp", reason="the wheel with llama.cpp is not installed")
from workers.local import backend as backend_module  # noqa: E402 — needs the wheel
from workers.local.backend import _file_of  # noqa: E402 — skipped where llama.cpp is missing

pytestmark = [pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

FOLDER = discover()["local"]
LONG = "word " * 1500


def made(**told: Any) -> Backend[Any]:
    """On one thread: llama.cpp's spin while they wait, and other tests run on the same processors."""
    return FOLDER.load()(FOLDER.config().model_copy(update={"threads": 1, **told}))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local() -> AsyncIterator[Backend[Any]]:
    backend = made()
    await backend.start(lambda _: None)
    yield backend
    await backend.close()


def job(backend: Backend[Any], prompt: str = "What is the capital of France?", prefix: str = "", **asked: Any) -> Job:
    request = InferenceRequest(**{"prompt": prompt, "temperature": 0.0, **asked})
    return Job(request, backend.models()[0], request.max_tokens or 32, prefix)


def slots(backend: Backend[Any], key: str | None = None) -> list[dict[str, Any]]:
    """What llama.cpp says of its places, over its own HTTP port."""
    inside: Any = backend
    ask = Request(
        f"{inside._server.listening_address}/slots", headers={"Authorization": f"Bearer {key or inside._key}"}
    )
    with build_opener(ProxyHandler({})).open(ask, timeout=60) as told:
        found: list[dict[str, Any]] = json.load(told)
    return found


async def busy(backend: Backend[Any]) -> int:
    return sum(slot["is_processing"] for slot in await asyncio.to_thread(slots, backend))


@pytest.mark.parametrize("prompt", ["Tell me a very long story.", LONG], ids=["writing", "reading"])
async def test_leaving_frees_the_place_long_before_the_answer_would_have_ended(
    local: Backend[Any], prompt: str
) -> None:
    """Whether it writes already or still reads the prompt."""
    asking = asyncio.create_task(local.infer(job(local, prompt, max_tokens=400)))
    await eventually(lambda: busy(local), timeout=40)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: _free(local), timeout=40)
    assert 0 < await _held(local) < 400


async def _free(backend: Backend[Any]) -> bool:
    return not await busy(backend)


async def _held(backend: Backend[Any]) -> int:
    """Tokens that the place asked last holds, read and written."""
    asked = [slot for slot in await asyncio.to_thread(slots, backend) if "id_task" in slot]
    held: int = max(asked, key=lambda slot: int(slot["id_task"]))["n_prompt_tokens"]
    return held


def _is_sign(piece: Delta | Done) -> bool:
    """Of progress, without a word."""
    return isinstance(piece, Delta) and (piece.text, piece.tokens) == ("", 0)


async def test_reading_a_long_prompt_shows_that_it_moves(local: Backend[Any]) -> None:
    """Long before the first token: the Manager would give up on a worker that shows nothing for so long."""
    pieces = [piece async for piece in local.stream(job(local, "The dog went home. " * 128, max_tokens=4))]
    signs = list(takewhile(_is_sign, pieces))
    assert len(signs) >= 640 // 64
    assert not any(map(_is_sign, pieces[len(signs) :]))
    assert len(pieces) > len(signs) + 1


async def test_a_prompt_that_waits_for_another_shows_that_something_moves(
    local: Backend[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are read one after the other."""
    monkeypatch.setattr("workers.local.backend.TURN", 0.01)

    async def signs(prompt: str) -> int:
        pieces = [piece async for piece in local.stream(job(local, prompt, max_tokens=1))]
        return sum(map(_is_sign, pieces))

    alone = await signs("one " * 384)
    together = await asyncio.gather(signs("two " * 384), signs("three " * 384))
    assert max(together) >= alone + 3


async def test_a_conversation_shows_no_sign_of_life_when_no_other_moves(
    local: Backend[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.local.backend.TURN", 0.01)
    release = threading.Event()
    monkeypatch.setattr(local, "_compute", lambda body, on_piece: release.wait(20))
    async with aclosing(local.stream(job(local))) as pieces:
        first = asyncio.ensure_future(anext(pieces, None))
        assert not (await asyncio.wait({first}, timeout=0.2))[0]
        release.set()
        assert await first is None


TURNS = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"


@pytest.mark.parametrize(
    ("opening", "able"),
    [("", True), ("<think>\n\n</think>\n\n", True), ("<think>\n", False)],
    ids=["answers", "need not think", "always thinks"],
)
async def test_a_model_that_would_take_an_answer_for_its_thoughts_does_not_go_on(opening: str, able: bool) -> None:
    template = f"{TURNS}{{% if add_generation_prompt %}}{{{{'<|im_start|>assistant\n{opening}'}}}}{{% endif %}}"

    def goes_on() -> bool:
        server = xllamacpp.Server(small(template))
        inside = Inspection(server.listening_address, "")
        assert inside.window()  # answered by the loop: letting go of a server before that runs would hang for ever
        return inside.goes_on()

    assert await asyncio.to_thread(goes_on) is able


def small(template: str) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(_file_of(FOLDER.config().models[0]))
    params.chat_template = template
    params.n_parallel, params.n_ctx, params.verbosity = 1, 256, -1
    params.cpuparams.n_threads = 1
    params.warmup = params.fit_params = False
    return params


async def test_every_place_has_the_window_that_the_card_promises(local: Backend[Any]) -> None:
    promised = local.models()[0].context_window
    assert {slot["n_ctx"] for slot in await asyncio.to_thread(slots, local)} == {promised}


async def test_a_window_is_never_more_than_the_model_was_trained_for() -> None:
    model = FOLDER.config().models[0].model_copy(update={"context_window": 16384})
    backend = made(models=(model,), max_concurrency=1)
    await backend.start(lambda _: None)
    try:
        assert backend.models()[0].context_window == 8192
    finally:
        await backend.close()


async def test_its_http_port_is_on_loopback_and_closed_to_everybody(local: Backend[Any]) -> None:
    inside: Any = local
    assert inside._server.listening_address.startswith("http://127.0.0.1:")
    with pytest.raises(HTTPError) as refused:
        await asyncio.to_thread(slots, local, "guess")
    refused.value.close()
    assert refused.value.code == 401


async def test_a_conversation_that_ends_with_the_start_of_an_answer_can_be_continued(local: Backend[Any]) -> None:
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of"},
    ]
    request = InferenceRequest.model_validate_json(json.dumps({"messages": messages, "temperature": 0.0}))
    answer = await local.infer(Job(request, local.models()[0], 16, " France is"))
    assert answer.text.strip().startswith("Paris")


async def test_the_same_seed_gets_the_same_answer(local: Backend[Any]) -> None:
    asked = job(local, "Tell me something.", temperature=1.5, seed=-7)
    first, second = [(await local.infer(asked)).text for _ in range(2)]
    assert first == second


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"stop": ""}, None),
        ({"stop": ("\0", "x" * 5000)}, None),
        ({"seed": 2**63 - 1, "temperature": 2.0, "top_p": 1e-300}, None),
        ({"prompt": "\ud7ff\U0010ffff\u202e"}, None),
        ({"context": {"system": " "}}, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}}},
            ErrorCode.INVALID_REQUEST,
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "array", "minItems": 10**6}},
                }
            },
            ErrorCode.INVALID_REQUEST,
        ),
    ],
)
async def test_odd_wishes_are_answered_or_refused(
    local: Backend[Any], asked: dict[str, Any], code: ErrorCode | None
) -> None:
    try:
        answer = await local.infer(job(local, **{"max_tokens": 4, **asked}))
    except BullpenError as error:
        assert error.code is code
        assert error.fault == "request", "no other worker, and no breaker, has to do with it"
    else:
        assert code is None
        assert answer.text
    await local.health()


def gguf(path: Path, told: dict[str, str | int]) -> Path:
    """A file with these words of its own and no weights."""
    body = b"GGUF" + struct.pack("<IQQ", 3, 0, len(told))
    for key, value in told.items():
        body += struct.pack("<Q", len(key)) + key.encode()
        text = str(value).encode()
        body += struct.pack("<IQ", 8, len(text)) + text if isinstance(value, str) else struct.pack("<II", 4, value)
    path.write_bytes(body)
    return path


@pytest.mark.parametrize(
    "told",
    [
        {"general.architecture": "nomic-bert"},
        {"general.architecture": "qwen3", "qwen3.pooling_type": 3},
        {"general.architecture": "t5encoder"},
    ],
)
async def test_a_file_of_a_model_that_only_embeds_is_not_served(tmp_path: Path, told: dict[str, str | int]) -> None:
    file = gguf(tmp_path / "m.gguf", told)
    backend = made(models=(ModelConfig(name="m", options={"path": str(file)}),))
    with pytest.raises(BullpenError, match="cannot chat"):
        await backend.start(lambda _: None)
    await backend.close()


async def test_it_is_not_well_when_nothing_moves() -> None:
    backend = made(next_token_timeout=0.01)
    with pytest.raises(BullpenError, match="not loaded"):
        await backend.health()
    await backend.start(lambda _: None)
    await backend.health()
    async with aclosing(backend.stream(job(backend, LONG))) as pieces:
        reading = asyncio.ensure_future(anext(pieces))
        await eventually(lambda: _unwell(backend))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await eventually(lambda: _well(backend))
    await backend.close()


async def _well(backend: Backend[Any]) -> bool:
    with suppress(BullpenError):
        await backend.health()
        return True
    return False


async def _unwell(backend: Backend[Any]) -> bool:
    try:
        await backend.health()
    except BullpenError as error:
        return "none moved" in error.message
    return False


@pytest.mark.parametrize("after", [0, 0.1])
async def test_it_can_be_closed_while_it_starts(after: float) -> None:
    """llama.cpp hangs for ever, and the process with it, when it is let go before it runs."""
    threads = set(threading.enumerate())
    backend = made()
    starting = asyncio.create_task(backend.start(lambda _: None))
    await asyncio.wait({starting}, timeout=after)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await backend.close()
    await eventually(lambda: not [t for t in set(threading.enumerate()) - threads if t.name.startswith("llama")])


async def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    file = tmp_path / "poem.gguf"
    file.write_text("Roses are red")
    model = FOLDER.config().models[0].model_copy(update={"options": {"path": str(file)}})
    backend = made(models=(model,))
    with pytest.raises(BullpenError, match=r"poem\.gguf"):
        await backend.start(lambda _: None)
    await backend.close()


async def test_it_does_not_claim_what_it_cannot_do() -> None:
    with pytest.raises(ValidationError, match="cannot do tools, vision yet"):
        FOLDER.load().config_class.model_validate(
            {"models": [{"name": "m", "capabilities": ["chat", "vision", "tools"]}]}
        )


async def test_a_model_that_is_loaded_to_embed_gives_vectors() -> None:
    model = ModelConfig(name="smollm2-135m", context_window=64, capabilities=("embed",))
    backend = made(models=(model,), max_concurrency=1)
    await backend.start(lambda _: None)
    try:
        [card] = backend.models()
        assert (card.capabilities, card.context_window) == (("embed",), 64)
        request = EmbeddingRequest(input=("the king rules", "a king reigns", "bread with butter"))
        told = await backend.vectors(EmbeddingJob(request, card))
        first, second, third = told.vectors
        assert near(first, first) == pytest.approx(1.0, abs=1e-3)
        assert near(first, second) > near(first, third)
        assert told.prompt_tokens is not None
        assert told.prompt_tokens >= 9
        with pytest.raises(BullpenError) as long:
            await backend.vectors(EmbeddingJob(EmbeddingRequest(input=LONG), card))
        assert long.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
        assert (long.value.prompt_tokens or 0) > 1000
    finally:
        await backend.close()


def near(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_a_model_is_loaded_to_chat_or_to_embed() -> None:
    with pytest.raises(ValidationError, match="start a worker for each"):
        FOLDER.load().config_class(models=({"name": "m", "capabilities": ("chat", "embed")},))


async def test_processors_are_shared_out_over_all_local_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "ResourceMeter", lambda: SimpleNamespace(read=lambda: Resources(cpu_limit=8)))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    share = backend_module._share_of_processors
    monkeypatch.delenv(backend_module.SIBLINGS, raising=False)
    assert (share(1), share(2)) == (8, 4)
    monkeypatch.setenv(backend_module.SIBLINGS, "3")
    assert (share(1), share(2)) == (2, 2), "two of one config, and one that was added"
    monkeypatch.setenv(backend_module.SIBLINGS, "100")
    assert share(1) == 1
