"""Vectors through the whole mesh: routed, failed over, limited and booked as answers are."""

import asyncio
import json
from math import hypot
from typing import Any

import pytest

from bus import Message, NoResponders
from client import Bullpen
from contracts import AttemptRecord, BullpenError, ErrorCode, ResponseRecord
from contracts import subjects as s
from contracts.embedding import unpacked
from tests.backends.embedders import OpenAIEmbedder
from tests.fake_worker import Asked, FakeWorker, acting
from tests.ill_workers import DEAR, FREE, FREE_OF_CHARGE, Attempts
from tests.mesh import Json, SmallMesh
from tests.support import eventually

EMBEDDER: dict[str, Any] = {"name": "embedder", "capabilities": ["embed"]}
CHATTER: dict[str, Any] = {"name": "chatter", "capabilities": ["chat", "stream"]}


async def embed(mesh: SmallMesh, subject: str = s.EMBED_AUTO, **request: Any) -> Json:
    return await mesh.ask_raw(json.dumps({"input": ["one", "two", "one"], **request}).encode(), subject)


async def test_each_text_gets_a_vector_of_one_model(mesh: SmallMesh) -> None:
    await mesh.manager()
    await mesh.worker("w-1")
    answer = await embed(mesh, task_id="t-1")
    one, two, again = answer["embeddings"]
    assert one == again != two
    assert len(one) == 256
    assert hypot(*one) == pytest.approx(1.0)
    assert (answer["schema"], answer["task_id"], answer["model_id"]) == ("bullpen.embedding.v1", "t-1", "simulated")
    assert (answer["prompt_tokens"], answer["tokens_used"], answer["simulated"]) == (3, 3, True)
    assert [attempt["outcome"] for attempt in answer["attempts"]] == ["ok"]
    assert not {"output", "confidence", "finish_reason", "completion_tokens"} & answer.keys()


async def test_vectors_are_as_long_and_written_as_they_are_wanted(mesh: SmallMesh) -> None:
    await mesh.manager()
    await mesh.worker("w-1")
    plain = await embed(mesh, dimensions=3)
    short = await embed(mesh, dimensions=3, encoding_format="base64")
    assert [unpacked(vector) for vector in short["embeddings"]] == [pytest.approx(v) for v in plain["embeddings"]]
    assert [len(vector) for vector in plain["embeddings"]] == [3, 3, 3]
    bare = await mesh.ask_raw(b"one", s.EMBED_AUTO)
    assert len(bare["embeddings"]) == 1


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": [[1, 2]]}, "input.0"),
        ({"input": ["a"] * 2049}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"prompt": "a"}, "prompt"),
    ],
)
async def test_a_wrong_request_is_told_with_its_field(mesh: SmallMesh, wrong: Json, field: str) -> None:
    await mesh.manager()
    error = (await embed(mesh, **wrong))["error"]
    assert (error["code"], error["field"]) == ("invalid_request", field)


async def test_a_model_is_only_asked_for_what_it_can(mesh: SmallMesh) -> None:
    await mesh.manager()
    await mesh.worker("w-1", models=[CHATTER])
    error = (await embed(mesh))["error"]
    assert (error["code"], "cannot do embed" in error["message"]) == ("no_worker", True)
    with pytest.raises(NoResponders):
        await embed(mesh, "embed.simulated")
    await mesh.worker("w-2", models=[EMBEDDER])
    assert (await embed(mesh))["model_id"] == "embedder"
    for subject in ("embed.simulated", "infer.simulated") * 4:  # each goes to the one that can
        asked = embed(mesh, subject) if subject == "embed.simulated" else mesh.ask(subject)
        assert (await asked)["model_id"] == ("embedder" if subject == "embed.simulated" else "chatter")
    assert {(await mesh.ask())["model_id"] for _ in range(4)} == {"chatter"}


async def test_a_named_model_that_cannot_is_an_error_that_lists_those_that_can(mesh: SmallMesh) -> None:
    await mesh.manager()
    await mesh.worker("w-1", models=[CHATTER, EMBEDDER])
    error = (await embed(mesh, model="chatter"))["error"]
    assert (error["code"], error["field"], error["status"]) == ("no_such_model", "model", 404)
    assert error["message"] == "no worker serves chatter for embeddings; served are: embedder"
    error = (await mesh.ask(model="embedder"))["error"]
    assert error["message"] == "no worker serves embedder for chat; served are: chatter"


async def test_a_worker_asked_directly_takes_its_model_for_that_kind(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", models=[EMBEDDER, CHATTER])
    assert (await embed(mesh, "embed.simulated"))["model_id"] == "embedder"
    assert (await mesh.ask("infer.simulated"))["model_id"] == "chatter"


async def test_texts_are_read_each_for_itself(mesh: SmallMesh) -> None:
    """So many of them as are longer together than the context window; one that is too long alone is cut if wanted."""
    await mesh.manager()
    await mesh.worker("w-1", models=[{**EMBEDDER, "context_window": 100}])
    assert len((await embed(mesh, input=["word " * 50] * 20))["embeddings"]) == 20
    error = (await embed(mesh, input=["short", "word " * 100]))["error"]
    assert error["code"] == "context_length_exceeded"
    assert len((await embed(mesh, input="word " * 100, truncate=True))["embeddings"]) == 1


async def test_a_failure_is_followed_by_another_worker_and_booked(mesh: SmallMesh) -> None:
    attempts, requests = await Attempts.of(mesh), list[ResponseRecord]()
    await mesh.bus.subscribe_inline(s.TELEMETRY_RESPONSE, lambda message: requests.append(row_of(message)))
    await mesh.manager()
    await mesh.worker("w-1", error_rate=1.0, **FREE)
    await mesh.worker("w-2", **DEAR)
    answer = await embed(mesh, policy="cheapest", metadata={"tenant": "acme"})
    assert [a["outcome"] for a in answer["attempts"]] == ["failed", "ok"]
    first, second = await attempts.outcomes("failed", "ok")
    assert (first.kind, second.kind) == ("embed", "embed")
    assert (second.prompt_tokens, second.completion_tokens, second.confidence) == (3, 0, None)
    assert float(second.cost_usd or 0) == pytest.approx(3 * 400 / 1e6)
    await eventually(lambda: requests)
    booked = requests[0]
    assert (booked.kind, booked.status, booked.attempts, booked.prompt) == ("embed", "ok", 2, "one\ntwo\none")
    assert (booked.output, booked.confidence, booked.finish_reason) == (None, None, None)
    assert booked.metadata == {"tenant": "acme"}
    assert booked.cost_usd == second.cost_usd


def row_of(message: Message) -> ResponseRecord:
    return ResponseRecord.model_validate_json(message.data)


async def test_a_request_made_directly_is_booked_by_its_worker(mesh: SmallMesh) -> None:
    attempts = await Attempts.of(mesh)
    await mesh.worker("w-1")
    await embed(mesh, "embed.simulated")
    [row] = await attempts.outcomes("ok")
    assert (row.kind, row.prompt_tokens) == ("embed", 3)


async def test_what_a_worker_makes_up_is_no_answer(mesh: SmallMesh) -> None:
    attempts = await Attempts.of(mesh)

    async def lies(asked: Asked) -> None:
        await asked.answer("", tokens=0, embeddings=((1.0,), (2.0,)))

    async with FakeWorker(mesh.bus, "f-1", acting(lies), price=FREE_OF_CHARGE, able=("embed",), prefill=False):
        await mesh.worker("w-1", **DEAR)
        await mesh.manager()
        await mesh.knows("f-1")
        answer = await embed(mesh, policy="cheapest")
    assert (answer["worker_id"], len(answer["embeddings"])) == ("w-1", 3)
    first, _ = await attempts.outcomes("failed", "ok")
    assert first.error_message is not None
    assert "2 vectors for 3 texts" in first.error_message


async def test_a_worker_of_another_model_is_asked_only_when_none_was_named(mesh: SmallMesh) -> None:
    async def fails(asked: Asked) -> None:
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "no", fault="model"))

    ill = FakeWorker(
        mesh.bus, "f-1", acting(fails), price=FREE_OF_CHARGE, able=("embed",), prefill=False, model="other"
    )
    async with ill:
        await mesh.worker("w-1", models=[EMBEDDER], **DEAR)
        await mesh.manager()
        await mesh.knows("f-1")
        answer = await embed(mesh, policy="cheapest")
        assert [(a["model_id"], a["outcome"]) for a in answer["attempts"]] == [("other", "failed"), ("embedder", "ok")]
        assert answer["model_id"] == "embedder"
        error = await embed(mesh, model="other")
        assert error["error"]["code"] == "upstream_error"
        assert {attempt["model_id"] for attempt in error["attempts"]} == {"other"}


async def test_a_request_is_cancelled_by_its_name(mesh: SmallMesh) -> None:
    attempts = await Attempts.of(mesh)
    await mesh.manager()
    await mesh.worker("w-1", hang_after_tokens=0)
    asking = asyncio.create_task(embed(mesh, task_id="t-1"))
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    await mesh.bus.publish(s.INFER_CANCEL, b'{"task_id": "t-1"}')
    assert (await asking)["error"]["code"] == "cancelled"
    [row] = await attempts.outcomes("cancelled")
    assert row.kind == "embed"
    await eventually(lambda: mesh.beats["w-1"].inflight == 0)


@pytest.mark.usefixtures("patient_keys")
async def test_the_same_key_brings_the_same_vectors_once(mesh: SmallMesh) -> None:
    await mesh.manager()
    await mesh.worker("w-1")
    first, second = [await embed(mesh, idempotency_key="k") for _ in range(2)]
    assert (first["replayed"], second["replayed"]) == (False, True)
    assert first["embeddings"] == second["embeddings"]
    assert (await embed(mesh, idempotency_key="k", dimensions=2))["error"]["code"] == "conflict"


async def test_an_answer_that_is_too_large_says_so(mesh: SmallMesh) -> None:
    await mesh.manager()
    await mesh.worker("w-1")
    error = (await embed(mesh, input=["a", "b", "c", "d"] * 5, dimensions=65_536))["error"]
    assert error["code"] == "payload_too_large"


def kinds(rows: list[AttemptRecord]) -> set[str]:
    return {row.kind for row in rows}


async def test_answers_in_words_are_booked_as_such(mesh: SmallMesh) -> None:
    attempts = await Attempts.of(mesh)
    await mesh.manager()
    await mesh.worker("w-1")
    await mesh.ask()
    assert kinds(await attempts.outcomes("ok")) == {"infer"}


async def test_the_python_client_gets_numbers_or_base64(mesh: SmallMesh, bp: Bullpen) -> None:
    await mesh.manager()
    await mesh.worker("w-1")
    answer = await bp.embed(["one", "two"], dimensions=3, task_id="t-1")
    assert answer.task_id == "t-1"
    assert [len(vector) for vector in answer.embeddings] == [3, 3]
    assert answer.embeddings == answer.vectors
    short = await bp.embed("one", dimensions=3, encoding_format="base64")
    assert isinstance(short.embeddings[0], str)
    assert short.vectors == answer.vectors[:1]
    with pytest.raises(BullpenError, match=r"input\.0: is empty"):
        await bp.embed([""])
    with pytest.raises(BullpenError) as failed:
        await bp.embed("one", model="nobody")
    assert failed.value.code is ErrorCode.NO_SUCH_MODEL


async def test_a_client_that_leaves_stops_the_work(mesh: SmallMesh, bp: Bullpen) -> None:
    await mesh.manager()
    await mesh.worker("w-1", hang_after_tokens=0)
    asking = asyncio.create_task(bp.embed("one"))
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    asking.cancel()
    await eventually(lambda: mesh.beats["w-1"].inflight == 0)


@pytest.mark.usefixtures("patient_backends")
async def test_vectors_of_another_length_than_wanted_are_no_answer(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers ignore `dimensions`. Theirs has 2, whatever is asked for."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    async with OpenAIEmbedder() as provider:
        models = [{"name": "text-embedding-3-small", **FREE}]
        await mesh.worker("w-1", "openai", **provider.config() | {"models": models})
        await mesh.manager()
        assert len((await embed(mesh, dimensions=2))["embeddings"]) == 3
        error = (await embed(mesh, dimensions=3))["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "dimensions")
        await mesh.worker("w-2", **DEAR)
        for _ in range(8):  # the model is well all the while, and asked first each time
            answer = await embed(mesh, dimensions=3, policy="cheapest")
            assert [(a["worker_id"], a["outcome"]) for a in answer["attempts"]] == [("w-1", "refused"), ("w-2", "ok")]
            assert len(answer["embeddings"][0]) == 3
        assert (await embed(mesh, backend="openai"))["worker_id"] == "w-1"


@pytest.mark.usefixtures("patient_backends")
async def test_too_few_vectors_of_a_provider_are_followed_by_another_worker(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    attempts = await Attempts.of(mesh)
    async with OpenAIEmbedder() as provider:
        provider.reply = lambda _: provider.usual([[1.0, 0.0], [float("nan"), 1.0], [0.0, 1.0]])
        await mesh.worker("w-1", "openai", **provider.config())
        await mesh.manager()
        error = (await embed(mesh, backend="openai"))["error"]
        assert (error["code"], "not finite" in error["message"]) == ("upstream_error", True)
        provider.reply = lambda _: provider.usual([[1.0, 0.0]])
        error = (await embed(mesh, model="text-embedding-3-small"))["error"]
        assert "1 vectors for 3 texts" in error["message"]
        await attempts.outcomes("failed", "failed")
