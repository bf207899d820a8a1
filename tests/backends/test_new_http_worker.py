"""`bullpen new-worker --http`: as it is made, it asks a server of OpenAI's chat API, with all that backends share."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bullpen.cli import app
from contracts import BullpenError, ErrorCode, InferenceRequest
from tests.backends import test_folders as conformance
from tests.backends.providers import WORDS, Failure, OpenAIProvider
from tests.support import eventually
from workers.base import Backend, Done, Job
from workers.base.interface.discovery import BackendFolder, find

Made = tuple[Backend[Any], OpenAIProvider]


@pytest.fixture
def folder(tmp_path: Path) -> BackendFolder:
    result = CliRunner().invoke(app, ["new-worker", "acme", "--http", "--path", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "ACME_URL=" in result.output
    return find(str(tmp_path / "acme"))


@pytest.fixture
async def made(folder: BackendFolder, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Made]:
    async with OpenAIProvider() as provider:
        monkeypatch.setenv("ACME_URL", provider.url)
        monkeypatch.setenv("ACME_API_KEY", "sk-canary")
        backend = folder.load()(folder.config())
        await backend.start(lambda _: None)
        yield backend, provider
        await backend.close()


def job(backend: Backend[Any], prompt: str = "What is the capital of France?") -> Job:
    return Job(InferenceRequest(prompt=prompt), backend.models()[0], 50)


async def test_it_is_complete_and_bears_its_name(folder: BackendFolder) -> None:
    conformance.test_the_folder_is_complete(folder)
    conformance.test_the_report_card_is_filled_in(folder)
    conformance.test_what_a_model_claims_the_report_card_confirms(folder)
    await conformance.test_it_says_whether_it_can_run_here(folder)
    texts = [file.read_text() for file in folder.path.iterdir() if file.is_file()]
    assert not any("new_worker" in text.lower() or "NewWorker" in text for text in texts)


async def test_it_says_what_it_needs(folder: BackendFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_URL", raising=False)
    assert "ACME_URL" in (await folder.available()).cure
    monkeypatch.setenv("ACME_URL", "not an address")
    assert "ACME_URL" in (await folder.available()).cure


async def test_it_answers_with_the_provider_s_counts(made: Made) -> None:
    backend, provider = made
    answer = await backend.infer(job(backend))
    assert (answer.text, answer.done) == ("".join(WORDS), Done("stop", 7, 4))
    assert "temperature" not in provider.received[-1]
    await backend.health()


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, ErrorCode.INVALID_REQUEST), (401, ErrorCode.UPSTREAM_AUTH), (429, ErrorCode.RATE_LIMITED)],
)
async def test_a_refusal_is_what_it_says_and_shows_no_key(made: Made, status: int, code: ErrorCode) -> None:
    backend, provider = made
    provider.failure = Failure(status=status, body='{"error": {"message": "bad key sk-canary"}}')
    for asked in (backend.infer(job(backend)), backend.health()):
        with pytest.raises(BullpenError) as caught:
            await asked
        assert caught.value.code is code
        assert "sk-canary" not in str(caught.value)


@pytest.mark.parametrize("garbage", ["data: {nonsense\n\n", "data: {}\n\n", "data: []\n\n", "<html>no</html>"])
async def test_nonsense_is_an_error(made: Made, garbage: str) -> None:
    backend, provider = made
    provider.failure = Failure(garbage=garbage)
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR


async def test_leaving_it_hangs_up(made: Made) -> None:
    backend, provider = made
    provider.failure = Failure(hang_after=2)
    asking = asyncio.create_task(backend.infer(job(backend)))
    await eventually(lambda: provider.sent)
    asking.cancel()
    await asyncio.wait({asking})
    await eventually(provider.closed.is_set)
