"""What providers do differently, seen from the mesh: another worker answers, the heartbeat tells what was learned."""

import pytest

from tests.backends.providers import AnthropicProvider, Failure, OpenAIProvider, Provider
from tests.backends.quirks import Quirk
from tests.backends.quirks_openai import QUIRKS, calls, piece_of_call
from tests.mesh import Json, SmallMesh
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("patient_backends")
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
RARE = 3600.0
"""Seconds between health checks: what is told without one is told because it was learned."""


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-test")


async def employ(mesh: SmallMesh, provider: Provider, worker_id: str = "w-1") -> None:
    await mesh.worker(worker_id, provider.backend, **{**provider.config(), "health_interval": RARE})


def told(mesh: SmallMesh, worker_id: str = "w-1") -> Json:
    return mesh.beats[worker_id].models[0].model_dump()


class Nameless(AnthropicProvider):
    """Calls a function and does not say which."""

    def pieces(self, body: Json) -> list[str]:
        return [piece.replace('"name": "add"', '"name": " "') for piece in super().pieces(body)]


class Breaking(OpenAIProvider):
    """Breaks off in the middle of a call's arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.play(calls(piece_of_call("add", '{"a": 1', index=0, id="a")))


@pytest.mark.parametrize("kind", [Breaking, Nameless], ids=["openai", "anthropic"])
async def test_a_call_that_no_caller_can_use_is_a_failed_attempt(mesh: SmallMesh, kind: type[Provider]) -> None:
    async with kind() as provider, OpenAIProvider() as sound:
        await employ(mesh, provider)
        await mesh.manager()
        alone = await mesh.ask(tools=TOOLS)
        assert alone["error"]["code"] == "malformed_tool_call"
        await employ(mesh, sound, "w-2")
        answer = await mesh.ask(tools=TOOLS)
        assert answer["worker_id"] == "w-2"
        assert [call["function"]["name"] for call in answer["tool_calls"]] == ["add"]


async def test_a_refused_parameter_is_learned_once_and_told(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        provider.play(QUIRKS["no temperature"])
        await employ(mesh, provider)
        await mesh.manager()
        answers = [await mesh.ask(temperature=0.5) for _ in range(3)]
        assert [answer["unsupported"] for answer in answers] == [["temperature"]] * 3
        assert len(provider.received) == 4, "refused once"
        await eventually(lambda: told(mesh)["unsupported"] == ("temperature",))
        assert (await mesh.ask())["unsupported"] == [], "nobody asked for one"


async def test_a_model_without_tools_is_asked_for_none_again(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as unable, OpenAIProvider() as able:
        unable.play(QUIRKS["no tools"])
        await employ(mesh, unable)
        await mesh.manager()
        assert (await mesh.ask(tools=TOOLS))["error"]["code"] in ("invalid_request", "no_worker")
        await eventually(lambda: "tools" not in told(mesh)["capabilities"])
        await employ(mesh, able, "w-2")
        assert (await mesh.ask(tools=TOOLS))["worker_id"] == "w-2"
        assert len(unable.received) == 1
        await mesh.stop("w-2")
        assert (await mesh.ask())["worker_id"] == "w-1"


async def test_an_answer_without_end_is_cut_at_what_was_asked_for(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        await employ(mesh, provider)
        await mesh.manager()
        provider.failure = Failure(endless=provider.word())
        answer = await mesh.ask(max_tokens=20)
        assert answer["finish_reason"] == "length"
        assert len(answer["output"]) < 20 * 16
        assert answer["cost_usd"] is None, "nobody said what it cost"
        await eventually(provider.closed.is_set)


@pytest.mark.parametrize("status", [403, 405])
async def test_a_server_without_a_list_of_models_serves(mesh: SmallMesh, status: int) -> None:
    async with OpenAIProvider() as provider:
        provider.play(QUIRKS[f"the list of models answers {status}"])
        await mesh.worker("w-1", provider.backend, **{**provider.config(), "health_interval": 0.1})
        await mesh.manager()
        first = mesh.beats["w-1"].seq
        await eventually(lambda: mesh.beats["w-1"].seq > first + 2)
        assert mesh.beats["w-1"].state == "ready"
        assert (await mesh.ask())["output"]


async def test_a_limit_in_the_middle_of_a_200_pauses_the_model(mesh: SmallMesh) -> None:
    async with OpenAIProvider() as provider:
        provider.play(Quirk("", pieces=QUIRKS["an error in a 200"].pieces))
        await employ(mesh, provider)
        await mesh.manager()
        refused = (await mesh.ask(deadline_ms=20_000))["error"]
        assert (refused["code"], len(provider.received)) == ("rate_limited", 1)
        assert refused["retry_after_ms"] > 5000
