"""`bullpen forget`: what was asked under a name is gone from everywhere it was kept, and nothing else is."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic_core import from_json, to_json

from bullpen import forgetting
from bus.jetstream import StreamSpec, ensure_stream
from contracts import AttemptRecord, FeedbackRecord, OpenModel, ResponseRecord, new_id
from contracts import subjects as s
from telemetry.upkeep import forget as forget_module
from tests.books import Books, attempt, feedback, response
from tests.cli import Result, Terminal, bullpen
from tests.mesh import SmallMesh
from tests.servers import NatsServer
from tests.support import eventually

WORD = "unforgettable"
JANUARY = datetime(2026, 1, 15, tzinfo=UTC)
TABLES = ("responses", "attempts", "feedback")


def about(tenant: str, task_id: str, created_at: datetime | None = None) -> list[OpenModel]:
    """All that the books have of one request."""
    shared: dict[str, Any] = {"task_id": task_id, "created_at": created_at or datetime.now(UTC) - timedelta(seconds=1)}
    request_id = new_id()
    return [
        response(
            **shared,
            request_id=request_id,
            prompt=f"{WORD} {task_id}",
            output=f"{WORD} {task_id}",
            context={"note": WORD},
            metadata={"tenant": tenant, "user": WORD},
        ),
        attempt(**shared, request_id=request_id, error_message=WORD),
        feedback(**shared, comment=WORD),
    ]


class Case:
    """Books with a running accountant, and the command."""

    def __init__(self, books: Books, nats: NatsServer, data_dir: Path) -> None:
        self.books = books
        self.nats = nats
        self.env = {
            "NATS_URL": nats.url,
            "DATABASE_URL": books.database_url,
            "BULLPEN_DATA_DIR": str(data_dir),
        }

    async def know(self, *records: OpenModel) -> None:
        """Books them."""
        self.books.tell(*records)
        for table, kind in zip(TABLES, (ResponseRecord, AttemptRecord, FeedbackRecord), strict=True):
            count = sum(isinstance(record, kind) for record in records)
            await eventually(self.books.booked(count, table))

    async def forget(self, *arguments: str, **env: str) -> Result:
        return await bullpen("forget", *arguments, env={**self.env, **env})

    async def answer(self, answer: str) -> int:
        """Forgets t-1 on a terminal, where it asks first; the exit code."""
        env: dict[str, Any] = dict(self.env)
        async with Terminal.run("forget", "--task", "t-1", **env) as terminal:
            await eventually(lambda: "Go on?" in terminal.screen)
            assert "About to forget 1 request," in terminal.screen
            terminal.type(f"{answer}\n")
            return await terminal.end()

    async def tasks(self) -> dict[str, list[str]]:
        """The names of the tasks in each table."""
        return {table: sorted(row["task_id"] for row in await self.books.rows(table)) for table in TABLES}

    def traces(self, word: str) -> list[Path]:
        """The files of NATS that hold the word."""
        files = [path for path in self.nats.directory.rglob("*") if path.is_file() and path.suffix != ".tmp"]
        return [path for path in files if word.encode() in path.read_bytes()]


@pytest.fixture
async def case(nats: NatsServer, database_url: str, tmp_path: Path) -> AsyncIterator[Case]:
    async with Books(nats.url, database_url) as books:
        books.start()
        yield Case(books, nats, tmp_path / "data")


def only(*task_ids: str) -> dict[str, list[str]]:
    return {table: sorted(task_ids) for table in TABLES}


async def test_a_task_is_forgotten_and_no_other(case: Case) -> None:
    await case.know(*about("acme", "t-1"), *about("acme", "t-2"))
    told = await case.forget("--task", "t-1", "--yes")
    assert (told.code, told.err) == (0, "")
    assert "forgot 1 request, 1 attempt, 1 judgement, 0 dead letters" in told.out
    assert await case.tasks() == only("t-2")


async def test_a_tenant_is_forgotten_and_no_other(case: Case) -> None:
    await case.know(*about("acme", "t-1"), *about("acme", "t-2"), *about("acme 2", "t-3"))
    assert (await case.forget("--tenant", "acme", "--yes")).code == 0
    assert await case.tasks() == only("t-3")


async def test_forgetting_twice_does_no_harm(case: Case) -> None:
    await case.know(*about("acme", "t-1"))
    both = [await case.forget("--task", "t-1", "--yes", "--json") for _ in range(2)]
    assert [told.code for told in both] == [0, 0]
    assert [told.json()["responses"] for told in both] == [1, 0]


async def test_only_what_was_asked_before_a_time_is_forgotten(case: Case) -> None:
    await case.know(*about("acme", "old", JANUARY), *about("acme", "new"))
    assert (await case.forget("--tenant", "acme", "--before", "2026-02-01", "--yes")).code == 0
    assert await case.tasks() == only("new")


async def test_the_words_can_go_while_the_figures_stay(case: Case) -> None:
    await case.know(*about("acme", "t-1"), *about("acme", "t-2"))
    before = {row["task_id"]: row for row in await case.books.rows("responses")}
    for words_of in (1, 0):
        told = await case.forget("--task", "t-1", "--content-only", "--yes", "--json")
        assert (told.code, told.json()["responses"]) == (0, words_of)
    after = {row["task_id"]: row for row in await case.books.rows("responses")}
    assert after["t-2"] == before["t-2"]
    words = {"prompt", "output", "context", "error_message", "metadata", "content"}
    assert {k: v for k, v in after["t-1"].items() if k not in words} == {
        k: v for k, v in before["t-1"].items() if k not in words
    }
    assert (after["t-1"]["content"], from_json(after["t-1"]["metadata"])) == ("none", {"tenant": "acme"})
    left = [*(await case.books.rows("attempts")), *(await case.books.rows("feedback")), after["t-1"]]
    assert [row for row in left if row["task_id"] == "t-1" and WORD in str(row)] == []
    assert await case.tasks() == only("t-1", "t-2")


async def test_more_than_one_batch_is_forgotten(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forget_module, "BATCH", 3)
    await case.know(*(record for number in range(10) for record in about("acme", f"t-{number}")))
    for words_only in (["--content-only"], []):
        told = await case.forget("--tenant", "acme", "--yes", "--json", *words_only)
        assert told.json() | {"events": 0} == {
            **{"responses": 10, "attempts": 10, "feedback": 10, "dead_letters": 0, "decisions": 0},
            **{"events": 0, "results": 0, "replays": 0, "left": []},
        }
    assert await case.tasks() == only()


async def test_an_event_on_its_way_is_not_booked_after_the_command(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "BOOKED_WITHIN", 100.0)
    await case.know(*about("acme", "t-0"))
    await case.books.stop()
    case.books.tell(*about("acme", "t-1"))
    await case.books.told()
    command = asyncio.create_task(case.forget("--tenant", "acme", "--yes", "--json"))
    await asyncio.sleep(0.5)
    assert not command.done()
    case.books.start()
    told = (await command).json()
    assert (told["responses"], told["left"]) == (2, [])
    assert await case.tasks() == only()


async def test_events_that_are_not_booked_are_reported(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "BOOKED_WITHIN", 0.2)
    await case.know(*about("acme", "t-0"))
    await case.books.stop()
    case.books.tell(*about("acme", "t-1"))
    await case.books.told()
    told = await case.forget("--tenant", "acme", "--yes")
    assert told.code == 3
    assert "not reached: events that are not booked yet" in told.err
    assert await case.tasks() == only()


async def test_nothing_of_it_is_left_in_the_stream_that_it_came_through(case: Case) -> None:
    await case.know(*about("acme", "t-1"))
    assert case.traces(WORD)
    assert (await case.forget("--task", "t-1", "--yes", "--json")).json()["events"] >= 3
    await eventually(lambda: case.traces(WORD) == [])


async def test_kept_answers_are_forgotten_too(case: Case) -> None:
    results = StreamSpec(s.RESULTS_STREAM, (s.RESULT_ANY,))
    async with SmallMesh(case.nats.url) as mesh:
        await ensure_stream(mesh.bus, results)
        await mesh.worker("w-1")
        await mesh.manager()
        for tenant, task_id in (("acme", "a.1"), ("other", "a/1")):
            await mesh.ask(prompt=f"{WORD} {tenant}", task_id=task_id, idempotency_key="k", metadata={"tenant": tenant})
            await mesh.bus.request(s.result_before(task_id), to_json({"task_id": task_id, "output": WORD}), timeout=30)
        await eventually(case.books.booked(2))
        told = (await case.forget("--tenant", "acme", "--yes", "--json")).json()
        assert (told["responses"], told["replays"], told["results"], told["left"]) == (1, 1, 1, [])
        again = {
            tenant: await mesh.ask(prompt=f"{WORD} {tenant}", idempotency_key="k", metadata={"tenant": tenant})
            for tenant in ("acme", "other")
        }
        assert {tenant: answer.get("replayed", False) for tenant, answer in again.items()} == {
            "acme": False,
            "other": True,
        }


async def test_dead_letters_that_name_it_are_forgotten(case: Case) -> None:
    letters = [{"task_id": "t-1"}, {"metadata": {"tenant": "acme"}}, {"task_id": "t-2"}, {"prompt": "about t-1, acme"}]
    await case.books.ready()
    await case.books.publish(s.TELEMETRY_RESPONSE, *(json.dumps(letter).encode() for letter in letters))
    await eventually(case.books.booked(4, "dead_letters"))
    assert (await case.forget("--task", "t-1", "--yes", "--json")).json()["dead_letters"] == 1
    assert (await case.forget("--tenant", "acme", "--yes", "--json")).json()["dead_letters"] == 1
    assert sorted(row["body"] for row in await case.books.rows("dead_letters")) == sorted(
        json.dumps(letter).encode() for letter in letters[2:]
    )


async def test_what_a_role_could_not_send_yet_is_told(case: Case) -> None:
    await case.know(*about("acme", "t-1"))
    spool = Path(case.env["BULLPEN_DATA_DIR"]) / "spool" / "manager-1"
    spool.mkdir(parents=True)
    (spool / "events").write_bytes(b"12345")
    told = await case.forget("--task", "t-1", "--yes")
    assert told.code == 3
    assert "5 bytes that manager-1 could not send yet" in told.err


async def test_without_nats_the_rows_go_and_the_rest_is_told(case: Case) -> None:
    await case.know(*about("acme", "t-1"))
    await case.books.stop()
    told = await case.forget("--task", "t-1", "--yes", NATS_URL="nats://127.0.0.1:1")
    assert told.code == 3
    assert "NATS cannot be reached" in told.err
    assert await case.tasks() == only()


async def test_a_dry_run_only_says_what_there_is(case: Case) -> None:
    await case.know(*about("acme", "t-1"), *about("acme", "t-2"))
    told = await case.forget("--tenant", "acme", "--dry-run")
    assert (told.code, told.out) == (
        0,
        "would forget 2 requests, 2 attempts, 2 judgements, 0 dead letters, 0 decisions of tenant 'acme'\n",
    )
    one = await case.forget("--task", "t-1", "--dry-run", "--json")
    assert one.json() == {"responses": 1, "attempts": 1, "feedback": 1, "dead_letters": 0, "decisions": 0}
    assert await case.tasks() == only("t-1", "t-2")


async def test_a_reader_of_the_books_may_not_forget(case: Case) -> None:
    await case.know(*about("acme", "t-1"))
    name = f"reader_{new_id().replace('-', '')}"
    connection = await asyncpg.connect(case.books.database_url)
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    try:
        reader = f"postgresql://{name}:x@{case.books.database_url.rpartition('@')[2]}"
        told = await case.forget("--task", "t-1", "--yes", DATABASE_URL=reader)
    finally:
        await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
        await connection.close()
    assert told.code == 1
    assert "the database user may not delete: set DATABASE_URL" in told.err
    assert await case.tasks() == only("t-1")


async def test_it_asks_before_it_forgets(case: Case) -> None:
    await case.know(*about("acme", "t-1"))
    for answer, left in (("n", only("t-1")), ("y", only())):
        assert await case.answer(answer) == (0 if answer == "y" else 1)
        assert await case.tasks() == left


async def test_forgetting_needs_a_confirmation(case: Case) -> None:
    await case.know(*about("acme", "t-1"))
    told = await case.forget("--task", "t-1")
    assert told.code == 2
    assert "--yes" in told.err
    assert await case.tasks() == only("t-1")


@pytest.mark.parametrize("arguments", [[], ["--task", "a", "--tenant", "b"]])
async def test_it_wants_to_know_what_to_forget(arguments: list[str]) -> None:
    told = await bullpen("forget", *arguments, "--yes")
    assert told.code == 2
    assert "either --task ID or --tenant NAME" in told.err
