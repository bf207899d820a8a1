"""The model of a running worker is changed while questions are under way: real processes, two GGUF files."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli import bullpen
from tests.local_models import LocalModels
from tests.roles import PROMPT, Roles
from tests.servers import NatsServer
from tests.support import eventually

pytest.importorskip("xllamacpp", reason="the wheel with llama.cpp is not installed")
pytestmark = [pytest.mark.scenario, pytest.mark.timeout(240)]


HEAVY = '''
import asyncio, time
from contracts import ModelCard
from workers.base import Availability, Backend, Delta, Done

class Heavy(Backend):
    """Stands still while it loads, as llama.cpp does: six seconds for its larger model."""

    name = "heavy"

    @classmethod
    async def available(cls, config):
        return Availability.yes("always")

    async def memory_needed(self):
        return 1_500_000_000

    async def start(self, report):
        time.sleep(6 if self.config.models[0].name == "large" else 0)

    def models(self):
        return (ModelCard(model_id=self.config.models[0].name, context_window=8192, local=True),)

    async def stream(self, job):
        for number in range(job.max_tokens or 1):
            await asyncio.sleep(0.2)
            yield Delta(f"{number} ", tokens=1)
        yield Done("stop", prompt_tokens=1, completion_tokens=job.max_tokens or 1)

    async def health(self):
        pass
'''


@pytest.fixture
def models(tmp_path: Path) -> LocalModels:
    return LocalModels(tmp_path)


@pytest.fixture
async def roles(nats: NatsServer, tmp_path: Path, models: LocalModels) -> AsyncIterator[Roles]:
    async with Roles(tmp_path, nats.url) as roles:
        roles.manager(BULLPEN_MANAGER__SILENT_AFTER_BEATS="120")  # a real model that is loaded on a busy machine
        roles.worker("w-1", "local", "--config", str(models.config))
        await roles.ready(within=60)
        yield roles


async def serves(roles: Roles, name: str) -> None:
    await eventually(lambda: [card.model_id for card in roles.beats["w-1"].models] == [name], timeout=60)


async def test_requests_under_way_outlive_the_swap_of_a_real_model(roles: Roles, models: LocalModels) -> None:
    asked = await roles.ask_many(40, max_tokens=3, deadline_ms=300_000)
    await roles.have(4, "w-1")
    models.save("two")
    await serves(roles, "two")
    late = await roles.ask(max_tokens=3, deadline_ms=300_000)
    answers = [question.finals[0] for question in await roles.answered([*asked, late], within=150)]
    assert [answer for answer in answers if "output" not in answer] == []
    assert {answer["model_id"] for answer in answers} == {"one", "two"}
    assert answers[-1]["model_id"] == "two"


async def test_a_broken_file_is_refused_and_the_model_that_serves_goes_on(
    roles: Roles, models: LocalModels, nats: NatsServer
) -> None:
    models.save("broken")
    told = await bullpen("reload", "w-1", env={"NATS_URL": nats.url})
    assert told.code == 1
    assert f"{models.config}:5: models.0.options.path: cannot load" in told.err + told.out
    assert (await roles.answer(max_tokens=4)).finals[0]["model_id"] == "one"
    models.save("two")
    await serves(roles, "two")
    assert (await roles.answer(max_tokens=4)).finals[0]["model_id"] == "two"


@pytest.mark.parametrize("nats", [4.5], indirect=True, ids=["cut off after 4.5 s"])
async def test_a_worker_that_stands_still_while_it_loads_loses_no_request(tmp_path: Path, nats: NatsServer) -> None:
    """Longer than the server waits for a client, than hearts may pause, and than tokens may be apart."""
    folder = tmp_path / "heavy"
    folder.mkdir()
    (folder / "backend.py").write_text(HEAVY)
    config = folder / "config.yaml"
    config.write_text("models: [{name: small}]\nmax_concurrency: 100\n")
    async with Roles(tmp_path, nats.url) as roles:
        roles.manager(**PROMPT)
        roles.worker("w-1", str(folder), "--config", str(config))
        await roles.ready()
        asked = await roles.ask_many(20, max_tokens=25)
        await roles.have(20, "w-1")
        config.write_text(config.read_text().replace("small", "large"))
        await serves(roles, "large")
        late = await roles.ask(max_tokens=1)
        answers = [question.finals[0] for question in await roles.answered([*asked, late], within=60)]
    assert [answer for answer in answers if "output" not in answer] == []
    assert [answer["model_id"] for answer in answers] == ["small"] * 20 + ["large"]
    assert {len(answer["attempts"]) for answer in answers} == {1}
