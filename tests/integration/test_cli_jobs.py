"""`bullpen submit` and `bullpen results`, as a person and a script meet them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.queue import read_after
from contracts import subjects as s
from tests.cli import Terminal, bullpen
from tests.mesh import SmallMesh
from tests.support import eventually


@pytest.fixture
async def mesh(nats_server: str) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats_server) as small:
        await small.worker("w-1")
        await small.manager(jobs={"attempts": 1})
        yield small


async def test_a_file_is_answered_in_its_order_and_can_be_looked_up(
    mesh: SmallMesh, nats_server: str, tmp_path: Path
) -> None:
    file, out, env = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl", {"NATS_URL": nats_server}
    file.write_text('first\n{"prompt": "second", "task_id": "mine"}\n{"prompt": "x", "model": "nobody-has-it"}\n')
    told = await bullpen("submit", str(file), "--out", str(out), env=env)
    assert told.code == 1
    assert "1 of 3 jobs failed" in told.err
    first, second, third = [json.loads(line) for line in out.read_text().splitlines()]
    batch = first["task_id"].removesuffix("-1")
    assert first["output"]
    assert second["task_id"] == "mine"
    assert third["error"]["code"] == "no_such_model"
    again = await bullpen("submit", str(file), env=env)
    assert again.code == 1
    assert "3 of 3 have a result already" in again.err
    assert again.out == out.read_text()
    assert len(await read_after(mesh.bus, s.RESULTS_STREAM, s.RESULT_ANY, 0)) == 3
    failed = await bullpen("results", batch, "--failed", "--json", env=env)
    assert json.loads(failed.out) == third
    assert json.loads((await bullpen("results", "mine", "--json", env=env)).out) == second
    listed = await bullpen("results", env=env)
    assert {line.split()[0] for line in listed.out.splitlines()[1:]} == {f"{batch}-{n}" for n in (1, 2, 3)}


async def test_without_waiting_it_says_how_the_batch_is_called(mesh: SmallMesh, nats_server: str) -> None:
    env = {"NATS_URL": nats_server}
    told = await bullpen("submit", "-", "--no-wait", stdin=b"hello\n", env=env)
    assert told.code == 0
    name = told.out.strip()

    async def there() -> bool:
        return (await bullpen("results", name, env=env)).code == 0

    await eventually(there, every=0.2)


async def test_wrong_lines_are_named_and_nothing_is_submitted(mesh: SmallMesh, nats_server: str) -> None:
    told = await bullpen("submit", "-", stdin=b'good\n{"promt": "x"}\n', env={"NATS_URL": nats_server})
    assert told.code == 2
    assert "line 2: promt" in told.err
    assert (await bullpen("submit", "-", stdin=b"good\n", env={"NATS_URL": nats_server})).code == 0
    assert len(await read_after(mesh.bus, s.RESULTS_STREAM, s.RESULT_ANY, 0)) == 1, "only this one"


async def test_ctrl_c_says_how_to_come_back(mesh: SmallMesh, nats_server: str, tmp_path: Path) -> None:
    await mesh.stop("m-1")
    file = tmp_path / "jobs.jsonl"
    file.write_text("hello\n")
    async with Terminal.run("submit", str(file), columns=200, NATS_URL=nats_server) as terminal:
        await eventually(lambda: "0/1" in terminal.screen)
        terminal.interrupt()
        assert await terminal.end() == 130
        assert f"bullpen submit {file} (goes on from here)" in terminal.screen


async def test_who_comes_back_submits_the_same_batch(tmp_path: Path) -> None:
    """A priority is a part of its name."""
    file, out = tmp_path / "my jobs.jsonl", tmp_path / "out.jsonl"
    file.write_text("hello\n")
    env = {"NATS_URL": "nats://127.0.0.1:1"}
    told = await bullpen("submit", str(file), "--priority", "interactive", "--out", str(out), env=env)
    assert told.code == 3
    assert f"bullpen submit '{file}' --priority interactive --out {out}" in told.err


async def test_where_nothing_is_kept_nothing_is_wrong(mesh: SmallMesh, nats_server: str) -> None:
    env = {"NATS_URL": nats_server}
    for arguments in ((), ("--failed",), ("--json",)):
        told = await bullpen("results", *arguments, env=env)
        assert (told.code, told.out) == (0, "")
    missing = await bullpen("results", "nosuch", "--json", env=env)
    assert (missing.code, missing.out) == (1, "")
    assert "no such results" in missing.err


async def test_a_result_has_the_name_of_its_job_too(mesh: SmallMesh, nats_server: str) -> None:
    env = {"NATS_URL": nats_server}
    told = await bullpen("submit", "-", stdin=b'{"prompt": "hello", "task_id": "mine"}\n', env=env)
    job = f"{(await bullpen('submit', '-', '--no-wait', stdin=b'hello', env=env)).out.strip()}-1"
    assert json.loads(told.out)["task_id"] == "mine"

    async def there() -> bool:
        return (await bullpen("results", job, env=env)).code == 0

    await eventually(there, every=0.2)
    listed = await bullpen("results", env=env)
    of_mine = next(line.split()[0] for line in listed.out.splitlines() if " mine " in line)
    assert json.loads((await bullpen("results", of_mine, "--json", env=env)).out)["task_id"] == "mine"


async def test_what_is_no_result_hides_none_of_the_others(mesh: SmallMesh, nats_server: str) -> None:
    env = {"NATS_URL": nats_server}
    assert (await bullpen("submit", "-", stdin=b"hello\n", env=env)).code == 0
    for junk in (b"junk", b"", b'["x"]', b'{\n"error": 1}'):
        await mesh.bus.publish("result.junk", junk)
    await mesh.bus.flush(30)
    listed = await bullpen("results", env=env)
    assert (listed.code, len(listed.out.splitlines())) == (0, 1 + 1 + 4)
    assert listed.out.count("cannot be read") == 4
    told = [json.loads(line) for line in (await bullpen("results", "--json", env=env)).out.splitlines()]
    assert ["error" in one for one in told] == [False, True, True, True, True]
