"""SDKs and frameworks that others wrote: each of our programs drives one of them through all it has to do."""

import json
from pathlib import Path

import pytest

from tests.clients.installed import needs, program, run, running
from tests.clients.played import BROKEN, WHY
from tests.clients.served import SLOW, Served

NODE, PYTHON = needs("sdks"), needs("python")
PROGRAMS = [
    *(pytest.param(f"node/{name}.mjs", marks=NODE, id=name) for name in ("openai", "anthropic", "ai_sdk", "ollama")),
    *(
        pytest.param(f"python/{name}_program.py", marks=PYTHON, id=name)
        for name in ("litellm", "agents", "pydantic_ai", "langchain")
    ),
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_client_gets_all_that_it_asks_for(served: Served, tmp_path: Path, name: str) -> None:
    done = run(program(name, tmp_path), tmp_path, served.environment)
    assert done.code == 0, done.err
    told = json.loads(done.out.splitlines()[-1])
    assert told
    failed = {scenario: why for scenario, why in told.items() if why != "ok"}
    assert not failed, "\n".join(f"{scenario}: {why}" for scenario, why in failed.items())


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_client_that_leaves_a_stream_stops_the_work(served: Served, tmp_path: Path, name: str) -> None:
    with (
        served.slow_worker(),
        running([*program(name, tmp_path), "leave"], tmp_path, served.environment, keep_stdin=True) as client,
    ):
        assert client.stdout is not None
        told = client.stdout.readline()
        assert told == "left\n", client.communicate()
        heard = served.mesh.beats[SLOW].seq
        served.eventually(lambda: served.mesh.beats[SLOW].seq > heard + 1 and not served.is_busy())
        assert client.poll() is None  # it was its stream that ended, not the client


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_client_hears_of_a_stream_that_breaks_off(served: Served, tmp_path: Path, name: str) -> None:
    """Half an answer is never taken for the whole one."""
    with served.played_worker(BROKEN):
        done = run([*program(name, tmp_path), "break"], tmp_path, served.environment)
    assert done.code == 0, done.err
    assert WHY in done.out
