"""Every liberty that providers take, played to its backend: the answer comes all the same, or the right error."""

from typing import Any

import pytest

from contracts import BullpenError, InferenceRequest
from tests.backends import quirks_anthropic, quirks_gemini, quirks_ollama, quirks_openai
from tests.backends.providers import PROVIDERS, WORDS, configured
from tests.backends.quirks import Quirk
from workers.base import Backend, Completion, Job
from workers.base.interface.discovery import discover
from workers.base.provider.tool_calls import checked

QUIRKS: dict[str, dict[str, Quirk]] = {
    "anthropic": quirks_anthropic.QUIRKS,
    "gemini": quirks_gemini.QUIRKS,
    "ollama": quirks_ollama.QUIRKS,
    "openai": quirks_openai.QUIRKS,
}
"""By dialect, which is a backend's name."""
PLAYED = [pytest.param(name, quirk, id=f"{name}-{of}") for name, found in QUIRKS.items() for of, quirk in found.items()]


@pytest.mark.parametrize(("dialect", "quirk"), PLAYED)
async def test_a_quirk_loses_neither_answer_nor_reason(
    dialect: str, quirk: Quirk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{dialect.upper()}_API_KEY", "sk-test")
    cls = discover()[dialect].load()
    async with PROVIDERS[dialect]() as provider:
        provider.play(quirk)
        backend = cls(configured(cls.config_class, provider.config()))
        try:
            await backend.start(lambda _: None)
            assert (await cls.available(configured(cls.config_class, provider.config()))).available
            await backend.health()
            await looked_at(backend, quirk)
            assert len(provider.received) == quirk.questions
        finally:
            await backend.close()


async def looked_at(backend: Backend[Any], quirk: Quirk) -> None:
    """Asks, and compares what comes with what should."""
    request = InferenceRequest.model_validate({"prompt": "What is the capital of France?", **quirk.asked}, strict=False)
    asked = Job(request, backend.models()[0], 50)
    if quirk.error is None:
        as_expected(await backend.infer(asked), quirk)
        return
    with pytest.raises(BullpenError) as caught:
        checked((await backend.infer(asked)).done.tool_calls)
    assert caught.value.code is quirk.error
    low, high = quirk.retry_after_ms or (0, 60_000)
    assert low <= (caught.value.retry_after_ms or 0) <= high


def as_expected(answer: Completion, quirk: Quirk) -> None:
    assert answer.text == ("".join(WORDS) if quirk.text is None else quirk.text)
    assert answer.done.finish_reason == (quirk.finish or "stop")
    assert answer.done.unsupported == quirk.unsupported
    called = [call["function"] for call in checked(answer.done.tool_calls)]
    assert [(function["name"], function["arguments"]) for function in called] == quirk.calls
    assert len({call["id"] for call in answer.done.tool_calls}) == len(called)
